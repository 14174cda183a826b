# SPDX-License-Identifier: Apache-2.0
"""Zero-copy mode, over NICs whose driver has it: the NIC writes to the region itself."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from devmemtcp.agent import Listener, Region, Runtime
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.pattern import one_period
from devmemtcp.agent.session import Session
from devmemtcp.agent.zerocopy import zero_copy_refusals
from devmemtcp.pyxdp.features import features

from ..huge_pages import huge_pages
from ..net.agent_process import open_folder, running_agent
from ..net.test_bindings import echo, host_only, queues_of, region_of
from ..net.test_runtime_e2e import exchange, receiver
from ..net.traffic import MIB, PATIENCE, PORT, assert_clean, dial, dial_queue, settled

PERIOD = 251
HUNDRED_MB = 100_000_000


@pytest.fixture
def pair(netns_pair: Callable[..., Any]) -> Any:
    return _with_zero_copy(netns_pair())


def _with_zero_copy(pair: Any) -> Any:
    """Skips the test where the driver has none."""
    with pair.right.enter():
        can = features(pair.right.ifname)
    for refusal in zero_copy_refusals(can, can.mtu):
        pytest.skip(str(refusal))
    return pair


def send_pattern(end: Any, address: tuple[str, int], size: int) -> None:
    """By the kernel's TCP; a thread of ours, for in a guest a process takes seconds to start."""
    whole = one_period(PERIOD) * (MIB // PERIOD)
    with dial(end, address, patience=PATIENCE) as sock:
        sock.settimeout(PATIENCE)
        for _ in range(size // len(whole)):
            sock.sendall(whole)
        sock.sendall(whole[: size % len(whole)])
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)


def receive_pattern(rt: Runtime, view: Any, peer: Any, address: str, size: int) -> None:
    """One stream of so many bytes, each of them compared."""
    with rt.listen((address, PORT)) as listener:
        receive_stream(listener, view, peer, size)


def receive_stream(listener: Listener, view: Any, peer: Any, size: int) -> None:
    total = errors = phase = 0
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send_pattern, peer, listener.address, size)
        with listener.accept(PATIENCE) as conn:
            while batch := conn.recv_frags(timeout=PATIENCE):
                wrong, phase = batch.check_pattern(view, PERIOD, phase)
                errors += wrong
                total += batch.nbytes
                conn.dontneed(batch)
        sending.result(PATIENCE)
    assert (total, errors) == (size, 0)


def check_counters(rt: Runtime) -> None:
    """Every packet's headers were found; every byte was counted in device memory."""
    stats = rt.stats()
    lost = sum(sock.rx_ring_full for sock in stats.sockets)  # between program and ring
    assert stats.bytes_linear == stats.bytes_data == 0
    assert stats.steer["drop_no_chunk"] == stats.steer["drop_adjust_failed"] == 0
    assert stats.drops["RECORD"] == stats.drops["NO_HEAD"] == stats.drops["MALFORMED"] == 0
    assert stats.steer["redirect"] == stats.stack["rx_segments"] + lost


def test_a_hundred_megabytes_arrive_exactly(pair: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with receiver(pair.right, mode="zerocopy", isolate=True) as (rt, view):
        assert rt.mode == "zerocopy"
        receive_pattern(rt, view, pair.left, pair.right.ip4, HUNDRED_MB)
        assert settled(rt, lambda: rt.stats().tokens_outstanding == 0)
        verdict, stats = rt.unreadable, rt.stats()
        assert stats.bytes_device == HUNDRED_MB
        check_counters(rt)
        assert verdict, verdict.reason
    with capsys.disabled():
        print(f"\n{HUNDRED_MB} bytes, all compared, tokens outstanding {stats.tokens_outstanding}")
        print(f"unreadable: {verdict.proved}: {verdict.reason}")
        print("loop:", stats.loop)
        print("drops:", {name: count for name, count in stats.drops.items() if count})
        print("steer:", {name: count for name, count in stats.steer.items() if count})
        print("sockets:", stats.sockets)


@pytest.mark.parametrize("family", ["ip4", "ip6"])
def test_a_stream_arrives_whole_and_an_answer_goes_back(pair: Any, family: str) -> None:
    """The answer is sent by the driver out of the pages behind the region."""
    data = bytes(range(256)) * 4097
    with receiver(pair.right, mode="zerocopy") as (rt, view):
        with rt.listen((getattr(pair.right, family), PORT)) as listener:
            got, answer, _ = exchange(rt, view, listener, pair.left, data)
        assert got == data
        assert answer == b"got %d bytes" % len(data)
        check_counters(rt)


def test_tiny_segments_are_filled_up_within_their_chunk(pair: Any) -> None:
    """A payload shorter than 14 bytes moves the frame into the headroom of its chunk."""
    with receiver(pair.right, mode="zerocopy") as (rt, view):
        with rt.listen((pair.right.ip4, PORT)) as listener, ThreadPoolExecutor(1) as pool:
            sock = pool.submit(dial, pair.left, listener.address).result()
            with sock, listener.accept(PATIENCE) as conn:
                for size in (1, 2, 13, 14, 15, 1):
                    sock.sendall(b"x" * size)
                    got = b""
                    while len(got) < size:
                        batch = conn.recv_frags(timeout=PATIENCE)
                        for frag in batch:
                            got += bytes(view[frag.offset :][: frag.size])
                        conn.dontneed(batch)
                    assert got == b"x" * size
        check_counters(rt)


def test_a_region_of_huge_pages(pair: Any) -> None:
    with (
        huge_pages(48 * MIB),
        Region(16 * MIB, memory="hugetlb") as region,
        region.map() as view,
        Runtime(
            pair.right.ifname, region, netns=pair.right.netns, mode="zerocopy", isolate=True
        ) as rt,
    ):
        receive_pattern(rt, view, pair.left, pair.right.ip4, 8 * MIB)
        assert_clean(rt)
        check_counters(rt)
        assert rt.unreadable, rt.unreadable.reason


def test_a_region_of_huge_pages_by_the_agent(pair: Any) -> None:
    with (
        huge_pages(48 * MIB),
        open_folder() as folder,
        running_agent(folder, pair.right, interface='mode = "zerocopy"') as agent,
        Session(agent.path) as session,
        Region(16 * MIB, memory="hugetlb") as region,
        region.map() as view,
        session.bind_rx(pair.right.ifname, [0], region),
        session.listen((pair.right.ip4, PORT)) as listener,
    ):
        receive_stream(listener, view, pair.left, 8 * MIB)
        assert session.stack(pair.right.ifname).unreadable


def test_busy_poll_drives_the_driver(pair: Any) -> None:
    with receiver(pair.right, mode="zerocopy", busy_poll=True) as (rt, view):
        receive_pattern(rt, view, pair.left, pair.right.ip4, 4 * MIB)
        stats = rt.stats()
        assert stats.loop.sleeps == 0
        check_counters(rt)


def test_regions_come_and_go_under_a_connection(pair: Any) -> None:
    """Host memory is received into in zero-copy mode as well."""
    with (
        host_only(pair.right, mode="zerocopy") as (rt, listener),
        region_of(4 * MIB) as (region, view),
    ):
        sock, conn = dial_queue(rt, pair.left, listener, 0)
        with sock, conn:
            assert echo(sock, conn, {}) == {0}
            number = rt.bind(region, [0])
            assert queues_of(rt) == {0: number}
            assert echo(sock, conn, {number: view}) == {number}
            rt.unbind(number)
            assert echo(sock, conn, {}) == {0}
        stats = rt.stats()
        assert stats.steer["drop_no_chunk"] == stats.drops["RECORD"] == 0


def test_several_queues_share_a_region(netns_pair: Callable[..., Any]) -> None:
    """RSS spreads the flows, and each queue's packets find their headers."""
    pair = _with_zero_copy(netns_pair(queues=2))
    with receiver(pair.right, mode="zerocopy") as (rt, view):
        assert rt.queues == 2
        with rt.listen((pair.right.ip4, PORT)) as listener:
            for queue in (0, 1):
                sock, conn = dial_queue(rt, pair.left, listener, queue)
                with sock, conn:
                    assert echo(sock, conn, {1: view}, MIB) == {1}
        assert all(queue["rx_packets"] for queue in rt.queue_stats())
        check_counters(rt)


def test_an_mtu_that_fits_a_chunk(netns_pair: Callable[..., Any]) -> None:
    pair = _with_zero_copy(netns_pair(mtu=3000))
    data = bytes(range(256)) * 4096
    with receiver(pair.right, mode="zerocopy") as (rt, view):
        assert rt.mtu == 3000
        with rt.listen((pair.right.ip4, PORT)) as listener:
            assert exchange(rt, view, listener, pair.left, data)[0] == data
        check_counters(rt)


def test_a_larger_mtu_is_refused(pair: Any) -> None:
    pair.right.set_link(mtu=3823)
    with (
        Region(4 * MIB) as region,
        pytest.raises(ConfigError, match="fit a chunk of 4 KiB: 3822 at most"),
        Runtime(pair.right.ifname, region, netns=pair.right.netns, mode="zerocopy"),
    ):
        pass
