# SPDX-License-Identifier: Apache-2.0
"""What a receiver sends again, and the small replies it sends: RFC 6298, RFC 9293 3.8.6.

Numbers in the names are requirement rows; 93 and 94 are the sender's.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from .tcp.app import REPLY_MAX
from .tcp.bench import Bench, MakeBench, Peer, pattern


def times(
    bench: Bench, c: Peer, wanted: str, ms: float = 200_000, step: float = 10.0
) -> list[float]:
    """Milliseconds at which segments with the flag ``wanted`` arrive."""
    out = []
    for n in range(int(ms / step)):
        bench.advance(ms=step)
        out += [n * step for s in c.drain() if wanted in s.flags]
        if len(out) >= 5:
            break
    return out


def doubling(gaps: list[float]) -> bool:
    return all(1.6 * a <= b <= 2.4 * a for a, b in itertools.pairwise(gaps))


# ---- 79: SYN-ACK ----


def test_row79_syn_ack_is_sent_again_after_a_second_doubling(bench: Bench) -> None:
    c = bench.peer()
    c.inject("S", seq=0)
    c.expect("S.")
    when = times(bench, c, "S")
    assert 900 <= when[0] <= 1100
    gaps = [b - a for a, b in itertools.pairwise(when)]
    assert len(when) >= 4
    assert doubling([when[0], *gaps])


def test_row79_the_final_ack_stops_it(bench: Bench) -> None:
    c = bench.peer()
    c.inject("S", seq=0)
    c.expect("S.")
    bench.advance(ms=1500)
    c.expect("S.")
    c.inject(".", seq=1, ack=1)
    bench.advance(ms=60_000)
    c.silent()


def test_an_ack_ends_the_back_off(bench: Bench) -> None:
    c = bench.established()
    reply(bench, c, b"first")
    c.drain()
    when = times(bench, c, "P", ms=10_000)
    assert len(when) >= 3, "there was a back-off"
    c.inject(".", ack=6)
    reply(bench, c, b"second")
    c.drain()
    assert times(bench, c, "P", ms=10_000)[0] <= 1.2 * when[0]


def test_the_handshakes_back_off_ends_with_it(bench: Bench) -> None:
    c = bench.peer()
    c.inject("S", seq=0)
    bench.advance(ms=8000)
    assert len(c.drain()) >= 3
    c.inject(".", seq=1, ack=1)
    reply(bench, c, b"lost")
    c.drain()
    assert times(bench, c, "P", ms=10_000)[0] <= 1100


def test_each_round_trip_is_measured_by_itself(bench: Bench) -> None:
    """RFC 6298: after some of 50 ms each, what is lost is sent again after the least time-out."""
    c = bench.established()
    for n in range(20):
        reply(bench, c, b"12345")
        c.drain()
        bench.advance(ms=50)
        c.inject(".", ack=1 + 5 * (n + 1))
    reply(bench, c, b"lost")
    c.drain()
    assert times(bench, c, "P", ms=2000)[0] <= 300


def test_after_a_time_out_sending_goes_on_behind_what_has_arrived(bench: Bench) -> None:
    """Only the first of five was lost: its ACK is for more than was sent again."""
    c = bench.established(mss=1000, ts=None)
    reply(bench, c, pattern(5000))
    c.drain()
    bench.advance(ms=1100)
    assert [s.rseq for s in c.drain()] == [1]
    c.inject(".", ack=3001)
    assert [s.rseq for s in c.drain()] == [3001, 4001]


def test_slow_start_sends_two_segments_for_each_that_has_arrived(bench: Bench) -> None:
    c = bench.established(mss=1000, ts=None)
    reply(bench, c, pattern(60_000))
    assert len(c.drain()) == 10, "RFC 6928: the initial window"
    c.inject(".", ack=1001)
    assert len(c.drain()) == 2
    c.inject(".", ack=3001)
    assert len(c.drain()) == 3, "RFC 5681 (2): a segment for each ACK, however much it is for"


def test_after_a_loss_two_segments_may_be_out(bench: Bench) -> None:
    """RFC 5681 (4): half of what is out, but no less than two full-sized segments."""
    c = bench.established(mss=1000, ts=None)
    reply(bench, c, pattern(600))
    c.drain()
    for _ in range(3):
        c.inject(".", ack=1)
    assert [len(s.data) for s in c.drain()] == [600], "the lost one again"
    reply(bench, c, pattern(20_000))
    assert [len(s.data) for s in c.drain()] == [1000], "and one more"
    # From here on one segment more a round trip, RFC 5681 (3).
    at, out = 1601, []
    for _ in range(5):
        c.inject(".", ack=at)
        out.append(len(c.drain()))
        at += 1000 * out[-1]
    assert out == [2, 2, 3, 3, 3]


# ---- 80: FIN ----


def test_row80_fin_is_sent_again_doubling(bench: Bench) -> None:
    c = bench.fin_wait_1()
    when = times(bench, c, "F")
    assert 200 <= when[0] <= 1100
    gaps = [b - a for a, b in itertools.pairwise(when)]
    assert len(when) >= 4
    assert doubling(gaps)
    assert bench.stats().tx_retransmits >= 4


@pytest.mark.parametrize("state", ["fin_wait_1", "closing", "last_ack"])
def test_row80_the_ack_stops_it(bench: Bench, state: str) -> None:
    c = getattr(bench, state)()
    bench.advance(ms=1500)
    assert all("F" in s.flags for s in c.drain())
    c.inject(".", ack=2)
    bench.advance(ms=1)
    c.drain()
    bench.advance(ms=100)
    c.silent()


@pytest.mark.parametrize("state", ["fin_wait_1", "last_ack"])
def test_row94_a_dead_peer_is_given_up_in_the_end(bench: Bench, state: str) -> None:
    """R2 of RFC 9293 section 3.8.3 is at least 100 s; it must come at all."""
    c = getattr(bench, state)()
    bench.advance(ms=30_000)
    assert c.state == state.upper()
    bench.advance(ms=2_000_000)
    c.drain()
    assert c.state == "CLOSED"


# ---- replies ----


def reply(bench: Bench, c: Peer, data: bytes) -> None:
    bench.app.send(c.conn, data)
    bench.turn()


def acked_to_the_end(bench: Bench, c: Peer, length: int, **inject: Any) -> bytes:
    for _ in range(2000):
        got = c.drain()
        if c.ack >= 1 + length:
            break
        if got:
            c.inject(".", **inject)
        else:
            bench.advance(ms=50)
    c.inject(".", **inject)
    assert bytes(c.sent[1 : 1 + length]) == bytes(c.sent[1:])
    return bytes(c.sent[1:])


@pytest.mark.parametrize("length", [1, 5, 1448, 1449, 2896, 10_000, REPLY_MAX])
def test_reply_arrives_and_is_accounted(bench: Bench, length: int) -> None:
    c = bench.established()
    data = pattern(length)
    reply(bench, c, data)
    assert acked_to_the_end(bench, c, length) == data
    assert c.conn.sent == length


@pytest.mark.parametrize(("mss", "ts", "most"), [(1460, 5, 1448), (536, None, 536), (100, 5, 88)])
def test_row93_reply_is_cut_by_the_effective_mss(
    bench: Bench, mss: int, ts: int | None, most: int
) -> None:
    c = bench.established(mss=mss, ts=ts)
    reply(bench, c, pattern(1000))
    sizes = []
    while c.ack < 1001:
        sizes += [len(s.data) for s in c.drain()]
        c.inject(".")
    assert max(sizes) == min(most, 1000)


def test_row93_tiny_and_absurd_mss_do_no_harm(bench: Bench) -> None:
    for mss in (0, 1, 12, 40, 65535):
        c = bench.established(mss=mss, ts=None)
        c.mss = max(mss, 536)  # what is sent may be a sane minimum instead
        reply(bench, c, pattern(600))
        assert acked_to_the_end(bench, c, 600) == pattern(600)


def test_row93_a_lost_reply_is_sent_again(bench: Bench) -> None:
    c = bench.established()
    reply(bench, c, b"important")
    c.expect(".", seq=1, data=b"important")
    when = times(bench, c, ".")
    assert 200 <= when[0] <= 1100
    gaps = [b - a for a, b in itertools.pairwise(when)]
    assert doubling(gaps)
    c.inject(".", ack=10)
    bench.advance(ms=200_000)
    c.silent()
    assert c.conn.sent == 9


def test_row93_partial_acks_continue_from_where_they_are(bench: Bench) -> None:
    c = bench.established()
    data = pattern(5000)
    reply(bench, c, data)
    for ack in (2, 1000, 1449, 3000):
        c.drain()
        c.inject(".", ack=ack)
        assert c.conn.sent == ack - 1
    bench.advance(ms=5000)
    c.drain()
    assert acked_to_the_end(bench, c, 5000) == data
    assert c.conn.sent == 5000


def test_row93_replies_respect_the_peers_window(bench: Bench) -> None:
    c = bench.established(ws=0, win=1000)
    data = pattern(5000)
    reply(bench, c, data)
    assert sum(len(s.data) for s in c.drain()) <= 1000
    assert acked_to_the_end(bench, c, 5000) == data


def test_row93_a_shut_window_is_probed_until_it_opens(bench: Bench) -> None:
    c = bench.established(win=0)
    reply(bench, c, pattern(3000))
    assert sum(len(s.data) for s in c.drain()) <= 1
    probes = 0
    for _ in range(20):
        bench.advance(ms=5000)
        for s in c.drain():
            probes += 1
            assert len(s.data) <= 1
            c.inject(".", ack=1, win=0)
    assert probes >= 3
    assert c.state == "ESTABLISHED", "a shut window that is answered is never a reason to give up"
    c.inject(".", ack=1, win=65535)
    assert acked_to_the_end(bench, c, 3000) == pattern(3000)


def test_row93_window_update_alone_lets_data_go(bench: Bench) -> None:
    c = bench.established(win=0)
    reply(bench, c, pattern(100))
    c.drain()
    c.inject(".", ack=1, win=10)
    assert acked_to_the_end(bench, c, 100) == pattern(100)


def test_fin_comes_after_all_replies(bench: Bench) -> None:
    c = bench.established()
    data = pattern(4000)
    bench.app.send(c.conn, data)
    bench.app.shutdown(c.conn)
    bench.turn()
    for _ in range(100):
        c.drain()
        if c.ack == 4002:
            break
        c.inject(".")
        bench.advance(ms=1)
    assert bytes(c.sent[1:]) == data
    assert c.fin_at == 4001
    c.inject(".", ack=4002)
    assert c.state == "FIN_WAIT_2"
    assert c.conn.sent == 4000


def test_send_after_shutdown_is_refused(bench: Bench) -> None:
    c = bench.fin_wait_2()
    before = bench.stats().requests_rejected
    reply(bench, c, b"one more thing")
    assert bench.stats().requests_rejected == before + 1
    c.silent()


def test_close_lets_replies_out_first(bench: Bench) -> None:
    c = bench.close_wait()
    bench.app.send(c.conn, b"goodbye")
    bench.app.close(c.conn)
    bench.turn()
    assert b"".join(s.data for s in c.drain()) == b"goodbye"
    assert c.fin_at == 8
    c.inject(".", ack=9)
    assert c.state == "CLOSED"


def test_replies_of_many_connections_do_not_mix(bench: Bench) -> None:
    peers = [bench.established() for _ in range(20)]
    for round_ in range(3):
        for n, c in enumerate(peers):
            bench.app.send(c.conn, pattern(700, seed=10 * n + round_))
    bench.turn()
    for n, c in enumerate(peers):
        want = b"".join(pattern(700, seed=10 * n + r) for r in range(3))
        assert acked_to_the_end(bench, c, 2100) == want


def test_reply_beyond_the_limit_resets_with_enobufs(bench: Bench) -> None:
    import errno

    c = bench.established(win=0)
    reply(bench, c, pattern(REPLY_MAX))
    reply(bench, c, b"x")
    assert c.conn.reset == errno.ENOBUFS
    c.drain()


def test_data_and_reply_in_both_directions(bench: Bench) -> None:
    c = bench.established()
    for n in range(50):
        c.inject("P.", data=pattern(300, seed=n))
        reply(bench, c, pattern(200, seed=100 + n))
        c.drain()
    bench.advance(ms=50)
    c.drain()
    c.inject(".")
    assert c.data == b"".join(pattern(300, seed=n) for n in range(50))
    assert bytes(c.sent[1:]) == b"".join(pattern(200, seed=100 + n) for n in range(50))


def test_exhausted_host_pages_delay_and_do_not_lose(make_bench: MakeBench) -> None:
    """Every TX page is in transmission: what is due is sent once pages come back."""
    bench = make_bench(pages=16)
    bench.hold_tx = True
    c = bench.established()
    data = pattern(100_000)
    for at in range(0, len(data), 1000):
        c.inject(".", data=data[at : at + 1000])
    assert bench.stats().pages_free == 0
    c.drain()
    bench.tx_complete()
    bench.hold_tx = False
    bench.turn()
    c.inject(".", seq=100_001, data=b"!")
    c.expect_acked(100_002)
    assert c.data == data + b"!"


def test_a_fin_that_found_no_host_page_is_sent_later(make_bench: MakeBench) -> None:
    """Nothing else is unacknowledged, so nothing else would ever bring it about."""
    bench = make_bench(pages=16)
    bench.hold_tx = True
    c = bench.established()
    for at in range(0, 40_000, 1000):
        c.inject(".", data=pattern(1000, seed=at))
    assert bench.stats().pages_free == 0
    c.drain()
    bench.app.shutdown(c.conn)
    bench.turn()
    assert not c.drain()
    bench.hold_tx = False
    bench.tx_complete()
    bench.turn()
    bench.advance(2000)
    assert any("F" in segment.flags for segment in c.drain())


def test_replies_do_not_take_the_pages_that_acks_need(make_bench: MakeBench) -> None:
    """Peers that shut their windows keep replies in host pages; everybody else must be answered."""
    bench = make_bench(pages=16)
    deaf = [bench.established(win=0) for _ in range(2)]
    for c, length in zip(deaf, (60_000, 3000), strict=True):
        reply(bench, c, pattern(length))
    other = bench.established()
    other.inject("P.", data=b"hello")
    other.expect_acked(6)
    for c in deaf:
        c.drain()


def test_completion_of_a_page_that_is_not_in_transmission_is_ignored(bench: Bench) -> None:
    from devmemtcp.stack._stack import lib

    for page in (0, 1, 63, 64, 1 << 31, 0xFFFFFFFF):
        lib.stack_tx_done(bench.stack, page)
    bench.check()
    bench.assert_home()
