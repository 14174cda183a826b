# SPDX-License-Identifier: Apache-2.0
"""By which way the peer is answered: the one its last good segment came by, new or sent again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from .tcp.bench import Bench, Peer

NEW = b"\x02\x00\x00\x00\x00\x77"


def by_another_way(c: Peer) -> None:
    """From now on it sends from another MAC address: another router, another bond member."""
    c.addr = replace(c.addr, mac=NEW)


def test_new_data_is_answered_by_the_way_it_came(bench: Bench) -> None:
    c = bench.established()
    by_another_way(c)
    c.inject("P.", data=b"news")
    assert c.expect(".", ack=5).dst.mac == NEW


def test_a_syn_sent_again_is_answered_by_its_own_way(bench: Bench) -> None:
    c = bench.peer()
    c.inject("S", seq=0)
    assert c.expect("S.").dst.mac != NEW
    by_another_way(c)
    c.inject("S", seq=0)
    assert c.expect("S.").dst.mac == NEW
    bench.advance(ms=1100)
    assert c.expect("S.").dst.mac == NEW  # the timer's, too


def test_data_sent_again_leads_all_that_follows(bench: Bench) -> None:
    """Our ACK and our reply went astray: nothing but what the peer repeats would tell us so."""
    c = bench.established()
    c.inject("P.", data=b"request")
    c.expect(".", ack=8)
    bench.app.send(c.conn, b"reply")
    bench.turn()
    assert c.expect(".", data=b"reply").dst.mac != NEW
    by_another_way(c)
    c.inject("P.", seq=1, ack=1, data=b"request")
    assert c.expect(".", ack=8).dst.mac == NEW
    bench.advance(ms=1100)
    assert c.expect(".", data=b"reply").dst.mac == NEW


@pytest.mark.parametrize(
    "guess",
    [
        {"seq": 1 - (1 << 24), "ack": 1, "data": b"request"},
        {"seq": 1, "ack": 1 + (1 << 30), "data": b"request"},
        {"seq": 1, "ack": 1 - (1 << 30), "data": b"request"},
        {"seq": 1, "ack": 1},
    ],
    ids=["an old sequence number", "an ACK to come", "an old ACK", "no sequence space"],
)
def test_what_may_be_guessed_leads_nowhere(bench: Bench, guess: dict[str, int | bytes]) -> None:
    c = bench.established(ts=None)
    c.inject("P.", data=b"request")
    c.expect(".", ack=8)
    own = c.addr
    with bench.batch():
        by_another_way(c)
        c.inject(".", **guess)  # type: ignore[arg-type]
        c.addr = own
    c.drain()
    bench.app.send(c.conn, b"reply")
    bench.turn()
    assert c.expect(".", data=b"reply").dst.mac == own.mac
