# SPDX-License-Identifier: Apache-2.0
"""bind-rx and bind-tx: every check in its place, all or nothing, ids, and the binding's life."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from devmemtcp.netlink.attribute import nest, put_u32
from devmemtcp.netlink.constants import (
    DmabufAttr,
    NetdevCmd,
    PagePoolAttr,
    QueueAttr,
    TcpDataSplit,
)
from devmemtcp.netlink.emulation import Driver
from devmemtcp.netlink.extack import Refused
from devmemtcp.netlink.ids import CyclicIds

from .netlink.bench import (
    ACK,
    DUMP,
    HEADERS,
    LO,
    NIC,
    Bench,
    Refusal,
    bind_attrs,
    header,
    queue_nest,
    refusal,
)
from .netlink.fake import FakePeer

BIND_RX = NetdevCmd.BIND_RX
QUEUES = HEADERS + 16  # the first queue nest of bind_attrs()
FULL = bind_attrs(NIC, 1)
BOTH = bind_attrs(NIC, 2, 3)


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.ready()
    return bench


def driver(**switches: object) -> Callable[[Bench], None]:
    def set_up(bench: Bench) -> None:
        bench.nic().driver = Driver(**switches)  # type: ignore[arg-type]

    return set_up


def device(**facts: object) -> Callable[[Bench], None]:
    def set_up(bench: Bench) -> None:
        bench.backend.device_list[1] = replace(
            bench.backend.device_list[1],
            **facts,  # type: ignore[arg-type]
        )

    return set_up


def split(value: TcpDataSplit) -> Callable[[Bench], None]:
    def set_up(bench: Bench) -> None:
        bench.nic().rings = replace(bench.nic().rings, tcp_data_split=value)

    return set_up


def thresh(bench: Bench) -> None:
    bench.nic().rings = replace(bench.nic().rings, hds_thresh=64)


def xdp(*, frags: bool) -> Callable[[Bench], None]:
    def set_up(bench: Bench) -> None:
        bench.nic()._xdp_frags = frags  # past the guards, which would refuse some of it

    return set_up


def check_fails(error: OSError) -> Callable[[Bench], None]:
    def set_up(bench: Bench) -> None:
        bench.backend.check_error = error

    return set_up


def bind_fails(error: OSError) -> Callable[[Bench], None]:
    def set_up(bench: Bench) -> None:
        bench.backend.bind_error = error

    return set_up


def no_devmem(bench: Bench) -> None:
    bench.backend.net_devmem = False


def not_admin(bench: Bench) -> None:
    bench.peer.is_admin = False


def not_mine(bench: Bench) -> None:
    bench.peer.interfaces = {"lo", "nic1"}


def bound(bench: Bench) -> None:
    bench.bind(1, client=bench.connect())


def xsk(bench: Bench) -> None:
    bench.nic().bind_xsk(3, zero_copy=True)


def ids_used_up(bench: Bench) -> None:
    bench.model._bindings._ids = CyclicIds(1, 1)
    bench.model._bindings._ids.alloc()


@dataclass
class Row:
    number: str
    expected: Refusal
    attrs: bytes = FULL
    set_up: Callable[[Bench], None] = lambda _bench: None
    fds: int = 1


DMA_NONE = "Device doesn't support DMA"
XDP_TEXT = "unable to custom memory provider to device with XDP program attached"

ROWS = [
    Row("1 permission", Refusal(errno.EPERM), put_u32(77, 1), not_admin),
    Row(
        "2 ifindex",
        Refusal(errno.ERANGE, "integer out of range", HEADERS),
        bind_attrs(0, 1),
    ),
    Row(
        "2 queue type",
        Refusal(errno.ERANGE, "integer out of range", QUEUES + 12),
        bind_attrs(NIC) + queue_nest(1, 2),
    ),
    Row(
        "2 later kernels' rx-page-size",
        Refusal(errno.EINVAL, "Unknown attribute type", HEADERS),
        put_u32(5, 4096) + FULL,
    ),
    Row(
        "2 id is reply only",
        Refusal(errno.EINVAL, "Unknown attribute type", HEADERS + 36),
        FULL + put_u32(DmabufAttr.ID, 1),
    ),
    Row(
        "2 nest without its flag",
        Refusal(errno.EINVAL, "NLA_F_NESTED is missing", HEADERS + 16),
        bind_attrs(NIC) + queue_nest(1)[:3] + b"\0" + queue_nest(1)[4:],
    ),
    Row("3 nothing", Refusal(errno.EINVAL, miss_type=DmabufAttr.IFINDEX), b""),
    Row("3 no fd", Refusal(errno.EINVAL, miss_type=DmabufAttr.FD), put_u32(1, 99)),
    Row(
        "3 no queues",
        Refusal(errno.EINVAL, miss_type=DmabufAttr.QUEUES),
        put_u32(1, 99) + put_u32(3, 5),
    ),
    Row("4 no such device", Refusal(errno.ENODEV), bind_attrs(99, 1)),
    Row("4 somebody else's", Refusal(errno.EPERM, "you may not bind on nic0"), FULL, not_mine),
    Row("5 absent", Refusal(errno.ENODEV, offs=HEADERS), FULL, device(present=False)),
    Row("6 loopback", Refusal(errno.EOPNOTSUPP, offs=HEADERS), bind_attrs(LO, 0)),
    Row("6 no ops lock", Refusal(errno.EOPNOTSUPP, offs=HEADERS), FULL, driver(ops_lock=False)),
    Row(
        "7 no queue id",
        Refusal(errno.EINVAL, miss_type=QueueAttr.ID, miss_nest=QUEUES),
        bind_attrs(NIC) + queue_nest(None),
    ),
    Row(
        "7 no queue type",
        Refusal(errno.EINVAL, miss_type=QueueAttr.TYPE, miss_nest=QUEUES + 20),
        FULL + queue_nest(1, None),
    ),
    Row(
        "7 an empty nest",
        Refusal(errno.EINVAL, miss_type=QueueAttr.ID, miss_nest=QUEUES),
        bind_attrs(NIC) + nest(DmabufAttr.QUEUES),
    ),
    Row(
        "8 a TX queue",
        Refusal(errno.EINVAL, offs=QUEUES + 12),
        bind_attrs(NIC) + queue_nest(1, 1),
    ),
    Row("9 no such queue", Refusal(errno.EINVAL, offs=QUEUES + 4), bind_attrs(NIC, 4)),
    Row(
        "9 in message order",
        Refusal(errno.EINVAL, offs=QUEUES + 12),
        bind_attrs(NIC) + queue_nest(1, 1) + queue_nest(99),
    ),
    Row(
        "10 two DMA devices",
        Refusal(
            errno.EOPNOTSUPP,
            "DMA device mismatch between queue 3 and 2 (multi-PF device?)",
        ),
        BOTH,
        driver(queue_dma_devices={3: 1}),
    ),
    Row(
        "11 no CONFIG_NET_DEVMEM",
        Refusal(errno.EOPNOTSUPP, "this build has no device memory (NET_DEVMEM=n)"),
        FULL,
        no_devmem,
        0,
    ),
    Row("11 no DMA", Refusal(errno.EOPNOTSUPP, DMA_NONE), FULL, driver(dma_device=None)),
    Row("11 before 12", Refusal(errno.EOPNOTSUPP, DMA_NONE), FULL, driver(dma_device=None), 0),
    Row("12 no descriptor", Refusal(errno.EBADF), FULL, fds=0),
    Row("12 two descriptors", Refusal(errno.EBADF), FULL, fds=2),
    Row("12 not a region", Refusal(errno.EINVAL), FULL, check_fails(OSError(errno.EINVAL, ""))),
    Row(
        "13 attach",
        Refusal(errno.ENOMEM, "Failed to bind dmabuf to device"),
        FULL,
        check_fails(Refused(errno.ENOMEM, "Failed to bind dmabuf to device")),
    ),
    Row(
        "13 map",
        Refusal(errno.EIO, "Failed to map dmabuf attachment"),
        FULL,
        check_fails(Refused(errno.EIO, "Failed to map dmabuf attachment")),
    ),
    Row("14 genpool", Refusal(errno.EINVAL), FULL, check_fails(Refused(errno.EINVAL))),
    Row("15 ids", Refusal(errno.EBUSY), FULL, ids_used_up),
    Row(
        "17 split off",
        Refusal(errno.EINVAL, "tcp-data-split is disabled"),
        FULL,
        split(TcpDataSplit.DISABLED),
    ),
    Row(
        "17 split unknown",
        Refusal(errno.EINVAL, "tcp-data-split is disabled"),
        FULL,
        split(TcpDataSplit.UNKNOWN),
    ),
    Row("18 threshold", Refusal(errno.EINVAL, "hds-thresh is not zero"), FULL, thresh),
    Row("19 XDP", Refusal(errno.EEXIST, XDP_TEXT), FULL, xdp(frags=False)),
    Row("19 XDP with frags", Refusal(errno.EEXIST, XDP_TEXT), FULL, xdp(frags=True)),
    Row(
        "20 bound",
        Refusal(errno.EEXIST, "designated queue already memory provider bound"),
        FULL,
        bound,
    ),
    Row(
        "21 AF_XDP",
        Refusal(errno.EBUSY, "designated queue already in use by AF_XDP"),
        BOTH,
        xsk,
    ),
    Row("22 no queue ops", Refusal(errno.EOPNOTSUPP), FULL, driver(queue_mgmt=False)),
    Row("23 restart", Refusal(errno.ENOMEM), FULL, bind_fails(OSError(errno.ENOMEM, ""))),
    Row("24 no provider", Refusal(errno.ENODATA), FULL, driver(unreadable_netmem=False)),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.number for row in ROWS])
def test_bind_rx_is_refused(bench: Bench, row: Row) -> None:
    row.set_up(bench)
    before = (dict(bench.nic().providers), dict(bench.backend.pools))
    fds = [bench.memory() for _ in range(row.fds)]
    assert bench.refused("netdev", BIND_RX, row.attrs, fds=fds) == row.expected
    assert (bench.nic().providers, bench.backend.pools) == before, "all or nothing"
    assert bench.closed[len(bench.closed) - row.fds :] == fds


@pytest.mark.parametrize(
    ("first", "second"),
    [(a, b) for a, b in itertools.pairwise(ROWS) if a.attrs == b.attrs == FULL],
    ids=lambda row: row.number,
)
def test_the_earlier_check_wins(bench: Bench, first: Row, second: Row) -> None:
    second.set_up(bench)
    first.set_up(bench)
    fds = [bench.memory() for _ in range(first.fds)]
    assert bench.refused("netdev", BIND_RX, FULL, fds=fds) == first.expected


def test_row16_is_checked_though_netlink_cannot_reach_it(bench: Bench) -> None:
    with pytest.raises(Refused) as caught:
        bench.nic().check_provider(4)
    assert (caught.value.errno, caught.value.msg) == (
        errno.ERANGE,
        "rx queue index out of range",
    )


def test_a_dump_of_bind_rx_is_not_supported(bench: Bench) -> None:
    assert bench.refused("netdev", BIND_RX, FULL, flags=DUMP) == Refusal(errno.EOPNOTSUPP)


# --- what a bind does ---


def test_a_bind_answers_with_the_id_and_then_the_ack(bench: Bench) -> None:
    reply, ack = bench.ask("netdev", BIND_RX, BOTH, flags=ACK, fds=[bench.memory()])
    assert (reply.cmd, reply.order()) == (BIND_RX, [DmabufAttr.ID])
    assert reply.attrs()[DmabufAttr.ID].u32() == 1
    assert refusal(ack) == Refusal(0)
    assert bench.backend.calls == [("bind", NIC, (2, 3), 1)]
    assert len(bench.closed) == 1, "the backend has its own"


def test_a_queue_and_its_pool_show_the_binding(bench: Bench) -> None:
    number = bench.bind(1)
    shown = {}
    for row in bench.ask(
        "netdev", NetdevCmd.QUEUE_GET, put_u32(QueueAttr.IFINDEX, NIC), flags=DUMP
    )[:-1]:
        attrs = row.attrs()
        if QueueAttr.DMABUF in attrs:
            assert row.order() == [1, 3, 2, QueueAttr.DMABUF]
            shown[attrs[1].u32(), attrs[3].u32()] = attrs[QueueAttr.DMABUF].u32()
    assert shown == {(1, 0): number}
    (pool, _done) = bench.ask("netdev", NetdevCmd.PAGE_POOL_GET, flags=DUMP)
    assert pool.attrs()[PagePoolAttr.DMABUF].u32() == number


def test_duplicate_queues_collapse_and_are_bound_in_ascending_order(bench: Bench) -> None:
    device(num_rx_queues=20, num_tx_queues=20)(bench)
    bench.bind(16, 8, 1, 16, 8)
    assert bench.backend.calls == [("bind", NIC, (1, 8, 16), 1)]


def test_the_descriptors_number_is_the_senders_and_is_not_looked_at(bench: Bench) -> None:
    attrs = bind_attrs(NIC, 1, fd=0xFFFFFFFF)
    assert bench.ask("netdev", BIND_RX, attrs, fds=[bench.memory()])[0].cmd == BIND_RX


def test_a_device_that_is_down_can_be_bound(bench: Bench) -> None:
    device(up=False)(bench)
    assert bench.bind(1) == 1


def test_only_queues_in_use_can_be_bound(bench: Bench) -> None:
    attrs = header() + put_u32(9, 2)
    assert refusal(bench.ask("ethtool", 18, attrs, flags=ACK)[0]) == Refusal(0)
    assert bench.refused("netdev", BIND_RX, bind_attrs(NIC, 2), fds=[bench.memory()]) == Refusal(
        errno.EINVAL, offs=QUEUES + 4
    )


def test_an_administrator_of_one_interface_binds_on_that_one(bench: Bench) -> None:
    client = bench.connect(FakePeer(interfaces={"nic0"}))
    assert bench.bind(1, client=client) == 1


# --- ids ---


def test_ids_are_global_and_cyclic(bench: Bench) -> None:
    bench.ready(8)
    other = bench.connect()
    assert [bench.bind(0), bench.bind(0, ifindex=8, client=other), bench.bind(1)] == [1, 2, 3]
    bench.server.disconnect(other)
    assert bench.bind(2) == 4, "a free number is not taken before the circle closes"


def test_a_bind_that_failed_uses_up_its_number(bench: Bench) -> None:
    bench.backend.bind_error = OSError(errno.ENOMEM, "")
    assert bench.refused("netdev", BIND_RX, FULL, fds=[bench.memory()]).errno == errno.ENOMEM
    bench.backend.bind_error = None
    assert bench.bind(1) == 2


def test_ids_come_back_after_a_failure_and_after_the_end(bench: Bench) -> None:
    bench.model._bindings._ids = CyclicIds(1, 2)
    for _ in range(2):
        bench.backend.bind_error = OSError(errno.ENOMEM, "")
        assert bench.refused("netdev", BIND_RX, FULL, fds=[bench.memory()]).errno == errno.ENOMEM
        bench.backend.bind_error = None
        client = bench.connect()
        bench.bind(1, client=client)
        bench.server.disconnect(client)
    assert [bench.bind(1), bench.bind(2)] == [1, 2]


def test_the_circle_of_ids() -> None:
    ids = CyclicIds(1, 3)
    assert [ids.alloc(), ids.alloc(), ids.alloc()] == [1, 2, 3]
    with pytest.raises(OSError, match="all ids are in use") as caught:
        ids.alloc()
    assert caught.value.errno == errno.EBUSY
    ids.free(2)
    assert ids.alloc() == 2
    ids.free(1)
    ids.free(3)
    assert [ids.alloc(), ids.alloc()] == [3, 1]


# --- the end ---


def test_a_binding_ends_with_its_connection_and_with_no_other(bench: Bench) -> None:
    other = bench.connect()
    bench.bind(1)
    bench.server.disconnect(other)
    assert bench.nic().providers == {1: 1}
    bench.server.disconnect(bench.client)
    assert bench.nic().providers == {}
    assert bench.backend.calls[-1] == ("unbind", 1)
    assert bench.backend.pools == {}
    third = bench.connect()
    bench.bind(1, client=third)


def test_a_connections_bindings_end_newest_first(bench: Bench) -> None:
    for queue in (2, 0, 3):
        bench.bind(queue)
    bench.server.disconnect(bench.client)
    assert bench.backend.calls[3:] == [("unbind", 3), ("unbind", 2), ("unbind", 1)]


def test_the_id_and_the_queue_are_free_before_the_queue_restarts(bench: Bench) -> None:
    """Order of net_devmem_unbind_dmabuf(): lookup, list, queues, memory."""
    bench.bind(1)
    seen: list[tuple[object, ...]] = []
    restart = bench.backend.unbind

    def unbind(dmabuf_id: int) -> None:
        seen.append((dict(bench.nic().providers), bench.model._bindings._bindings[:]))
        restart(dmabuf_id)

    bench.backend.unbind = unbind  # type: ignore[method-assign]
    bench.server.disconnect(bench.client)
    assert seen == [({}, [])]


def test_memory_stays_until_the_last_buffer_is_home(bench: Bench) -> None:
    watcher = bench.connect()
    bench.server.join(watcher, bench.family("netdev").group_ids["page-pool"])
    bench.bind(1)
    bench.backend.held.add(1)
    bench.server.disconnect(bench.client)
    (pool, _done) = bench.ask("netdev", NetdevCmd.PAGE_POOL_GET, flags=DUMP, client=watcher)
    assert {PagePoolAttr.DETACH_TIME, PagePoolAttr.DMABUF} <= set(pool.order())
    bench.backend.drain(1)
    assert [told.cmd for told in bench.inbox(watcher)] == [
        NetdevCmd.PAGE_POOL_ADD_NTF,
        NetdevCmd.PAGE_POOL_CHANGE_NTF,
        NetdevCmd.PAGE_POOL_DEL_NTF,
    ]


def test_the_queue_can_be_bound_again_while_the_old_memory_drains(bench: Bench) -> None:
    bench.bind(1)
    bench.backend.held.add(1)
    bench.server.disconnect(bench.client)
    assert bench.bind(1, client=bench.connect()) == 2


def test_a_binding_outlives_its_device(bench: Bench) -> None:
    bench.bind(1)
    gone = bench.backend.device_list.pop(1)
    bench.model.device_deleted(gone)
    again = replace(gone, num_rx_queues=2, num_tx_queues=2)
    bench.backend.device_list.append(again)
    assert bench.nic().providers == {}, "a new interface of this number is another one"
    assert bench.nic().channels.combined == 2
    bench.server.disconnect(bench.client)
    assert bench.backend.calls[-1] == ("unbind", 1)


def test_nobody_is_told_of_a_bind_as_such(bench: Bench) -> None:
    watcher = bench.connect()
    for group in bench.family("netdev").group_ids.values():
        bench.server.join(watcher, group)
    bench.bind(1)
    assert [told.cmd for told in bench.inbox(watcher)] == [NetdevCmd.PAGE_POOL_ADD_NTF]


# --- bind-tx ---

BIND_TX = NetdevCmd.BIND_TX
TX = put_u32(DmabufAttr.IFINDEX, NIC) + put_u32(DmabufAttr.FD, 5)
NO_TX = "Driver does not support netmem TX"

TX_ROWS = [
    Row("nothing", Refusal(errno.EINVAL, miss_type=DmabufAttr.IFINDEX), b""),
    Row("no fd", Refusal(errno.EINVAL, miss_type=DmabufAttr.FD), put_u32(1, 99)),
    Row(
        "queues",
        Refusal(errno.EINVAL, "Unsupported attribute", HEADERS),
        queue_nest(1) + TX,
    ),
    Row("no device", Refusal(errno.ENODEV), put_u32(1, 99) + put_u32(3, 5)),
    Row("absent", Refusal(errno.ENODEV), TX, device(present=False)),
    Row("loopback", Refusal(errno.EOPNOTSUPP, NO_TX), put_u32(1, LO) + put_u32(3, 5)),
    Row("driver", Refusal(errno.EOPNOTSUPP, NO_TX), TX),
    Row(
        "no DMA",
        Refusal(errno.EOPNOTSUPP, DMA_NONE),
        TX,
        driver(netmem_tx=True, dma_device=None),
    ),
    Row("no descriptor", Refusal(errno.EBADF), TX, driver(netmem_tx=True), 0),
]


@pytest.mark.parametrize("row", TX_ROWS, ids=[row.number for row in TX_ROWS])
def test_bind_tx_is_refused(bench: Bench, row: Row) -> None:
    row.set_up(bench)
    fds = [bench.memory() for _ in range(row.fds)]
    assert bench.refused("netdev", BIND_TX, row.attrs, fds=fds) == row.expected


def test_bind_tx_needs_no_permission_and_shares_the_ids(bench: Bench) -> None:
    driver(netmem_tx=True)(bench)
    anybody = bench.connect(FakePeer(is_admin=False, interfaces=set()))
    assert bench.bind(1) == 1
    (reply,) = bench.ask("netdev", BIND_TX, TX, fds=[bench.memory()], client=anybody)
    assert reply.attrs()[DmabufAttr.ID].u32() == 2
    assert bench.bind(2) == 3
    bench.server.disconnect(anybody)
    assert ("unbind", 2) not in bench.backend.calls, "it had no queues"
    assert bench.nic().providers == {1: 1, 2: 3}


def test_no_descriptor_is_left_open(bench: Bench) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    bench.bind(1)
    bench.refused("netdev", BIND_RX, FULL, fds=[bench.memory()])
    assert sorted(os.listdir("/proc/self/fd")) == before
