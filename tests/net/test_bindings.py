# SPDX-License-Identifier: Apache-2.0
"""Regions are bound to queues and unbound while TCP flows: the bytes stay the same."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import NetNS

from devmemtcp.agent import Connection, Listener, Region, RegionView, Runtime
from devmemtcp.agent.area import Area
from devmemtcp.agent.datapath import Datapath
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.header_path import VARIABLE
from devmemtcp.pyxdp import Umem, XdpError, XskSocket

from .traffic import (
    MIB,
    PATIENCE,
    PORT,
    assert_clean,
    bytes_of,
    dial,
    dial_queue,
    read_exactly,
    settled,
)

ISOLATE = pytest.mark.parametrize("isolate", [False, True], ids=["inside", "isolated"])


@contextlib.contextmanager
def host_only(end: Any, **options: Any) -> Iterator[tuple[Runtime, Listener]]:
    """A runtime without a region, and a listener."""
    options.setdefault("mode", "native")
    with (
        Runtime(end.ifname, None, netns=end.netns, **options) as rt,
        rt.listen((end.ip4, PORT)) as listener,
    ):
        yield rt, listener
        listener.close()
        assert_clean(rt)


@contextlib.contextmanager
def region_of(size: int) -> Iterator[tuple[Region, RegionView]]:
    with Region(size) as region, region.map() as view:
        yield region, view


def queues_of(rt: Runtime) -> dict[int, int]:
    """The dmabuf id of each queue's area."""
    return {queue["queue"]: queue["dmabuf_id"] for queue in rt.queue_stats()}


def echo(
    sock: socket.socket, conn: Connection, views: Mapping[int, RegionView], size: int = 100_000
) -> set[int]:
    """Send random bytes, receive them, and say where they were."""
    data = random.Random(size).randbytes(size)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(sock.sendall, data)
        got, where = read_exactly(conn, views, size)
        sent.result(PATIENCE)
    assert got == data
    return where


@ISOLATE
@pytest.mark.parametrize("mode", ["native", "generic"])
def test_without_a_region_bytes_arrive_in_host_memory(veth: Any, mode: str, isolate: bool) -> None:
    with host_only(veth.right, mode=mode, isolate=isolate) as (rt, listener):
        assert rt.region is None
        sock, conn = dial_queue(rt, veth.left, listener, 0)
        with sock, conn:
            assert echo(sock, conn, {}, 5 * MIB) == {0}
        stats = rt.stats()
        assert (stats.bytes_device, stats.bytes_linear, stats.bytes_data) == (0, 0, 5 * MIB)
        assert stats.stack["host_free"] + stats.stack["host_fill"] == 1024
        assert not rt.unreadable
        assert "no region is bound" in rt.unreadable.reason


def test_a_queue_with_a_binding_and_one_without(netns_pair: Any) -> None:
    """The same listener: what comes by queue 1 is in the region, by queue 0 in host memory."""
    veth = netns_pair(queues=2)
    with (
        region_of(8 * MIB) as (region, view),
        Runtime(veth.right.ifname, region, queues=[1], netns=veth.right.netns, mode="native") as rt,
        rt.listen((veth.right.ip4, PORT)) as listener,
    ):
        assert queues_of(rt) == {0: 0, 1: 1}
        for queue, where in ((0, 0), (1, 1), (0, 0)):
            sock, conn = dial_queue(rt, veth.left, listener, queue)
            with sock, conn:
                assert echo(sock, conn, {1: view}) == {where}
                (flow,) = (flow for flow in rt.flows() if flow.id == conn.id)
                assert flow.rx_bytes == 100_000
                assert (flow.bytes_device, flow.bytes_data)[where == 0] == 100_000
        assert rt.stats().bytes_device == 100_000
        assert rt.stats().bytes_data == 200_000
        listener.close()
        assert_clean(rt)


@ISOLATE
def test_a_connection_lives_through_bind_and_unbind(veth: Any, isolate: bool) -> None:
    with host_only(veth.right, isolate=isolate) as (rt, listener):
        sock, conn = dial_queue(rt, veth.left, listener, 0)
        with sock, conn, region_of(8 * MIB) as (region, view):
            views = {0: view}
            for _ in range(3):
                assert echo(sock, conn, views) == {0}
                number = rt.bind(region, [0])
                views[number] = view
                assert queues_of(rt) == {0: number}
                assert echo(sock, conn, views) == {number}
                rt.unbind(number)
                assert queues_of(rt) == {0: 0}
        assert rt.lost_queues == {}


def test_bytes_stay_exact_while_queues_are_restarted_under_traffic(netns_pair: Any) -> None:
    """Eight connections stream as fast as they can while regions come and go on either queue."""
    veth = netns_pair(queues=2)
    count, rounds = 8, 5
    with (
        region_of(8 * MIB) as (first, view1),
        region_of(8 * MIB) as (second, view2),
        host_only(veth.right) as (rt, listener),
        ThreadPoolExecutor(2 * count) as pool,
    ):
        views: dict[int, RegionView] = {}
        done = threading.Event()
        try:
            blocks = {40_000 + n: random.Random(n).randbytes(MIB) for n in range(count)}
            sent = [
                pool.submit(repeat, veth.left, listener.address, port, block, done)
                for port, block in blocks.items()
            ]
            conns = [listener.accept(PATIENCE) for _ in range(count)]
            got = [pool.submit(expect, conn, views, blocks[conn.peer[1]]) for conn in conns]
            for _ in range(rounds):
                numbers = []
                for queue, region, view in ((0, first, view1), (1, second, view2)):
                    views[rt._next_id] = view
                    numbers.append(rt.bind(region, [queue]))
                before = rt.stats().bytes_device
                assert settled(rt, lambda: rt.stats().bytes_device > before + MIB)  # noqa: B023
                for number in numbers:
                    rt.unbind(number)
                assert settled(rt, lambda: not any(pool["draining"] for pool in reaped(rt)))
        finally:
            done.set()
        for future in (*got, *sent):
            future.result(PATIENCE)
        stats = rt.stats()
        assert stats.bytes_device >= rounds * MIB
        assert stats.bytes_data > 0
        assert rt.lost_queues == {}


def reaped(rt: Runtime) -> list[dict[str, Any]]:
    rt.reap()
    return rt.pools()


def repeat(
    end: Any, address: tuple[str, int], port: int, block: bytes, done: threading.Event
) -> None:
    """Send a block again and again, until told, and wait for the end of the connection."""
    with dial(end, address, source_port=port) as sock:
        while not done.is_set():
            sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def expect(conn: Connection, views: Mapping[int, RegionView], block: bytes) -> None:
    """Read to the end of the stream, which is that block again and again."""
    at, twice = 0, memoryview(block * 2)
    with conn:
        while batch := conn.recv_frags(timeout=PATIENCE):
            for frag in batch.pieces():
                data = bytes_of(frag, views)
                assert data == twice[at : at + len(data)]
                at = (at + len(data)) % len(block)
            conn.dontneed(batch)
    assert at == 0


def test_two_regions_on_different_queues_of_one_interface(netns_pair: Any) -> None:
    veth = netns_pair(queues=3)
    with (
        region_of(4 * MIB) as (one, view1),
        region_of(4 * MIB) as (two, view2),
        host_only(veth.right) as (rt, listener),
    ):
        first, second = rt.bind(one, [0]), rt.bind(two, [2])
        views = {first: view1, second: view2}
        assert queues_of(rt) == {0: first, 1: 0, 2: second}
        for queue, where in ((0, first), (1, 0), (2, second)):
            sock, conn = dial_queue(rt, veth.left, listener, queue)
            with sock, conn:
                assert echo(sock, conn, views) == {where}
        rt.unbind(first)
        assert queues_of(rt) == {0: 0, 1: 0, 2: second}
        sock, conn = dial_queue(rt, veth.left, listener, 2)
        with sock, conn:
            assert echo(sock, conn, views) == {second}


@ISOLATE
def test_tokens_held_across_unbind_stay_readable_and_drain_later(veth: Any, isolate: bool) -> None:
    data = random.Random(1).randbytes(100_000)
    with region_of(4 * MIB) as (region, view), host_only(veth.right, isolate=isolate) as (rt, lst):
        sock, conn = dial_queue(rt, veth.left, lst, 0)
        with sock, conn:
            number = rt.bind(region, [0])
            sock.sendall(data)
            held, size = [], 0
            while size < len(data):
                held.append(conn.recv_frags(timeout=PATIENCE))
                size += held[-1].nbytes
            rt.unbind(number)
            assert rt.reap() == []
            (draining,) = (pool for pool in rt.pools() if pool["draining"])
            assert draining["dmabuf_id"] == number
            assert draining["queues"] == []
            assert draining["lent"] == rt.stats().tokens_outstanding > 0
            # The same connection goes on in host memory, and nothing is written over those.
            assert echo(sock, conn, {}) == {0}
            again = bytearray()
            for batch in held:
                for frag in batch.pieces():
                    again += bytes_of(frag, {number: view})
            assert again == data
            for batch in held[:-1]:
                conn.dontneed(batch)
            assert rt.reap() == []
            conn.dontneed(held[-1])
            assert settled(rt, lambda: rt.reap() == [number])
            assert {pool["dmabuf_id"] for pool in rt.pools()} == {0}


def traces() -> dict[str, int]:
    """What would grow if a restart forgot something."""
    maps = Path("/proc/self/maps").read_text()
    status = Path("/proc/self/status").read_text()
    return {
        "fds": len(os.listdir("/proc/self/fd")),
        "rings": maps.count("xsk"),
        "memory": maps.count("devmemtcp"),
        "mappings": len(maps.splitlines()),
        "pinned": int(status.split("VmPin:")[1].split()[0]),
    }


def test_restarts_leave_nothing_behind(netns_pair: Any) -> None:
    veth = netns_pair(queues=2)
    with region_of(4 * MIB) as (region, view), host_only(veth.right) as (rt, listener):
        views: dict[int, RegionView] = {}

        def restart() -> None:
            number = rt.bind(region, [0, 1])
            views[number] = view
            rt.unbind(number)
            assert settled(rt, lambda: not any(pool["draining"] for pool in reaped(rt)))

        restart()
        before, pools = traces(), len(rt.pools())
        for _ in range(25):
            restart()
        after = traces()
        assert len(rt.pools()) == pools
        # The allocator may map an arena more, nothing that grows with each restart.
        assert after.pop("mappings") < before.pop("mappings") + 20
        assert after == before
        sock, conn = dial_queue(rt, veth.left, listener, 1)
        with sock, conn:
            assert echo(sock, conn, views) == {0}


class Refusal(Exception):
    """Of an injected failure."""


def fail_at(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, number: int, error: Exception
) -> None:
    """Let call `number` (from 1) of a method fail."""
    real: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def method(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise error
        return real(*args, **options)

    monkeypatch.setattr(owner, name, method)


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        (Area, "__init__", 1),
        (Area, "prepare", 1),  # of the region
        (Area, "prepare", 3),  # of the second queue's way back
        (XskSocket, "__init__", 1),
        (XskSocket, "__init__", 2),  # the first queue is in the region already
        (Datapath, "_start", 2),
    ],
)
@pytest.mark.parametrize("error", [XdpError(errno.ENOMEM, "injected"), Refusal()], ids=repr)
def test_a_bind_that_fails_puts_every_queue_back(
    netns_pair: Any,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    number: int,
    error: Exception,
) -> None:
    veth = netns_pair(queues=2)
    with region_of(4 * MIB) as (region, view), host_only(veth.right) as (rt, listener):
        conns = [dial_queue(rt, veth.left, listener, queue) for queue in (0, 1)]
        before = len(rt.pools())
        with monkeypatch.context() as patch:
            fail_at(patch, owner, name, number, error)
            with pytest.raises(type(error)):
                rt.bind(region, [0, 1])
        assert queues_of(rt) == {0: 0, 1: 0}
        assert rt.lost_queues == {}
        rt.reap()
        assert len(rt.pools()) == before
        for sock, conn in conns:
            assert echo(sock, conn, {}) == {0}
        number = rt.bind(region, [0, 1])  # nothing is in its way
        for sock, conn in conns:
            assert echo(sock, conn, {number: view}) == {number}
            sock.close()
            conn.close()


def test_binds_that_cannot_be_change_nothing(netns_pair: Any) -> None:
    veth = netns_pair(queues=2)
    with (
        region_of(4 * MIB) as (region, _),
        region_of(64 * MIB) as (large, _),
        host_only(veth.right, device_memory=8 * MIB) as (rt, _listener),
    ):
        rt.bind(region, [0])
        bind = rt._datapath.bind
        with open(__file__, "rb") as file, memfd(0) as unsealed:
            for number, queues, fd, code in (
                (1, [1], region.fd, errno.EEXIST),  # the id
                (2, [1, 0], region.fd, errno.EEXIST),  # queue 0
                (2, [], region.fd, errno.EINVAL),
                (2, [2], region.fd, errno.EINVAL),
                (2, [-1], region.fd, errno.EINVAL),
                (2, [1], file.fileno(), errno.EINVAL),
                (2, [1], unsealed, errno.EINVAL),
                (2, [1], 1000, errno.EBADF),
                (2, [1], large.fd, errno.ENOSPC),
            ):
                with pytest.raises(OSError, match=r".") as caught:
                    bind(number, queues, fd)
                assert caught.value.errno == code, (number, queues)
                assert queues_of(rt) == {0: 1, 1: 0}
        with pytest.raises(OSError, match="no binding 7") as caught:
            rt.unbind(7)
        assert caught.value.errno == errno.ENOENT


@contextlib.contextmanager
def memfd(seals: int) -> Iterator[int]:
    fd = os.memfd_create("region", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4 * MIB)
    yield fd
    os.close(fd)


@contextlib.contextmanager
def foreign_socket(end: Any, queue: int) -> Iterator[XskSocket]:
    """Somebody else's AF_XDP socket."""
    with (
        end.enter(),
        Umem.allocate(64 * 4096, fill_size=64, comp_size=64) as umem,
        XskSocket(end.ifname, queue, umem, rx_size=64, tx_size=64, busy_timeout=5) as sock,
    ):
        yield sock


def test_a_queue_of_somebody_else_is_left_to_him(netns_pair: Any) -> None:
    veth = netns_pair(queues=2)
    with region_of(4 * MIB) as (region, _):
        with foreign_socket(veth.right, 1):
            with pytest.raises(ConfigError, match="queue 1 of veth1 has an AF_XDP socket already"):
                Runtime(veth.right.ifname, region, netns=veth.right.netns).__enter__()
            with host_only(veth.right) as (rt, listener):
                assert list(rt.lost_queues) == [1]
                assert "has an AF_XDP socket already" in rt.lost_queues[1]
                with pytest.raises(XdpError) as caught:
                    rt.bind(region, [0, 1])
                assert caught.value.errno == errno.EBUSY
                assert queues_of(rt) == {0: 0, 1: 0}
                sock, conn = dial_queue(rt, veth.left, listener, 0)
                with sock, conn:
                    assert echo(sock, conn, {}) == {0}
        with host_only(veth.right) as (rt, _):
            assert rt.lost_queues == {}


def test_a_queue_that_is_free_again_can_be_bound(netns_pair: Any) -> None:
    veth = netns_pair(queues=2)
    with contextlib.ExitStack() as foreign, region_of(4 * MIB) as (region, view):
        foreign.enter_context(foreign_socket(veth.right, 1))
        with host_only(veth.right) as (rt, listener):
            assert list(rt.lost_queues) == [1]
            foreign.close()
            number = rt.bind(region, [1])
            assert rt.lost_queues == {}
            sock, conn = dial_queue(rt, veth.left, listener, 1)
            with sock, conn:
                assert echo(sock, conn, {number: view}) == {number}


def test_a_queue_taken_in_the_middle_of_a_bind_is_lost_and_retaken(
    netns_pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program is faster in the moment in which the queue is nobody's."""
    veth = netns_pair(queues=2)
    with (
        region_of(4 * MIB) as (region, _),
        host_only(veth.right) as (rt, listener),
        contextlib.ExitStack() as foreign,
    ):
        release = Area.release
        once = [foreign_socket(veth.right, 1)]

        def release_and_lose(area: Area) -> None:
            was = tuple(area.sockets)
            release(area)
            if 1 in was and once:
                foreign.enter_context(once.pop())

        monkeypatch.setattr(Area, "release", release_and_lose)
        monkeypatch.setattr("devmemtcp.agent.datapath._RESTART_SECONDS", 0.2)
        with pytest.raises(XdpError) as caught:
            rt.bind(region, [0, 1])
        assert caught.value.errno == errno.EBUSY
        assert list(rt.lost_queues) == [1]
        sock, conn = dial_queue(rt, veth.left, listener, 0)
        with sock, conn:
            assert echo(sock, conn, {}) == {0}
        foreign.close()
        assert settled(rt, lambda: bool(rt._datapath.retake() or not rt.lost_queues))
        sock, conn = dial_queue(rt, veth.left, listener, 1)
        with sock, conn:
            assert echo(sock, conn, {}) == {0}


def test_a_binding_ends_while_the_interface_is_down(veth: Any) -> None:
    with region_of(4 * MIB) as (region, view), host_only(veth.right) as (rt, listener):
        number = rt.bind(region, [0])
        set_link(veth.right, state="down")
        rt.unbind(number)
        assert rt.lost_queues == {}
        number = rt.bind(region, [0])
        set_link(veth.right, state="up")
        sock, conn = dial_queue(rt, veth.left, listener, 0)
        with sock, conn:
            assert echo(sock, conn, {number: view}) == {number}


def test_a_binding_ends_when_the_interface_is_gone(netns_pair: Any) -> None:
    veth = netns_pair(queues=2)
    with (
        region_of(4 * MIB) as (region, _),
        Runtime(veth.right.ifname, None, netns=veth.right.netns) as rt,
    ):
        number = rt.bind(region, [0, 1])
        with NetNS(veth.right.netns) as netns:
            netns.link("del", index=veth.right.ifindex)
        with pytest.raises(OSError, match="is gone"):
            rt.poll(PATIENCE)
        rt.unbind(number)
        assert rt.reap() == [number]
        assert list(rt.lost_queues) == [0, 1]
        with pytest.raises(XdpError) as caught:
            rt.bind(region, [0])
        assert caught.value.errno == errno.ENODEV


def set_link(end: Any, **state: str) -> None:
    with NetNS(end.netns) as netns:
        netns.link("set", index=end.ifindex, **state)


@pytest.mark.parametrize("path", ["", "slot"])
@pytest.mark.parametrize("linear", [1, 20, 90])
def test_bytes_that_the_split_leaves_with_the_headers(
    veth: Any, monkeypatch: pytest.MonkeyPatch, linear: int, path: str
) -> None:
    """`linear_bytes` of each packet are copied; a shorter packet is ordinary data."""
    monkeypatch.setenv(VARIABLE, path)
    with (
        region_of(4 * MIB) as (region, view),
        Runtime(
            veth.right.ifname, region, netns=veth.right.netns, linear_bytes=linear, mode="native"
        ) as rt,
        rt.listen((veth.right.ip4, PORT)) as listener,
        dial(veth.left, listener.address) as sock,
        listener.accept(PATIENCE) as conn,
    ):
        assert echo(sock, conn, {1: view}, 300_000) == {0, 1}
        stats = rt.stats()
        assert stats.bytes_device + stats.bytes_linear + stats.bytes_data == 300_000
        assert 0 < stats.bytes_linear <= linear * stats.loop.rx_packets
        assert stats.steer["linear_bytes"] >= stats.bytes_linear
        before, short = stats.bytes_data, min(linear, 60)  # what fits beside the headers
        assert echo(sock, conn, {}, short) == {0}
        assert rt.stats().bytes_data == before + short


def test_the_counters_of_queues(netns_pair: Any) -> None:
    veth = netns_pair(queues=2)
    with host_only(veth.right) as (rt, listener):
        sock, conn = dial_queue(rt, veth.left, listener, 1)
        before = rt.queue_stats()
        with sock, conn:
            echo(sock, conn, {}, MIB)
        after = rt.queue_stats()
        assert after[0]["rx_packets"] == before[0]["rx_packets"]
        assert after[1]["rx_bytes"] - before[1]["rx_bytes"] >= MIB
        assert after[1]["tx_packets"] > before[1]["tx_packets"]
        assert after[1]["tx_bytes"] > before[1]["tx_bytes"]


def test_it_works_with_few_privileges_after_set_up(netns_pair: Any) -> None:
    """CAP_NET_RAW, and locked memory, are all that a restart needs."""
    veth = netns_pair(queues=2)
    code = """
import ctypes, sys
from devmemtcp.agent import Region, Runtime
with Region(4 << 20) as region, Runtime(sys.argv[1], None) as rt:
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    wanted = sets[0] = sets[1] = 1 << 13 | 1 << 14  # CAP_NET_RAW, CAP_IPC_LOCK
    assert ctypes.CDLL(None).capset(header, sets) == 0
    status = open("/proc/thread-self/status").read()
    assert int(status.split("CapEff:")[1].split()[0], 16) == wanted
    for _ in range(3):
        number = rt.bind(region, [0, 1])
        listener = rt.listen((sys.argv[2], 0))
        listener.close()
        rt.unbind(number)
        assert rt.lost_queues == {}
        rt.stats(), rt.pools()
print("done")
"""
    done = veth.right.run(
        [sys.executable, "-c", code, veth.right.ifname, veth.right.ip4],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr
