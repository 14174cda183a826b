# SPDX-License-Identifier: Apache-2.0
"""Three kinds of received bytes: lent from device memory, left in the head, or in host memory."""

from __future__ import annotations

import random

import pytest

from devmemtcp.stack._stack import lib

from .tcp import app as application
from .tcp.app import DEVICE, HEAD, IN_DEVICE, LINEAR, ORDINARY, UNBOUND, Piece
from .tcp.bench import Bench, MakeBench, Peer, pattern

BLOCK = application.BLOCK_BYTES


def shape(c: Peer) -> list[tuple[int, int]]:
    """Kind and length of each piece that was delivered."""
    return [(piece.kind, len(piece.data)) for piece in c.conn.pieces]


@pytest.fixture
def split(make_bench: MakeBench) -> Bench:
    """A split that leaves the first 32 payload bytes with the headers."""
    return make_bench(linear=32)


@pytest.fixture
def unbound(make_bench: MakeBench) -> Bench:
    """A queue without a binding: its packets lie in host pages."""
    return make_bench(bound=False)


# ---- what becomes of a packet ----


def test_bytes_of_device_memory_say_so(bench: Bench) -> None:
    c = bench.established()
    c.inject("P.", data=pattern(100))
    assert c.conn.pieces == [Piece(DEVICE, IN_DEVICE, pattern(100))]
    c.drain()
    assert bench.stats().bytes_device == 100
    assert c.info.rx_bytes_device == 100


def test_a_long_packet_has_linear_bytes_in_front_of_the_device_s(split: Bench) -> None:
    c = split.established()
    data = pattern(1000)
    c.inject("P.", data=data)
    assert c.conn.pieces == [
        Piece(LINEAR, HEAD, data[:32]),
        Piece(DEVICE, IN_DEVICE, data[32:]),
    ]
    assert c.conn.frags[0].offset % 4096 == 0, "device bytes begin where the page does"
    c.drain()
    now, info = split.stats(), c.info
    assert (now.bytes_linear, now.bytes_device, now.bytes_data) == (32, 968, 0)
    assert (info.rx_bytes_linear, info.rx_bytes_device, info.rx_bytes_data) == (32, 968, 0)
    assert now.rx_payload_bytes == info.rx_bytes == 1000


@pytest.mark.parametrize("length", [1, 17, 18, 31, 32])
def test_a_short_packet_is_wholly_in_the_head_and_ordinary(split: Bench, length: int) -> None:
    """Readable: no token, no message; the buffer is not kept."""
    c = split.established()
    split.app.hold = True
    c.inject("P.", data=pattern(length))
    assert c.conn.pieces == [Piece(ORDINARY, HEAD, pattern(length))]
    assert split.in_flight() == 0
    assert c.info.tokens == 0
    assert c.info.rx_bytes_data == length
    c.drain()


def test_one_byte_more_is_device_memory_s(split: Bench) -> None:
    c = split.established()
    c.inject("P.", data=pattern(33))
    assert shape(c) == [(LINEAR, 32), (DEVICE, 1)]
    c.drain()


def test_a_packet_of_many_chunks_has_one_head(make_bench: MakeBench) -> None:
    bench = make_bench(linear=60, mtu=65535)
    c = bench.established(mss=65495)
    data = pattern(10_000)
    c.inject("P.", data=data)
    assert shape(c) == [(LINEAR, 60), (DEVICE, 3840), (DEVICE, 3840), (DEVICE, 2260)]
    assert c.data == data
    c.drain()


def test_packets_of_a_queue_without_a_binding_are_ordinary(unbound: Bench) -> None:
    c = unbound.established()
    unbound.app.hold = True
    data = pattern(1448)
    c.inject("P.", data=data)
    assert c.conn.pieces == [Piece(ORDINARY, UNBOUND, data)]
    now = unbound.stats()
    assert (now.bytes_data, now.bytes_device, now.tokens_outstanding) == (1448, 0, 0)
    assert (now.host_queued, now.host_ooo) == (0, 0), "copied, so its page is home"
    assert now.niovs_free == now.niovs_fill == 0
    c.drain()


def test_and_so_is_what_the_split_left_in_their_head(make_bench: MakeBench) -> None:
    bench = make_bench(bound=False, linear=32)
    c = bench.established()
    data = pattern(1000)
    c.inject("P.", data=data)
    assert {(piece.kind, piece.reason) for piece in c.conn.pieces} == {(ORDINARY, UNBOUND)}
    assert c.data == data
    c.drain()


def test_two_queues_one_stream(make_bench: MakeBench) -> None:
    """Packets of a connection that take turns between a bound and an unbound queue."""
    bench = make_bench(queues=2, max_niovs=1024)
    bench.restart(1, bench.open_area(64))
    c = bench.established()
    data = pattern(20_000)
    for n, at in enumerate(range(0, len(data), 1000)):
        c.queue = n % 2
        c.inject(".", data=data[at : at + 1000])
        c.drain()
    assert c.data == data
    assert shape(c) == [(DEVICE, 1000), (ORDINARY, 1000)] * 10


# ---- order, overlap, loss ----


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (10, [(LINEAR, 22), (DEVICE, 968)]),  # the cut goes through the head
        (31, [(LINEAR, 1), (DEVICE, 968)]),
        (32, [(DEVICE, 968)]),  # the head is known
        (500, [(DEVICE, 500)]),
    ],
)
def test_what_was_known_is_cut_off_the_head_first(
    split: Bench, known: int, expected: list[tuple[int, int]]
) -> None:
    c = split.established()
    data = pattern(1000)
    c.inject(".", data=data[:known], linear=0)
    c.drain()
    c.inject(".", seq=1, data=data)
    assert c.data == data
    assert shape(c) == [(DEVICE, known), *expected]
    c.drain()


@pytest.mark.parametrize("length", [20, 1000])
def test_out_of_order_heads_wait_in_their_buffers(split: Bench, length: int) -> None:
    """The header page of a buffer is kept until its bytes have been delivered."""
    c = split.established()
    data = pattern(4 * length)
    for n in (2, 1, 3):
        c.inject(".", seq=1 + n * length, data=data[n * length : (n + 1) * length])
    assert c.data == b""
    assert split.in_flight() == 3
    other = split.established()  # reuses what may be reused
    other.send_stream(pattern(20_000, seed=9))
    assert other.data == pattern(20_000, seed=9)
    c.inject(".", seq=1, data=data[:length])
    assert c.data == data
    assert split.in_flight() == 0
    for p in (c, other):
        p.drain()


def test_a_retransmission_with_another_split_fills_the_gaps(split: Bench) -> None:
    """What was selectively acknowledged stays; the rest comes from the new packet's kinds."""
    c = split.established()
    data = pattern(400)
    c.inject(".", seq=1 + 20, data=data[20:50], linear=0)  # device bytes over a head's end
    c.inject(".", seq=1 + 200, data=data[200:300])
    c.inject(".", seq=1, data=data, linear=32)
    assert c.data == data
    assert shape(c) == [
        (LINEAR, 20),
        (DEVICE, 30),
        (DEVICE, 150),
        (LINEAR, 32),
        (DEVICE, 68),
        (DEVICE, 100),
    ]
    c.drain()


def test_an_island_of_heads_that_is_given_up_goes_home(split: Bench) -> None:
    c = split.established()
    c.inject(".", seq=2001, data=pattern(1000))
    c.inject(".", seq=4001, data=pattern(20))
    assert split.in_flight() == 2
    c.inject("R", seq=1)
    assert split.in_flight() == 0
    c.drain()


@pytest.mark.parametrize("seed", range(8))
def test_any_split_of_any_segments_gives_the_same_stream(make_bench: MakeBench, seed: int) -> None:
    rng = random.Random(seed)
    bench = make_bench(
        queues=3, niovs=128, fill=32, max_niovs=1024, blocks=rng.choice([1, 2, 5, 64])
    )
    bench.restart(1, bench.open_area(96))
    bench.restart(2, bench.open_area(96, dmabuf_id=4))
    c = bench.established()
    c.roams = True
    data = pattern(40_000, seed=seed)
    bench.app.hold = True
    while c.max_ack < 1 + len(data):
        low = max(c.max_ack - 1, 0)
        at = max(0, min(low + rng.randrange(-300, 3000), len(data) - 1))
        size = min(rng.choice([5, 20, 33, 400, 1448]), len(data) - at)
        if rng.random() < 0.5:
            at, size = low, min(1448, len(data) - low)
        c.queue = rng.randrange(3)
        c.inject(".", seq=1 + at, data=data[at : at + size], linear=rng.choice([0, 1, 30, 90]))
        if rng.random() < 0.3:
            bench.app.give_back(c.conn)
            bench.app.give_back_blocks(c.conn)
            bench.turn()
        if rng.random() < 0.1:
            bench.advance(ms=5)
        c.drain()
    for _ in range(3000):
        if len(c.data) == len(data):
            break
        bench.app.give_back_blocks(c.conn)
        bench.app.give_back(c.conn)
        bench.advance(ms=2)
    assert c.data == data
    bench.app.give_back_blocks(c.conn)
    c.drain()


# ---- data blocks ----


def test_bytes_wait_for_a_block_and_nothing_overtakes_them(make_bench: MakeBench) -> None:
    bench = make_bench(linear=32, blocks=2)
    c = bench.established()
    bench.app.hold = True
    data = pattern(5000)
    c.send_stream(data, size=1000)
    bench.advance(ms=40)
    c.drain()
    # One block is all that one connection may have of two.
    assert shape(c) == [(LINEAR, 32), (DEVICE, 968)]
    assert bench.stats().data_waits == 1
    assert c.max_ack == 5001, "what waits is acknowledged: it is not lost"
    for n in range(1, 5):
        bench.app.give_back_blocks(c.conn)
        bench.turn()
        assert c.data == data[: 1000 * (n + 1)]
    assert shape(c) == [(LINEAR, 32), (DEVICE, 968)] * 5


def test_small_pieces_that_wait_share_a_block(make_bench: MakeBench) -> None:
    bench = make_bench(bound=False, blocks=1)
    c = bench.established()
    bench.app.hold = True
    for n in range(60):
        c.inject(".", data=pattern(100, seed=n))
        bench.advance(ms=1)
        c.drain()
    assert shape(c) == [(ORDINARY, 100)]
    bench.app.give_back_blocks(c.conn)
    bench.turn()
    assert shape(c) == [(ORDINARY, 100), (ORDINARY, BLOCK // 100 * 100)]
    bench.app.give_back_blocks(c.conn)
    bench.turn()
    assert c.data == b"".join(pattern(100, seed=n) for n in range(60))


def test_pieces_of_different_sorts_do_not_share_a_block(make_bench: MakeBench) -> None:
    bench = make_bench(queues=2, blocks=1, max_niovs=1024, linear=32)
    bench.restart(1, bench.open_area(64))
    c = bench.established()
    bench.app.hold = True
    c.inject(".", data=b"fills the only block")
    for queue in (0, 0, 1, 1, 0):
        c.queue = queue
        c.inject(".", data=b"short")
    for _ in range(3):
        bench.app.give_back_blocks(c.conn)
        bench.turn()
    reasons = [(piece.reason, len(piece.data)) for piece in c.conn.pieces]
    assert reasons == [(HEAD, 20), (HEAD, 10), (UNBOUND, 10), (HEAD, 5)]
    c.drain()


def test_a_connection_that_is_not_read_leaves_blocks_for_the_others(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(bound=False, blocks=8)
    bench.app.hold = True
    unread = bench.established()
    unread.send_stream(pattern(20_000), size=1000)
    assert unread.info.blocks == 4, "as many as are left"
    read = bench.established()
    read.inject("P.", data=b"and now this")
    assert read.data == b"and now this"
    for c in (unread, read):
        c.drain()


def test_connections_that_wait_for_blocks_do_not_hide_the_one_behind_them(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(bound=False, blocks=71, flows=80)
    bench.app.hold = True
    unread = [bench.established() for _ in range(70)]
    for _ in range(2):
        for c in unread:
            c.inject(".", data=pattern(100))
    assert {c.info.blocks for c in unread} == {1}, "with one left, none gets a second"
    last = bench.established()
    tail = bench.app.tails()[0]
    bench.app.paused = True
    bench.app.set_event_tail(tail + (1 << 31))  # as if the ring were full
    last.inject("P.", data=b"not lost behind them")
    bench.app.set_event_tail(tail)
    bench.app.paused = False
    for _ in range(4):
        bench.turn()
    assert last.data == b"not lost behind them"
    for c in (last, *unread):
        c.drain()


def test_host_memory_that_is_full_shuts_the_window(make_bench: MakeBench) -> None:
    """An application that does not read: the sender is told, and nothing is dropped."""
    bench = make_bench(bound=False, niovs=64, fill=32, blocks=2)
    bench.app.hold = True
    c = bench.established()
    sent = bytearray()
    for _ in range(200):
        if c.window - (c.seq - c.max_ack) < 1448:
            break
        piece = pattern(1448, seed=len(sent))
        assert c.inject(".", data=piece)
        sent += piece
        bench.advance(ms=1)
        c.drain()
    else:
        raise AssertionError("the window never closes")
    assert bench.nic_drops == 0
    assert bench.stats().drops("NO_MEMORY") == 0
    assert bench.stats().host_queued > 10
    bench.advance(ms=40)
    c.drain()
    bench.app.hold = False
    bench.app.give_back_blocks(c.conn)
    bench.turn()
    c.drain()
    assert c.data == bytes(sent)
    assert c.window >= 1448, "and is told when there is room again"


@pytest.mark.parametrize("end", ["close", "abort", "reset", "gone"])
def test_blocks_come_back_at_the_end_of_a_connection(make_bench: MakeBench, end: str) -> None:
    bench = make_bench(bound=False, blocks=4)
    bench.app.hold = True
    c = bench.established()
    c.send_stream(pattern(6000), size=1000)
    c.drain()
    assert c.info.blocks == 2
    if end == "reset":
        c.inject("R")
        assert c.info.blocks == 2, "what was delivered may still be read"
        bench.app.close(c.conn)
        bench.turn()
    elif end == "gone":
        bench.close_app(bench.app)
        bench.app = bench.open_app(blocks=4)
        bench.listen()
    else:
        getattr(bench.app, end)(c.conn)
        bench.turn()
    assert c.info is None or c.info.blocks == 0
    c.drain()
    other = bench.established()
    other.send_stream(pattern(4000), size=1000)
    assert other.info.blocks == 0 if not bench.app.hold else other.info.blocks == 2
    other.drain()


def test_eof_comes_behind_bytes_that_waited(make_bench: MakeBench) -> None:
    bench = make_bench(bound=False, blocks=1)
    bench.app.hold = True
    c = bench.established()
    c.inject(".", data=pattern(4000))
    c.inject("F.", data=pattern(100, seed=1))
    c.drain()
    assert len(c.data) == 4000
    assert not c.conn.eof
    bench.app.give_back_blocks(c.conn)
    bench.turn()
    assert c.data == pattern(4000) + pattern(100, seed=1)
    assert c.conn.eof


@pytest.mark.parametrize(
    ("first", "count", "rejected"),
    [
        (0, 1, 1),
        (0, 0, 0),
        (5, 1, 1),
        (65, 1, 1),
        (0xFFFFFFFF, 3, 1),
        (1, 0xFFFFFFFF, 1),
        (2, 1, 1),  # another connection's
    ],
)
def test_blocks_that_are_not_one_s_own(
    unbound: Bench, first: int, count: int, rejected: int
) -> None:
    unbound.app.hold = True
    c, other = unbound.established(), unbound.established()
    c.inject("P.", data=b"block 1")
    other.inject("P.", data=b"block 2")
    assert (c.conn.blocks, other.conn.blocks) == ([1], [2])
    before = unbound.stats().requests_rejected
    unbound.app.request(application.BLOCK, c.conn.flow, first, count)
    unbound.turn()
    assert unbound.stats().requests_rejected == before + rejected
    assert other.info.blocks == 1
    for p in (c, other):
        p.drain()


def test_a_block_returned_twice_is_refused(unbound: Bench) -> None:
    unbound.app.hold = True
    c = unbound.established()
    c.inject("P.", data=b"once")
    unbound.app.give_back_blocks(c.conn)
    unbound.app.request(application.BLOCK, c.conn.flow, 1, 1)
    unbound.turn()
    assert unbound.stats().requests_rejected == 1
    assert c.info.blocks == 0
    c.drain()


# ---- records that lie ----


@pytest.mark.parametrize(
    "record",
    [
        {"linear": 101},  # more than the payload
        {"linear": 255},
        {"linear": 79, "payload_len": 100},  # beside 66 bytes of headers: one too many
        {"payload_len": 133},  # more than head and chunk hold together
        {"payload_len": 0, "linear": 1},
        {"linear": 32, "payload_len": 31},
    ],
)
def test_records_of_heads_that_cannot_be(split: Bench, record: dict[str, int]) -> None:
    c = split.established()
    c.inject("P.", data=pattern(100), record=record)
    assert split.stats().drops("RECORD") == 1
    assert c.data == b""
    assert split.in_flight() == 0
    c.silent()


def test_the_longest_head_beside_the_headers(make_bench: MakeBench) -> None:
    bench = make_bench(linear=144)
    c = bench.established()
    data = pattern(1000)
    c.inject("P.", data=data)
    assert shape(c) == [(LINEAR, 144 - 66), (DEVICE, 1000 - 78)]
    assert c.data == data
    c.drain()


def test_kinds_and_reasons_have_the_numbers_of_the_channel() -> None:
    assert (DEVICE, LINEAR, ORDINARY) == (0, 1, 2)
    assert lib.STACK_CHUNK == BLOCK
