# SPDX-License-Identifier: Apache-2.0
"""The netdev family's server: what is required, refused and answered, without bindings."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from devmemtcp.netlink.attribute import nest, put_u32, put_u64, put_uint
from devmemtcp.netlink.backend import Device, Napi, QueueStats
from devmemtcp.netlink.constants import (
    DevAttr,
    NapiAttr,
    NetdevCmd,
    PagePoolAttr,
    PagePoolStatsAttr,
    QstatsAttr,
    QueueAttr,
    QueueType,
    XdpAct,
)

from .netlink.bench import ACK, DO, DOWN, DUMP, HEADERS, LO, NIC, Answer, Bench, Refusal, refusal
from .netlink.fake import BOOT_SECONDS

UNKNOWN_TYPE = "Unknown attribute type"
OUT_OF_RANGE = "integer out of range"
INFO = PagePoolStatsAttr.INFO


def queue_attrs(ifindex: int, kind: int, queue: int) -> bytes:
    return (
        put_u32(QueueAttr.IFINDEX, ifindex)
        + put_u32(QueueAttr.TYPE, kind)
        + put_u32(QueueAttr.ID, queue)
    )


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- the table: requirements and errors of each request ---

DO_ROWS = [
    # dev-get
    (NetdevCmd.DEV_GET, b"", Refusal(errno.EINVAL, miss_type=1)),
    (NetdevCmd.DEV_GET, put_u32(1, 99), Refusal(errno.ENODEV)),
    (NetdevCmd.DEV_GET, put_u32(1, 0), Refusal(errno.ERANGE, OUT_OF_RANGE, HEADERS)),
    (NetdevCmd.DEV_GET, put_u32(3, 1), Refusal(errno.EINVAL, UNKNOWN_TYPE, HEADERS)),
    # queue-get: id, type, ifindex
    (NetdevCmd.QUEUE_GET, b"", Refusal(errno.EINVAL, miss_type=1)),
    (NetdevCmd.QUEUE_GET, put_u32(1, 0), Refusal(errno.EINVAL, miss_type=3)),
    (NetdevCmd.QUEUE_GET, put_u32(1, 0) + put_u32(3, 0), Refusal(errno.EINVAL, miss_type=2)),
    (NetdevCmd.QUEUE_GET, queue_attrs(99, 0, 0), Refusal(errno.ENODEV)),
    (NetdevCmd.QUEUE_GET, queue_attrs(DOWN, 0, 0), Refusal(errno.ENOENT)),
    (NetdevCmd.QUEUE_GET, queue_attrs(DOWN, 0, 99), Refusal(errno.ENOENT)),
    (NetdevCmd.QUEUE_GET, queue_attrs(NIC, 0, 4), Refusal(errno.EINVAL)),
    (NetdevCmd.QUEUE_GET, queue_attrs(NIC, 1, 4), Refusal(errno.EINVAL)),
    (NetdevCmd.QUEUE_GET, queue_attrs(LO, 0, 1), Refusal(errno.EINVAL)),
    (
        NetdevCmd.QUEUE_GET,
        queue_attrs(NIC, 2, 0),
        Refusal(errno.ERANGE, OUT_OF_RANGE, HEADERS + 8),
    ),
    # page-pool-get
    (NetdevCmd.PAGE_POOL_GET, b"", Refusal(errno.EINVAL, miss_type=1)),
    (NetdevCmd.PAGE_POOL_GET, put_u32(1, 5), Refusal(errno.ENOENT)),
    (NetdevCmd.PAGE_POOL_GET, put_u32(1, 0), Refusal(errno.ERANGE, OUT_OF_RANGE, HEADERS)),
    (NetdevCmd.PAGE_POOL_GET, put_u64(1, 1 << 32), Refusal(errno.ERANGE, OUT_OF_RANGE, HEADERS)),
    # page-pool-stats-get
    (NetdevCmd.PAGE_POOL_STATS_GET, b"", Refusal(errno.EINVAL, miss_type=1)),
    (
        NetdevCmd.PAGE_POOL_STATS_GET,
        nest(INFO),
        Refusal(errno.EINVAL, miss_type=1, miss_nest=HEADERS),
    ),
    (
        NetdevCmd.PAGE_POOL_STATS_GET,
        nest(INFO, put_u32(1, 5) + put_u32(2, NIC)),
        Refusal(errno.EINVAL, "selecting by ifindex not supported", HEADERS + 12),
    ),
    (NetdevCmd.PAGE_POOL_STATS_GET, nest(INFO, put_u32(1, 5)), Refusal(errno.ENOENT)),
    # napi-get, napi-set
    (NetdevCmd.NAPI_GET, b"", Refusal(errno.EINVAL, miss_type=2)),
    (NetdevCmd.NAPI_GET, put_u32(2, 5), Refusal(errno.ENOENT, offs=HEADERS)),
    (NetdevCmd.NAPI_SET, b"", Refusal(errno.EINVAL, miss_type=2)),
    (NetdevCmd.NAPI_SET, put_u32(2, 5), Refusal(errno.ENOENT, offs=HEADERS)),
    (
        NetdevCmd.NAPI_SET,
        put_u32(2, 5) + put_u32(8, 3),
        Refusal(errno.ERANGE, OUT_OF_RANGE, HEADERS + 8),
    ),
    (
        NetdevCmd.NAPI_SET,
        put_u32(2, 5) + put_u32(5, 1 << 31),
        Refusal(errno.ERANGE, OUT_OF_RANGE, HEADERS + 8),
    ),
    # what cannot be asked for
    (NetdevCmd.QSTATS_GET, b"", Refusal(errno.EOPNOTSUPP)),
    *((ntf, b"", Refusal(errno.EOPNOTSUPP)) for ntf in (2, 3, 4, 6, 7, 8, 0, 16, 255)),
]


@pytest.mark.parametrize(("cmd", "attrs", "expected"), DO_ROWS)
def test_do_is_refused(bench: Bench, cmd: int, attrs: bytes, expected: Refusal) -> None:
    assert bench.refused("netdev", cmd, attrs) == expected


DUMP_ROWS = [
    (NetdevCmd.QUEUE_GET, put_u32(2, 99), Refusal(errno.ENODEV)),
    (NetdevCmd.NAPI_GET, put_u32(1, 99), Refusal(errno.ENODEV)),
    (NetdevCmd.QSTATS_GET, put_u32(1, 99), Refusal(errno.ENODEV, offs=HEADERS)),
    (NetdevCmd.QSTATS_GET, put_u32(1, LO), Refusal(errno.EOPNOTSUPP, offs=HEADERS)),
    (NetdevCmd.QSTATS_GET, put_u32(4, 2), Refusal(errno.EINVAL, "reserved bit set", HEADERS)),
    (NetdevCmd.QUEUE_GET, put_u32(2, 0), Refusal(errno.ERANGE, OUT_OF_RANGE, HEADERS)),
    (NetdevCmd.QUEUE_GET, put_u32(3, 0), Refusal(errno.EINVAL, UNKNOWN_TYPE, HEADERS)),
    (NetdevCmd.BIND_RX, b"", Refusal(errno.EOPNOTSUPP)),
    (NetdevCmd.BIND_TX, b"", Refusal(errno.EOPNOTSUPP)),
    (NetdevCmd.NAPI_SET, b"", Refusal(errno.EOPNOTSUPP)),
]


@pytest.mark.parametrize(("cmd", "attrs", "expected"), DUMP_ROWS)
def test_dump_is_refused(bench: Bench, cmd: int, attrs: bytes, expected: Refusal) -> None:
    assert bench.refused("netdev", cmd, attrs, flags=DUMP) == expected


@pytest.mark.parametrize("cmd", [NetdevCmd.BIND_RX, NetdevCmd.NAPI_SET])
def test_permission_is_asked_for_before_the_message_is_parsed(bench: Bench, cmd: int) -> None:
    bench.peer.is_admin = False
    assert bench.refused("netdev", cmd, put_u32(77, 1)) == Refusal(errno.EPERM)


def test_page_pool_stats_need_their_kernel_option() -> None:
    bench = Bench(page_pool_stats=False)
    assert bench.refused("netdev", NetdevCmd.PAGE_POOL_STATS_GET) == Refusal(errno.EOPNOTSUPP)


# --- answers ---


def numbers(answer: Answer) -> dict[int, int]:
    return {attr.type: attr.uint() if attr.data else 0 for attr in answer.walk()}


def dump(bench: Bench, cmd: int, attrs: bytes = b"") -> list[Answer]:
    *rows, done = bench.ask("netdev", cmd, attrs, flags=DUMP)
    assert refusal(done) == Refusal(0)
    assert all(row.flags == 0 for row in rows), "the kernel's netdev dumps do not say MULTI"
    return rows


def test_dev_get(bench: Bench) -> None:
    (row,) = bench.ask("netdev", NetdevCmd.DEV_GET, put_u32(1, NIC))
    assert numbers(row) == {1: NIC, 3: 0, 5: 0, 6: 0}
    assert [numbers(row)[1] for row in dump(bench, NetdevCmd.DEV_GET)] == [LO, NIC, DOWN]


def test_zero_copy_devices_tell_their_segments() -> None:
    bench = Bench(
        Device(
            ifindex=NIC,
            ifname="nic0",
            num_rx_queues=1,
            num_tx_queues=1,
            xdp_features=XdpAct.BASIC | XdpAct.XSK_ZEROCOPY,
            xdp_rx_metadata_features=3,
            xsk_features=2,
            xdp_zc_max_segs=17,
        )
    )
    (row,) = bench.ask("netdev", NetdevCmd.DEV_GET, put_u32(1, NIC))
    assert row.order() == [
        DevAttr.IFINDEX,
        DevAttr.XDP_FEATURES,
        DevAttr.XDP_RX_METADATA_FEATURES,
        DevAttr.XSK_FEATURES,
        DevAttr.XDP_ZC_MAX_SEGS,
    ]
    assert numbers(row) == {1: NIC, 3: 9, 5: 3, 6: 2, 4: 17}


def test_queue_get(bench: Bench) -> None:
    (row,) = bench.ask("netdev", NetdevCmd.QUEUE_GET, queue_attrs(NIC, QueueType.TX, 3))
    assert row.order() == [QueueAttr.ID, QueueAttr.TYPE, QueueAttr.IFINDEX]
    assert numbers(row) == {1: 3, 3: 1, 2: NIC}


def test_queue_dump_leaves_out_what_is_down(bench: Bench) -> None:
    rows = [numbers(row) for row in dump(bench, NetdevCmd.QUEUE_GET)]
    assert [(row[2], row[3], row[1]) for row in rows] == [
        (LO, 0, 0),
        (LO, 1, 0),
        *((NIC, 0, queue) for queue in range(4)),
        *((NIC, 1, queue) for queue in range(4)),
    ]
    assert dump(bench, NetdevCmd.QUEUE_GET, put_u32(2, DOWN)) == []
    assert len(dump(bench, NetdevCmd.QUEUE_GET, put_u32(2, NIC))) == 8


def test_a_queue_tells_its_napi_and_its_af_xdp_pool(bench: Bench) -> None:
    bench.backend.device_list[1] = replace(
        bench.backend.device_list[1], rx_napi={1: 8193}, tx_napi={1: 8194}
    )
    bench.nic().bind_xsk(1, zero_copy=False)
    for kind, napi in ((QueueType.RX, 8193), (QueueType.TX, 8194)):
        (row,) = bench.ask("netdev", NetdevCmd.QUEUE_GET, queue_attrs(NIC, kind, 1))
        assert row.order() == [1, 3, 2, QueueAttr.NAPI_ID, QueueAttr.XSK]
        assert numbers(row)[QueueAttr.NAPI_ID] == napi
        assert row.attrs()[QueueAttr.XSK].nested
    bench.nic().release_xsk(1)
    (row,) = bench.ask("netdev", NetdevCmd.QUEUE_GET, queue_attrs(NIC, 0, 1))
    assert QueueAttr.XSK not in row.order()


def with_napis(bench: Bench) -> None:
    bench.backend.device_list[1] = replace(
        bench.backend.device_list[1],
        napis=(Napi(id=513, irq=44), Napi(id=514, irq=45, pid=99)),
    )


def test_napi_get(bench: Bench) -> None:
    with_napis(bench)
    (row,) = bench.ask("netdev", NetdevCmd.NAPI_GET, put_u32(2, 514))
    assert row.order() == [2, 1, 3, 8, 4, 5, 7, 6]
    assert numbers(row) == {2: 514, 1: NIC, 3: 45, 8: 0, 4: 99, 5: 0, 7: 0, 6: 0}
    assert [numbers(row)[2] for row in dump(bench, NetdevCmd.NAPI_GET)] == [514, 513]
    assert dump(bench, NetdevCmd.NAPI_GET, put_u32(1, LO)) == []


def test_napi_set_is_shown_by_napi_get(bench: Bench) -> None:
    with_napis(bench)
    attrs = (
        put_u32(NapiAttr.ID, 513)
        + put_u32(NapiAttr.THREADED, 1)
        + put_u32(NapiAttr.DEFER_HARD_IRQS, 7)
        + put_u64(NapiAttr.IRQ_SUSPEND_TIMEOUT, 1 << 33)
    )
    assert refusal(bench.ask("netdev", NetdevCmd.NAPI_SET, attrs, flags=ACK)[0]) == Refusal(0)
    bench.ask(
        "netdev",
        NetdevCmd.NAPI_SET,
        put_u32(NapiAttr.ID, 513) + put_uint(NapiAttr.GRO_FLUSH_TIMEOUT, 5),
    )
    (row,) = bench.ask("netdev", NetdevCmd.NAPI_GET, put_u32(2, 513))
    assert numbers(row) == {2: 513, 1: NIC, 3: 44, 8: 1, 5: 7, 7: 1 << 33, 6: 5}
    bench.backend.device_list[1] = replace(
        bench.backend.device_list[1], napis=(Napi(id=513, irq=50, pid=7),)
    )
    (row,) = bench.ask("netdev", NetdevCmd.NAPI_GET, put_u32(2, 513))
    assert (numbers(row)[3], numbers(row)[4], numbers(row)[5]) == (50, 7, 7)
    bench.peer.interfaces = {"nic1"}
    assert bench.refused("netdev", NetdevCmd.NAPI_SET, put_u32(2, 513)).errno == errno.EPERM


def test_napi_of_a_device_that_is_down_is_unknown(bench: Bench) -> None:
    with_napis(bench)
    bench.backend.device_list[1] = replace(bench.backend.device_list[1], up=False)
    expected = Refusal(errno.ENOENT, offs=HEADERS)
    assert bench.refused("netdev", NetdevCmd.NAPI_GET, put_u32(2, 513)) == expected
    assert dump(bench, NetdevCmd.NAPI_GET) == []


def test_page_pool_get(bench: Bench) -> None:
    first = bench.backend.add_pool(ifindex=NIC, inflight=3)
    second = bench.backend.add_pool(ifindex=NIC, inflight=1 << 21, dmabuf=9)
    orphan = bench.backend.add_pool(ifindex=None)
    lo = bench.backend.add_pool(ifindex=LO)
    (row,) = bench.ask("netdev", NetdevCmd.PAGE_POOL_GET, put_u32(1, first.id))
    assert row.order() == [1, 2, 4, 5]
    assert numbers(row) == {1: first.id, 2: NIC, 4: 3, 5: 3 * 4096}
    bench.backend.pools[second.id] = replace(second, napi_id=513, detach_time=BOOT_SECONDS)
    (row,) = bench.ask("netdev", NetdevCmd.PAGE_POOL_GET, put_u64(1, second.id))
    assert row.order() == [1, 2, 3, 4, 5, PagePoolAttr.DETACH_TIME, PagePoolAttr.DMABUF]
    assert numbers(row) == {
        1: second.id,
        2: NIC,
        3: 513,
        4: 1 << 21,
        5: 1 << 33,
        6: BOOT_SECONDS,
        7: 9,
    }
    rows = [numbers(row) for row in dump(bench, NetdevCmd.PAGE_POOL_GET)]
    assert [row[1] for row in rows] == [lo.id, orphan.id, second.id, first.id]
    assert 2 not in rows[1], "a pool whose device is gone has no ifindex"


def test_page_pool_stats_get(bench: Bench) -> None:
    pool = bench.backend.add_pool(ifindex=NIC)
    bench.backend.pool_counters[pool.id] = {
        PagePoolStatsAttr.ALLOC_FAST: 5,
        PagePoolStatsAttr.RECYCLE_RING: 1 << 35,
    }
    attrs = nest(INFO, put_u32(1, pool.id))
    (row,) = bench.ask("netdev", NetdevCmd.PAGE_POOL_STATS_GET, attrs)
    assert row.order() == [1, *range(8, 19)]
    info = {attr.type: attr.u32() for attr in row.attrs()[INFO].children()}
    assert info == {PagePoolAttr.ID: pool.id, PagePoolAttr.IFINDEX: NIC}
    counters = {attr.type: attr.uint() for attr in row.walk()[1:]}
    assert counters == {**dict.fromkeys(range(8, 19), 0), 8: 5, 16: 1 << 35}
    assert len(dump(bench, NetdevCmd.PAGE_POOL_STATS_GET)) == 1


def counted(bench: Bench) -> None:
    rx = {QstatsAttr.RX_PACKETS: 10, QstatsAttr.RX_BYTES: 1000}
    bench.backend.stats[NIC] = QueueStats(
        rx=[{**rx, QstatsAttr.RX_CSUM_BAD: 1}, rx, {}, rx],
        tx=[{QstatsAttr.TX_PACKETS: 3}, {}, {}, {QstatsAttr.TX_PACKETS: 4}],
        base={QstatsAttr.RX_PACKETS: 100, QstatsAttr.RX_BYTES: 0, QstatsAttr.TX_PACKETS: 0},
    )


def test_qstats_of_a_device_are_its_queues_and_its_base(bench: Bench) -> None:
    counted(bench)
    (row,) = dump(bench, NetdevCmd.QSTATS_GET)
    assert row.order() == [1, 8, 9, 10]
    assert numbers(row) == {1: NIC, 8: 130, 9: 3000, 10: 7}
    assert len(dump(bench, NetdevCmd.QSTATS_GET, put_u32(1, NIC))) == 1


def test_qstats_of_a_device_without_a_base_are_not_complete_and_not_told(bench: Bench) -> None:
    counted(bench)
    bench.backend.stats[NIC] = replace(bench.backend.stats[NIC], base={})
    assert dump(bench, NetdevCmd.QSTATS_GET) == []


def test_qstats_of_queues_leave_out_what_counts_nothing(bench: Bench) -> None:
    counted(bench)
    rows = [numbers(row) for row in dump(bench, NetdevCmd.QSTATS_GET, put_u32(4, 1))]
    assert rows == [
        {1: NIC, 2: 0, 3: 0, 8: 10, 9: 1000, 18: 1},
        {1: NIC, 2: 0, 3: 1, 8: 10, 9: 1000},
        {1: NIC, 2: 0, 3: 3, 8: 10, 9: 1000},
        {1: NIC, 2: 1, 3: 0, 10: 3},
        {1: NIC, 2: 1, 3: 3, 10: 4},
    ]
    bench.backend.device_list[1] = replace(bench.backend.device_list[1], up=False)
    assert dump(bench, NetdevCmd.QSTATS_GET, put_u32(4, 1)) == []


# --- notifications ---


def test_notifications_are_get_replies_from_nobody(bench: Bench) -> None:
    netdev = bench.family("netdev")
    for group in netdev.group_ids.values():
        bench.server.join(bench.client, group)
    device = bench.backend.device_list[1]
    pool = bench.backend.add_pool(ifindex=NIC, inflight=2)
    bench.model.pool_changed(replace(pool, detach_time=BOOT_SECONDS))
    bench.model.pool_deleted(pool)
    bench.model.device_added(device)
    bench.model.device_changed(replace(device, xdp_features=1))
    bench.model.device_deleted(device)
    told = bench.inbox(bench.client)
    assert [t.cmd for t in told] == [6, 8, 7, 2, 4, 3]
    assert {(t.type, t.flags, t.seq, t.portid) for t in told} == {(netdev.id, 0, 0, 0)}
    (reply,) = bench.ask("netdev", NetdevCmd.PAGE_POOL_GET, put_u32(1, pool.id), flags=DO)
    assert told[0].payload[4:] == reply.payload[4:]
    assert numbers(told[1])[PagePoolAttr.DETACH_TIME] == BOOT_SECONDS
    assert numbers(told[4])[DevAttr.XDP_FEATURES] == 1


def test_the_groups_of_devices_and_of_pools_are_apart(bench: Bench) -> None:
    bench.server.join(bench.client, bench.family("netdev").group_ids["mgmt"])
    bench.backend.add_pool(ifindex=NIC)
    assert not bench.inbox(bench.client)
