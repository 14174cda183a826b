# SPDX-License-Identifier: Apache-2.0
"""The native loop and a real stack, on rings in ordinary memory.

Nothing here needs a privilege: the loop sees four rings and a descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import mmap
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import TCP

from devmemtcp.agent._loop import ffi, lib

from .loop_machine import (
    APP_WAITS,
    CHUNK,
    CONTD,
    EVENT,
    EVENT_FRAG,
    EVENT_HEAD,
    EVENTS,
    LOOP_BATCH,
    NIOVS,
    PAGE,
    PAGES,
    REQUEST_CLOSE,
    REQUEST_HEAD,
    App,
    Machine,
    Nic,
    Peer,
    received,
    until,
)


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Two queues, none of them attached, one application, and a loop that does not run yet."""
    made = Machine(2)
    made.open_app()
    yield made
    made.close()


@pytest.fixture
def app(machine: Machine) -> App:
    return machine.apps[0]


@pytest.fixture
def nic(machine: Machine, app: App) -> Iterator[Nic]:
    assert machine.listen(app) >= 0
    made = Nic(machine)
    assert len(made.fill) >= 32  # before the loop runs
    machine.start()
    yield made
    machine.stop()
    made.close()


@pytest.fixture
def peer(nic: Nic) -> Peer:
    return Peer(nic)


def test_a_frame_comes_back_to_the_pool_when_it_was_sent(nic: Nic, peer: Peer) -> None:
    peer.deliver(100)
    nic.arrived()
    assert until(lambda: received(nic) == 100)
    assert until(lambda: nic.send() or nic.stats()[0].pages_free == PAGES)
    nic.arrived()
    assert until(lambda: nic.stats()[0].pages_free == PAGES)


@pytest.mark.parametrize(
    ("base", "offset", "size", "comes_back"),
    [
        ("other", 256, 100, False),  # beyond the net_iovs: a transmission page
        ("far", 256, 100, False),
        ("host", 256, 100, False),  # the data would begin in a header page
        ("odd", 256, 100, False),
        ("given", 0, 100, True),  # headers not split off
        ("given", 96, 100, True),
        ("given", 257, 100, True),
        ("given", 256, CHUNK + 1, True),  # runs into the next header page
        ("given", 256, 2**32 - 1, True),
    ],
)
def test_a_descriptor_that_is_not_at_a_device_page_is_not_a_packet(
    nic: Nic, peer: Peer, base: str, offset: int, size: int, comes_back: bool
) -> None:
    niov = nic.take_buffer()
    given = niov * 2 * PAGE + PAGE - 256
    bases = {
        "given": given,
        "other": NIOVS * 2 * PAGE + PAGE - 256,
        "far": 2**48 - 512,
        "host": given - PAGE,
        "odd": given + 1,
    }
    nic.rx.push(bases[base] | offset << 48, size, 0)
    peer.deliver(10)  # what follows is taken as ever
    nic.arrived()
    assert until(lambda: received(nic) == 10)
    assert nic.stats()[1].rx_bad_descs == 1
    assert lib.loop_check(nic.loop) == 0
    stack, _ = nic.stats()
    lost = NIOVS - stack.niovs_free - stack.niovs_lent - stack.niovs_fill
    in_ring = len(nic.fill)
    assert lost == 0
    assert stack.niovs_fill == in_ring + (0 if comes_back else 1)


def test_a_bad_chunk_spoils_its_packet_and_no_other(nic: Nic, peer: Peer) -> None:
    first, second, third = (nic.take_buffer() for _ in range(3))
    nic.receive(first, CHUNK, options=CONTD)
    nic.receive(second, CHUNK, options=CONTD, offset=0)
    nic.receive(third, 7)
    peer.deliver(10)
    nic.arrived()
    assert until(lambda: received(nic) == 10)
    assert nic.stats()[1].rx_bad_descs == 1
    assert nic.stats()[0].niovs_fill == len(nic.fill)  # all three were given back


def test_a_batch_is_of_packets_however_many_chunks_they_have(nic: Nic, peer: Peer) -> None:
    """One turn, and so one ACK: descriptors would make it several, with packets across them."""
    before = nic.stats()[1].rx_batches
    with nic.rx.at_once():
        for _ in range(25):
            peer.deliver(*[20] * 7)
    nic.arrived()
    assert until(lambda: received(nic) == 3500)
    stack, loop = nic.stats()
    assert loop.rx_packets == 2 + 25
    assert loop.rx_descs == 2 + 175
    assert loop.rx_batches == before + 1
    assert stack.rx_ooo_segments == 0


def test_the_loop_preempts_nobody(nic: Nic, machine: Machine) -> None:
    assert until(lambda: machine.policy() == os.SCHED_BATCH)


def test_a_packet_that_is_not_complete_waits_for_its_rest(nic: Nic, peer: Peer) -> None:
    headers = peer.segment("A")
    nic.deliver(headers, (50, 60))
    # Hold the second descriptor back: the kernel would publish them one by one.
    nic.rx._indices[0] -= 1
    nic.arrived()
    assert until(lambda: nic.stats()[1].rx_descs == 3)
    assert received(nic) == 0
    nic.rx._indices[0] += 1
    nic.arrived()
    assert until(lambda: received(nic) == 110)


def test_a_packet_of_too_many_chunks_is_given_back_whole(nic: Nic, peer: Peer) -> None:
    for count in (25, 50):
        for niov in [nic.take_buffer() for _ in range(count - 1)]:
            nic.receive(niov, 10, options=CONTD)
        nic.receive(nic.take_buffer(), 10)
        nic.arrived()
        assert until(lambda: len(nic.rx) == 0)
    peer.deliver(10)
    nic.arrived()
    assert until(lambda: received(nic) == 10)
    assert nic.stats()[1].rx_oversize == 2
    assert nic.stats()[1].rx_bad_descs == 0
    assert nic.stats()[0].niovs_fill == len(nic.fill)


def test_a_kick_that_sends_nothing_is_repeated_until_all_is_sent(nic: Nic, peer: Peer) -> None:
    """EAGAIN from the socket, and a NIC that takes a frame now and then."""
    _, before = nic.stats()
    with contextlib.suppress(BlockingIOError):  # full: from now on a kick finds EAGAIN
        while True:
            nic.socket.send(b"", socket.MSG_DONTWAIT)
    peer.deliver(10)
    peer.deliver(10)
    nic.arrived()
    assert until(lambda: len(nic.tx) > 0)
    # Nobody wakes the loop from here on: it looks again by itself, a kick a turn.
    for _ in range(3):
        while nic.kicked():
            pass
        assert until(nic.kicked)
    (ack, *_) = nic.send()
    assert ack[TCP].flags == "A"
    assert until(lambda: len(nic.comp) == 0)
    stack, loop = nic.stats()
    assert stack.pages_free == PAGES
    # Several tries before it is left for the next turn, but not for ever.
    retries, kicks = loop.tx_kick_retries - before.tx_kick_retries, loop.tx_kicks - before.tx_kicks
    assert 4 * kicks <= retries <= 64 * kicks


def test_a_sleeping_application_is_woken_once_a_batch(nic: Nic, app: App, peer: Peer) -> None:
    with mmap.mmap(app.channel, 0) as channel:
        assert until(lambda: nic.stats()[0].flows_established == 1)
        app.woken()
        peer.deliver(10)  # while it is awake
        nic.arrived()
        assert until(lambda: received(nic) == 10)
        assert not app.woken()
        channel[APP_WAITS] = 1
        for _ in range(20):
            peer.deliver(10)
        nic.arrived()
        assert until(lambda: received(nic) == 210)
        assert until(lambda: channel[APP_WAITS] == 0)
        assert until(app.woken)
        assert nic.stats()[1].wakeups_sent == 1


def test_a_socket_that_fails_ends_the_loop_with_its_errno(
    nic: Nic, machine: Machine, app: App, peer: Peer
) -> None:
    nic.kicks.close()
    peer.deliver(CHUNK)
    peer.deliver(CHUNK)  # an ACK is due, and the kick for it fails
    nic.arrived()
    assert until(lambda: machine.result is not None)
    assert machine.result == -errno.ECONNREFUSED
    assert os.read(app.alive, 2) == b"\0"  # who waits for it is told,
    assert os.read(app.alive, 1) == b""  # and told for ever
    assert received(nic) == 2 * CHUNK  # and what was counted can be asked


def test_other_threads_may_ask_all_the_time(nic: Nic, peer: Peer) -> None:
    stop = threading.Event()
    answers: list[int] = []

    def ask() -> None:
        while not stop.is_set():
            assert lib.loop_check(nic.loop) == 0
            flows = ffi.new("struct flow_info[]", 16)
            answers.append(lib.loop_flows(nic.loop, flows, 16))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        peer.deliver(100)
        nic.arrived()
        until(lambda: len(nic.rx) == 0)
        nic.send()
    assert until(lambda: received(nic) == 5000)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(answers) == {1}


def test_a_loop_that_is_told_to_stop_resets_its_connections(
    nic: Nic, machine: Machine, peer: Peer
) -> None:
    nic.send()
    machine.stop()
    assert machine.result == 0
    assert [frame[TCP].flags for frame in nic.send()] == ["RA"]
    flows = ffi.new("struct flow_info[]", 16)
    assert lib.loop_flows(nic.loop, flows, 16) == 0
    assert nic.settled()


def test_a_packet_cut_short_by_the_end_is_no_loss(nic: Nic, machine: Machine) -> None:
    nic.receive(nic.take_buffer(), 10, options=CONTD)
    nic.arrived()
    assert until(lambda: len(nic.rx) == 0)
    machine.stop()
    assert lib.loop_check(nic.loop) == 0


# ---- queues, areas and applications come and go ----


def area_info(nic: Nic) -> Any:
    infos = ffi.new("struct area_info[]", 8)
    count = lib.loop_areas(nic.loop, infos, 8)
    return next((info for info in infos[0:count] if info.area == nic.area), None)


def test_what_has_arrived_when_a_queue_is_stopped_is_not_lost(nic: Nic, peer: Peer) -> None:
    """More than a batch, and the first part of a packet whose rest will never come."""
    for _ in range(150):
        peer.deliver(10)
    nic.receive(nic.take_buffer(), CHUNK, options=CONTD)
    nic.detach()
    assert received(nic) == 1500
    assert area_info(nic).fill == 0
    assert area_info(nic).free == NIOVS - area_info(nic).lent
    assert lib.loop_check(nic.loop) == 0
    assert nic.attach() == 0
    assert len(nic.fill) >= 32
    peer.deliver(10)
    nic.arrived()
    assert until(lambda: received(nic) == 1510)


def test_a_stopped_queue_is_left_alone(nic: Nic, peer: Peer) -> None:
    assert until(lambda: nic.stats()[0].flows_established == 1)
    assert lib.loop_queue_stop(nic.loop, 0) == 0
    while nic.kicked():
        pass
    before = len(nic.fill), len(nic.tx)
    peer.deliver(10)
    nic.arrived()
    _, loop = nic.stats()
    assert until(lambda: nic.stats()[1].turns > loop.turns + 4)
    assert received(nic) == 0
    assert (len(nic.fill) + 1, len(nic.tx)) == before
    assert not nic.kicked()
    assert lib.loop_queue_stop(nic.loop, 0) == -errno.ENOENT
    assert lib.loop_queue_detach(nic.loop, 0) == 0


def test_an_area_drains_when_its_last_token_is_back(
    nic: Nic, machine: Machine, app: App, peer: Peer
) -> None:
    peer.deliver(10)
    nic.arrived()
    assert until(lambda: received(nic) == 10)
    assert lib.loop_area_close(nic.loop, nic.area) == -errno.EBUSY
    nic.detach()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(machine.notice)
    assert lib.loop_area_close(nic.loop, nic.area) == 1
    assert lib.loop_app_close(nic.loop, app.number) == 0
    assert until(lambda: select.select([machine.notice], [], [], 1)[0])
    assert lib.loop_area_close(nic.loop, nic.area) == 0
    assert lib.loop_area_close(nic.loop, nic.area) == -errno.ENOENT


def test_a_queue_moves_to_another_area_and_its_connections_with_it(
    nic: Nic, machine: Machine, app: App, peer: Peer
) -> None:
    """From net_iovs to host memory: the same bytes, now copied."""
    peer.deliver(10)
    nic.detach()
    other = Nic(machine, dmabuf_id=0)
    peer.nic = other
    try:
        peer.deliver(20)
        os.write(app.wake, bytes(8))
        assert until(lambda: received(nic) == 30)
        stack, _ = machine.stats()
        assert (stack.bytes_device, stack.bytes_data) == (10, 20)
        infos = ffi.new("struct queue_info[]", 4)
        assert lib.loop_queues(machine.loop, infos, 4) == 2
        assert [info.area for info in infos[0:2]] == [other.area, lib.STACK_NONE]
        assert infos[0].rx_packets == 4
    finally:
        machine.stop()
        other.close()


def has_received(nic: Nic, size: int) -> bool:
    return received(nic) == size


def frag_flows(app: App) -> list[int]:
    """The flows of all EVENT_FRAG so far, in order."""
    with mmap.mmap(app.channel, 0) as channel:
        (head,) = struct.unpack_from("=I", channel, EVENT_HEAD)
        events = [EVENT.unpack_from(channel, EVENTS + EVENT.size * i) for i in range(head)]
    return [flow for kind, flow in events if kind == EVENT_FRAG]


def test_no_queue_starves_another(nic: Nic, machine: Machine, app: App, peer: Peer) -> None:
    """More than a batch on one queue, then a packet on the other: that is not the last.

    Unless the loop has a turn of its own accord as they come in; then once more.
    """
    other = Nic(machine, 1, dmabuf_id=2)
    places: list[int] = []
    try:
        lone = Peer(other, port=40001)
        assert until(lambda: machine.stats()[0].flows_established == 2)
        while LOOP_BATCH not in places and len(places) < 3:
            all_bytes = received(nic) + 1510
            with other.rx.at_once(), nic.rx.at_once():
                for _ in range(150):
                    peer.deliver(10)
                lone.deliver(10)
            nic.arrived()
            assert until(functools.partial(has_received, nic, all_bytes))
            order = frag_flows(app)[-151:]
            places.append(order.index(min(set(order), key=order.count)))
        assert LOOP_BATCH in places
    finally:
        machine.stop()
        other.close()


# ---- applications ----


def test_applications_have_channels_of_their_own(nic: Nic, machine: Machine, app: App) -> None:
    second = machine.open_app()
    assert second.number != app.number
    assert machine.listen(second, 5202) >= 0
    assert machine.listen(second, 5201) == -errno.EADDRINUSE
    for waiting in machine.apps:
        with mmap.mmap(waiting.channel, 0) as channel:
            channel[APP_WAITS] = 1
    Peer(nic, listening=5202)
    assert until(second.woken)
    assert not app.woken()
    flows = ffi.new("struct flow_info[]", 4)
    assert lib.loop_flows(nic.loop, flows, 4) == 1
    assert flows[0].app == second.number


def test_an_application_that_goes_harms_no_other(
    nic: Nic, machine: Machine, app: App, peer: Peer
) -> None:
    second = machine.open_app()
    machine.listen(second, 5202)
    gone = Peer(nic, listening=5202, port=40001)
    gone.deliver(10)
    peer.deliver(10)
    nic.arrived()
    assert until(lambda: received(nic) == 20)
    nic.send()
    assert lib.loop_app_close(nic.loop, second.number) == 0
    assert lib.loop_app_close(nic.loop, second.number) == -errno.ENOENT
    assert select.select([second.alive], [], [], 0)[0]  # it is told,
    (reset,) = until(nic.send)
    assert (reset[TCP].flags, reset[TCP].dport) == ("RA", 40001)  # its peer is told,
    peer.deliver(10)
    nic.arrived()
    assert until(lambda: received(nic) == 30)  # and the other receives
    assert nic.stats()[0].tokens_outstanding == 2
    assert machine.listen(app, 5202) >= 0  # the port is free,
    assert machine.open_app().number == second.number  # and so is its place


def test_what_an_application_closed_before_it_went_is_not_reset(
    nic: Nic, machine: Machine, app: App, peer: Peer
) -> None:
    """Its last request came after the loop's look at the ring: here, after the loop's end."""
    nic.kicks.close()
    peer.deliver(CHUNK)
    peer.deliver(CHUNK)  # an ACK is due, and the kick for it fails
    nic.arrived()
    assert until(lambda: machine.result is not None)
    flows = ffi.new("struct flow_info[]", 1)
    assert lib.loop_flows(nic.loop, flows, 1) == 1
    with mmap.mmap(app.channel, 0) as channel:
        requests = EVENTS + app.geometry["nr_events"] * EVENT.size
        channel[requests : requests + 16] = struct.pack("=IIII", REQUEST_CLOSE, flows[0].id, 0, 0)
        channel[REQUEST_HEAD : REQUEST_HEAD + 4] = struct.pack("=I", 1)
    assert lib.loop_app_close(nic.loop, app.number) == 0
    assert lib.loop_flows(nic.loop, flows, 1) == 1
    assert flows[0].state == lib.TCP_FIN_WAIT_1


@pytest.mark.parametrize("how", ["full", "closed", "gone"])
def test_an_application_cannot_keep_the_loop_from_sleeping(
    nic: Nic, machine: Machine, app: App, peer: Peer, how: str
) -> None:
    second = App(machine.config)
    machine.apps.append(second)
    kept = os.dup(second._wake)
    assert second.open(machine.loop) >= 0
    if how == "gone":  # but its pipe is not
        assert lib.loop_app_close(machine.loop, second.number) == 0
        os.write(second.wake, bytes(8))
    elif how == "full":
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(second.wake, bytes(65536))
    else:
        devnull = os.open("/dev/null", os.O_WRONLY)
        os.dup2(devnull, second.wake)
        os.close(devnull)
    peer.deliver(10)
    nic.arrived()
    assert until(lambda: received(nic) == 10)
    if how == "closed":
        os.close(kept)
    for _ in range(3):  # it sleeps at last, and is not woken without a reason
        assert until(lambda: asleep(nic))
    if how != "closed":
        os.close(kept)


def asleep(nic: Nic) -> bool:
    """Whether the loop makes no turn for a while but those for this question."""
    nic.send()  # or it would look after its frames
    before = nic.stats()[1].turns
    time.sleep(0.02)
    return bool(nic.stats()[1].turns - before <= 4)


def test_an_application_cannot_make_the_loop_wait_for_it(
    nic: Nic, machine: Machine, app: App, peer: Peer
) -> None:
    """The pipe of events is full, through the application's own way to it, and must block it."""
    again = os.open(f"/proc/self/fd/{app.event}", os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(again, bytes(4096))
    os.close(again)
    os.set_blocking(app.event, True)
    os.set_blocking(app.wake, True)
    with mmap.mmap(app.channel, 0) as channel:
        for _ in range(3):
            channel[APP_WAITS] = 1
            peer.deliver(10)
            nic.arrived()
            assert until(lambda: channel[APP_WAITS] == 0)
    assert until(lambda: received(nic) == 30)


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"channel_fd": -1}, errno.EBADF),
        ({"wake_fd": -1}, errno.EBADF),
        ({"event_fd": -1}, errno.EBADF),
        ({"life_fd": -1}, errno.EBADF),
        ({"size": 4096}, errno.EINVAL),
        ({"seals": 0}, errno.EINVAL),  # it could be cut short later
        ({"channel_fd": 0}, errno.EINVAL),  # not a file that has seals
        ({"wake_fd": 1000}, errno.EBADF),
        ({"nr_events": 1000}, errno.EINVAL),
        ({"nr_requests": 0}, errno.EINVAL),
        ({"nr_blocks": 0}, errno.EINVAL),
    ],
)
def test_a_channel_that_cannot_be_is_refused_without_a_trace(
    machine: Machine, changes: dict[str, int], number: int
) -> None:
    changes = dict(changes)
    geometry = {"nr_events": 64, "nr_requests": 64, "nr_blocks": 1}
    app = ffi.new("struct stack_app_config *", geometry)
    channel, pipe = os.memfd_create("channel", os.MFD_ALLOW_SEALING), os.pipe()
    os.ftruncate(channel, changes.pop("size", lib.stack_channel_size(machine.config, app)))
    fcntl.fcntl(channel, fcntl.F_ADD_SEALS, changes.pop("seals", fcntl.F_SEAL_SHRINK))
    fds = {"channel_fd": channel, "wake_fd": pipe[0], "event_fd": pipe[1], "life_fd": pipe[1]}
    config = ffi.new("struct loop_app_config *", {**fds, **geometry, **changes})
    before = len(os.listdir("/proc/self/fd"))
    assert lib.loop_app_open(machine.loop, config) == -number
    assert len(os.listdir("/proc/self/fd")) == before
    for fd in (channel, *pipe):
        os.close(fd)


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"nr_queues": 0}, errno.EINVAL),
        ({"nr_queues": 65}, errno.EINVAL),
        ({"max_niovs": 0}, errno.EINVAL),
        ({"mtu": 10}, errno.EINVAL),
    ],
)
def test_a_loop_that_cannot_be_is_refused_without_a_trace(
    machine: Machine, changes: dict[str, int], number: int
) -> None:
    stack = ffi.new("struct stack_config *", machine.config[0])
    for name, value in changes.items():
        setattr(stack, name, value)
    out = ffi.new("struct loop **")
    before = len(os.listdir("/proc/self/fd"))
    config = ffi.new("struct loop_config *", {"notice_fd": machine.notice, "cpu": -1})
    assert lib.loop_open(out, config, stack) == -number
    assert not out[0]
    assert len(os.listdir("/proc/self/fd")) == before


def test_queues_and_areas_that_are_not_there(nic: Nic, machine: Machine) -> None:
    loop = nic.loop
    rings = ffi.new("struct loop_queue *", {"fd": -1})
    assert lib.loop_queue_attach(loop, 0, nic.area, rings) == -errno.EBUSY
    assert lib.loop_queue_attach(loop, 2, nic.area, rings) == -errno.EINVAL
    assert lib.loop_queue_attach(loop, 1, 3, rings) == -errno.ENOENT
    assert lib.loop_queue_detach(loop, 0) == -errno.EBUSY  # not stopped: its rings are in use
    assert lib.loop_queue_stop(loop, 1) == -errno.ENOENT
    assert lib.loop_queue_stop(loop, 2) == lib.loop_queue_detach(loop, 2) == -errno.EINVAL
    assert lib.loop_area_close(loop, -1) == lib.loop_area_close(loop, 300) == -errno.ENOENT
    for app in (-1, 3, 4, 300):
        assert lib.loop_app_close(loop, app) == -errno.ENOENT
    empty = ffi.new("struct stack_area_config *")
    assert lib.loop_area_open(loop, empty, 0) == -errno.EINVAL
