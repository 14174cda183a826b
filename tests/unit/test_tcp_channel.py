# SPDX-License-Identifier: Apache-2.0
"""The channel to the application: tokens, replies, and an application that is hostile."""

from __future__ import annotations

import errno
import random
import struct

import pytest

from devmemtcp.stack._stack import ffi, lib

from .tcp import app as application
from .tcp.bench import Bench, MakeBench, Peer, pattern


@pytest.fixture
def holding(bench: Bench) -> tuple[Bench, Peer]:
    """A bench whose application holds three tokens of one connection."""
    bench.app.hold = True
    c = bench.established()
    for n in range(3):
        c.inject(".", data=pattern(100, seed=n))
    bench.advance(ms=40)
    c.drain()
    assert len(c.conn.held) == 3
    return bench, c


def ask(bench: Bench, kind: int, flow: int, a: int = 0, b: int = 0) -> int:
    """One request; how many more were rejected than before."""
    before = bench.stats().requests_rejected
    bench.app.request(kind, flow, a, b)
    bench.turn()
    return bench.stats().requests_rejected - before


# ---- tokens ----


def test_token_returns_once(holding: tuple[Bench, Peer]) -> None:
    bench, c = holding
    first = min(c.conn.held)
    bench.app.give_back(c.conn, first)
    bench.turn()
    assert bench.stats().tokens_outstanding == 2
    assert ask(bench, application.DONTNEED, c.conn.flow, first, 1) == 1
    assert bench.stats().tokens_outstanding == 2
    assert bench.in_flight() == 2


def test_tokens_return_in_any_order(holding: tuple[Bench, Peer]) -> None:
    bench, c = holding
    for token in sorted(c.conn.held, reverse=True):
        bench.app.give_back(c.conn, token)
        bench.turn()
    assert bench.stats().tokens_outstanding == 0
    assert bench.in_flight() == 0


def test_a_run_of_tokens_returns_in_one_request(bench: Bench) -> None:
    bench.app.hold = True
    c = bench.established()
    c.send_stream(pattern(50), 1)
    c.drain()
    tokens = sorted(c.conn.held)
    if tokens == list(range(tokens[0], tokens[0] + 50)):
        assert ask(bench, application.DONTNEED, c.conn.flow, tokens[0], 50) == 0
        c.conn.held.clear()
        assert bench.stats().tokens_outstanding == 0


@pytest.mark.parametrize(
    ("first", "count"),
    [(0, 1), (0xFFFFFFFF, 1), (1 << 31, 1), (100_000, 1), (1 << 30, 0xFFFFFFFF), (1, 0)],
)
def test_bogus_tokens_are_rejected(holding: tuple[Bench, Peer], first: int, count: int) -> None:
    bench, c = holding
    rejected = ask(bench, application.DONTNEED, c.conn.flow, first, count)
    assert rejected >= 1 or count == 0
    assert bench.stats().tokens_outstanding == 3


def test_a_run_that_covers_too_much_harms_no_other_connection(holding: tuple[Bench, Peer]) -> None:
    bench, c = holding
    other = bench.established()
    other.inject(".", data=b"mine")
    bench.advance(ms=40)
    ask(bench, application.DONTNEED, c.conn.flow, 0, 0xFFFFFFFF)
    assert other.info.tokens == 1
    frag = other.conn.frags[0]
    assert bytes(bench.region[frag.offset : frag.offset + 4]) == b"mine"
    assert not bench.nic_may_write(frag.offset // application.STACK_CHUNK)
    c.conn.held.clear()


def test_tokens_of_another_connection_are_rejected(holding: tuple[Bench, Peer]) -> None:
    bench, c = holding
    other = bench.established()
    other.inject(".", data=b"mine")
    for token in tuple(other.conn.held):
        if token not in c.conn.held:
            assert ask(bench, application.DONTNEED, c.conn.flow, token, 1) == 1
    assert other.info.tokens == 1
    assert c.info.tokens == 3


@pytest.mark.parametrize("flip", [1, 1 << 20, 1 << 31, 0xFFFFFFFF])
def test_flow_ids_that_mean_nothing_are_rejected(holding: tuple[Bench, Peer], flip: int) -> None:
    bench, c = holding
    for kind in range(application.DONTNEED, application.ABORT + 1):
        assert ask(bench, kind, c.conn.flow ^ flip, min(c.conn.held), 1) == 1
    assert bench.stats().tokens_outstanding == 3
    assert c.state == "ESTABLISHED"


def test_requests_for_a_closed_connection_are_rejected(holding: tuple[Bench, Peer]) -> None:
    bench, c = holding
    flow, token = c.conn.flow, min(c.conn.held)
    bench.app.abort(c.conn)
    bench.turn()
    c.drain()
    assert c.conn.closed
    assert bench.stats().tokens_outstanding == 0, "closing gives every token back"
    for kind in range(application.DONTNEED, application.ABORT + 1):
        assert ask(bench, kind, flow, token, 1) == 1
    again = bench.established()
    assert again.conn.flow != flow, "an id is not used twice in a row"


def test_requests_after_close_are_rejected_while_the_protocol_goes_on(
    holding: tuple[Bench, Peer],
) -> None:
    bench, c = holding
    token = min(c.conn.held)
    bench.app.close(c.conn)
    bench.turn()
    c.expect("F.", seq=1)
    for kind in range(application.DONTNEED, application.ABORT + 1):
        assert ask(bench, kind, c.conn.flow, token, 1) == 1
    assert c.state == "FIN_WAIT_1"
    c.silent()


def test_close_takes_every_token_back(holding: tuple[Bench, Peer]) -> None:
    bench, c = holding
    bench.app.close(c.conn)
    bench.turn()
    c.expect("F.")
    assert bench.stats().tokens_outstanding == 0
    assert bench.in_flight() == 0


def test_unknown_kinds_are_rejected(holding: tuple[Bench, Peer]) -> None:
    bench, c = holding
    for kind in (0, 6, 7, 255, 1 << 31, 0xFFFFFFFF):
        assert ask(bench, kind, c.conn.flow, 1, 1) == 1
    assert c.state == "ESTABLISHED"


@pytest.mark.parametrize(
    ("position", "length"),
    [
        (application.REPLY_BYTES, 1),
        (0xFFFFFFFF, 2),
        (0, application.REPLY_MAX + 1),
        (1, 0xFFFFFFFF),
        (0x80000000, 0x80000000),
    ],
)
def test_replies_outside_the_reply_bytes_are_rejected(
    bench: Bench, position: int, length: int
) -> None:
    c = bench.established()
    assert ask(bench, application.SEND, c.conn.flow, position, length) == 1
    assert not [s for s in c.drain() if s.data]


def test_a_reply_may_wrap_around_the_end_of_the_reply_bytes(bench: Bench) -> None:
    c = bench.established()
    bench.app.place_reply(application.REPLY_BYTES - 3, b"abc")
    bench.app.place_reply(0, b"defg")
    assert ask(bench, application.SEND, c.conn.flow, application.REPLY_BYTES - 3, 7) == 0
    assert b"".join(s.data for s in c.drain()) == b"abcdefg"


# ---- hostile rings ----


@pytest.mark.parametrize("seed", range(20))
def test_random_requests_never_break_an_invariant(make_bench: MakeBench, seed: int) -> None:
    rng = random.Random(seed)
    bench = make_bench(niovs=128, fill=32)
    bench.app.hold = True
    peers = [bench.established() for _ in range(4)]
    for turn in range(40):
        for c in peers:
            if c.accepted:
                c.inject(".", data=pattern(10, seed=turn))
        flows = [c.conn.flow for c in peers] + [0, 1, 0xFFFFFFFF, rng.getrandbits(32)]
        entries = b"".join(
            struct.pack(
                "<IIII",
                rng.choice([0, 1, 1, 1, 2, 2, 3, 4, 5, 6, rng.getrandbits(32)]),
                rng.choice(flows),
                rng.choice([0, 1, 2, 3, 10, rng.randrange(1 << 18), rng.getrandbits(32)]),
                rng.choice([0, 1, 2, 100, 0xFFFFFFFF, rng.getrandbits(32)]),
            )
            for _ in range(bench.app.nr_requests)
        )
        tail = bench.app.tails()[1]
        bench.app.scribble(entries, tail + rng.randrange(6))
        bench.turn()
        for c in peers:
            c.inbox.clear()
    bench.app.scribble(b"", bench.app.tails()[1])
    for c in peers:
        c.conn.held.clear()


@pytest.mark.parametrize("ahead", [1 << 31, 0xFFFFFFFF, 5000, -1])
def test_a_request_head_that_lies_is_bounded(bench: Bench, ahead: int) -> None:
    c = bench.established()
    c.inject(".", data=b"x")
    bench.advance(ms=40)
    tail = bench.app.tails()[1]
    bench.app.scribble(b"", tail + ahead)
    for _ in range(4):
        assert lib.stack_requests(bench.stack, bench.now) == 0
        bench.check()
    assert lib.stack_next_deadline(bench.stack) > bench.now, "nonsense is not work that is left"
    bench.app.scribble(b"", bench.app.tails()[1])
    bench.turn()
    c.inbox.clear()


@pytest.mark.parametrize("tail", [1 << 31, 0xFFFFFFFF, 12345, 7])
def test_an_event_tail_that_lies_does_no_harm(make_bench: MakeBench, tail: int) -> None:
    bench = make_bench()
    bench.app.paused = True
    peers = [bench.peer() for _ in range(5)]
    bench.app.set_event_tail(tail)
    for c in peers:
        c.inject("S", seq=0)
        c.expect("S.")
        c.inject(".", seq=1, ack=1)
        c.inject(".", data=pattern(1000))
        c.inject("R")
        c.inbox.clear()
        bench.check()
    bench.close_app(bench.app)
    bench.assert_home()
    for c in peers:
        c.inbox.clear()


def test_channel_header_overwritten_by_the_application(bench: Bench) -> None:
    """Geometry comes from private copies: a new header changes nothing."""
    c = bench.established()
    bench.channels[0][0:64] = b"\xff" * 64
    c.inject("FP.", data=b"hello")
    c.expect_acked(7)
    assert c.data == b"hello"


# ---- an application that does not consume, or is gone ----


def test_events_wait_for_an_application_that_pauses(bench: Bench) -> None:
    bench.app.paused = True
    c = bench.peer()
    c.inject("S", seq=0)
    c.expect("S.")
    c.inject(".", seq=1, ack=1)
    data = pattern(60_000)
    sent = 0
    while sent < len(data) and c.window - (c.seq - c.max_ack) >= 1000:
        c.inject(".", data=data[sent : sent + 1000])
        sent += 1000
        bench.advance(ms=40)
        c.drain()
    c.inject("F.")
    c.expect_acked(1 + sent + 1)
    assert bench.app.waiting() > 0
    assert not bench.app.conns
    bench.app.paused = False
    bench.turn()
    assert c.data == data[:sent]
    assert c.conn.eof


def test_a_small_application_consumes_one_event_at_a_time(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=64, fill=16, flows=4)
    bench.app.paused = True
    c = bench.peer()
    c.inject("S", seq=0)
    c.expect("S.")
    c.inject(".", seq=1, ack=1)
    data = pattern(50_000)
    while c.max_ack < 1 + len(data):
        room = c.window - (c.seq - c.max_ack)
        size = min(500, room, len(data) + 1 - c.seq)
        if size > 0:
            c.inject(".", data=data[c.seq - 1 : c.seq - 1 + size])
        bench.advance(ms=40)
        bench.app.poll(limit=1)
        bench.turn()
        c.drain()
    bench.app.paused = False
    bench.turn()
    assert c.data == data


def test_churn_while_the_application_sleeps(make_bench: MakeBench) -> None:
    """Connections come and go; ACCEPT, RESET, CLOSED of each must still be delivered in order."""
    bench = make_bench(flows=16)
    bench.app.paused = True
    for n in range(200):
        c = bench.peer()
        c.inject("S", seq=0)
        if not any("S" in s.flags for s in c.drain()):
            continue
        c.inject(".", seq=1, ack=1)
        c.inject(".", data=pattern(10, seed=n))
        c.inject("R")
        c.drain()
    bench.app.paused = False
    bench.turn()
    assert bench.app.conns
    assert all(conn.reset for conn in bench.app.conns.values())


def test_events_pushed_counts_what_was_pushed(bench: Bench) -> None:
    c = bench.established()
    assert bench.events_pushed == 1
    c.inject(".", data=b"x")
    c.inject("F.")
    assert bench.events_pushed == 3
    assert lib.stack_events_pushed(bench.stack, bench.app.number) == 0
    c.drain()


def test_application_gone_resets_and_reclaims(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.app.hold = True
    states = ["established", "close_wait", "fin_wait_1", "fin_wait_2", "closing"]
    peers = [getattr(bench, state)() for state in states]
    peers[0].inject(".", data=pattern(1000))
    peers[0].inject(".", seq=2001, data=pattern(1000))
    bench.advance(ms=40)
    for c in peers:
        c.drain()
    bench.close_app(bench.app)
    for c in peers[:4]:
        assert any("R" in s.flags for s in c.drain()), c.addr.port
    now = bench.stats()
    assert now.tokens_outstanding == 0
    assert (now.niovs_lent, now.niovs_ooo, now.niovs_queued) == (0, 0, 0)
    bench.check()


def test_application_gone_in_the_middle_of_a_batch(bench: Bench) -> None:
    """Bytes in order, and an ACK that is due, when there is nobody left to have them."""
    c = bench.established()
    bench.app.paused = True
    with bench.batch():
        c.inject(".", data=pattern(1000))
        bench.close_app(bench.app)
    assert any("R" in s.flags for s in c.drain())
    bench.assert_home()


def test_application_gone_twice_and_with_nothing_open(bench: Bench) -> None:
    bench.close_app(bench.app)
    assert lib.stack_app_close(bench.stack, bench.app.number) == -errno.ENOENT
    bench.assert_home()


# ---- looking inside ----


def test_frag_records_follow_a_buffer_through_its_states(bench: Bench) -> None:
    bench.app.hold = True
    c = bench.established()
    c.inject(".", data=pattern(100))
    c.inject(".", seq=201, data=pattern(100))
    frag = c.conn.frags[0]
    record = ffi.new("struct frag_record *")
    seen: dict[int, int] = {}
    for n in range(bench.nr_niovs + bench.nr_pages):
        assert lib.stack_frag(bench.stack, n, record) == 0
        seen[record.state] = seen.get(record.state, 0) + 1
        if record.kind == lib.FRAG_NET_IOV and record.state == lib.FRAG_LENT:
            assert record.offset == frag.offset // 4096 * 4096
            assert record.owner == c.conn.flow
        if record.state in (lib.FRAG_FREE, lib.FRAG_FILL):
            assert record.owner == 0
    assert lib.stack_frag(bench.stack, bench.nr_niovs + bench.nr_pages, record) < 0
    assert seen[lib.FRAG_LENT] == 1
    assert seen[lib.FRAG_OOO] == 1
    assert seen[lib.FRAG_FILL] == bench.fill_level()
    c.drain()


def test_flow_info_and_stats_agree_with_the_wire(bench: Bench) -> None:
    c = bench.established()
    c.inject(".", data=pattern(1000))
    c.inject(".", seq=2001, data=pattern(1000))
    c.drain()
    info = c.info
    assert (info.rcv_nxt - c.isn) & 0xFFFFFFFF == 1001
    assert (info.snd_nxt - c.irs) & 0xFFFFFFFF == 1
    assert info.snd_una == info.snd_nxt
    assert info.ooo_frags == 1
    assert info.rx_bytes == 1000
    assert bytes(info.local.ip) == c.local.mapped
    assert info.local.port == 5000
    assert info.id == c.conn.flow
    now = bench.stats()
    assert now.rx_ooo_segments == 1
    assert now.flows_opened == now.flows_established == now.flows_now == 1


def test_flows_are_listed_once_each_past_slots_that_are_free(make_bench: MakeBench) -> None:
    bench = make_bench(flows=5)
    peers = [bench.established() for _ in range(5)]
    for c in (peers[1], peers[4]):
        bench.app.abort(c.conn)
        bench.turn()
        c.drain()
    ports = sorted(info.peer.port for info in bench.flows())
    assert ports == sorted(c.addr.port for c in (peers[0], peers[2], peers[3]))
    info = ffi.new("struct flow_info *")
    for beyond in (5, 6, 0xFFFFFFFF):
        assert lib.stack_flow(bench.stack, beyond, info) < 0
