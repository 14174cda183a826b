# SPDX-License-Identifier: Apache-2.0
"""A fill ring that the kernel finds empty, because the application keeps all buffers."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from typing import Any

import pytest

from devmemtcp.agent import Region, Runtime
from devmemtcp.agent.socket import FragBatch

from .traffic import PATIENCE, PORT, assert_clean, dial, settled

SIZE = 3_000_000


def send(sock: socket.socket, data: bytes) -> None:
    """All of it, and its end."""
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_a_fill_ring_that_runs_dry_delays_and_loses_nothing(veth: Any, mode: Any) -> None:
    """With pressure `drop` the window does not follow the buffers: the NIC drops, as a real one."""
    data = random.Random(0).randbytes(SIZE)
    near, far = veth.right, veth.left
    with (
        Region(1 << 20) as region,
        region.map() as view,
        Runtime(near.ifname, region, netns=near.netns, mode=mode, pressure="drop") as rt,
        rt.listen((near.ip4, PORT)) as listener,
        dial(far, listener.address) as sock,
        listener.accept(PATIENCE) as conn,
    ):
        sender = threading.Thread(target=send, args=(sock, data))
        sender.start()
        kept: list[FragBatch] = []

        def is_dry() -> bool:
            if conn in rt.poll(0.001):
                kept.append(conn.recv_frags(timeout=PATIENCE))
            return any(each.rx_fill_ring_empty_descs for each in rt.stats().sockets)

        assert settled(rt, is_dry)
        got = hashlib.sha256()
        while batch := (kept or [conn.recv_frags(timeout=PATIENCE)]).pop(0):
            room = bytearray(batch.nbytes)
            batch.copy_to(room, view)
            got.update(room)
            conn.dontneed(batch)
        sender.join(PATIENCE)
        assert got.digest() == hashlib.sha256(data).digest()
        assert_clean(rt)
