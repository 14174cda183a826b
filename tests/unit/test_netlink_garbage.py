# SPDX-License-Identifier: Apache-2.0
"""Garbage into the netlink server, as fast as it takes it: nothing raises, nothing is left."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence
from random import Random

import pytest

from devmemtcp.netlink.constants import NetdevCmd
from devmemtcp.netlink.server import Datagram

from ..hostile.netlink_garbage import NetlinkGarbage
from .netlink.bench import NIC, Bench, answers
from .netlink.fake import FakePeer

TURNS = 500  # datagrams of one client before the next


def some_descriptors(random: Random) -> list[int]:
    """Mostly none; a regular file is what the fake backend takes for device memory."""
    if random.random() < 0.6:
        return []
    if random.random() < 0.8:
        return [os.memfd_create("x")]
    return [os.eventfd(0) for _ in range(random.choice((1, 2, 253)))]


def check_answers(asked: bytes, datagrams: Sequence[Datagram], portid: int) -> None:
    """All of it is netlink, for this client, and belongs to something that was asked."""
    # Sequence numbers stand where headers may stand: messages begin at multiples of four.
    may_be = {asked[at : at + 4] for at in range(8, len(asked), 4)}
    for answer in answers([datagram.data for datagram in datagrams]):
        assert answer.portid == portid
        assert struct.pack("=I", answer.seq) in may_be
    assert not any(datagram.fds for datagram in datagrams)


@pytest.mark.parametrize("admin", [False, True], ids=["nobody", "admin"])
def test_garbage(admin: bool, hostile_seconds: float) -> None:
    random = Random(admin)
    bench = Bench()
    bench.ready()
    garbage = NetlinkGarbage(random, bench.server.families, ("netdev", NetdevCmd.BIND_RX))
    garbage.seen += [NIC] * 4
    before = os.listdir("/proc/self/fd")
    bound = 0
    end = time.monotonic() + hostile_seconds
    while time.monotonic() < end:
        client = bench.connect(FakePeer(is_admin=admin))
        for _ in range(TURNS):
            if random.random() < 0.02:
                bench.ready()  # for a bind, until the next ethtool request
            data = garbage.datagram()
            datagrams = bench.server.handle(data, client, some_descriptors(random))
            check_answers(data, datagrams, client.portid)
        bench.server.disconnect(client)
        assert os.listdir("/proc/self/fd") == before
        assert not bench.backend.pools, "a binding has outlived its connection"
        bound += sum(call[0] == "bind" for call in bench.backend.calls)
        bench.backend.calls.clear()
        bench.closed.clear()
    assert (bound > 0) == admin, "who only ever fails has not tried hard"
