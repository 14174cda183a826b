# SPDX-License-Identifier: Apache-2.0
"""Areas of memory: queues that go from one to another while frags wait and tokens are lent."""

from __future__ import annotations

import errno

import pytest

from devmemtcp.stack._stack import ffi, lib

from .tcp import app as application
from .tcp.bench import PAGE, Area, Bench, MakeBench, Peer, pattern
from .tcp.wire import Segment


@pytest.fixture
def two(make_bench: MakeBench) -> tuple[Bench, Area]:
    """One queue on the bench's first area, and a second area (dmabuf id 7) that none uses."""
    bench = make_bench(niovs=128, fill=32, max_niovs=512)
    return bench, bench.open_area(64, dmabuf_id=7)


def counts(bench: Bench, area: Area) -> dict[str, int]:
    info = bench.area_info(area)
    names = ("free", "fill", "queued", "ooo", "lent")
    return {name: int(getattr(info, name)) for name in names if getattr(info, name)}


def is_home(bench: Bench, area: Area) -> bool:
    return counts(bench, area) == {"free": area.nr}


# ---- the life of an area ----


def test_an_area_that_nobody_used_closes_at_once_and_its_number_is_used_again(
    two: tuple[Bench, Area],
) -> None:
    bench, spare = two
    number = spare.number
    assert bench.close_area(spare) == 0
    assert lib.stack_area_close(bench.stack, number) == -errno.ENOENT
    assert lib.stack_queue_attach(bench.stack, 0, number) == -errno.ENOENT
    again = bench.open_area(32, dmabuf_id=8)
    assert again.number == number
    bench.restart(0, again)
    c = bench.established()
    c.inject("P.", data=b"into the new one")
    assert c.data == b"into the new one"
    assert [frag.dmabuf_id for frag in c.conn.frags] == [8]
    c.drain()


def test_a_queue_uses_one_area_at_a_time(two: tuple[Bench, Area]) -> None:
    bench, spare = two
    assert lib.stack_queue_attach(bench.stack, 0, spare.number) == -errno.EBUSY
    assert lib.stack_queue_attach(bench.stack, 1, spare.number) == -errno.EINVAL
    assert lib.stack_area_close(bench.stack, bench.area.number) == -errno.EBUSY
    lib.stack_queue_detach(bench.stack, 9)  # no such queue: nothing to do
    bench.detach(0)
    lib.stack_queue_detach(bench.stack, 0)  # and again: neither
    assert is_home(bench, bench.area)
    bench.attach(0, bench.area)
    bench.turn()
    assert bench.fill_level() > 0


def test_detaching_takes_the_fill_ring_home_and_no_other_queue_s(make_bench: MakeBench) -> None:
    bench = make_bench(queues=3, niovs=256, fill=32)
    before = bench.area_info(bench.area)
    assert before.queues == 3
    levels = [bench.fill_level(n) for n in range(3)]
    assert before.fill == sum(levels)
    bench.detach(1)
    after = bench.area_info(bench.area)
    assert (after.queues, after.fill) == (2, levels[0] + levels[2])
    assert bench.queue_info(1).area == lib.STACK_NONE
    c = bench.established(queue=2)
    c.inject("P.", data=b"the others go on")
    assert c.data == b"the others go on"
    c.drain()


@pytest.mark.parametrize("tokens", [1, 5])
def test_a_detached_area_drains_with_its_last_token(two: tuple[Bench, Area], tokens: int) -> None:
    bench, spare = two
    old = bench.area
    bench.app.hold = True
    c = bench.established()
    for n in range(tokens):
        c.inject(".", data=pattern(1000, seed=n))
    drained = lib.stack_areas_drained(bench.stack)
    bench.detach(0)
    assert counts(bench, old) == {"lent": tokens, "free": old.nr - tokens}
    assert bench.close_area(old) == tokens
    assert lib.stack_queue_attach(bench.stack, 0, old.number) == -errno.EBUSY
    bench.attach(0, spare)
    bench.turn()
    # What is lent stays readable, and the connection goes on in the other area.
    for n, frag in enumerate(c.conn.frags):
        assert bytes(old.region[frag.offset : frag.offset + 1000]) == pattern(1000, seed=n)
    c.inject(".", data=b"elsewhere")
    assert c.conn.frags[-1].dmabuf_id == 7
    old_tokens = [frag.token for frag in c.conn.frags[:-1]]
    for n, token in enumerate(old_tokens):
        assert lib.stack_areas_drained(bench.stack) == drained
        assert bench.close_area(old) == tokens - n
        bench.app.give_back(c.conn, token)
        bench.turn()
    assert lib.stack_areas_drained(bench.stack) == drained + 1
    assert bench.close_area(old) == 0
    c.drain()


def test_an_area_without_anything_out_is_drained_by_the_detach(two: tuple[Bench, Area]) -> None:
    bench, _ = two
    drained = lib.stack_areas_drained(bench.stack)
    bench.detach(0)
    assert lib.stack_areas_drained(bench.stack) == drained + 1
    assert bench.close_area(bench.area) == 0


def test_frags_in_order_and_above_a_hole_outlive_their_area_s_queue(
    two: tuple[Bench, Area],
) -> None:
    bench, spare = two
    old = bench.area
    c = bench.established()
    bench.app.paused = True
    blocked = pattern(500, seed=1)
    bench.app.set_event_tail(1 << 31)  # the ring counts as full
    c.inject(".", data=blocked)
    above = pattern(700, seed=2)
    c.inject(".", seq=1 + 500 + 300, data=above)
    assert counts(bench, old)["queued"] == 1
    assert counts(bench, old)["ooo"] == 1
    bench.restart(0, spare)
    assert counts(bench, old) == {"queued": 1, "ooo": 1, "free": old.nr - 2}
    assert bench.close_area(old) == 2
    hole = pattern(300, seed=3)
    c.inject(".", seq=1 + 500, data=hole)
    bench.app.catch_up()
    bench.app.paused = False
    bench.advance(ms=10)
    assert c.data == blocked + hole + above
    assert [frag.dmabuf_id for frag in c.conn.frags] == [1, 7, 1]
    assert bench.close_area(old) == 0
    c.drain()


def test_a_segment_sent_again_into_another_area_takes_its_place(two: tuple[Bench, Area]) -> None:
    """The parts that are new come from the new area, those that were queued from the old."""
    bench, spare = two
    c = bench.established()
    data = pattern(3000)
    c.inject(".", seq=1001, data=data[1000:2000])
    bench.restart(0, spare)
    c.inject(".", seq=1, data=data)
    c.drain()
    assert c.data == data
    assert [(f.dmabuf_id, f.length) for f in c.conn.frags] == [(7, 1000), (1, 1000), (7, 1000)]
    assert bench.close_area(bench.area) == 0


def test_a_reset_brings_the_frags_of_all_areas_home(two: tuple[Bench, Area]) -> None:
    bench, spare = two
    c = bench.established()
    c.inject(".", seq=2001, data=pattern(1000))
    bench.restart(0, spare)
    c.inject(".", seq=5001, data=pattern(1000))
    c.inject("R", seq=1)
    assert is_home(bench, bench.area)
    assert set(counts(bench, spare)) <= {"free", "fill"}
    c.drain()


@pytest.mark.parametrize(
    ("niovs", "dmabuf_id", "code"),
    [(1000, 9, -errno.ENOSPC), (8, 9, 0), (0, 9, 0)],
)
def test_areas_that_cannot_be(
    two: tuple[Bench, Area], niovs: int, dmabuf_id: int, code: int
) -> None:
    bench, spare = two
    config = ffi.new("struct stack_area_config *", spare.config[0])
    config.nr_niovs, config.dmabuf_id = niovs, dmabuf_id
    assert bool(lib.stack_area_size(config)) == bool(code)
    memory = ffi.new("char[]", 1 << 20)
    wanted = code or -errno.EINVAL
    assert lib.stack_area_open(bench.stack, memory, config) == wanted


def test_device_memory_has_no_address_and_host_memory_no_id(two: tuple[Bench, Area]) -> None:
    spare = two[1]
    config = ffi.new("struct stack_area_config *", spare.config[0])
    config.data_base = ffi.cast("uint8_t *", ffi.from_buffer(spare.pages))
    assert lib.stack_area_size(config) == 0
    config.dmabuf_id = 0
    assert lib.stack_area_size(config) > 0
    config.data_base = ffi.NULL
    assert lib.stack_area_size(config) == 0


def test_there_are_as_many_areas_as_configured(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=32, areas=2, max_niovs=512)
    bench.open_area(16, dmabuf_id=2)
    config = Area(16, 3)
    assert (
        lib.stack_area_open(bench.stack, ffi.from_buffer(config.mem), config.config)
        == -errno.ENOSPC
    )


# ---- restarts ----


def test_a_queue_that_goes_back_and_forth_under_load(make_bench: MakeBench) -> None:
    """Device memory, host memory, other device memory: the stream notices nothing."""
    bench = make_bench(niovs=128, fill=32, max_niovs=512)
    areas = [bench.area, bench.open_area(64), bench.open_area(64, dmabuf_id=5)]
    c = bench.established()
    data = pattern(60_000)
    for n, at in enumerate(range(0, len(data), 1000)):
        if n % 4 == 3:
            bench.restart(0, areas[n // 4 % 3])
        assert c.inject(".", data=data[at : at + 1000])
        c.drain()
    bench.advance(ms=40)
    c.drain()
    assert c.max_ack == 1 + len(data)
    assert c.data == data
    kinds = {piece.kind for piece in c.conn.pieces}
    assert kinds == {application.DEVICE, application.ORDINARY}
    assert {frag.dmabuf_id for frag in c.conn.frags} == {1, 5}
    for area in areas:
        assert set(counts(bench, area)) <= {"free", "fill"}


def test_frames_in_transmission_are_done_when_their_queue_goes(make_bench: MakeBench) -> None:
    bench = make_bench(queues=2, niovs=128, fill=32)
    peers = [bench.established(queue=n) for n in range(2)]
    bench.hold_tx = True
    for c in peers:
        c.inject("P.", data=pattern(2000))
        bench.advance(ms=40)
        c.drain()
    held = [page for queue, page in bench.tx_pages if queue == 1]
    assert held
    assert bench.stats().pages_free == bench.nr_pages - len(bench.tx_pages)
    bench.detach(1)
    assert bench.stats().pages_free == bench.nr_pages - len(bench.tx_pages)
    before = bench.stats().tx_done_rejected
    for page in held:  # late news of a socket that is gone
        lib.stack_tx_done(bench.stack, page)
    assert bench.stats().tx_done_rejected == before + len(held)
    bench.attach(1, bench.area)
    bench.hold_tx = False
    bench.tx_complete()


def test_a_flow_whose_queue_is_gone_sends_by_another(make_bench: MakeBench) -> None:
    bench = make_bench(queues=2, niovs=128, fill=32)
    c = bench.established(queue=1)
    bench.detach(1)
    bench.app.send(c.conn, b"still here")
    bench.turn()
    c.expect(".", data=b"still here")
    assert bench.queue_info(0).tx_packets == 1
    bench.attach(1, bench.area)
    bench.turn()
    c.inject(".", ack=11)
    bench.app.send(c.conn, b"again")
    bench.turn()
    c.expect(".", data=b"again")
    assert bench.queue_info(0).tx_packets == 1


def test_without_any_queue_nothing_is_lost_but_time(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=128, fill=32)
    c = bench.established()
    bench.detach(0)
    bench.app.send(c.conn, b"later")
    bench.turn()
    c.silent()
    bench.attach(0, bench.area)
    bench.advance(ms=1000)
    sent: Segment = c.drain()[0]
    assert sent.data == b"later"


def test_frames_that_wait_leave_by_another_queue(make_bench: MakeBench) -> None:
    bench = make_bench(queues=2, niovs=128, fill=32)
    c = bench.established(queue=1)
    bench.app.send(c.conn, b"queued")
    lib.stack_requests(bench.stack, bench.now)  # built, not yet taken by the NIC
    bench.detach(1)
    bench.turn()
    c.expect(".", data=b"queued")
    bench.attach(1, bench.area)


def test_packets_of_another_queue_s_buffers_are_nobody_s(make_bench: MakeBench) -> None:
    bench = make_bench(queues=2, niovs=128, fill=32)
    packet = ffi.new("struct rx_packet *")
    packet.queue, packet.nr_chunks = 1, 1
    packet.chunk[0].niov = bench._fill[0][0]
    packet.chunk[0].len = 100
    fill = bench.queue_info(0).fill
    lib.stack_rx(bench.stack, packet, bench.now)
    bench.check()
    assert bench.stats().drops("RECORD") == 1
    assert bench.queue_info(0).fill == fill


# ---- windows of areas ----


def hoard(bench: Bench, c: Peer, bytes_: int) -> None:
    """Fill the area of ``c`` with frags that its application keeps."""
    sent = 0
    while sent < bytes_ and c.window - (c.seq - c.max_ack) >= 1448:
        c.inject(".", data=pattern(1448, seed=sent))
        sent += 1448
        bench.advance(ms=1)
        c.drain()


def test_a_full_area_does_not_shut_the_windows_of_another(make_bench: MakeBench) -> None:
    bench = make_bench(queues=2, niovs=64, fill=32, max_niovs=512)
    other = bench.open_area(128, dmabuf_id=2)
    bench.restart(1, other)
    bench.app.hold = True
    full, free = bench.established(queue=0), bench.established(queue=1)
    before = free.window
    hoard(bench, full, 1 << 20)
    assert full.window < before / 2
    assert free.window == before
    promised = bench.stats().rcv_wnd_promised
    infos = [bench.area_info(area) for area in (bench.area, other)]
    assert sum(info.promised for info in infos) == promised
    assert all(info.promised > 0 for info in infos)


def test_promises_are_counted_against_their_own_area_only(make_bench: MakeBench) -> None:
    """Fill rings that are too small for what is promised: the rest is due from the pool."""
    bench = make_bench(queues=2, niovs=512, fill=8, max_niovs=1024)
    bench.restart(1, bench.open_area(64, dmabuf_id=2))
    alone = bench.established(queue=1)
    initial = alone.window
    bench.app.abort(alone.conn)
    bench.turn()
    alone.drain()
    greedy = bench.established(queue=0)
    while bench.area_info(bench.area).promised < 128:
        greedy.inject(".", data=pattern(1448))
        bench.advance(ms=1)
        greedy.drain()
    assert bench.established(queue=1).window == initial


def test_a_flow_that_changes_queue_takes_its_promise_along(make_bench: MakeBench) -> None:
    bench = make_bench(queues=2, niovs=128, fill=32, max_niovs=512)
    other = bench.open_area(128, dmabuf_id=2)
    bench.restart(1, other)
    c = bench.established(queue=0)
    assert bench.area_info(bench.area).promised > 0
    assert bench.area_info(other).promised == 0
    c.queue = 1
    c.inject("P.", data=b"by another road")
    assert c.data == b"by another road"
    assert c.info.queue == 1
    assert bench.area_info(bench.area).promised == 0
    assert bench.area_info(other).promised > 0
    c.drain()


def test_a_window_that_was_shut_opens_when_its_queue_gets_a_fresh_area(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(niovs=32, fill=16, max_niovs=512)
    c = bench.established()
    bench.app.hold = True
    hoard(bench, c, 1 << 20)
    small = c.window
    bench.restart(0, bench.open_area(256, dmabuf_id=2))
    c.drain()
    assert c.window > 2 * small
    bench.app.hold = False
    bench.app.give_back(c.conn)
    bench.turn()
    assert bench.close_area(bench.area) == 0


@pytest.mark.parametrize("pressure", ["window", "drop"])
def test_a_queue_s_ring_leaves_the_share_of_the_others(
    make_bench: MakeBench, pressure: str
) -> None:
    """The rings are sized for the largest area; a small one is not emptied into one of them."""
    bench = make_bench(queues=4, niovs=1024, fill=512, fill_min=256, pressure=pressure)
    assert [bench.fill_level(n) for n in range(4)] == [64] * 4, "a quarter of a quarter"
    bench.established(queue=0)
    assert bench.fill_level(0) <= 256 + 64
    assert [bench.fill_level(n) for n in range(1, 4)] == [64] * 3
    small = make_bench(queues=4, niovs=64, fill=512, pressure=pressure)
    assert [small.fill_level(n) for n in range(4)] == [8] * 4


# ---- looking at them ----


def test_counters_of_queues_and_pools(make_bench: MakeBench) -> None:
    bench = make_bench(queues=2, niovs=128, fill=32)
    c = bench.established(queue=1)
    before = bench.queue_info(1)
    c.inject("P.", data=pattern(100))
    after = bench.queue_info(1)
    assert after.rx_packets == before.rx_packets + 1
    assert after.rx_bytes == before.rx_bytes + 14 + 20 + 32 + 100
    assert after.rx_csum_verified == before.rx_csum_verified + 1
    c.drain()
    assert bench.queue_info(1).tx_packets >= 2
    assert bench.queue_info(0).rx_packets == 0
    info = bench.area_info(bench.area)
    assert info.nr_niovs == 128
    assert info.dmabuf_id == 1
    assert info.alloc_fast + info.alloc_empty > 0
    assert info.recycle_cached > 0
    none = ffi.new("struct queue_info *")
    assert lib.stack_queue_info(bench.stack, 2, none) == -errno.ENOENT
    nowhere = ffi.new("struct area_info *")
    for number in (-1, 1, 255, 256, 1 << 30):
        assert lib.stack_area_info(bench.stack, number, nowhere) == -errno.ENOENT


def test_records_run_through_all_areas_and_then_the_pages(two: tuple[Bench, Area]) -> None:
    bench, spare = two
    host = bench.open_area(32)
    record = ffi.new("struct frag_record *")
    expected = [
        *((bench.area.number, n, lib.FRAG_NET_IOV) for n in range(bench.area.nr)),
        *((spare.number, n, lib.FRAG_NET_IOV) for n in range(spare.nr)),
        *((host.number, n, lib.FRAG_HOST_PAGE) for n in range(host.nr)),
        *((lib.STACK_NONE, n, lib.FRAG_HOST_PAGE) for n in range(bench.nr_pages)),
    ]
    for n, wanted in enumerate(expected):
        assert lib.stack_frag(bench.stack, n, record) == 0
        assert (record.area, record.index, record.kind) == wanted
        assert record.offset == PAGE * record.index
    assert lib.stack_frag(bench.stack, len(expected), record) == -errno.ENOENT
