# SPDX-License-Identifier: Apache-2.0
"""One peer against all others: who spends a window a byte a buffer must not get all buffers."""

from __future__ import annotations

import pytest

from .tcp.bench import SECOND, Bench, MakeBench, Peer, pattern

RESERVE = 64  # of 512 buffers


def hoard(bench: Bench, step: int, tries: int = 1500) -> Peer:
    """A peer that leaves a hole at 1 and puts single bytes above it, `step` apart."""
    c = bench.established()
    for n in range(tries):
        assert c.inject(".", seq=2 + n * step, data=b"x"), "the fill ring ran dry"
        c.drain()
    return c


@pytest.mark.parametrize("pressure", ["window", "drop"])
@pytest.mark.parametrize("step", [1, 2], ids=["touching", "islands"])
def test_bytes_above_a_hole_do_not_take_every_buffer(
    make_bench: MakeBench, pressure: str, step: int
) -> None:
    bench = make_bench(niovs=512, fill=256, pressure=pressure)
    c = hoard(bench, step)
    assert bench.in_flight() <= 512 - RESERVE
    assert bench.stats().drops("NO_MEMORY") > 0
    assert c.inject(".", seq=1, data=b"y"), "the hole can be filled"
    assert c.data[:2] == b"yx"
    other = bench.established()
    other.inject(".", data=b"hello")
    assert other.data == b"hello"


def test_what_a_hoarder_is_promised_leaves_others_a_window(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=1024, fill=256)
    hoarder = hoard(bench, 1, tries=100)
    assert hoarder.state == "ESTABLISHED"
    other = bench.peer()
    other.inject("S", seq=0)
    assert other.expect("S.", seq=0, ack=1).win == 10 * 1460


def test_bytes_that_are_not_given_back_do_not_take_every_buffer(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=512, fill=256)
    bench.app.hold = True
    c = bench.established()
    for n in range(700):
        assert c.inject(".", seq=1 + n, data=b"x"), "the fill ring ran dry"
        c.drain()
    taken = len(c.data)
    assert taken <= 512 - RESERVE // 2
    # The ACK number says where to go on, once there is room again.
    bench.app.give_back(c.conn)
    bench.turn()
    c.drain()
    c.inject(".", seq=1 + taken, data=b"z")
    assert c.data == b"x" * taken + b"z"


def test_full_segments_above_a_hole_fill_the_whole_window(make_bench: MakeBench) -> None:
    """The limit is for hoarders: what was promised to a sender of full segments is kept."""
    bench = make_bench(niovs=512, fill=512)
    c = bench.established()
    stream = pattern(400_000)
    at = 0
    while at < 200_000:  # the window grows
        c.send_stream(stream[at : at + 14480])
        at += 14480
        bench.advance(100)
        c.drain()
    window = c.window // 1448 * 1448
    assert window > 100_000
    for offset in range(1448, window, 1448):
        c.inject(".", seq=1 + at + offset, data=stream[at + offset : at + offset + 1448])
    c.inject(".", seq=1 + at, data=stream[at : at + 1448])
    assert c.data == stream[: at + window]
    assert bench.stats().drops("NO_MEMORY") == 0


def grown(bench: Bench, queue: int) -> Peer:
    """A connection whose window is as large as its share allows."""
    c = bench.established(queue=queue)
    for _ in range(30):
        c.send_stream(pattern(10 * 1448))
        bench.advance(100)
        c.drain()
    return c


def test_buffers_in_another_queues_fill_ring_are_not_promised(make_bench: MakeBench) -> None:
    """A fill ring gives nothing back: only its own queue's flows can use what is in there."""
    bench = make_bench(niovs=512, fill=512, fill_min=32, queues=2)
    for c in [grown(bench, 1) for _ in range(3)]:
        bench.app.abort(c.conn)
        bench.turn()
        c.drain()
    assert bench.fill_level(1) > 256
    ours = [grown(bench, 0) for _ in range(3)]
    bench.app.hold = True
    for c in ours:
        while c.window >= 1448:
            assert c.inject(".", data=bytes(1448)), "promised, and not there"
            c.drain()


def test_a_closed_connection_ends_although_its_peer_answers_each_probe(
    make_bench: MakeBench,
) -> None:
    """RFC 6429: with nobody left to end it, a window of zero must not hold the replies for ever."""
    bench = make_bench()
    c = bench.established()
    bench.app.send(c.conn, pattern(5000))
    bench.turn()
    c.drain()
    c.inject(".", ack=1, win=0)
    bench.app.close(c.conn)
    bench.turn()
    start = bench.now
    while c.state != "CLOSED" and bench.now - start < 200 * SECOND:
        bench.advance(1000)
        for s in c.drain():
            if "R" not in s.flags:
                c.inject(".", ack=1, win=0)
    assert c.state == "CLOSED"
    assert bench.now - start > 100 * SECOND, "R2 is at least 100 s, RFC 9293 SHLD-11"
    assert bench.stats().pages_free == bench.nr_pages


def test_an_open_connection_outlives_a_shut_window(make_bench: MakeBench) -> None:
    bench = make_bench()
    c = bench.established()
    bench.app.send(c.conn, pattern(5000))
    bench.turn()
    c.drain()
    c.inject(".", ack=1, win=0)
    for _ in range(300):
        bench.advance(1000)
        for _s in c.drain():
            c.inject(".", ack=1, win=0)
    assert c.state == "ESTABLISHED"


# ---- what nobody makes use of is for those who would ----


def bulk(bench: Bench, c: Peer, rounds: int = 40) -> int:
    """Send what the window takes, again and again; returns how large it became."""
    for _ in range(rounds):
        for _ in range(max(1, c.window // 1448)):
            assert c.inject(".", data=bytes(1448)), "the fill ring ran dry"
        bench.advance(ms=1)
        c.drain()
    return c.window


def seconds(bench: Bench, nr: int) -> None:
    """Time passes, and the loop turns now and then."""
    for _ in range(nr):
        bench.advance(ms=1000)


def hoarders(bench: Bench, nr: int) -> list[Peer]:
    """All of one peer, each with as many single bytes above a hole as it may have."""
    return [hoard(bench, 2, tries=300) for _ in range(nr)]


def test_many_connections_do_not_hoard_for_ever(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=512, fill=256)
    peers = hoarders(bench, 12)
    assert bench.in_flight() > 400
    c = bench.established()
    shut = bulk(bench, c)
    assert shut <= 4 * 1448
    seconds(bench, 9)
    assert bulk(bench, c) > 20 * 1448
    assert bench.stats().rx_ooo_pruned > 200
    hoarder = peers[0]  # told of what it has to send again
    hoarder.drain()
    hoarder.inject(".", seq=1, data=b"y")
    hoarder.expect_acked(2)
    hoarder.inject(".", seq=2, data=b"z")
    assert hoarder.data == b"yz"


def test_where_there_is_room_an_old_hole_does_not_matter(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=512, fill=256)
    c = bench.established()
    c.inject(".", seq=1001, data=pattern(1000, seed=2))
    seconds(bench, 60)
    c.drain()
    c.inject(".", seq=1, data=pattern(1000, seed=1))
    c.expect_acked(2001)
    assert c.data == pattern(1000, seed=1) + pattern(1000, seed=2)


def test_a_hole_that_moves_is_not_a_hoard(make_bench: MakeBench) -> None:
    """A bad road: each hole is filled after seconds, and another stands behind it."""
    bench = make_bench(niovs=512, fill=256)
    hoarders(bench, 3)
    c = bench.established()
    c.inject(".", seq=2, data=b"b")
    for n in range(10):
        bench.advance(ms=3900)
        c.inject(".", seq=4 + 2 * n, data=b"b")
        c.inject(".", seq=1 + 2 * n, data=b"a")
        c.drain()
    assert c.data == b"ab" * 10


def test_windows_that_are_not_used_do_not_keep_all_others_small(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=512, fill=256)
    idle = [bench.established() for _ in range(50)]
    c = bench.established()
    assert bulk(bench, c) <= 4 * 1448
    seconds(bench, 9)
    assert bulk(bench, c) > 20 * 1448
    for other in idle:  # and what they were told stands
        assert other.inject(".", data=pattern(2896))
        other.expect_acked(2897)


def test_tiny_segments_that_are_not_read_take_half_of_the_buffers(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=512, fill=256)
    bench.app.hold = True
    c = bench.established()
    for n in range(700):
        assert c.inject(".", seq=1 + n, data=b"x"), "the fill ring ran dry"
        c.drain()
    assert 150 <= bench.in_flight() <= 512 // 2
