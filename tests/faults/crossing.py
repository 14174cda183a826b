# SPDX-License-Identifier: Apache-2.0
"""Streams across a bad road: what comes out is exactly what went in, and nothing stays behind."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from devmemtcp.agent import Connection, Listener, Region, RegionView, Runtime, Stats

from ..net.veth import VethEnd
from ..slowness import SLOWNESS

PORT = 5201
STALL_SECONDS = 60.0 * SLOWNESS
"""Longer than a few lost SYNs or back-offs take."""
_TCP_RTO_MAX_MS = 44  # linux/tcp.h, Linux 6.15


@dataclass(frozen=True)
class Load:
    """So many streams at a time."""

    connections: int = 5
    size: int = 200_000
    """Bytes of the first; each is a little longer than the one before."""

    def stream(self, number: int) -> bytes:
        """What connection `number` sends: begins with its number, like no other."""
        return bytes([number]) + random.Random(number).randbytes(self.size + 1000 * number)


@dataclass(frozen=True)
class Crossing:
    """What a run came to."""

    seconds: float
    nbytes: int
    stats: Stats


def send(end: VethEnd, family: int, address: tuple[str, int], data: bytes) -> None:
    """Send one stream from `end` and wait for the receiver's end of it."""
    with end.enter(), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(2 * STALL_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
        with contextlib.suppress(OSError):  # an older kernel doubles its RTO up to 120 s
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, 1000)
        sock.connect(address)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def one_segment_a_packet(end: VethEnd) -> None:
    """Make the stack of this end send single segments, so that each throws its own dice."""
    end.set_link(gso_max_segs=1)


def receive_all(rt: Runtime, view: RegionView, listener: Listener, count: int) -> dict[int, bytes]:
    """Take `count` streams to their ends; the digest of each by its first byte."""
    open_streams: dict[int, tuple[Connection, bytearray]] = {}
    ended: dict[int, bytes] = {}
    while len(ended) < count:
        ready = rt.poll(STALL_SECONDS)
        assert ready, f"nothing came for {STALL_SECONDS} s; {len(ended)} streams had ended"
        for each in ready:
            if each is listener:
                conn = listener.accept(timeout=0)
                open_streams[conn.id] = conn, bytearray()
                continue
            assert isinstance(each, Connection)
            conn, data = open_streams[each.id]
            batch = conn.recv_frags(timeout=0)
            if not batch:
                ended[data[0]] = hashlib.sha256(data).digest()
                conn.close()
                continue
            room = bytearray(batch.nbytes)
            batch.copy_to(room, view)
            data += room
            conn.dontneed(batch)
    return ended


def cross(
    near: VethEnd,
    far: VethEnd,
    load: Load,
    *,
    mode: Literal["native", "generic"],
    family: socket.AddressFamily,
) -> Crossing:
    """Send all streams of `load` at once from `far`. Raises AssertionError: a promise is broken."""
    address = (near.ip4 if family == socket.AF_INET else near.ip6, PORT)
    started = time.monotonic()
    streams = [load.stream(number) for number in range(load.connections)]
    with (
        Region(8 << 20) as region,
        region.map() as view,
        Runtime(near.ifname, region, mode=mode, netns=near.netns) as rt,
        rt.listen(address) as listener,
        ThreadPoolExecutor(load.connections) as pool,
    ):
        senders = [pool.submit(send, far, family, address, data) for data in streams]
        digests = receive_all(rt, view, listener, load.connections)
        for sender in senders:
            sender.result()
        stats, flows, frags = rt.stats(), rt.flows(), rt.frags()
        assert rt.check() == 0
    assert digests == {n: hashlib.sha256(data).digest() for n, data in enumerate(streams)}
    assert stats.tokens_outstanding == 0
    assert {flow.ooo_frags for flow in flows} <= {0}
    held = Counter(frag.state for frag in frags if frag.kind == "net_iov")
    assert set(held) <= {"free", "fill"}
    return Crossing(time.monotonic() - started, sum(map(len, streams)), stats)
