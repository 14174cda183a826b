# SPDX-License-Identifier: Apache-2.0
"""Closing, in every order: RFC 9293 section 3.6. Numbers are requirement rows."""

from __future__ import annotations

import pytest

from .tcp.bench import LOCAL4, Bench, MakeBench, pattern
from .tcp.wire import Address

# ---- 71: the peer closes first ----


@pytest.mark.parametrize("data", [b"", b"x", b"last words"])
def test_row71_fin_counts_one_and_brings_eof(bench: Bench, data: bytes) -> None:
    c = bench.established()
    c.inject("FP.", data=data)
    c.expect_acked(1 + len(data) + 1)
    assert c.data == data
    assert c.conn.eof
    assert c.state == "CLOSE_WAIT"


def test_row71_whole_passive_close(bench: Bench) -> None:
    c = bench.close_wait()
    bench.app.close(c.conn)
    bench.turn()
    c.expect("F.", seq=1, ack=2)
    assert c.state == "LAST_ACK"
    c.inject(".", seq=2, ack=2)
    c.silent()
    assert c.state == "CLOSED"
    assert c.conn.closed
    assert c.conn.reset is None


def test_row71_shutdown_then_close(bench: Bench) -> None:
    c = bench.close_wait()
    bench.app.shutdown(c.conn)
    bench.turn()
    c.expect("F.", seq=1, ack=2)
    c.inject(".", seq=2, ack=2)
    assert not c.conn.closed, "the application has not let go of it yet"
    bench.app.close(c.conn)
    bench.turn()
    c.silent()
    assert c.conn.closed


# ---- 72, 73: FIN and order ----


def test_row71_a_fin_sent_again_with_its_data_is_no_drop(bench: Bench) -> None:
    """The data had come, the FIN had not: what the segment brought was wanted."""
    c = bench.established()
    c.inject("P.", data=b"data")
    c.expect_acked(5)
    c.inject("FP.", seq=1, data=b"data")
    c.expect_acked(6)
    assert c.state == "CLOSE_WAIT"
    assert bench.stats().drops("AFTER_FIN") == 0


def test_row72_early_fin_waits_for_the_data_below_it(bench: Bench) -> None:
    c = bench.established()
    c.inject("F.", seq=6)
    c.expect(".", ack=1)
    assert not c.conn.eof
    assert c.state == "ESTABLISHED"
    c.inject(".", seq=1, data=b"hello")
    if c.inbox[-1].rack == 6:  # a FIN without data need not be queued
        c.drain()
        c.inject("F.", seq=6)
    c.expect_acked(7)
    assert c.data == b"hello"
    assert c.conn.eof


def test_row72_fin_with_out_of_order_data(bench: Bench) -> None:
    c = bench.established()
    c.inject("FP.", seq=6, data=b"world")
    c.expect(".", ack=1)
    assert c.state == "ESTABLISHED"
    c.inject(".", seq=1, data=b"hello")
    c.expect(".", ack=12, sack=[])
    assert c.data == b"helloworld"
    assert c.conn.eof
    assert c.state == "CLOSE_WAIT"


def test_row73_data_after_the_fin_is_neither_delivered_nor_acknowledged(bench: Bench) -> None:
    c = bench.close_wait()
    bench.advance(ms=1000)
    c.inject("P.", seq=2, data=b"more")
    for s in c.drain():
        assert s.rack == 2
    assert bench.stats().drops("AFTER_FIN") == 1
    assert c.data == b""
    assert c.state in ("CLOSE_WAIT", "CLOSED")
    assert bench.in_flight() == 0


def test_row73_data_that_crosses_a_queued_fin(bench: Bench) -> None:
    c = bench.established()
    c.inject("FP.", seq=6, data=b"world")
    c.drain()
    c.inject(".", seq=9, data=b"?" * 100)
    c.drain()
    c.inject(".", seq=1, data=b"hello")
    c.expect_acked(12)
    assert c.data == b"helloworld"
    assert c.conn.eof
    assert bench.in_flight() == 0


def test_what_lies_behind_a_queued_fin_is_counted_as_that(bench: Bench) -> None:
    c = bench.established()
    c.inject("FP.", seq=6, data=b"world")
    c.inject(".", seq=12, data=b"behind")
    assert bench.stats().drops("AFTER_FIN") == 1
    c.inject(".", seq=1, data=b"hello")
    assert c.data == b"helloworld"
    c.drain()


def test_row73_data_first_then_a_fin_below_its_end(bench: Bench) -> None:
    c = bench.established()
    c.inject(".", seq=6, data=b"worldmore")
    c.inject("FP.", seq=6, data=b"world")
    c.drain()
    c.inject(".", seq=1, data=b"hello")
    bench.advance(ms=40)
    c.drain()
    assert c.data.startswith(b"helloworld")
    assert c.max_ack in (12, 15, 16)


def test_a_fin_may_stand_right_behind_a_full_window(make_bench: MakeBench) -> None:
    """It takes the number behind the window, and leaves none of less than nothing."""
    bench = make_bench(rcv_wnd_max=4000)
    c = bench.established()
    assert c.window == 4000
    with bench.batch():  # in which no ACK moves the window's edge
        for at in range(0, 3000, 1000):
            c.inject(".", seq=1 + at, data=pattern(1000, seed=at))
        c.inject("F.", seq=3001, data=pattern(1000))
        c.inject(".", seq=4001, data=b"in its place")
    last = c.drain()[-1]
    assert last.rack == 4002
    assert last.win <= 4000
    assert bench.stats().rcv_wnd_promised == 0
    assert bench.stats().drops("AFTER_FIN") == 1


def test_a_fin_is_no_drop(bench: Bench) -> None:
    c = bench.established()
    c.inject("F.", data=b"all of it")
    c.drain()
    assert c.conn.eof
    assert bench.stats().dropped() == 0


def test_a_fin_behind_the_window_is_not_believed(make_bench: MakeBench) -> None:
    """Its place may be wrong: whoever sent it sent what we have not asked for."""
    bench = make_bench(rcv_wnd_max=4000)
    c = bench.established()
    data = pattern(8000)
    c.inject("F.", seq=1, data=data[:5000])
    c.drain()
    assert c.data == data[:4000]
    bench.advance(ms=100)
    c.drain()
    c.inject(".", seq=4001, data=data[4000:7000])
    bench.advance(ms=100)
    c.drain()
    assert c.data == data[:7000]
    assert not c.conn.eof


# ---- 74: FIN again ----


@pytest.mark.parametrize(("state", "ack"), [("close_wait", 1), ("last_ack", 1), ("closing", 1)])
def test_row74_fin_again_is_acknowledged_again(bench: Bench, state: str, ack: int) -> None:
    c = getattr(bench, state)()
    for _ in range(3):
        bench.advance(ms=100)
        c.drain()
        c.inject("F.", seq=1, ack=ack)
        assert c.drain()[-1].rack == 2
    assert c.state == state.upper()


def test_row74_row77_time_wait_acknowledges_the_fin_again(bench: Bench) -> None:
    c = bench.time_wait()
    for _ in range(3):
        bench.advance(ms=1000)
        c.inject("F.", seq=1, ack=2)
        c.expect(".", seq=2, ack=2)
    assert c.state == "TIME_WAIT", "each FIN starts the 2 MSL again"
    bench.advance(ms=bench.time_wait_ms)
    assert c.state == "CLOSED"


# ---- 75, 76: we close first ----


@pytest.mark.parametrize("state", ["fin_wait_1", "fin_wait_2"])
def test_row75_half_close_still_receives(bench: Bench, state: str) -> None:
    c = getattr(bench, state)()
    data = pattern(20_000)
    c.send_stream(data)
    c.expect_acked(20_001)
    assert c.data == data
    c.inject("F.")
    c.expect_acked(20_002)
    assert c.conn.eof


def test_row75_fin_that_acknowledges_ours_goes_straight_to_time_wait(bench: Bench) -> None:
    c = bench.fin_wait_1()
    c.inject("F.", ack=2)
    c.expect_acked(2)
    assert c.state == "TIME_WAIT"
    bench.app.close(c.conn)
    bench.advance(ms=bench.time_wait_ms + 1)
    assert c.state == "CLOSED"
    assert c.conn.closed


def test_row75_data_and_fin_out_of_order_in_fin_wait_2(bench: Bench) -> None:
    c = bench.fin_wait_2()
    c.inject("FP.", seq=6, data=b"world")
    c.expect(".", ack=1)
    c.inject(".", seq=1, data=b"hello")
    c.expect_acked(12)
    assert c.data == b"helloworld"
    assert c.state == "TIME_WAIT"


def test_row76_simultaneous_close(bench: Bench) -> None:
    c = bench.closing()
    c.inject(".", seq=2, ack=2)
    c.silent()
    assert c.state == "TIME_WAIT"
    bench.advance(ms=bench.time_wait_ms)
    assert c.state == "CLOSED"


def test_row76_closing_ignores_an_ack_below_the_fin(bench: Bench) -> None:
    c = bench.closing()
    c.inject(".", seq=2, ack=1)
    assert c.state == "CLOSING"


# ---- 77: TIME-WAIT ----


def test_only_a_fin_makes_time_wait_begin_anew(bench: Bench) -> None:
    c = bench.time_wait()
    bench.advance(ms=bench.time_wait_ms // 2)
    c.inject(".", seq=0, ack=2)
    c.inject("P.", seq=0, ack=2, data=b"o")
    bench.advance(ms=bench.time_wait_ms // 2 + 1)
    assert c.state == "CLOSED"


def test_row77_newer_syn_may_reopen(bench: Bench) -> None:
    c = bench.time_wait(port=48000)
    bench.app.close(c.conn)
    bench.turn()
    bench.advance(ms=500)
    assert c.state == "TIME_WAIT"
    c.bench.peers.clear()
    again = bench.peer(port=48000, isn=c.isn + 1_000_000, ts=c.ts_base)
    again.inject("S", seq=0)
    if again.inbox and "S" in again.inbox[0].flags:
        again.expect("S.", ack=1)
        again.inject(".", seq=1, ack=1)
        assert again.state == "ESTABLISHED"
    else:
        assert "R" not in again.take().flags


def test_row77_old_syn_does_not_reopen(bench: Bench) -> None:
    c = bench.time_wait()
    bench.advance(ms=100)
    c.inject("S", seq=-1000, ts=c.tsval() - 5000)
    for s in c.drain():
        assert s.flags == {"."}
        assert s.rack == 2
    assert c.state == "TIME_WAIT"


def test_row77_reset_does_not_assassinate_time_wait_or_does_it_cleanly(bench: Bench) -> None:
    """RFC 1337 would ignore it, RFC 9293 closes: both end without a frame."""
    c = bench.time_wait()
    c.inject("R")
    c.silent()
    assert c.state in ("TIME_WAIT", "CLOSED")


def test_row77_data_in_time_wait_is_not_delivered(bench: Bench) -> None:
    c = bench.time_wait()
    c.inject("P.", seq=2, data=b"ghost")
    for s in c.drain():
        assert s.rack == 2
    assert c.data == b""
    assert bench.in_flight() == 0


# ---- 78: LAST-ACK ----


def test_row78_last_ack_closes_at_once_and_the_tuple_is_free(bench: Bench) -> None:
    c = bench.last_ack(port=48100)
    c.inject(".", seq=2, ack=2)
    assert c.state == "CLOSED"
    c.inject("P.", seq=2, ack=2, data=b"late")
    assert c.take().flags == {"R"}
    again = bench.peer(port=48100, isn=77)
    again.connect()
    again.inject("P.", data=b"new life")
    again.expect_acked(9)
    assert again.data == b"new life"


def test_row78_ack_below_the_fin_does_not_close(bench: Bench) -> None:
    c = bench.last_ack()
    c.inject(".", seq=2, ack=1)
    assert c.state == "LAST_ACK"


# ---- close with data left, abort ----


def test_close_with_undelivered_data_resets(bench: Bench) -> None:
    """RFC 1122 4.2.2.13: what the application will never read must not look delivered."""
    c = bench.established()
    c.inject(".", seq=1001, data=b"above a hole")
    c.drain()
    bench.app.close(c.conn)
    bench.turn()
    answer = c.take()
    assert answer.flags & {"R", "F"}
    assert bench.stats().niovs_ooo == 0 or "F" in answer.flags


def test_data_after_close_resets(bench: Bench) -> None:
    """Nobody is left to read it: RFC 9293 section 3.6.1."""
    c = bench.established()
    bench.app.close(c.conn)
    bench.turn()
    c.expect("F.", seq=1, ack=1)
    c.inject("P.", ack=2, data=b"anybody there?")
    assert any("R" in s.flags for s in c.drain())
    assert bench.stats().drops("CLOSED") == 1
    assert c.state == "CLOSED"
    assert bench.in_flight() == 0


def test_abort_resets_at_snd_nxt(bench: Bench) -> None:
    c = bench.established()
    c.inject("P.", data=b"hello")
    c.drain()
    bench.app.abort(c.conn)
    bench.turn()
    s = c.drain()[-1]
    assert "R" in s.flags
    assert s.rseq == 1
    assert c.state == "CLOSED"
    assert c.conn.closed


@pytest.mark.parametrize("state", ["close_wait", "fin_wait_1", "fin_wait_2", "closing", "last_ack"])
def test_abort_in_every_state(bench: Bench, state: str) -> None:
    c = getattr(bench, state)()
    if not c.conn.closed:
        bench.app.abort(c.conn)
        bench.turn()
        c.drain()


def test_fin_wait_2_of_a_closed_application_does_not_last_for_ever(bench: Bench) -> None:
    c = bench.established()
    bench.app.close(c.conn)
    bench.turn()
    c.expect("F.")
    c.inject(".", ack=2)
    bench.advance(ms=300_000)
    c.drain()
    assert c.state == "CLOSED"


# ---- close-first listeners ----


def test_row75_close_first_listener_shuts_its_side_with_the_first_bytes(bench: Bench) -> None:
    local = Address(LOCAL4.ip, 6000, LOCAL4.mac)
    assert bench.listen(local, close_first=True) >= 0
    c = bench.established(local=local)
    c.inject(".", data=b"x" * 100)
    bench.advance(ms=40)
    sent = c.drain()
    assert next(s for s in sent if "F" in s.flags).rseq == 1
    assert c.ack == 2
    data = pattern(50_000)
    c.send_stream(data)
    c.expect_acked(50_101)
    assert c.data == b"x" * 100 + data
    c.inject("F.")
    c.expect_acked(50_102)
    assert c.conn.eof
    assert c.state == "TIME_WAIT"


def test_close_first_with_data_on_the_third_segment(bench: Bench) -> None:
    local = Address(LOCAL4.ip, 6000, LOCAL4.mac)
    bench.listen(local, close_first=True)
    c = bench.peer(local=local)
    c.inject("S", seq=0)
    c.expect("S.")
    c.inject("FP.", seq=1, ack=1, data=b"all of it")
    bench.advance(ms=40)
    c.drain()
    assert c.fin_at == 1
    assert c.max_ack == 11
    c.inject(".", ack=2)
    assert c.data == b"all of it"
    assert c.conn.eof


def test_what_is_sent_again_with_the_fin_is_not_data_after_close(bench: Bench) -> None:
    """The ACK of "hello" was lost; the application has read it, and closed: no reason to reset."""
    c = bench.established()
    c.inject("P.", data=b"hello")
    c.drain()
    bench.app.close(c.conn)
    bench.turn()
    c.expect("F.", seq=1, ack=6)
    c.inject("F.", seq=1, ack=2, data=b"hello")
    c.expect(".", seq=2, ack=7)
    assert c.state == "TIME_WAIT"
