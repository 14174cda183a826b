# SPDX-License-Identifier: Apache-2.0
"""Acknowledgment policy (RFC 9293 3.8.6.3, RFC 5681 4.2) and SACK (RFC 2018, RFC 2883)."""

from __future__ import annotations

import pytest

from .tcp.bench import Bench, MakeBench, Peer, pattern
from .tcp.wire import Segment


def island(c: Peer, n: int, size: int = 100) -> None:
    """Segment number n of ``size`` bytes, its bytes taken from one pattern."""
    data = pattern(size, seed=n)
    c.inject(".", seq=1 + n * size, data=data)


def block(low: int, high: int | None = None, size: int = 100) -> tuple[int, int]:
    return (1 + low * size, 1 + (low + 1 if high is None else high) * size)


# ---- 43 to 47: when ----


@pytest.mark.parametrize("delack_ms", [1, 40, 200, 499])
def test_row43_lone_segment_is_acknowledged_within_the_delay(
    make_bench: MakeBench, delack_ms: int
) -> None:
    bench = make_bench(delack_ms=delack_ms)
    c = bench.established()
    c.inject(".", data=b"x" * 100)
    if not c.inbox:
        bench.advance(ms=delack_ms - 0.1)
        bench.advance(ms=0.1)
    c.expect(".", ack=101)
    bench.advance(ms=1000)
    c.silent()


def test_row43_ack_is_delayed_once_the_connection_is_warm(bench: Bench) -> None:
    c = bench.established()
    for _ in range(30):
        c.inject(".", data=b"x" * 1448)
    c.drain()
    bench.advance(ms=1000)
    c.drain()
    before = bench.stats()
    c.inject(".", data=b"x")
    c.silent()
    bench.advance(ms=40)
    c.expect(".", ack=1 + 30 * 1448 + 1)
    assert bench.stats().tx_acks_delayed == before.tx_acks_delayed + 1


def test_row44_every_second_full_segment_is_acknowledged_at_once(bench: Bench) -> None:
    c = bench.established()
    for n in range(40):
        c.inject(".", data=b"x" * 1448)
        c.inject(".", data=b"x" * 1448)
        assert c.drain()[-1].rack == 1 + (n + 1) * 2896


@pytest.mark.parametrize("every", [1, 3, 8])
def test_row44_acks_come_as_often_as_configured(make_bench: MakeBench, every: int) -> None:
    bench = make_bench(ack_segments=every)
    c = bench.established()
    for _ in range(30):  # slow start, in which each segment is acknowledged at once
        c.inject(".", data=b"x" * 1448)
    bench.advance(ms=1000)
    c.drain()
    for n in range(3 * every):
        c.inject(".", data=b"x" * 1448)
        acked = [1 + (31 + n) * 1448] if (n + 1) % every == 0 else []
        assert [each.rack for each in c.drain()] == acked


def test_row45_acks_of_a_burst_are_aggregated(bench: Bench) -> None:
    c = bench.established()
    c.send_stream(bytes(40 * 1448))
    c.drain()
    with bench.batch():
        for _ in range(40):
            c.inject(".", data=b"x" * 1448)
        c.silent()
    acks = c.drain()
    assert len(acks) == 1
    assert acks[0].rack == 1 + 80 * 1448


def test_row46_one_immediate_duplicate_ack_for_each_out_of_order_segment(bench: Bench) -> None:
    c = bench.established()
    for n in range(1, 11):
        island(c, n)
        c.expect(".", ack=1)
        c.silent()
    assert bench.stats().tx_dup_acks == 10


def test_row46_duplicate_acks_survive_the_batch(bench: Bench) -> None:
    """Fast retransmit counts them: RFC 5681 section 3.2 needs three."""
    c = bench.established()
    with bench.batch():
        for n in range(1, 6):
            island(c, n)
    acks = c.drain()
    assert {s.rack for s in acks} == {1}
    assert len(acks) >= 1
    assert acks[-1].rsack == (block(1, 6),)


def test_row47_filling_a_gap_is_acknowledged_at_once(bench: Bench) -> None:
    c = bench.established()
    island(c, 2)
    island(c, 4)
    c.drain()
    island(c, 0)
    c.expect(".", ack=101)
    island(c, 1)
    c.expect(".", ack=301)
    island(c, 3)
    c.expect(".", ack=501, sack=[])


# ---- 48 to 52: SACK ----


@pytest.mark.parametrize("ts", [None, 5])
@pytest.mark.parametrize("ws", [None, 3])
@pytest.mark.parametrize("sackok", [True, False])
def test_row48_row56_row58_options_only_if_offered(
    bench: Bench, ts: int | None, ws: int | None, sackok: bool
) -> None:
    """The bench holds each answer against what was offered; here every combination is used."""
    c = bench.established(ts=ts, ws=ws, sackok=sackok)
    island(c, 1)
    s = c.expect(".", ack=1)
    assert bool(s.sack) == sackok
    assert bool(s.ts) == (ts is not None)
    island(c, 0)
    c.expect(".", ack=201, sack=[])


def test_row49_first_block_holds_the_segment_that_caused_the_ack(bench: Bench) -> None:
    c = bench.established()
    island(c, 2)
    c.expect(".", sack=[block(2)])
    island(c, 4)
    assert c.expect(".").rsack[0] == block(4)
    island(c, 3)  # merges both
    c.expect(".", sack=[block(2, 5)])
    island(c, 6)
    assert c.expect(".").rsack[0] == block(6)
    island(c, 5)
    c.expect(".", sack=[block(2, 7)])


@pytest.mark.parametrize(("ts", "most"), [(5, 3), (None, 4)])
def test_row50_as_many_blocks_as_fit(bench: Bench, ts: int | None, most: int) -> None:
    c = bench.established(ts=ts)
    for n in range(1, 15, 2):
        island(c, n)
    s = c.drain()[-1]
    assert len(s.rsack) == most
    assert s.rsack == tuple(block(n) for n in range(13, 13 - 2 * most, -2))


def test_row51_other_blocks_repeat_the_most_recent_ones_in_order(bench: Bench) -> None:
    c = bench.established(ts=None)
    order = [9, 3, 13, 1, 7, 11, 5]
    reported: list[tuple[int, int]] = []
    for n in order:
        island(c, n)
        reported.insert(0, block(n))
        assert list(c.expect(".").rsack) == reported[:4]


def test_row52_blocks_describe_only_what_is_above_the_cumulative_ack(bench: Bench) -> None:
    c = bench.established()
    for n in (2, 4, 6):
        island(c, n)
    c.drain()
    island(c, 0)
    s = c.expect(".", ack=101)
    assert set(s.rsack) == {block(2), block(4), block(6)}
    island(c, 1)
    s = c.expect(".", ack=301)
    assert set(s.rsack) == {block(4), block(6)}
    island(c, 3)
    c.expect(".", ack=501, sack=[block(6)])
    island(c, 5)
    c.expect(".", ack=701, sack=[])
    island(c, 7)
    c.expect_acked(801)


def test_row52_all_acks_carry_blocks_while_data_is_queued(bench: Bench) -> None:
    c = bench.established()
    island(c, 3)
    c.expect(".", sack=[block(3)])
    bench.app.send(c.conn, b"reply")
    bench.turn()
    assert c.expect(".", data=b"reply").rsack == (block(3),)
    bench.advance(ms=600)
    c.drain()
    c.inject("P.", seq=-1000, ack=6, data=b"old")
    assert block(3) in c.drain()[-1].rsack
    island(c, 0)
    assert c.expect(".", ack=101).rsack == (block(3),)


def test_row52_replies_make_room_for_the_blocks(bench: Bench) -> None:
    """RFC 6691 3: the option takes its bytes from the payload, not from the link's MTU."""
    c = bench.established()
    for n in (3, 5, 7):
        island(c, n)
    c.drain()
    bench.app.send(c.conn, b"r" * 4000)
    bench.turn()
    sent = c.drain()
    assert sum(len(s.data) for s in sent) == 4000
    assert all(len(s.rsack) == 3 and s.ip_len <= 1500 for s in sent)


# ---- 53 to 55: DSACK, which a receiver may leave out ----


def dsack_or(s: Segment, duplicate: tuple[int, int], rest: list[tuple[int, int]]) -> None:
    """RFC 2883 is optional: with the duplicate reported first, or without."""
    assert list(s.rsack) in ([duplicate, *rest], list(rest)), s


def test_row53_duplicate_below_the_ack(bench: Bench) -> None:
    c = bench.established()
    for n in range(4):
        island(c, n)
    c.expect_acked(401)
    bench.advance(ms=1000)
    island(c, 1)
    dsack_or(c.expect(".", ack=401), block(1), [])


def test_row53_duplicate_below_the_ack_while_data_is_queued(bench: Bench) -> None:
    c = bench.established()
    for n in (0, 1, 5):
        island(c, n)
    c.drain()
    bench.advance(ms=1000)
    island(c, 0)
    dsack_or(c.expect(".", ack=201), block(0), [block(5)])
    island(c, 7)
    assert c.expect(".", ack=201).rsack == (block(7), block(5))  # reported once


def test_row54_duplicate_of_queued_data(bench: Bench) -> None:
    c = bench.established()
    for n in (2, 3, 4, 8):
        island(c, n)
    c.drain()
    c.inject(".", seq=351, data=pattern(100, seed=3)[50:] + pattern(100, seed=4)[:50])
    s = c.expect(".", ack=1)
    dsack_or(s, (351, 451), [block(2, 5), block(8)])
    island(c, 10)
    assert c.expect(".").rsack[0] == block(10)


def test_row55_partial_duplicate_reports_only_the_duplicate_part(bench: Bench) -> None:
    c = bench.established()
    island(c, 0)
    island(c, 1)
    c.expect_acked(201)
    c.inject(".", seq=101, data=pattern(100, seed=1) + pattern(100, seed=2))
    s = c.expect_acked(301)
    dsack_or(s, block(1), [])
