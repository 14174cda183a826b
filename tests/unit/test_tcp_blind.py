# SPDX-License-Identifier: Apache-2.0
"""RST and SYN in synchronized states, blind attackers: RFC 5961. Numbers are requirement rows."""

from __future__ import annotations

import pytest

from .tcp.bench import Bench, MakeBench, Peer, pattern


def works(bench: Bench, c: Peer, text: bytes = b"alive") -> None:
    start = c.seq
    c.inject("P.", data=text)
    c.expect_acked(start + len(text))
    assert c.data.endswith(text)


# ---- 65, 66, 67: RST ----


@pytest.mark.parametrize("flags", ["R", "R."])
@pytest.mark.parametrize(
    "state", ["established", "close_wait", "fin_wait_1", "fin_wait_2", "closing", "last_ack"]
)
def test_row65_rst_at_rcv_nxt_resets(bench: Bench, flags: str, state: str) -> None:
    c = getattr(bench, state)()
    c.inject(flags)
    c.silent()
    assert c.state == "CLOSED"
    if state not in ("closing", "last_ack"):
        assert c.conn.reset is not None
    c.inject("P.", data=b"too late")
    assert "R" in c.take().flags


def test_row65_events_after_a_reset_end_with_closed(bench: Bench) -> None:
    c = bench.established()
    c.inject("R")
    assert c.conn.reset is not None
    bench.app.close(c.conn)
    bench.turn()
    assert c.conn.closed


@pytest.mark.parametrize("offset", ["1", "1000", "right edge - 2"])
def test_row66_rst_in_the_window_is_challenged(bench: Bench, offset: str) -> None:
    c = bench.established()
    works(bench, c)
    bench.advance(ms=2000)
    at = c.edge - 2 if offset.startswith("right") else c.seq + int(offset)
    c.inject("R", seq=at)
    c.expect(".", ack=6)
    assert c.state == "ESTABLISHED"
    works(bench, c)


@pytest.mark.parametrize("where", ["below", "far below", "at the edge", "beyond", "far beyond"])
def test_row67_rst_outside_the_window_is_dropped_silently(bench: Bench, where: str) -> None:
    c = bench.established()
    works(bench, c)
    edge = c.edge + (1 << c.rcv_wscale)  # what scaling rounds off may count as inside
    at = {
        "below": c.seq - 1,
        "far below": c.seq - 1000,
        "at the edge": edge,
        "beyond": edge + 5000,
        "far beyond": 1 << 30,
    }[where]
    c.inject("R", seq=at)
    c.silent()
    assert c.state == "ESTABLISHED"
    works(bench, c)


def test_row67_five_thousand_blind_resets(bench: Bench) -> None:
    c = bench.established()
    for n in range(5000):
        c.inject("R", seq=c.edge + 1 + n * 4999)
    c.silent()
    works(bench, c)


# ---- 68: SYN ----


@pytest.mark.parametrize("flags", ["S", "S.", "SF", "SP."])
@pytest.mark.parametrize("where", ["rcv_nxt", "in window", "isn", "outside"])
def test_row68_syn_in_a_synchronized_state_is_challenged(
    bench: Bench, flags: str, where: str
) -> None:
    c = bench.established()
    works(bench, c)
    bench.advance(ms=2000)
    seq = {"rcv_nxt": c.seq, "in window": c.seq + 500, "isn": 0, "outside": -100_000}[where]
    c.inject(flags, seq=seq, ts=None if where == "outside" else True)
    challenge = c.expect(".", ack=6)
    assert challenge.rseq == 1
    c.silent()
    assert c.state == "ESTABLISHED"
    c.seq = 6
    works(bench, c)


@pytest.mark.parametrize("flags", ["R.", "S."])
def test_what_is_challenged_is_not_heard_otherwise(bench: Bench, flags: str) -> None:
    c = bench.established()
    bench.app.send(c.conn, b"reply")
    bench.turn()
    c.drain()
    c.inject(flags, seq=500, ack=6)
    assert bench.stats().drops("CHALLENGE") == 1
    assert c.conn.sent == 0
    c.drain()


def test_a_reset_at_the_right_edge_is_out_of_the_window(make_bench: MakeBench) -> None:
    """There a bare ACK may stand, and nothing else."""
    bench = make_bench(rcv_wnd_max=4000)
    c = bench.established()
    c.inject("R.", seq=4001, ack=1)
    c.silent()
    assert bench.stats().drops("RST_OUT_OF_WINDOW") == 1
    assert c.state == "ESTABLISHED"


# ---- 69: rate ----


@pytest.mark.parametrize("attack", ["R", "S"])
def test_row69_challenge_acks_are_limited(bench: Bench, attack: str) -> None:
    c = bench.established()
    for _ in range(2000):
        c.inject(attack, seq=500)
    challenges = c.drain()
    assert 1 <= len(challenges) <= 200
    c.seq = 1
    works(bench, c)


def test_challenges_are_limited_for_half_a_second_each_time(bench: Bench) -> None:
    c = bench.established()
    for _ in range(3):
        for _ in range(20):
            c.inject("R", seq=1000)
        assert len(c.drain()) == 10
        bench.advance(ms=500)


def test_row69_challenges_of_one_connection_do_not_show_in_another(bench: Bench) -> None:
    """CVE-2016-5696: an attacker counts those of his own to learn of somebody else's."""
    victim, own, undisturbed = (bench.established() for _ in range(3))
    for c in (undisturbed, victim, own):
        for _ in range(200):
            c.inject("R", seq=500)
    counts = [len(c.drain()) for c in (undisturbed, victim, own)]
    assert counts == [10, 10, 10]


# ---- 70: what the application has after a reset ----


def test_row70_every_acknowledged_byte_and_no_other(bench: Bench) -> None:
    c = bench.established()
    data = pattern(3000)
    c.inject(".", data=data[:1000])
    c.inject(".", data=data[1000:2000])
    c.inject(".", seq=2501, data=data[2500:])
    c.drain()
    c.inject("R", seq=2001)
    assert c.data == data[:2000]
    assert c.conn.reset is not None
    assert not c.conn.eof
    assert bench.stats().niovs_ooo == 0


def test_row70_bytes_in_the_ring_outlive_the_reset(bench: Bench) -> None:
    bench.app.paused = True
    c = bench.established()
    data = pattern(1000)
    c.inject(".", data=data)
    bench.advance(ms=40)
    c.drain()
    c.inject("R")
    for n in range(64):
        other = bench.peer(port=30000 + n)
        other.inject("S", seq=0)
        other.drain()
        other.inject("R", seq=1)
    bench.app.paused = False
    bench.turn()
    assert c.data == data
    assert c.conn.reset is not None


def test_row70_reset_after_fin(bench: Bench) -> None:
    c = bench.close_wait()
    c.inject("R")
    assert c.conn.eof
    assert c.state == "CLOSED"


def test_row70_tokens_stay_valid_after_a_reset(bench: Bench) -> None:
    bench.app.hold = True
    c = bench.established()
    data = pattern(2000)
    c.send_stream(data, 500)
    c.drain()
    c.inject("R")
    for n in range(40):  # the pool is under use meanwhile
        other = bench.established()
        other.inject(".", data=pattern(1000, seed=n))
        other.inject("R")
        other.drain()
    held = b"".join(bytes(bench.region[f.offset : f.offset + f.length]) for f in c.conn.frags)
    assert held == data
    assert bench.stats().niovs_lent >= 4


def test_row82_stray_acks_and_resets_disturb_nobody(bench: Bench) -> None:
    c = bench.established()
    for n in range(2000):
        other = bench.peer(port=1024 + n)
        other.inject(".", seq=n, ack=n)
        assert "R" in other.take().flags
        other.inject("R", seq=n)
        other.silent()
    works(bench, c)
