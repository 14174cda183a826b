# SPDX-License-Identifier: Apache-2.0
"""Streams over a bad road are exact, and nothing of them stays behind in the stack."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pytest
from pyroute2 import NetNS

from devmemtcp.agent import Connection, Listener, Region, RegionView, Runtime

PORT = 5201
CONNECTIONS = 5
BYTES = 200_000
CHANCE = 0.2
ACK_CHANCE = 0.1
STALL_SECONDS = 40.0
"""Longer than a few lost SYNs or back-offs take."""
TCP_RTO_MAX_MS = 44  # linux/tcp.h, Linux 6.15


def stream(number: int) -> bytes:
    """What connection `number` sends: begins with its number, like no other."""
    return bytes([number]) + random.Random(number).randbytes(BYTES + 1000 * number)


def send(end: Any, family: int, address: tuple[str, int], number: int) -> None:
    """Send one stream from `end` and wait for the receiver's end of it."""
    with end.enter(), socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(2 * STALL_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
        with contextlib.suppress(OSError):  # an older kernel doubles its RTO up to 120 s
            sock.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, 1000)
        sock.connect(address)
        sock.sendall(stream(number))
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def one_segment_a_packet(end: Any) -> None:
    """Make the stack of this end send single segments, so that each throws its own dice."""
    with NetNS(end.netns) as handle:
        handle.link("set", index=end.ifindex, gso_max_segs=1)


def receive_all(rt: Runtime, view: RegionView, listener: Listener) -> dict[int, bytes]:
    """Take CONNECTIONS streams to their ends; the digest of each by its first byte."""
    open_streams: dict[int, tuple[Connection, bytearray]] = {}
    ended: dict[int, bytes] = {}
    while len(ended) < CONNECTIONS:
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


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(
    ("mode", "single"),
    [("native", True), ("generic", True), ("generic", False)],
    ids=["native", "generic", "generic-gso"],
)
def test_streams_over_a_bad_road_are_exact(
    veth: Any,
    bad_road: Callable[..., Any],
    mode: Literal["native", "generic"],
    single: bool,
    family: int,
) -> None:
    near, far = veth.left, veth.right
    if single:
        one_segment_a_packet(far)
    road = bad_road(far, loss=CHANCE, duplication=CHANCE, reordering=CHANCE, ack_loss=ACK_CHANCE)
    address = (near.ip4 if family == socket.AF_INET else near.ip6, PORT)
    with (
        Region(8 << 20) as region,
        region.map() as view,
        Runtime(near.ifname, region, mode=mode, netns=near.netns) as rt,
        rt.listen(address) as listener,
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):
        senders = [pool.submit(send, far, family, address, n) for n in range(CONNECTIONS)]
        digests = receive_all(rt, view, listener)
        for sender in senders:
            sender.result()
        stats, flows, frags = rt.stats(), rt.flows(), rt.frags()
        assert rt.check() == 0

    assert digests == {n: hashlib.sha256(stream(n)).digest() for n in range(CONNECTIONS)}
    assert stats.tokens_outstanding == 0
    assert {flow.ooo_frags for flow in flows} <= {0}
    held = Counter(frag.state for frag in frags if frag.kind == "net_iov")
    assert set(held) <= {"free", "fill"}
    happened = road.counters()
    share = [happened.lost, happened.duplicated, happened.reordered]
    assert min(share) > 0.25 * CHANCE * happened.seen > 0
    assert happened.acks_lost > 0.25 * ACK_CHANCE * happened.acks_seen > 0
