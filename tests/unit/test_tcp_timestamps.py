# SPDX-License-Identifier: Apache-2.0
"""Window scale, timestamps and PAWS: RFC 7323. Numbers are requirement rows."""

from __future__ import annotations

import pytest

from .tcp.bench import Bench, MakeBench, pattern

# ---- 56, 57: window scale ----


@pytest.mark.parametrize("ws", [None, 0, 1, 7, 14])
def test_row56_syn_ack_window_is_not_scaled(make_bench: MakeBench, ws: int | None) -> None:
    bench = make_bench(niovs=2048, fill=1024, rcv_wnd_max=1 << 20)
    c = bench.peer(ws=ws)
    c.inject("S", seq=0)
    first = c.expect("S.")
    assert first.win > 0
    c.inject(".", seq=1, ack=1)
    c.inject(".", data=b"x")
    later = c.expect_acked(2)
    if ws is None:
        assert 0 < later.win <= 65535
    else:
        assert later.win << c.rcv_wscale >= first.win - (1 << c.rcv_wscale)
        for _ in range(400):
            c.inject(".", data=b"x" * 1448)
        later = c.expect_acked(2 + 400 * 1448)
        assert later.win << c.rcv_wscale > 65535, "large windows are what the scale is for"


@pytest.mark.parametrize(("ws", "counts_as"), [(14, 14), (15, 14), (255, 14), (2, 2), (0, 0)])
def test_row57_received_shift_above_14_counts_as_14(bench: Bench, ws: int, counts_as: int) -> None:
    """A window field of 1: the bench refuses what goes beyond 2^14, and it takes that much."""
    c = bench.established(ws=ws, win=1)
    data = pattern(60_000 if counts_as == 14 else 20 << counts_as)
    bench.app.send(c.conn, data)
    bench.turn()
    most = 0
    for _ in range(100):
        most = max(most, len(c.sent) - c.una)
        c.drain()
        c.inject(".")
        if c.una == 1 + len(data):
            break
    assert bytes(c.sent[1:]) == data
    assert (1 << counts_as) - 1448 <= most <= 1 << counts_as


# ---- 58, 59: presence ----


def test_row58_tsecr_of_the_syn_ack_is_the_tsval_of_the_syn(bench: Bench) -> None:
    c = bench.peer()
    c.inject("S", seq=0, ts=(0xDEADBEEF, 0))
    c.expect("S.", tsecr=0xDEADBEEF)
    c.inject("R", seq=1)


def test_row59_segment_without_timestamps_never_aborts(bench: Bench) -> None:
    c = bench.established()
    c.inject("P.", seq=1, data=b"hello", ts=None)  # dropped (SHOULD), or taken as Linux does
    bench.advance(ms=40)
    assert {s.rack for s in c.drain()} <= {1, 6}
    assert c.state == "ESTABLISHED"
    c.inject("P.", seq=1, data=b"hello")
    c.expect_acked(6)
    assert c.data == b"hello"


def test_row59_reset_without_timestamps_resets(bench: Bench) -> None:
    c = bench.established()
    c.inject("R", ts=None)
    assert c.conn.reset is not None


# ---- 60: TS.Recent ----


def test_row60_in_order_segment_sets_ts_recent(bench: Bench) -> None:
    c = bench.established(ts=0)
    base = c.tsval()
    for n in range(1, 6):
        c.inject(".", data=b"x" * 1448, ts=base + 10 * n)
        c.inject(".", data=b"x" * 1448, ts=base + 10 * n + 5)
        assert c.drain()[-1].tsecr in (base + 10 * n, base + 10 * n + 5)


def test_row60_delayed_ack_echoes_the_earliest_unacknowledged(bench: Bench) -> None:
    c = bench.established(ts=0)
    for _ in range(30):
        c.inject(".", data=b"x" * 1448)
    bench.advance(ms=1000)
    c.drain()
    base = c.tsval()
    with bench.batch():
        c.inject(".", data=b"x" * 100, ts=base + 1)
        c.inject(".", data=b"y" * 100, ts=base + 2)
        c.inject(".", data=b"z" * 100, ts=base + 3)
    bench.advance(ms=40)
    assert c.drain()[-1].tsecr == base + 1


def test_row60_out_of_order_segment_does_not_set_ts_recent(bench: Bench) -> None:
    c = bench.established(ts=0)
    base = c.tsval()
    c.inject(".", data=b"x" * 1448, ts=base + 1)
    c.inject(".", data=b"x" * 1448, ts=base + 1)
    c.drain()
    c.inject(".", seq=c.seq + 1000, data=b"island", ts=base + 50)
    c.expect(".", tsecr=base + 1)


def test_row60_gap_filler_sets_ts_recent_to_its_own(bench: Bench) -> None:
    c = bench.established(ts=0)
    base = c.tsval()
    c.inject(".", seq=101, data=b"b" * 100, ts=base + 50)
    c.drain()
    c.inject(".", seq=1, data=b"a" * 100, ts=base + 20)
    c.expect(".", ack=201, tsecr=base + 20)


@pytest.mark.parametrize(
    ("flags", "ack"), [(".", "future"), (".", "long past"), ("", None), ("F", None)]
)
def test_row60_what_the_ack_check_refuses_does_not_set_ts_recent(
    bench: Bench, flags: str, ack: str | None
) -> None:
    """Or one blind segment with a timestamp of the future shuts all that is to come out."""
    c = bench.established(ts=0, win=1000)
    c.inject("P.", data=b"hello")
    c.expect_acked(6)
    wire_ack = {"future": c.irs + c.ack + 1000, "long past": c.irs - (1 << 20), None: None}[ack]
    c.inject(flags, seq=6, data=b"blind", ts=c.tsval() + (1 << 30), raw_ack=wire_ack)
    c.drain()
    c.inject("P.", seq=6, data=b"world")
    c.expect_acked(11)
    assert c.data == b"helloworld"


# ---- 61, 62, 63: PAWS ----


@pytest.mark.parametrize("flags", ["P.", "FP."])
def test_row61_old_timestamp_is_acknowledged_and_dropped(bench: Bench, flags: str) -> None:
    c = bench.established(ts=0)
    c.inject("P.", data=b"hello")
    c.expect_acked(6)
    bench.advance(ms=1000)
    c.inject(flags, seq=6, data=b"stale", ts=c.tsval() - 100_000)
    c.expect(".", ack=6)
    assert c.data == b"hello"
    assert c.state == "ESTABLISHED"
    assert bench.in_flight() == 0
    assert bench.stats().drops("PAWS") == 1


def test_row62_reset_is_not_subject_to_paws(bench: Bench) -> None:
    c = bench.established(ts=0)
    c.inject("R", ts=c.tsval() - 100_000)
    assert c.conn.reset is not None


@pytest.mark.parametrize("start", [0xFFFFFFFF, 0xFFFFFFF0, 0x7FFFFFFB])
def test_row63_timestamps_run_over_the_wrap(bench: Bench, start: int) -> None:
    c = bench.peer()
    c.inject("S", seq=0, ts=(start, 0))
    c.expect("S.", tsecr=start)
    c.inject(".", seq=1, ack=1, ts=start + 1 & 0xFFFFFFFF)
    for n in range(2, 40):
        c.inject("P.", data=b"x" * 10, ts=start + n & 0xFFFFFFFF)
    last = c.expect_acked(1 + 38 * 10)
    assert (last.tsecr - start) & 0xFFFFFFFF < 40
    c.ts_base = None
    c.inject("R", ts=None)


def test_row63_equal_timestamps_are_not_old(bench: Bench) -> None:
    c = bench.established(ts=0)
    stamp = c.tsval()
    for _ in range(4):
        c.inject("P.", data=b"same", ts=stamp)
    c.expect_acked(17)


# ---- 64: our clock ----


def test_row64_timestamp_clock_ticks_between_1_ms_and_1_s(bench: Bench) -> None:
    c = bench.established()
    c.inject(".", data=b"x")
    first = c.expect_acked(2).tsval
    bench.advance(ms=10_000)
    c.inject(".", data=b"x")
    ticks = (c.expect_acked(3).tsval - first) & 0xFFFFFFFF
    assert 10 <= ticks <= 10_100


def test_row64_tsval_keeps_on_across_its_own_wrap(bench: Bench) -> None:
    c = bench.established()
    for n in range(30):
        bench.advance(ms=1 << 28)
        c.inject(".", data=b"x", ts=c.tsval())
        c.expect_acked(2 + n)
