# SPDX-License-Identifier: Apache-2.0
"""SYN cookies (RFC 4987 3.6): handshakes of which nothing is remembered, while there is no room."""

from __future__ import annotations

import pytest

from .tcp.bench import LOCAL4, MS, SECOND, Bench, MakeBench, Peer, pattern
from .tcp.wire import Address

OTHER = Address(LOCAL4.ip, 5001, LOCAL4.mac)
ANY6 = Address(bytes(16), 5000)


def flood(bench: Bench, nr: int, local: Address = LOCAL4) -> None:
    """SYNs that nobody will acknowledge."""
    for n in range(nr):
        c = bench.peer(ip=bytes((198, 51, 100, 1 + n % 250)), local=local)
        c.inject("S", seq=0)
        c.drain()


@pytest.fixture
def full(make_bench: MakeBench) -> Bench:
    """The backlog of its listener is full of embryos."""
    bench = make_bench(flows=64, listen=False)
    bench.listen(backlog=4)
    flood(bench, 4)
    return bench


def cookie(bench: Bench, **kwargs: object) -> Peer:
    """A peer whose SYN was answered, and forgotten."""
    before = bench.stats()
    c = bench.peer(**kwargs)
    c.forgotten = True
    c.inject("S", seq=0)
    c.expect("S.", seq=0, ack=1)
    after = bench.stats()
    assert after.syncookies_sent == before.syncookies_sent + 1
    assert after.flows_now == before.flows_now
    assert after.rcv_wnd_promised == before.rcv_wnd_promised
    return c


def works(c: Peer, text: bytes = b"alive") -> None:
    start = c.seq
    c.inject("P.", data=text)
    c.expect_acked(start + len(text))
    assert c.data.endswith(text)


# ---- what a cookie is, and what becomes of it ----


@pytest.mark.parametrize("family", [4, 6])
def test_a_full_backlog_answers_with_cookies(make_bench: MakeBench, family: int) -> None:
    bench = make_bench(listen=False)
    bench.listen(Address(bytes(16 if family == 6 else 4), 5000), backlog=4, family=family)
    for _ in range(4):
        bench.peer(family=family).inject("S", seq=0)
    assert bench.stats().syncookies_sent == 0
    c = cookie(bench, family=family)
    c.inject(".", seq=1, ack=1)
    c.silent()
    assert c.state == "ESTABLISHED"
    assert c.conn.peer == (c.addr.ip, c.addr.port)
    assert bench.stats().syncookies_recv == 1
    works(c)


def test_the_segment_that_brings_the_cookie_brings_data_and_fin(full: Bench) -> None:
    c = cookie(full)
    c.inject("FP.", seq=1, ack=1, data=b"hello")
    c.expect_acked(7)
    assert c.data == b"hello"
    assert c.state == "CLOSE_WAIT"
    assert c.conn.eof


def test_the_window_that_was_told_is_there(full: Bench) -> None:
    c = cookie(full)
    data = pattern(c.window)
    assert len(data) == 2 * 1460
    c.inject(".", seq=1, ack=1)
    c.send_stream(data)
    c.expect_acked(1 + len(data))
    assert c.data == data
    assert c.window > len(data)


@pytest.mark.parametrize("sackok", [True, False])
@pytest.mark.parametrize("ws", [None, 0, 7, 14])
def test_timestamps_bring_the_options_back(full: Bench, ws: int | None, sackok: bool) -> None:
    c = cookie(full, ws=ws, sackok=sackok, win=100)
    c.inject(".", seq=1, ack=1)
    c.inject(".", seq=11, data=pattern(10))
    c.expect(".", ack=1, sack=[(11, 21)] if sackok else [])
    c.inject(".", seq=1, data=pattern(10))
    c.expect_acked(21)
    full.app.send(c.conn, pattern(2000))
    full.turn()
    sent = sum(len(s.data) for s in c.drain())
    assert sent == min(2000, 100 << (ws or 0)), "the window is scaled as was agreed"
    assert (c.rcv_wscale > 0) == (ws is not None)


def test_without_timestamps_no_option_is_agreed_upon(full: Bench) -> None:
    c = cookie(full, ts=None, win=100)
    assert (c.rcv_wscale, c.sack_on) == (0, False)
    c.inject(".", seq=1, ack=1)
    full.app.send(c.conn, pattern(2000))
    full.turn()
    assert sum(len(s.data) for s in c.drain()) == 100
    c.inject(".", seq=11, data=pattern(10))
    c.expect(".", ack=1, sack=[])


@pytest.mark.parametrize("ts", [1000, None])
@pytest.mark.parametrize("flags", ["S", "SEW"])
def test_ecn_comes_back_with_timestamps_only(full: Bench, flags: str, ts: int | None) -> None:
    c = full.peer(ts=ts)
    c.forgotten = True
    c.inject(flags, seq=0)
    agreed = flags == "SEW" and ts is not None
    c.expect("SE." if agreed else "S.", seq=0, ack=1)
    c.inject(".E", seq=1, ack=1)
    c.inject("P.", data=b"congested", tos=3)
    assert ("E" in c.expect_acked(10).flags) == agreed
    assert full.stats().syncookies_recv == 1


def test_timestamps_that_the_acknowledgment_lacks_are_not_used(full: Bench) -> None:
    c = cookie(full)
    c.ts_on = c.sack_on = False
    c.rcv_wscale = c.snd_wscale = 0
    c.inject(".", seq=1, ack=1)
    works(c)


@pytest.mark.parametrize(
    ("mss", "sent"),
    [(None, 536), (64, 64), (100, 64), (536, 536), (1219, 536), (1299, 1220), (1460, 1460),
     (9000, 1460)],
)  # fmt: skip
def test_the_mss_comes_back_no_larger_than_it_was(full: Bench, mss: int | None, sent: int) -> None:
    c = cookie(full, mss=mss)
    c.inject(".", seq=1, ack=1)
    full.app.send(c.conn, pattern(1500))
    full.turn()
    assert max(len(s.data) for s in c.drain()) == sent - 12  # the timestamps


def test_time_never_goes_back_behind_a_cookie(full: Bench) -> None:
    """Its timestamp, too, has to be no later than the next: the peer would drop that (PAWS)."""
    for n in range(60):
        c = cookie(full, port=3000 + n, ws=n % 15)  # the far end sees to it
        c.inject(".", seq=1, ack=1)
        works(c)
        full.app.abort(c.conn)
        full.advance(1)
        c.drain()


# ---- what is no cookie ----


def refused(c: Peer, seq: int = 1, ack: int = 1) -> None:
    before = c.bench.stats()
    c.inject(".", seq=seq, ack=ack)
    answer = c.take()
    assert answer.flags == {"R"}
    after = c.bench.stats()
    assert after.syncookies_failed == before.syncookies_failed + 1
    assert after.drops("NO_FLOW") == before.drops("NO_FLOW") + 1
    assert after.flows_now == before.flows_now


@pytest.mark.parametrize("ack", [0, 2, 9, 1 + (1 << 24), 1 - (1 << 24), -(1 << 31)])
def test_another_acknowledgment_is_reset(full: Bench, ack: int) -> None:
    c = cookie(full)
    refused(c, ack=ack)
    c.inject(".", seq=1, ack=1)
    assert c.state == "ESTABLISHED"


@pytest.mark.parametrize("seq", [0, 2, 1449, -5])
def test_another_sequence_number_is_reset(full: Bench, seq: int) -> None:
    refused(cookie(full), seq=seq)


def test_a_cookie_is_of_one_four_tuple(full: Bench) -> None:
    c = cookie(full)
    for other in (full.peer(isn=c.isn), full.peer(ip=bytes((192, 0, 2, 3)), isn=c.isn)):
        other.irs = c.irs
        refused(other)


def test_guesses_fail(full: Bench) -> None:
    c = cookie(full)
    for n in range(20_000):
        c.inject(".", seq=1, raw_ack=n * 0x9E3779B1 & 0xFFFFFFFF)
    assert len(c.drain()) == 20_000
    assert full.stats().syncookies_recv == 0
    assert full.stats().syncookies_failed == 20_000


@pytest.mark.parametrize(("seconds", "good"), [(20, True), (87, True), (89, False), (1000, False)])
def test_cookies_grow_old(full: Bench, seconds: int, good: bool) -> None:
    """Slots of 64 s, of which the last two are good; the bench begins at 1000 s."""
    assert full.now == 1000 * SECOND
    c = cookie(full)
    full.advance(seconds * 1000)
    flood(full, 5)
    if good:
        c.inject(".", seq=1, ack=1)
        assert c.state == "ESTABLISHED"
    else:
        refused(c)


def test_cookies_are_looked_at_only_while_they_are_about(full: Bench, bench: Bench) -> None:
    """The other stack has the same keys and the same time, and has sent none."""
    assert full.now == bench.now
    c = cookie(full)
    d = bench.peer(port=c.addr.port)
    d.irs = c.irs
    d.inject(".", seq=1, ack=1)
    assert "R" in d.take().flags
    assert bench.stats().syncookies_failed == 0
    assert not bench.flows()


def test_cookies_of_another_listener_do_not_count(full: Bench) -> None:
    full.listen(OTHER)
    cookie(full)
    c = full.peer(local=OTHER)
    c.inject(".", seq=1, ack=1)
    assert "R" in c.take().flags
    assert full.stats().syncookies_failed == 0


def test_the_key_is_another_with_each_start(make_bench: MakeBench, full: Bench) -> None:
    other = make_bench(listen=False, cookie_key=bytes(16))
    other.listen(backlog=1)
    flood(other, 1)
    c = cookie(full)
    d = cookie(other, port=c.addr.port)
    assert d.irs != c.irs
    d.irs = c.irs
    refused(d)


def test_a_listener_that_is_gone_takes_no_cookie(make_bench: MakeBench) -> None:
    bench = make_bench(listen=False)
    listener = bench.listen(backlog=1)
    flood(bench, 1)
    c = cookie(bench)
    bench.unlisten(listener)
    c.inject(".", seq=1, ack=1)
    assert "R" in c.take().flags
    assert c.info is None


@pytest.mark.parametrize("flags", ["S.", "SF.", "SR."])
def test_a_syn_is_never_the_acknowledgment_of_a_cookie(full: Bench, flags: str) -> None:
    c = cookie(full)
    c.inject(flags, seq=1, ack=1)
    assert c.info is None
    c.drain()


# ---- again ----


def test_replayed_while_the_connection_is_open_it_is_a_duplicate(full: Bench) -> None:
    c = cookie(full)
    for _ in range(5):
        c.inject("P.", seq=1, ack=1, data=b"hello")
        full.advance(40)
    assert c.data == b"hello"
    assert full.stats().syncookies_recv == 1
    c.drain()


def test_replayed_afterwards_it_opens_what_its_peer_could_open_anyway(full: Bench) -> None:
    c = cookie(full)
    c.inject("P.", seq=1, ack=1, data=b"hello")
    flows = full.stats().flows_now
    for _ in range(3):
        c.drain()
        c.inject("R", seq=6)
        full.app.close(c.conn)
        full.turn()
        c.conn_ = None
        c.inject("P.", seq=1, ack=1, data=b"hello")
        assert c.data == b"hello"
        assert full.stats().flows_now == flows


def test_a_syn_sent_twice_may_be_acknowledged_by_its_cookie(full: Bench) -> None:
    """First there was no room, then there was; the peer goes by the first answer."""
    c = cookie(full)
    full.advance(1100)  # the embryos may go now
    second = full.peer(port=c.addr.port, isn=c.isn)
    second.inject("S", seq=0)
    second.expect("S.")
    assert second.state == "SYN_RECEIVED"
    assert second.irs != c.irs
    full.peers[(c.addr.ip, c.addr.port, c.local.ip, c.local.port)] = c
    c.inject("P.", seq=1, ack=1, data=b"the first")
    c.expect_acked(10)
    assert c.data == b"the first"
    assert c.state == "ESTABLISHED"


# ---- who gets a slot ----


def test_embryos_leave_half_of_the_free_slots_to_those_who_answer(make_bench: MakeBench) -> None:
    """A backlog larger than the table is no bound."""
    bench = make_bench(flows=64, listen=False)
    bench.listen(backlog=10_000)
    flood(bench, 64)
    assert len(bench.flows()) == 32
    assert bench.stats().syncookies_sent == 32
    clients = [cookie(bench) for _ in range(33)]
    for c in clients[:32]:
        c.inject(".", seq=1, ack=1)
        assert c.state == "ESTABLISHED"
    late = clients[32]
    late.inject("P.", seq=1, ack=1, data=b"late")  # the embryos are too young to be given up
    late.silent()
    assert bench.stats().drops("NO_MEMORY") == 1
    bench.advance(1100)
    late.inject("P.", seq=1, ack=1, data=b"late")
    late.expect_acked(5)
    assert late.data == b"late"


def test_an_embryo_gives_way_once_its_syn_ack_has_timed_out(full: Bench) -> None:
    cookie(full)
    full.advance(1100)
    c = full.peer()
    c.inject("S", seq=0)
    c.expect("S.")
    assert c.state == "SYN_RECEIVED"
    assert full.stats().syncookies_sent == 1


def test_a_table_full_of_connections_sends_no_cookie(make_bench: MakeBench) -> None:
    bench = make_bench(flows=4)
    for _ in range(4):
        bench.established()
    late = bench.peer()
    late.inject("S", seq=0)
    late.silent()
    assert bench.stats().drops("BACKLOG") == 1


def test_the_acknowledgment_waits_for_room_in_its_application(make_bench: MakeBench) -> None:
    bench = make_bench(listen=False)
    few = bench.open_app(conns=2)
    bench.listen(OTHER, app=few, backlog=1)
    flood(bench, 1, OTHER)
    first, second, third = [cookie(bench, local=OTHER, app=few) for _ in range(3)]
    for c in (first, second):
        c.inject(".", seq=1, ack=1)
    third.inject("P.", seq=1, ack=1, data=b"patient")
    third.silent()
    assert bench.stats().drops("BACKLOG") == 1
    few.abort(first.conn)
    bench.turn()
    first.drain()
    third.inject("P.", seq=1, ack=1, data=b"patient")
    third.expect_acked(8)
    assert third.data == b"patient"


# ---- what a flood leaves alone ----


def test_a_flood_costs_no_memory_and_no_window(full: Bench) -> None:
    works(c := full.established())
    before = full.stats()
    flood(full, 3000)
    after = full.stats()
    assert after.syncookies_sent == before.syncookies_sent + 3000
    assert after.flows_now == before.flows_now
    assert after.rcv_wnd_promised == before.rcv_wnd_promised
    assert after.pages_free == before.pages_free
    works(c, b"through the flood")


@pytest.mark.parametrize("flags", ["S", "."], ids=["SYN", "stray ACK"])
def test_answers_to_strangers_leave_pages_to_connections(make_bench: MakeBench, flags: str) -> None:
    bench = make_bench(pages=64, listen=False)
    bench.listen(backlog=1)
    c = bench.established()
    bench.hold_tx = True
    for n in range(200):
        stranger = bench.peer(port=2000 + n)
        stranger.inject(flags, seq=0)
        stranger.drain()
    assert bench.stats().pages_free == 64 // 2
    works(c)
    bench.hold_tx = False
    bench.tx_complete()


def test_answers_to_strangers_leave_pages_to_replies(make_bench: MakeBench) -> None:
    """A reply that finds no page would end its connection."""
    bench = make_bench(pages=64, flows=256)
    c = bench.established()
    bench.hold_tx = True
    for _ in range(200):
        stranger = bench.peer()
        stranger.forgotten = True
        stranger.inject("S", seq=0)
    bench.app.send(c.conn, b"hello")
    bench.turn()
    bench.hold_tx = False
    bench.turn()
    assert c.state == "ESTABLISHED"
    assert c.take().data == b"hello"


def test_a_client_is_in_at_once_whatever_the_rate(full: Bench) -> None:
    for _ in range(20):
        flood(full, 100)
        c = cookie(full)
        c.inject("P.", seq=1, ack=1, data=b"in")
        c.expect_acked(3)
        full.now += MS
