# SPDX-License-Identifier: Apache-2.0
"""Several applications: none reaches what is another's, and none holds another up."""

from __future__ import annotations

import errno
import random
import struct

import pytest

from devmemtcp.stack._stack import ffi, lib

from .tcp import app as application
from .tcp.app import App
from .tcp.bench import LOCAL4, Bench, MakeBench, Peer, pattern
from .tcp.wire import Address

SECOND4 = Address(LOCAL4.ip, 5001, LOCAL4.mac)


class Pair:
    """Two applications of one stack, each with a listener and one connection."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.mine, self.other = bench.app, bench.open_app()
        self.listener = bench.listen(SECOND4, app=self.other)
        self.c = bench.established()
        self.d = self.connect()

    def connect(self) -> Peer:
        return self.bench.established(local=SECOND4, app=self.other)


@pytest.fixture
def pair(bench: Bench) -> Pair:
    return Pair(bench)


# ---- what belongs to whom ----


def test_connections_go_to_the_application_that_listens(pair: Pair) -> None:
    pair.c.inject("P.", data=b"first")
    pair.d.inject("P.", data=b"second")
    assert (pair.c.data, pair.d.data) == (b"first", b"second")
    assert list(pair.mine.conns) == [pair.c.conn.flow]
    assert list(pair.other.conns) == [pair.d.conn.flow]
    assert [pair.c.info.app, pair.d.info.app] == [0, 1]
    pair.c.drain()
    pair.d.drain()


def test_an_address_is_taken_whoever_listens_there(pair: Pair) -> None:
    assert pair.bench.listen(SECOND4) == -errno.EADDRINUSE
    assert pair.bench.listen(LOCAL4, app=pair.other) == -errno.EADDRINUSE


@pytest.mark.parametrize(
    "kind",
    [
        application.DONTNEED,
        application.SEND,
        application.SHUTDOWN,
        application.CLOSE,
        application.ABORT,
        application.BLOCK,
    ],
)
def test_requests_for_another_s_connection_are_refused(pair: Pair, kind: int) -> None:
    bench = pair.bench
    pair.other.hold = True
    pair.d.inject("P.", data=pattern(1000))
    bench.advance(ms=40)
    pair.d.drain()
    token = next(iter(pair.d.conn.held))
    before = bench.stats()
    pair.mine.request(kind, pair.d.conn.flow, token, 1)
    bench.turn()
    after = bench.stats()
    assert after.requests_rejected == before.requests_rejected + 1
    assert after.tokens_outstanding == 1
    assert pair.d.state == "ESTABLISHED"
    pair.d.silent()


def test_tokens_of_another_are_not_reached_through_one_s_own_connection(pair: Pair) -> None:
    bench = pair.bench
    pair.other.hold = True
    pair.d.inject("P.", data=pattern(1000))
    token = next(iter(pair.d.conn.held))
    pair.mine.request(application.DONTNEED, pair.c.conn.flow, token, 1)
    pair.mine.request(application.DONTNEED, pair.c.conn.flow, 0, 1024)
    bench.turn()
    assert bench.stats().tokens_outstanding == 1
    pair.d.drain()


def test_blocks_of_two_applications_do_not_mix(make_bench: MakeBench) -> None:
    bench = make_bench(bound=False)
    pair = Pair(bench)
    pair.mine.hold = pair.other.hold = True
    pair.c.inject("P.", data=b"mine")
    pair.d.inject("P.", data=b"another's")
    assert (pair.c.conn.blocks, pair.d.conn.blocks) == ([1], [1])  # each its own block 1
    assert (pair.c.data, pair.d.data) == (b"mine", b"another's")
    pair.mine.give_back_blocks(pair.c.conn)
    bench.turn()
    assert (pair.c.info.blocks, pair.d.info.blocks) == (0, 1)
    pair.c.drain()
    pair.d.drain()


# ---- the end of one ----


def test_the_end_of_an_application_is_the_end_of_what_it_had(pair: Pair) -> None:
    bench = pair.bench
    pair.other.hold = True
    pair.d.inject(".", data=pattern(1000))
    pair.d.inject(".", seq=2001, data=pattern(1000))
    embryo = bench.peer(local=SECOND4, app=pair.other)
    embryo.inject("S", seq=0)
    for c in (pair.d, embryo):
        c.drain()
    bench.close_app(pair.other)
    assert any("R" in s.flags for s in pair.d.drain())
    assert pair.d.info is None
    assert embryo.info is None
    assert bench.in_flight() == 0
    late = bench.peer(local=SECOND4, app=pair.other)
    late.inject("S", seq=0)
    assert "R" in late.expect("R.").flags
    pair.c.inject("P.", data=b"nobody else notices")
    assert pair.c.data == b"nobody else notices"
    pair.c.drain()


def test_what_an_application_had_closed_before_ends_in_good_order(pair: Pair) -> None:
    bench = pair.bench
    pair.other.close(pair.d.conn)
    bench.turn()
    pair.d.expect("F.", seq=1, ack=1)
    bench.close_app(pair.other)
    assert pair.d.info.app == lib.STACK_NONE
    pair.d.inject("F.", ack=2)
    pair.d.expect_acked(2)
    assert pair.d.state == "TIME_WAIT"
    bench.advance(ms=bench.time_wait_ms)
    assert pair.d.info is None


def test_numbers_of_applications_are_used_again_and_listeners_get_new_ids(pair: Pair) -> None:
    bench = pair.bench
    bench.close_app(pair.other)
    assert bench.unlisten(pair.listener) == -errno.ENOENT
    again = bench.open_app()
    assert again.number == pair.other.number
    listener = bench.listen(SECOND4, app=again)
    assert listener != pair.listener
    assert listener & 0xFFFF == pair.listener & 0xFFFF
    assert bench.unlisten(pair.listener) == -errno.ENOENT
    c = bench.established(local=SECOND4, app=again)
    assert c.conn.listener == listener
    assert bench.unlisten(listener) == 0
    assert bench.unlisten(listener) == -errno.ENOENT


def test_buffers_of_the_dead_open_the_windows_of_the_living(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=64, fill=32)
    pair = Pair(bench)
    pair.other.hold = True
    while pair.d.window - (pair.d.seq - pair.d.max_ack) >= 1448:
        pair.d.inject(".", data=pattern(1448))
        bench.advance(ms=1)
        pair.d.drain()
    pair.mine.hold = True
    while pair.c.window - (pair.c.seq - pair.c.max_ack) >= 1448:
        pair.c.inject(".", data=pattern(1448))
        bench.advance(ms=1)
        pair.c.drain()
    small = pair.c.window
    bench.close_app(pair.other)
    pair.d.drain()
    pair.c.drain()
    assert pair.c.window >= small + 4 * 1448


def test_applications_that_cannot_be(bench: Bench) -> None:
    for field, value in (
        ("nr_events", 3),
        ("nr_events", 0),
        ("nr_requests", 3),
        ("nr_requests", 1 << 25),
        ("nr_blocks", 0),
        ("nr_blocks", 1 << 30),
    ):
        config = bench.app_config()
        assert lib.stack_channel_size(bench._config, config) > 0
        setattr(config, field, value)
        assert lib.stack_channel_size(bench._config, config) == 0
    config = bench.app_config()
    channel = ffi.new("uint8_t[]", 1 << 20)
    memory = ffi.new("char[]", lib.stack_app_size(config))
    assert lib.stack_app_open(bench.stack, memory, config) == -errno.EINVAL  # no channel
    config.channel, config.channel_size = channel, 64
    assert lib.stack_app_open(bench.stack, memory, config) == -errno.EINVAL
    for number in (-1, 1, 8, 1 << 30):
        assert lib.stack_app_close(bench.stack, number) == -errno.ENOENT
        assert lib.stack_events_pushed(bench.stack, number) == 0
    nobody = App.__new__(App)
    nobody.number = 5
    assert bench.listen(SECOND4, app=nobody) == -errno.ENOENT


def test_there_are_as_many_applications_as_configured(make_bench: MakeBench) -> None:
    bench = make_bench(apps=2)
    bench.open_app()
    with pytest.raises(AssertionError, match=str(-errno.ENOSPC)):
        bench.open_app()


# ---- one that is hostile, or does not read ----


def test_a_ring_that_is_full_holds_up_nobody_else(make_bench: MakeBench) -> None:
    bench = make_bench()
    deaf = bench.open_app(events=4)
    bench.listen(SECOND4, app=deaf)
    deaf.paused = True
    silent = [bench.peer(local=SECOND4, app=deaf) for _ in range(6)]
    for c in silent:
        c.connect()
        c.inject(".", data=pattern(1000))
    c = bench.established()
    c.inject("P.", data=b"on time")
    assert c.data == b"on time"
    deaf.paused = False
    bench.advance(ms=10)
    assert [d.data for d in silent] == [pattern(1000)] * 6
    for d in (c, *silent):
        d.drain()


@pytest.mark.parametrize("tail", [1 << 31, 0xFFFFFFFF, 12345])
def test_an_event_tail_that_lies_harms_its_own(pair: Pair, tail: int) -> None:
    pair.other.paused = True
    pair.other.set_event_tail(tail)
    pair.d.inject("P.", data=b"never told")
    pair.c.inject("P.", data=b"told")
    assert pair.c.data == b"told"
    assert pair.d.data == b""
    pair.bench.close_app(pair.other)
    for c in (pair.c, pair.d):
        c.drain()


def requests(flow: int, nr: int) -> bytes:
    """A ring full of the most expensive request there is."""
    return struct.pack("<IIII", application.DONTNEED, flow, 1, 0xFFFFFFFF) * nr


def test_a_full_ring_of_nonsense_leaves_the_others_their_turn(pair: Pair) -> None:
    bench = pair.bench
    pair.other.paused = True
    pair.other.scribble(requests(pair.d.conn.flow, pair.other.nr_requests), pair.other.nr_requests)
    pair.mine.send(pair.c.conn, b"in the same turn")
    taken = lib.stack_requests(bench.stack, bench.now)
    assert 1 < taken < 20, "1024 attempts each: a few are a turn's budget"
    assert pair.other.room() > 0
    assert lib.stack_next_deadline(bench.stack) <= bench.now, "there is more to do at once"
    turns = 1
    while lib.stack_next_deadline(bench.stack) <= bench.now:
        assert lib.stack_requests(bench.stack, bench.now) > 0
        turns += 1
    assert turns > pair.other.nr_requests // 8
    assert pair.other.room() == pair.other.nr_requests
    assert bench.stats().requests_rejected == pair.other.nr_requests
    bench.turn()
    pair.c.expect(".", data=b"in the same turn")


def test_what_exceeds_the_budget_is_done_later_and_in_order(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=2048, fill=64)
    c = bench.established()
    size = 60_000
    for n in range(5):
        bench.app.send(c.conn, pattern(size // 10, seed=n))
    for _ in range(40):
        bench.app.request(application.DONTNEED, c.conn.flow, 0x7FFFF000, 1024)
    bench.app.send(c.conn, b"the last")
    lib.stack_requests(bench.stack, bench.now)
    assert lib.stack_next_deadline(bench.stack) <= bench.now
    bench.turn()
    got = bytearray()
    for _ in range(60):
        for s in c.drain():
            got += s.data
        c.inject(".")
        bench.advance(ms=5)
    assert bytes(got) == b"".join(pattern(size // 10, seed=n) for n in range(5)) + b"the last"


@pytest.mark.parametrize("seed", range(5))
def test_random_requests_of_one_do_not_reach_the_other(make_bench: MakeBench, seed: int) -> None:
    bench = make_bench(linear=16)
    pair = Pair(bench)
    pair.mine.hold = True
    pair.c.inject(".", data=pattern(1000))
    held = dict(pair.c.conn.held)
    rng = random.Random(seed)
    flows = [pair.c.conn.flow, pair.d.conn.flow, 0, rng.getrandbits(32)]
    pair.other.paused = True
    for _ in range(20):
        entries = b"".join(
            struct.pack(
                "<IIII",
                rng.randrange(9),
                rng.choice(flows),
                rng.choice([0, 1, 2, 3, rng.getrandbits(32)]),
                rng.choice([0, 1, 2, 100, 0xFFFFFFFF]),
            )
            for _ in range(pair.other.nr_requests)
        )
        tail = pair.other.tails()[1]
        pair.other.scribble(entries, rng.choice([tail + rng.randrange(8), rng.getrandbits(32)]))
        for _ in range(4):
            lib.stack_requests(bench.stack, bench.now)
            bench.check()
    assert bench.stats().tokens_outstanding == len(held)
    assert pair.c.info.blocks == 1
    assert pair.c.state == "ESTABLISHED"
    bench.close_app(pair.other)
    pair.mine.hold = False
    for c in (pair.c, pair.d):
        c.drain()


def test_replies_of_one_leave_pages_for_the_other(make_bench: MakeBench) -> None:
    """Peers of one application do not read: the other's replies still find host pages."""
    bench = make_bench(pages=64)
    pair = Pair(bench)
    deaf = [pair.connect() for _ in range(8)]
    for c in deaf:
        c.inject(".", win=0)
        pair.other.send(c.conn, pattern(30_000))
        bench.turn()
        c.drain()
    pair.mine.send(pair.c.conn, pattern(20_000))
    bench.turn()
    assert pair.c.state == "ESTABLISHED"
    got = bytearray()
    for _ in range(30):
        for s in pair.c.drain():
            got += s.data
        pair.c.inject(".")
    assert bytes(got) == pattern(20_000)
    for c in deaf:
        c.drain()


@pytest.mark.parametrize("pressure", ["window", "drop"])
@pytest.mark.parametrize("bound", [True, False])
def test_all_that_one_does_not_read_leaves_half_to_the_other(
    make_bench: MakeBench, pressure: str, bound: bool
) -> None:
    """However many connections it has, and whatever kind of memory it is."""
    bench = make_bench(niovs=256, fill=64, listen=False, bound=bound, blocks=8, flows=128)
    bench.listen(LOCAL4)
    hung = bench.open_app(blocks=8)
    bench.listen(SECOND4, app=hung, pressure=pressure)
    hung.hold = True
    unread = [bench.established(local=SECOND4, app=hung) for _ in range(50)]
    for _ in range(10):
        for c in unread:
            if c.window - (c.seq - c.max_ack) >= 1448:
                c.inject(".", data=pattern(1448))
        bench.advance(ms=1)
        for c in unread:
            c.drain()
    now = bench.stats()
    free = now.niovs_free + now.niovs_fill + now.host_free + now.host_fill
    assert 100 <= free <= 160
    c = bench.established()
    assert c.window == 10 * 1460, "as if nobody else were there"
    data = pattern(200_000)
    for at in range(0, len(data), 1448):
        assert c.inject(".", data=data[at : at + 1448])
        c.drain()
    assert c.data == data
    bench.close_app(hung)
    for c in unread:
        c.drain()


def test_alone_an_application_may_have_it_all(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=256, fill=64)
    bench.app.hold = True
    unread = [bench.established() for _ in range(12)]
    for _ in range(40):
        for c in unread:
            if c.window - (c.seq - c.max_ack) >= 1448:
                c.inject(".", data=pattern(1448))
        bench.advance(ms=1)
        for c in unread:
            c.drain()
    assert bench.stats().niovs_lent > 200


def test_an_application_that_never_closes_leaves_slots_for_the_other(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(flows=20)
    pair = Pair(bench)
    refused = 0
    for _ in range(20):
        c = bench.peer(local=SECOND4, app=pair.other)
        c.inject("S", seq=0)
        if c.inbox:
            c.expect("S.")
            c.inject(".", seq=1, ack=1)
        else:
            refused += 1
    assert refused == 20 - 9
    assert bench.stats().drops("BACKLOG") == refused
    assert len([bench.established() for _ in range(3)]) == 3


def test_a_burst_of_handshakes_leaves_slots_for_the_other(make_bench: MakeBench) -> None:
    """None of which is done when the last SYN comes."""
    bench = make_bench(flows=20)
    pair = Pair(bench)
    peers = [bench.peer(local=SECOND4, app=pair.other) for _ in range(20)]
    for c in peers:
        c.inject("S", seq=0)
        c.expect("S.")
    assert bench.stats().syncookies_sent == 20 - 9
    assert len([bench.established() for _ in range(3)]) == 3
    for c in peers:
        c.inject(".", seq=1, ack=1)
    assert bench.stats().drops("BACKLOG") > 0
    assert len(pair.other.conns) == 10
    bench.established()


def test_an_application_may_have_a_bound_of_its_own(make_bench: MakeBench) -> None:
    bench = make_bench()
    few = bench.open_app(conns=3)
    bench.listen(SECOND4, app=few)
    peers = [bench.established(local=SECOND4, app=few) for _ in range(3)]
    late = bench.peer(local=SECOND4, app=few)
    late.inject("S", seq=0)
    late.silent()
    assert bench.stats().drops("BACKLOG") == 1
    few.abort(peers[0].conn)
    bench.turn()
    late.connect()
    assert late.state == "ESTABLISHED"
    for c in peers:
        c.drain()


# ---- pressure, by listener ----


def test_pressure_is_the_listener_s(make_bench: MakeBench) -> None:
    """As the kernel, beside one that is told of no byte it may not send."""
    bench = make_bench(niovs=64, fill=32, rcv_wnd_max=65536, listen=False)
    bench.listen(LOCAL4, pressure="window")
    bench.listen(SECOND4, pressure="drop")
    careful, careless = bench.established(), bench.established(local=SECOND4)
    assert careful.info.pressure == lib.PRESSURE_WINDOW
    assert careless.info.pressure == lib.PRESSURE_DROP
    bench.app.hold = True
    kept = careful.window
    for n in range(100):
        if not careless.inject(".", seq=1 + 1448 * n, data=pattern(1448, seed=n)):
            break
        bench.advance(ms=1)
        careless.drain()
    assert careless.window >= 60_000, "its window does not follow what is free"
    assert bench.stats().drops("NO_MEMORY") > 0, "its segments are dropped instead"
    # What the other was promised is there for it, to the last byte.
    data = pattern(kept)
    for at in range(0, kept, 1448):
        assert careful.inject(".", data=data[at : at + 1448])
    bench.advance(ms=40)
    assert careful.data == data
    assert careful.drain()[-1].rack == 1 + kept
    careless.drain()
    bench.app.hold = False
    for c in (careful, careless):
        bench.app.give_back(c.conn)
    bench.advance(ms=2)
    for c in (careful, careless):
        c.drain()


def test_a_pressure_that_does_not_exist(bench: Bench) -> None:
    addr = ffi.new("struct stack_addr *")
    addr.ip, addr.port, addr.family = SECOND4.mapped, 5001, 4
    assert lib.stack_listen(bench.stack, 0, addr, 0, 16, 2) == -errno.EINVAL
