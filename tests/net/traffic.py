# SPDX-License-Identifier: Apache-2.0
"""Connections of the kernel's TCP to a runtime, and what must hold when they are over."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from devmemtcp.agent import Connection, Listener, RegionView, Runtime
from devmemtcp.agent.socket import Frag, HostFrag

from ..slowness import SLOWNESS

PORT = 5201
MIB = 1 << 20
PATIENCE = 60.0 * SLOWNESS


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Whether a condition that raises no event comes true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def settled(rt: Runtime, condition: Callable[[], bool]) -> bool:
    """Whether a condition on the runtime's state comes true; requests travel through a ring."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        rt.poll(0.001)
    return True


def dial(
    end: Any, address: tuple[str, int], source_port: int = 0, patience: float = PATIENCE
) -> socket.socket:
    """A kernel socket of this end, connected."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with end.enter():
        sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(patience)
    if source_port:
        sock.bind(("::" if family == socket.AF_INET6 else "", source_port))
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    sock.settimeout(PATIENCE)
    return sock


def dial_queue(
    rt: Runtime, end: Any, listener: Listener, queue: int
) -> tuple[socket.socket, Connection]:
    """A connection whose packets come by this queue.

    A veth chooses by the flow's hash. (In generic mode queue n is not told from the one before.)
    """
    for _ in range(100):
        try:
            sock = dial(end, listener.address, patience=2)
        except TimeoutError:  # by a queue that is lost; a new socket has a new hash at once
            continue
        conn = _accept_from(listener, sock)
        (by,) = (flow.queue for flow in rt.flows() if flow.id == conn.id)
        if by == queue:
            return sock, conn
        sock.close()
        conn.close()
    raise AssertionError(f"no flow in 100 came by queue {queue}")


def _accept_from(listener: Listener, sock: socket.socket) -> Connection:
    """The connection of this socket; those that were given up before are closed."""
    while (conn := listener.accept(PATIENCE)).peer[1] != sock.getsockname()[1]:
        conn.close()
    return conn


def bytes_of(frag: Frag | HostFrag, views: Mapping[int, RegionView]) -> bytes | memoryview:
    """The bytes of a fragment, in the region of its binding or in host memory."""
    if isinstance(frag, HostFrag):
        return frag.data
    return views[frag.dmabuf_id][frag.offset : frag.offset + frag.size]


def read_exactly(
    conn: Connection, views: Mapping[int, RegionView], count: int
) -> tuple[bytes, set[int]]:
    """So many bytes, given back, and the dmabuf ids of where they were (0: host memory)."""
    got, where = bytearray(), set()
    while len(got) < count:
        batch = conn.recv_frags(timeout=PATIENCE)
        assert batch, f"the stream ended after {len(got)} of {count} bytes"
        for frag in batch.pieces():
            got += bytes_of(frag, views)
            where.add(frag.dmabuf_id if isinstance(frag, Frag) else 0)
        assert conn.dontneed(batch) == len(batch)
    assert len(got) == count
    return bytes(got), where


def assert_clean(rt: Runtime) -> None:
    """Nothing lent, nothing queued, every buffer of every area accounted for."""
    assert settled(rt, lambda: all(map(_is_home, rt.pools()))), rt.pools()
    assert rt.check() == 0
    stats = rt.stats()
    assert stats.tokens_outstanding == stats.stack["requests_rejected"] == 0
    assert stats.loop.rx_bad_descs == stats.loop.rx_oversize == 0
    assert all(sock.rx_invalid_descs == sock.tx_invalid_descs == 0 for sock in stats.sockets)


def _is_home(pool: dict[str, Any]) -> bool:
    """Whether every buffer of an area is free, or with the NIC."""
    return bool(pool["free"] + pool["fill"] == pool["nr_niovs"])
