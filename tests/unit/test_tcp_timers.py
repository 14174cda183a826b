# SPDX-License-Identifier: Apache-2.0
"""Timers in virtual time: when each is due with nothing else happening, and what a clock that
jumps does to them. docs/tcp.md has the table. Numbers are requirement rows."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from devmemtcp.stack._stack import lib

from .tcp.bench import MS, NO_DEADLINE, SECOND, Bench, MakeBench, Peer

HOUR = 3600 * SECOND
DAY = 24 * HOUR


def deadline(bench: Bench) -> float:
    """Milliseconds until the stack wants to be called."""
    when = int(lib.stack_next_deadline(bench.stack))
    assert when != NO_DEADLINE, "it would sleep for ever"
    return (when - bench.now) / MS


def idle(bench: Bench) -> bool:
    """Does it want to be called at all?"""
    return int(lib.stack_next_deadline(bench.stack)) == NO_DEADLINE


def ends_after(bench: Bench, c: Peer, most_ms: int = 2_000_000) -> float:
    """Milliseconds until the connection is over, found by going from deadline to deadline."""
    start = bench.now
    while c.state != "CLOSED":
        assert bench.now - start < most_ms * MS, "it is never over"
        bench.advance(max(0.0, deadline(bench)))
    return (bench.now - start) / MS


# ---- when nothing is due, nobody is woken ----


def test_idle_connections_want_nothing(bench: Bench) -> None:
    peers = [bench.established() for _ in range(20)]
    bench.fin_wait_2()
    bench.close_wait()
    for c in peers:
        c.inject("P.", data=b"something")
        c.expect_acked(10)
    bench.advance(2000)  # deadlines that were met are looked at once more, and forgotten
    assert idle(bench)


# ---- delayed ACK ----


def test_row62_a_delayed_ack_needs_no_traffic(make_bench: MakeBench) -> None:
    bench = make_bench(delack_ms=40)
    c = bench.established()
    for _ in range(16):  # the first are acknowledged at once
        c.inject("P.", data=b"x")
        c.expect_acked(c.seq)
    c.inject("P.", data=b"x")
    c.silent()
    assert deadline(bench) == 40
    bench.advance(39)
    c.silent()
    bench.advance(1)
    c.expect(".", ack=c.seq)
    assert idle(bench)


# ---- give-up times: R2, and the idle half-open and half-closed ----


@pytest.mark.parametrize(
    ("retries", "ms"), [(0, 1000), (1, 3000), (5, 63_000), (7, 183_000), (8, 243_000)]
)
def test_row94_an_embryo_has_so_many_retries(
    make_bench: MakeBench, retries: int, ms: float
) -> None:
    """5 is Linux's tcp_synack_retries, 7 the first with the three minutes of RFC 9293 MUST-23."""
    bench = make_bench(synack_retries=retries)
    c = bench.peer()
    c.inject("S", seq=0)
    c.expect("S.")
    assert ends_after(bench, c) == ms
    assert [s.flags for s in c.drain()] == [frozenset("S.")] * retries
    assert idle(bench)


@pytest.mark.parametrize("state", ["fin_wait_1", "closing", "last_ack"])
@pytest.mark.parametrize("user_timeout_ms", [100_000, 300_000])
def test_row94_a_peer_that_never_acknowledges_our_fin_is_given_up(
    make_bench: MakeBench, state: str, user_timeout_ms: int
) -> None:
    bench = make_bench(user_timeout_ms=user_timeout_ms)
    c = getattr(bench, state)()
    if state != "last_ack":
        bench.app.close(c.conn)
        bench.turn()
    ms = ends_after(bench, c)
    assert user_timeout_ms <= ms <= user_timeout_ms + 60_000, "with the retransmission that is due"
    assert "R" in c.drain()[-1].flags
    assert idle(bench)


@pytest.mark.parametrize("state", ["established", "close_wait"])
def test_row94_a_peer_that_never_acknowledges_data_is_given_up(
    make_bench: MakeBench, state: str
) -> None:
    bench = make_bench(user_timeout_ms=100_000)
    c = getattr(bench, state)()
    bench.app.send(c.conn, b"hello?")
    bench.turn()
    assert 100_000 <= ends_after(bench, c) <= 160_000
    assert c.conn.reset == errno.ETIMEDOUT
    assert "R" in c.drain()[-1].flags


def closed_in_fin_wait_2(bench: Bench) -> Peer:
    c = bench.fin_wait_2()
    bench.app.close(c.conn)
    bench.turn()
    return c


def acknowledged_behind_the_close(bench: Bench) -> Peer:
    c = bench.established()
    bench.app.close(c.conn)
    bench.turn()
    c.expect("F.")
    c.inject(".", ack=2)
    return c


@pytest.mark.parametrize("how", [closed_in_fin_wait_2, acknowledged_behind_the_close])
def test_fin_wait_2_that_nobody_has_is_over_after_fin_timeout(
    make_bench: MakeBench, how: Callable[[Bench], Peer]
) -> None:
    """RFC 9293 3.10.4 allows it; in Linux it is tcp_fin_timeout."""
    bench = make_bench(fin_timeout_ms=60_000, time_wait_ms=1000)
    c = how(bench)
    assert c.state == "FIN_WAIT_2"
    assert ends_after(bench, c) == 60_000
    c.silent()


def test_fin_wait_2_that_the_application_has_is_the_applications(bench: Bench) -> None:
    """It has only said that it has no more to send; as in Linux, it may read for ever."""
    c = bench.fin_wait_2()
    bench.advance(10 * HOUR / MS)
    assert c.state == "FIN_WAIT_2"
    c.inject("P.", data=b"still here")
    c.expect_acked(11)
    assert c.data == b"still here"


def test_close_wait_is_the_applications(bench: Bench) -> None:
    c = bench.close_wait()
    bench.advance(10 * HOUR / MS)
    assert c.state == "CLOSE_WAIT"


def test_row96_time_wait_ends_in_its_time(make_bench: MakeBench) -> None:
    bench = make_bench(time_wait_ms=60_000, fin_timeout_ms=1000)
    assert ends_after(bench, bench.time_wait()) == 60_000


# ---- probes of others ----


@pytest.mark.parametrize("data", [b"", b"\0"])
def test_a_keep_alive_probe_is_answered_after_any_time(bench: Bench, data: bytes) -> None:
    """RFC 9293 3.8.4: SEG.SEQ = SND.NXT - 1, with or without a garbage byte."""
    c = bench.established()
    for _ in range(5):
        bench.advance(2 * HOUR / MS)
        c.inject(".", seq=0, data=data)
        c.expect(".", seq=1, ack=1)
    assert idle(bench)


# ---- a clock that jumps ----


def timed(bench: Bench, c: Peer, flag: str, count: int) -> list[float]:
    """Milliseconds, from now, at which so many segments with this flag come."""
    start, out = bench.now, list[float]()
    while len(out) < count:
        bench.advance(max(0.0, deadline(bench)))
        out += [(bench.now - start) / MS] * sum(flag in s.flags for s in c.drain())
    return out


@pytest.mark.parametrize("back", [1 * MS, SECOND, HOUR, 900 * SECOND])
def test_retransmission_goes_on_when_the_clock_goes_back(make_bench: MakeBench, back: int) -> None:
    """TSvals, too, do not go back: the far end holds every segment against that."""
    want = timed(bench := make_bench(), bench.fin_wait_1(), "F", 5)
    bench = make_bench()
    c = bench.fin_wait_1()
    bench.now -= min(back, bench.now)
    bench.turn()
    assert timed(bench, c, "F", 5) == want
    c.inject(".", ack=2, ts=1 << 30)  # its clock is another
    assert c.state == "FIN_WAIT_2"


@pytest.mark.parametrize(
    ("state", "ms"), [("syn_received", 183_000), ("time_wait", 2000), ("last_ack", 120_000)]
)
def test_give_up_times_hold_when_the_clock_goes_back(bench: Bench, state: str, ms: int) -> None:
    if state == "syn_received":
        c = bench.peer()
        c.inject("S", seq=0)
        c.expect("S.")
    else:
        c = getattr(bench, state)()
    bench.now -= 500 * SECOND
    bench.turn()
    assert ms <= ends_after(bench, c) <= ms * 1.5
    c.drain()


def test_a_delayed_ack_is_not_delayed_further_when_the_clock_goes_back(bench: Bench) -> None:
    c = bench.established()
    for _ in range(16):
        c.inject("P.", data=b"x")
        c.expect_acked(c.seq)
    c.inject("P.", data=b"x")
    bench.now -= HOUR // 4
    bench.turn()
    c.silent()
    bench.advance(bench.delack_ms)
    c.expect(".", ack=c.seq)


def test_nothing_ages_when_the_clock_goes_back(make_bench: MakeBench) -> None:
    """Neither embryos, which could be evicted, nor timestamps, which could be forgotten (PAWS)."""
    bench = make_bench(listen=False)
    bench.listen(backlog=3)
    c = bench.established()
    embryos = [bench.peer() for _ in range(3)]
    for each in embryos:
        each.inject("S", seq=0)
        each.expect("S.")
    bench.now -= 900 * SECOND
    bench.turn()
    late = bench.peer()
    late.inject("S", seq=0)
    late.expect("S.")  # a cookie: there is no room, and nobody whose time is up
    assert [each.state for each in embryos] == ["SYN_RECEIVED"] * 3
    c.inject(".", ts=1)
    c.drain()
    assert bench.stats().drops("PAWS") == 1


def test_nobody_is_given_up_because_the_clock_went_on_by_a_day(bench: Bench) -> None:
    """R2 has passed at once, R1 has not: three retransmissions, and the peer may answer each."""
    c = bench.established()
    bench.app.send(c.conn, b"hello?")
    bench.turn()
    c.expect("P.", data=b"hello?")
    bench.now += DAY
    bench.turn()
    bench.advance(7000)
    assert len(c.drain()) == 3
    assert c.state == "ESTABLISHED"
    c.inject(".", ack=7)
    bench.advance(10_000)
    assert c.state == "ESTABLISHED"
    assert c.conn.sent == 6
    assert idle(bench)


def test_time_wait_and_orphans_are_over_when_the_clock_went_on_by_a_day(bench: Bench) -> None:
    waiting, orphan = bench.time_wait(), closed_in_fin_wait_2(bench)
    bench.now += DAY
    bench.turn()
    assert (waiting.state, orphan.state) == ("CLOSED", "CLOSED")
