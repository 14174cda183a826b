# SPDX-License-Identifier: Apache-2.0
"""The native loop and a real stack, on rings in ordinary memory with this file as the NIC.

Nothing here needs a privilege: the loop sees four rings and a descriptor. What a kernel never
does, or seldom, can so be done on purpose.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from devmemtcp.agent._loop import ffi, lib

PAGE = 4096
NIOVS, PAGES, RING = 256, 64, 512
CHUNK = 3840
CONTD = 1  # XDP_PKT_CONTD
META, MAGIC = 160, 0xD3E7
PATIENCE = 60.0


class Ring(ctypes.Structure):
    """struct xsk_ring_prod and struct xsk_ring_cons of libxdp are laid out alike."""

    _fields_ = (
        ("cached_prod", ctypes.c_uint32),
        ("cached_cons", ctypes.c_uint32),
        ("mask", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("producer", ctypes.POINTER(ctypes.c_uint32)),
        ("consumer", ctypes.POINTER(ctypes.c_uint32)),
        ("ring", ctypes.c_void_p),
        ("flags", ctypes.POINTER(ctypes.c_uint32)),
    )


class FakeRing:
    """A ring, and the kernel's side of it."""

    def __init__(self, entry: struct.Struct, *, we_produce: bool) -> None:
        self._entry = entry
        self._memory = ctypes.create_string_buffer(entry.size * RING)
        self._indices = (ctypes.c_uint32 * 3)()
        base = ctypes.addressof(self._indices)
        pointer = ctypes.POINTER(ctypes.c_uint32)
        self.struct = Ring(
            cached_cons=RING if we_produce else 0,
            mask=RING - 1,
            size=RING,
            producer=ctypes.cast(base, pointer),
            consumer=ctypes.cast(base + 4, pointer),
            ring=ctypes.addressof(self._memory),
            flags=ctypes.cast(base + 8, pointer),
        )

    def cdata(self, kind: str) -> Any:
        return ffi.cast(f"struct {kind} *", ctypes.addressof(self.struct))

    def push(self, *values: int) -> None:
        self._entry.pack_into(self._memory, (self._indices[0] % RING) * self._entry.size, *values)
        self._indices[0] += 1

    def pop(self) -> tuple[int, ...] | None:
        if self._indices[0] == self._indices[1]:
            return None
        at = (self._indices[1] % RING) * self._entry.size
        value = self._entry.unpack_from(self._memory, at)
        self._indices[1] += 1
        return value

    def __len__(self) -> int:
        return (self._indices[0] - self._indices[1]) & 0xFFFFFFFF


ADDRESS, DESC = struct.Struct("=Q"), struct.Struct("=QII")


class Nic:
    """One queue: what the kernel would do, and the memory it would do it in."""

    def __init__(self) -> None:
        self.fill = FakeRing(ADDRESS, we_produce=True)
        self.rx = FakeRing(DESC, we_produce=False)
        self.tx = FakeRing(DESC, we_produce=True)
        self.comp = FakeRing(ADDRESS, we_produce=False)
        self.held: set[int] = set()  # buffers out of the fill ring, not yet in the RX ring
        self.kicks, self.socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.kicks.setblocking(False)
        self.memory = mmap.mmap(-1, (NIOVS + PAGES) * PAGE)
        self.host = ffi.from_buffer("uint8_t[]", self.memory)
        self.channel = os.memfd_create("channel", os.MFD_ALLOW_SEALING)
        self.wake, self.event = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
        self.alive, life = os.pipe()
        stack = ffi.new(
            "struct stack_config *",
            {
                "nr_niovs": NIOVS,
                "nr_pages": PAGES,
                "header_base": self.host,
                "page_base": self.host + NIOVS * PAGE,
                "page_umem_base": 2 * NIOVS * PAGE,
                "nr_queues": 1,
                "max_flows": 16,
                "max_listeners": 4,
                "fill_min": 32,
                "fill_max": RING,
                "mtu": 1500,
                "rcv_wnd_max": 1 << 20,
                "delack_ns": 40_000_000,
                "time_wait_ms": 1000,
            },
        )
        os.ftruncate(self.channel, lib.stack_channel_size(stack))
        fcntl.fcntl(self.channel, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.queue = ffi.new(
            "struct loop_queue *",
            {
                "rx": self.rx.cdata("xsk_ring_cons"),
                "fill": self.fill.cdata("xsk_ring_prod"),
                "tx": self.tx.cdata("xsk_ring_prod"),
                "completion": self.comp.cdata("xsk_ring_cons"),
                "fd": self.socket.fileno(),
            },
        )
        config = ffi.new(
            "struct loop_config *",
            {
                "queues": self.queue,
                "channel_fd": self.channel,
                "wake_fd": self.wake,
                "event_fd": self.event,
                "life_fd": life,
                "cpu": -1,
            },
        )
        out = ffi.new("struct loop **")
        assert lib.loop_open(out, config, stack) == 0
        os.close(life)
        self.loop = out[0]
        self.result: int | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.result = lib.loop_run(self.loop)

    def start(self) -> None:
        self._thread.start()
        assert until(lambda: len(self.fill) >= 32)

    def stop(self) -> None:
        if self._thread.ident is not None:
            lib.loop_stop(self.loop, 0)
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive()

    def close(self) -> None:
        self.stop()
        lib.loop_close(self.loop)
        for fd in (self.channel, self.wake, self.event, self.alive):
            os.close(fd)
        self.kicks.close()
        self.socket.close()

    # ---- the kernel's part ----

    def arrived(self) -> None:
        """Wake the loop. (Its socket cannot do it: the rings are not the socket's.)"""
        os.eventfd_write(self.wake, 1)

    def take_buffer(self) -> int:
        """The net_iov of the next fill ring entry."""
        entry = self.fill.pop()
        assert entry is not None, "the fill ring is empty"
        niov, rest = divmod(entry[0] + 256, 2 * PAGE)
        assert rest == PAGE, "a fill address must be 256 bytes before a device page"
        assert niov < NIOVS
        assert niov not in self.held, "a buffer was given twice"
        self.held.add(niov)
        return niov

    def receive(self, niov: int, size: int, *, options: int = 0, offset: int = 256) -> None:
        """Put a filled buffer into the RX ring, as unaligned chunk mode does."""
        self.held.remove(niov)
        base = niov * 2 * PAGE + PAGE - 256
        self.rx.push(base | offset << 48, size, options)

    def deliver(self, packet: Any, sizes: tuple[int, ...] = ()) -> None:
        """A packet whose payload has these sizes, a chunk each; headers only by default."""
        headers = bytes(packet)
        niovs = [self.take_buffer() for _ in sizes or (0,)]
        end = (niovs[0] + 1) * PAGE
        info = struct.pack("=HBBBBBBII", MAGIC, len(headers), 14, 34, 4, 1, 0, sum(sizes), 0)
        self.memory[end - META : end - META + len(info)] = info
        self.memory[end - len(headers) : end] = headers
        for niov, size in zip(niovs, sizes or (0,), strict=True):
            last = niov == niovs[-1]
            self.receive(niov, size, options=0 if last else CONTD)

    def send(self) -> list[Any]:
        """Everything in the TX ring, completed, as scapy packets."""
        sent = []
        while entry := self.tx.pop():
            address, size, _ = entry
            at = address - NIOVS * PAGE  # transmission pages follow the header pages
            sent.append(Ether(self.memory[at : at + size]))
            self.comp.push(address)
        return sent

    def kicked(self) -> bool:
        """Whether there was a kick, taken out of the socket."""
        try:
            self.kicks.recv(1)
        except BlockingIOError:
            return False
        return True

    def stats(self) -> tuple[Any, Any]:
        stack, loop = ffi.new("struct stack_stats *"), ffi.new("struct loop_stats *")
        lib.loop_stats(self.loop, stack, loop)
        return stack, loop

    def settled(self) -> bool:
        """Every net_iov is in the pool or in the fill ring, and the invariants hold."""
        stack, _ = self.stats()
        whole = stack.niovs_free + stack.niovs_fill == NIOVS
        return bool(whole and lib.loop_check(self.loop) == 0)


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > deadline:
            return value
        os.sched_yield()
    return value


@pytest.fixture
def nic() -> Iterator[Nic]:
    made = Nic()
    local = ffi.new("struct stack_addr *", (bytes(10) + b"\xff\xff\xc0\0\2\1", 5201, 4))
    assert lib.loop_listen(made.loop, local, 0, 8) >= 0
    made.start()
    yield made
    made.close()


class Peer:
    """A TCP sender that has done its handshake."""

    def __init__(self, nic: Nic) -> None:
        self.nic = nic
        self.seq, self.ack = 1000, 0
        nic.deliver(self.segment("S", options=[("MSS", 1460), ("WScale", 7)]))
        nic.arrived()
        (synack,) = until(nic.send)
        assert synack[TCP].flags == "SA"
        self.seq += 1
        self.ack = synack[TCP].seq + 1
        nic.deliver(self.segment("A"))
        nic.arrived()

    def segment(self, flags: str, **options: Any) -> Any:
        return (
            Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01")
            / IP(src="192.0.2.2", dst="192.0.2.1")
            / TCP(
                sport=40000,
                dport=5201,
                seq=self.seq,
                ack=self.ack,
                flags=flags,
                window=65535,
                **options,
            )
        )

    def deliver(self, *sizes: int) -> None:
        self.nic.deliver(self.segment("A"), sizes)
        self.seq += sum(sizes)


@pytest.fixture
def peer(nic: Nic) -> Peer:
    return Peer(nic)


def received(nic: Nic) -> int:
    stack, _ = nic.stats()
    return int(stack.rx_payload_bytes)


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


def test_a_packet_may_straddle_two_batches(nic: Nic, peer: Peer) -> None:
    """70 descriptors in packets of 7: the 64th is in the middle of one."""
    for _ in range(10):
        peer.deliver(*[200] * 7)
    nic.arrived()
    assert until(lambda: received(nic) == 14_000)
    _, loop = nic.stats()
    assert loop.rx_packets == 2 + 10
    assert loop.rx_descs == 2 + 70
    assert nic.stats()[0].rx_ooo_segments == 0


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


def test_a_sleeping_application_is_woken_once_a_batch(nic: Nic, peer: Peer) -> None:
    app_waits = 320  # channel.h: offset of channel_header.app_waits
    with mmap.mmap(nic.channel, 0) as channel:
        assert until(lambda: nic.stats()[0].flows_established == 1)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(nic.event)
        peer.deliver(10)  # while it is awake
        nic.arrived()
        assert until(lambda: received(nic) == 10)
        with pytest.raises(BlockingIOError):
            os.eventfd_read(nic.event)
        channel[app_waits] = 1
        for _ in range(20):
            peer.deliver(10)
        nic.arrived()
        assert until(lambda: received(nic) == 210)
        assert until(lambda: channel[app_waits] == 0)
        assert os.eventfd_read(nic.event) == 1
        assert nic.stats()[1].wakeups_sent == 1


def test_a_socket_that_fails_ends_the_loop_with_its_errno(nic: Nic, peer: Peer) -> None:
    nic.kicks.close()
    peer.deliver(CHUNK)
    peer.deliver(CHUNK)  # an ACK is due, and the kick for it fails
    nic.arrived()
    assert until(lambda: nic.result is not None)
    assert nic.result == -errno.ECONNREFUSED
    assert os.read(nic.alive, 2) == b"\0"  # who waits for it is told,
    assert os.read(nic.alive, 1) == b""  # and told for ever
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


def test_a_loop_that_is_told_to_stop_resets_its_connections(nic: Nic, peer: Peer) -> None:
    nic.send()
    nic.stop()
    assert nic.result == 0
    assert [frame[TCP].flags for frame in nic.send()] == ["RA"]
    flows = ffi.new("struct flow_info[]", 16)
    assert lib.loop_flows(nic.loop, flows, 16) == 0
    assert nic.settled()


def test_a_packet_cut_short_by_the_end_is_no_loss(nic: Nic) -> None:
    nic.receive(nic.take_buffer(), 10, options=CONTD)
    nic.arrived()
    assert until(lambda: len(nic.rx) == 0)
    nic.stop()
    assert lib.loop_check(nic.loop) == 0


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"nr_queues": 0}, errno.EINVAL),
        ({"nr_queues": 65}, errno.EINVAL),
        ({"nr_niovs": 0}, errno.EINVAL),
        ({"channel_fd": -1}, errno.EBADF),
        ({"life_fd": -1}, errno.EBADF),
        ({"channel_size": 4096}, errno.EINVAL),
        ({"seals": 0}, errno.EINVAL),  # it could be cut short later
        ({"channel_fd": 0}, errno.EINVAL),  # not a file that has seals
        ({"mtu": 10}, errno.EINVAL),
    ],
)
def test_what_cannot_be_is_refused_without_a_trace(changes: dict[str, int], number: int) -> None:
    memory = ffi.from_buffer("uint8_t[]", mmap.mmap(-1, 128 * PAGE))
    stack = ffi.new(
        "struct stack_config *",
        {
            "nr_niovs": 64,
            "nr_pages": 64,
            "header_base": memory,
            "page_base": memory + 64 * PAGE,
            "nr_queues": 1,
            "max_flows": 4,
            "max_listeners": 1,
            "fill_max": 64,
            "mtu": 1500,
            "rcv_wnd_max": 1 << 16,
            "delack_ns": 1,
        },
    )
    changes = dict(changes)
    channel, life = os.memfd_create("channel", os.MFD_ALLOW_SEALING), os.eventfd(0)
    os.ftruncate(channel, changes.pop("channel_size", lib.stack_channel_size(stack)))
    fcntl.fcntl(channel, fcntl.F_ADD_SEALS, changes.pop("seals", fcntl.F_SEAL_SHRINK))
    config = {"channel_fd": channel, "life_fd": life, "wake_fd": life, "event_fd": life, "cpu": -1}
    config |= {name: changes.pop(name) for name in list(changes) if name in config}
    for name, value in changes.items():
        setattr(stack, name, value)
    queue = ffi.new("struct loop_queue *", {"fd": life})
    out = ffi.new("struct loop **")
    before = len(os.listdir("/proc/self/fd"))
    assert (
        lib.loop_open(out, ffi.new("struct loop_config *", {"queues": queue, **config}), stack)
        == -number
    )
    assert not out[0]
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(channel)
    os.close(life)
