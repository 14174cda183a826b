# SPDX-License-Identifier: Apache-2.0
"""Sequence validation, trimming, delivery: RFC 9293 3.10.7.4. Numbers are requirement rows."""

from __future__ import annotations

import itertools
import random

import pytest

from .tcp.bench import Bench, MakeBench, Peer, pattern

WRAPS = [0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFF447, 0, 1, 0x7FFFFFFE, 0x7FFFFFFF, 0x80000000]


# ---- 26: modulo 2^32 ----


@pytest.mark.parametrize("isn", WRAPS)
def test_row26_stream_across_the_wrap(bench: Bench, isn: int) -> None:
    c = bench.established(isn=isn)
    data = pattern(6000)
    c.send_stream(data, 1000)
    c.expect_acked(6001)
    assert c.data == data


@pytest.mark.parametrize("isn", [0xFFFFFFFF - 2500, 0x7FFFFFFF - 2500])
def test_row26_out_of_order_and_sack_across_the_wrap(bench: Bench, isn: int) -> None:
    c = bench.established(isn=isn)
    data = pattern(5000)
    for at in (3000, 2000, 4000, 1000):
        c.inject(".", seq=1 + at, data=data[at : at + 1000])
    assert c.drain()[-1].rsack == ((1001, 5001),)
    c.inject(".", seq=1, data=data[:1000])
    c.expect(".", ack=5001, sack=[])
    assert c.data == data


# ---- 27: outside the window ----


@pytest.mark.parametrize("where", ["at the edge", "beyond", "far beyond", "below", "far below"])
def test_row27_unacceptable_segment_gets_an_ack_and_is_dropped(bench: Bench, where: str) -> None:
    c = bench.established()
    c.send_stream(pattern(3000), 1000)
    c.expect_acked(3001)
    edge = c.edge
    seq = {
        "at the edge": edge,
        "beyond": edge + 10_000,
        "far beyond": 3001 + (1 << 31) - 1,
        "below": 1001,
        "far below": -(1 << 31) + 3100,
    }[where]
    bench.advance(ms=2000)
    c.inject("P.", seq=seq, data=b"x" * 100)
    answer = c.expect(".", ack=3001)
    assert bool(answer.sack) == ("below" in where), "only what came again is a duplicate"
    c.silent()
    assert c.data == pattern(3000)
    assert bench.in_flight() == 0


def test_row27_reset_outside_the_window_gets_no_ack(bench: Bench) -> None:
    c = bench.established()
    c.inject("R", seq=c.edge + 10)
    c.silent()
    assert c.state == "ESTABLISHED"


# ---- 28, 29: trimming ----


def test_row28_overlap_on_the_left_is_cut_off(bench: Bench) -> None:
    c = bench.established()
    data = pattern(300)
    c.inject("P.", seq=1, data=data[:200])
    c.inject("P.", seq=101, data=b"?" * 100 + data[200:])
    c.expect_acked(301)
    assert c.data == data


def test_bytes_that_came_twice_are_counted(bench: Bench) -> None:
    c = bench.established()
    data = pattern(150)
    c.inject(".", seq=1, data=data[:100])
    c.inject(".", seq=51, data=data[50:])
    assert bench.stats().rx_dup_bytes == 50
    c.inject(".", seq=1, data=data[:100])
    assert bench.stats().rx_dup_bytes == 150
    c.inject(".", seq=201, data=data[:10])
    c.inject(".", seq=206, data=data[:10])
    assert bench.stats().rx_dup_bytes == 155
    c.drain()


def test_an_ack_at_the_right_edge_is_heard(make_bench: MakeBench) -> None:
    """There stands who has filled the window, or thinks so; a byte further is out of it."""
    bench = make_bench(rcv_wnd_max=4000)
    c = bench.established()
    bench.app.send(c.conn, b"reply")
    bench.turn()
    c.drain()
    c.inject(".", seq=4002, ack=6)
    assert bench.stats().drops("OUT_OF_WINDOW") == 1
    assert c.conn.sent == 0, "the ACK of a segment out of the window is not heard"
    c.drain()
    c.inject(".", seq=4001, ack=6)
    assert bench.stats().dropped() == 1
    assert c.conn.sent == 5
    c.silent()


def test_row28_overlap_over_the_right_edge_is_cut_off(make_bench: MakeBench) -> None:
    bench = make_bench(rcv_wnd_max=8192)
    c = bench.established()
    room = c.window
    data = pattern(room + 500)
    at = 0
    with bench.batch():
        while room - at > 1000:
            c.inject(".", seq=1 + at, data=data[at : at + 1000])
            at += 1000
        c.inject(".", seq=1 + at, data=data[at:])
    bench.advance(ms=40)
    assert c.max_ack <= 1 + room
    assert data[: c.max_ack - 1] == c.data
    bench.advance(ms=40)
    c.drain()
    c.inject(".", seq=c.max_ack, data=data[c.max_ack - 1 :])
    c.expect_acked(1 + len(data))
    assert c.data == data


@pytest.mark.parametrize(
    "pieces",
    [
        [(100, 200), (150, 250), (0, 100)],
        [(100, 200), (50, 250), (0, 100)],
        [(100, 200), (120, 180), (0, 250)],
        [(100, 200), (100, 200), (0, 250)],
        [(200, 250), (100, 150), (50, 250), (0, 50)],
        [(200, 250), (100, 150), (0, 250)],
        [(50, 100), (150, 200), (75, 175), (0, 50), (200, 250)],
        [(100, 150), (149, 151), (0, 100), (151, 250)],
    ],
    ids=str,
)
def test_row28_overlaps_among_queued_segments(bench: Bench, pieces: list[tuple[int, int]]) -> None:
    c = bench.established()
    data = pattern(250)
    for low, high in pieces:
        c.inject(".", seq=1 + low, data=data[low:high])
    c.expect_acked(251)
    assert c.data == data
    assert sum(f.length for f in c.conn.frags) == 250


@pytest.mark.parametrize("rounds", [1, 3])
def test_row28_one_segment_over_many_islands(make_bench: MakeBench, rounds: int) -> None:
    """It is cut into as many fragments as there are holes, and each byte is delivered once."""
    bench = make_bench(niovs=1024)
    bench.app.hold = True
    c = bench.established()
    data = pattern(rounds * 400)
    for base in range(0, rounds * 400, 400):
        for at in range(base + 2, base + 400, 4):
            c.inject(".", seq=1 + at, data=data[at : at + 1])
        c.inject(".", seq=1 + base, data=b"".join((data[base : base + 400],)))
        assert c.drain()[-1].rack == 1 + base + 400
    assert c.data == data
    assert len(c.conn.frags) == rounds * 201


def test_row29_acknowledged_bytes_are_never_replaced(bench: Bench) -> None:
    c = bench.established()
    data = pattern(200)
    c.inject("P.", seq=1, data=data)
    c.expect_acked(201)
    c.inject("P.", seq=1, data=b"?" * 200)
    c.inject("P.", seq=101, data=b"?" * 100 + b"new")
    c.expect_acked(204)
    assert c.data == data + b"new"


def test_row29_lent_fragments_do_not_change(bench: Bench) -> None:
    bench.app.hold = True
    c = bench.established()
    data = pattern(1000)
    c.inject("P.", seq=1, data=data)
    for _ in range(50):
        c.inject("P.", seq=1, data=b"?" * 1000)
        c.inject("P.", seq=1001 + 2000, data=b"?" * 10)
    again = b"".join(bytes(bench.region[f.offset : f.offset + f.length]) for f in c.conn.frags)
    assert again == data


# ---- 30: out of order ----


@pytest.mark.parametrize("order", list(itertools.permutations(range(5))), ids=str)
def test_row30_permutations_of_five(bench: Bench, order: tuple[int, ...]) -> None:
    c = bench.established()
    data = pattern(500)
    for n in order:
        c.inject(".", seq=1 + 100 * n, data=data[100 * n : 100 * n + 100])
    c.expect_acked(501)
    assert c.data == data


def test_row30_backwards(bench: Bench) -> None:
    c = bench.established()
    data = pattern(5000)
    for at in range(4900, -100, -100):
        c.inject(".", seq=1 + at, data=data[at : at + 100])
    c.expect_acked(5001)
    assert c.data == data
    assert c.window >= 0


def test_row30_many_islands(make_bench: MakeBench) -> None:
    """Holes may be refused once a limit is reached, but what is refused is not acknowledged."""
    bench = make_bench(niovs=1024, fill=512)
    c = bench.established()
    data = pattern(600 * 10)
    for at in range(10, 6000, 20):
        c.inject(".", seq=1 + at, data=data[at : at + 10])
    c.drain()
    at = 1
    while c.max_ack < 6001:
        assert at < 6001
        c.inject(".", seq=at, data=data[at - 1 : at + 9])
        bench.advance(ms=40)
        c.drain()
        at = max(c.max_ack, at + 10)
    assert c.data == data


# ---- 31, 32, 33: the ACK field ----


@pytest.mark.parametrize("flags", ["", "P", "F", "FP", "U"])
def test_row31_segments_without_ack_bit_are_dropped(bench: Bench, flags: str) -> None:
    c = bench.established()
    c.inject(flags, seq=1, data=b"hello")
    bench.advance(ms=1000)
    c.silent()
    assert c.data == b""
    assert c.state == "ESTABLISHED"
    assert bench.in_flight() == 0


@pytest.mark.parametrize("ack", [2, 1001, 1 << 30])
def test_row32_ack_of_what_was_not_sent_is_answered_and_dropped(bench: Bench, ack: int) -> None:
    c = bench.established()
    c.inject("P.", seq=1, ack=ack, data=b"hello")
    c.expect(".", ack=1)
    assert c.data == b""
    assert c.state == "ESTABLISHED"


def test_row32_very_old_ack_is_dropped(bench: Bench) -> None:
    c = bench.established()
    c.inject("P.", seq=1, ack=1 - (1 << 31) + 10, data=b"hello")
    assert {s.rack for s in c.drain()} <= {1}
    assert c.data == b""


def test_row32_slightly_old_ack_is_fine(bench: Bench) -> None:
    c = bench.established()
    bench.app.send(c.conn, b"x" * 100)
    bench.turn()
    c.drain()
    c.inject(".")
    c.inject("P.", seq=1, ack=50, data=b"hello")
    c.expect_acked(6)
    assert c.data == b"hello"


def test_row33_plain_acks_are_not_answered(bench: Bench) -> None:
    c = bench.established()
    for win in (0, 1, 100, 65535, 65535, 0):
        c.inject(".", win=win)
    bench.advance(ms=1000)
    c.silent()


# ---- 34: windows are unsigned ----


def test_row34_window_above_32767_is_not_negative(bench: Bench) -> None:
    c = bench.established(ws=None, win=65535)
    bench.app.send(c.conn, pattern(40_000))
    for _ in range(40):
        bench.advance(ms=10)
        c.drain()
        c.inject(".", win=65535)
    assert bytes(c.sent[1:]) == pattern(40_000)


# ---- 37 to 40 ----


def fill_window(bench: Bench, c: Peer) -> bytes:
    """Hold all tokens and send until the window is shut."""
    bench.app.hold = True
    sent = bytearray()
    for n in range(20_000):
        if c.window <= 0:
            break
        piece = pattern(min(1448, c.window), seed=n)
        if not c.inject(".", data=piece):
            break
        sent += piece
        bench.advance(ms=bench.delack_ms)
        c.drain()
    return bytes(sent)


@pytest.fixture
def shut(make_bench: MakeBench) -> tuple[Bench, Peer, bytes]:
    """A connection whose window the application has let run shut."""
    bench = make_bench(niovs=64, fill=32, rcv_wnd_max=16384)
    c = bench.established()
    data = fill_window(bench, c)
    assert c.window < 1448
    assert c.data == data
    return bench, c, data


def test_row37_probes_of_a_shut_window_are_answered(shut: tuple[Bench, Peer, bytes]) -> None:
    bench, c, data = shut
    end = 1 + len(data)
    for _ in range(5):
        bench.advance(ms=1000)
        c.inject(".", seq=end - 1)
        c.expect(".", ack=end)
        c.inject(".", seq=end - 1, data=data[-1:])
        c.expect(".", ack=end)
    assert c.data == data


def test_row37_ack_and_rst_are_processed_with_a_shut_window(
    shut: tuple[Bench, Peer, bytes],
) -> None:
    bench, c, data = shut
    bench.app.send(c.conn, b"reply")
    bench.turn()
    c.expect(".", data=b"reply")
    c.inject(".", ack=6)
    bench.advance(ms=3000)
    c.silent()
    assert c.conn.sent == 5
    c.inject("R", seq=1 + len(data))
    assert c.conn.reset is not None


def test_row39_keep_alive_probes_are_answered_and_not_delivered(bench: Bench) -> None:
    c = bench.established()
    c.inject("P.", data=b"hello")
    c.expect_acked(6)
    for data in (b"", b"o", b"?"):
        bench.advance(ms=1000)
        c.inject(".", seq=5, data=data)
        c.expect(".", ack=6)
        c.silent()
    assert c.data == b"hello"


@pytest.mark.parametrize("pointer", [0, 1, 7, 60000, 65535])
@pytest.mark.parametrize("flags", ["U.", "."])
def test_row40_urgent_data_stays_in_the_stream(bench: Bench, flags: str, pointer: int) -> None:
    c = bench.established()
    c.inject(".", data=b"hello")
    c.inject(flags, data=b"urgent", urg=pointer)
    c.inject(".", data=b"world")
    c.expect_acked(17)
    assert c.data == b"hellourgentworld"


# ---- 41, 42: delivery ----


def test_row41_data_without_psh_is_delivered_at_once(bench: Bench) -> None:
    c = bench.established()
    for n in range(5):
        c.inject(".", data=b"12345")
        assert c.data == b"12345" * (n + 1)


def test_row42_tiny_segments(bench: Bench) -> None:
    c = bench.established()
    data = pattern(2000)
    c.send_stream(data, 1)
    c.expect_acked(2001)
    assert c.data == data
    assert bench.in_flight() == 0


def test_row42_long_stream(bench: Bench) -> None:
    c = bench.established()
    data = pattern(430_000)
    c.send_stream(data)
    c.expect_acked(430_001)
    assert c.data == data
    assert bench.stats().rx_payload_bytes == 430_000


def test_row42_stream_in_batches_with_loss_and_disorder(bench: Bench) -> None:
    rng = random.Random(7)
    c = bench.established()
    data = pattern(200_000)
    base = 0
    while base < len(data):
        burst = [(at, data[at : at + 1000]) for at in range(base, base + 40_000, 1000)]
        while burst:
            rng.shuffle(burst)
            with bench.batch():
                for at, piece in burst:
                    if rng.random() < 0.7 and c.seq is not None:
                        c.inject(".", seq=1 + at, data=piece)
            bench.advance(ms=40)
            c.drain()
            burst = [(at, piece) for at, piece in burst if 1 + at + len(piece) > c.max_ack]
        base += 40_000
    assert c.data == data


def test_data_event_order_and_accounting(bench: Bench) -> None:
    bench.app.hold = True
    c = bench.established()
    for n in range(10):
        c.inject(".", data=pattern(100, seed=n))
    assert bench.stats().tokens_outstanding == 10
    assert bench.stats().niovs_lent == 10
    assert c.info.tokens == 10
    assert len({f.token for f in c.conn.frags}) == 10
    bench.app.give_back(c.conn)
    bench.turn()
    assert bench.stats().tokens_outstanding == 0
    assert bench.stats().tokens_returned == 10
    c.drain()
