# SPDX-License-Identifier: Apache-2.0
"""Every ring and every pool as small as can be, full or dry again and again: streams stay exact.

What is short delays a stream. It may make the NIC drop packets, which their sender sends again, but
it loses no byte that was acknowledged, makes no turn of the loop go on for ever, and leaves nothing
in a wrong place when there is enough again.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from .tcp.bench import Bench, MakeBench, Peer, pattern

STREAMS = 3
LENGTH = 30_000
ROUNDS = 3000

# What is short: options of the bench, and of its application.
SHORT: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "buffers": ({"niovs": 48, "fill": 16}, {}),
    "buffers, dropping": ({"niovs": 48, "fill": 16, "pressure": "drop"}, {}),
    "fill ring": ({"fill": 2, "fill_min": 1}, {}),
    "frames to send": ({"pages": 16}, {}),
    "events": ({}, {"events": 4}),
    "requests": ({}, {"requests": 4}),
    "data blocks": ({"linear": 20}, {"blocks": 1}),
    "host memory": ({"bound": False, "niovs": 48, "fill": 16}, {"blocks": 1}),
    "everything": (
        {"niovs": 48, "fill": 4, "fill_min": 1, "pages": 16, "linear": 20},
        {"events": 4, "requests": 4, "blocks": 1},
    ),
}


def send_some(bench: Bench, c: Peer, data: bytes, chance: random.Random) -> None:
    """As a sender would that has lost its memory: from the last ACK on, what the window takes."""
    c.drain()
    at = c.max_ack - 1
    for _ in range(chance.randrange(1, 6)):
        size = min(chance.randrange(1, 1449), c.edge - 1 - at, len(data) - at)
        if size <= 0 or not c.inject(".", seq=1 + at, data=data[at : at + size]):
            return  # no window, or no buffer in the fill ring
        at += size


def give_all_back(peers: list[Peer]) -> None:
    """What the application holds, as far as the ring of requests has room."""
    for c in peers:
        for token in tuple(c.conn.held):
            if c.app.room():
                c.app.give_back(c.conn, token)
        if c.app.room() >= len(c.conn.blocks):
            c.app.give_back_blocks(c.conn)


@pytest.mark.parametrize("short", SHORT)
def test_what_is_short_delays_and_loses_nothing(make_bench: MakeBench, short: str) -> None:
    options, rings = SHORT[short]
    bench = make_bench(**options, listen=False)
    chance = random.Random(short)
    app = bench.open_app(**rings)
    bench.listen(app=app)
    peers = [bench.peer(app=app) for _ in range(STREAMS)]
    for c in peers:
        c.connect()
    streams = {id(c): pattern(LENGTH, seed=n) for n, c in enumerate(peers)}
    for _ in range(ROUNDS):
        waiting = [c for c in peers if c.max_ack <= LENGTH]
        if not waiting:
            break
        bench.hold_tx = chance.random() < 0.3  # the completion ring stays empty
        app.paused = chance.random() < 0.3  # so does the requests ring, and the events ring fills
        app.hold = chance.random() < 0.3  # fragments are lent and not given back
        send_some(bench, (c := chance.choice(waiting)), streams[id(c)], chance)
        if not bench.hold_tx:
            bench.tx_complete()
        if not app.hold and not app.paused:
            give_all_back(peers)
        bench.advance(ms=chance.choice((0, 1, 40)))
    assert {c.max_ack for c in peers} == {1 + LENGTH}, "a stream stands still"
    app.paused = app.hold = bench.hold_tx = False
    bench.tx_complete()
    for _ in range(LENGTH):  # a byte a turn would be slow enough
        if all(len(c.conn.data) == LENGTH and not c.conn.held and not c.conn.blocks for c in peers):
            break
        give_all_back(peers)
        bench.turn()
    for c in peers:
        c.inject("F.", seq=1 + LENGTH)
        bench.advance(ms=40)
        c.drain()
        assert c.data == streams[id(c)]
        assert c.conn.eof
