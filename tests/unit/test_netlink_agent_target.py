# SPDX-License-Identifier: Apache-2.0
"""The same client with an agent: each method, over a real socket, against the model."""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devmemtcp.netlink.backend import QueueStats
from devmemtcp.netlink.constants import (
    NETDEV_MCGRP_PAGE_POOL,
    NetdevCmd,
    PagePoolStatsAttr,
    QstatsAttr,
    QstatsScope,
    QueueType,
    TcpDataSplit,
)
from devmemtcp.netlink.errors import NetlinkError
from devmemtcp.netlink.ethtool import Ethtool
from devmemtcp.netlink.netdev import Netdev
from devmemtcp.netlink.notifications import Notifications
from devmemtcp.netlink.records import PagePool

from ..slowness import SLOWNESS
from .netlink.bench import DOWN, LO, NIC, Bench
from .netlink.served import Served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """An agent with a NIC of four queues that is ready to be bound."""
    bench = Bench()
    bench.ready()
    with Served(bench, tmp_path / "agent.sock") as agent:
        yield agent


@pytest.fixture
def netdev(served: Served) -> Iterator[Netdev]:
    with Netdev(served.path) as client:
        yield client


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create("memory")
    yield fd
    os.close(fd)


def refusal(call: Callable[[], object]) -> NetlinkError:
    with pytest.raises(NetlinkError) as caught:
        call()
    return caught.value


def test_what_there_is(netdev: Netdev) -> None:
    assert [device.ifindex for device in netdev.dev_get()] == [LO, NIC, DOWN]
    assert netdev.dev_get(NIC).ifindex == NIC
    assert len(netdev.queue_get(NIC)) == 8
    assert netdev.queue_get(NIC, QueueType.TX, 3).document() == {
        "id": 3,
        "type": "tx",
        "ifindex": NIC,
    }
    assert netdev.page_pool_get() == []
    assert netdev.napi_get() == []
    assert netdev.qstats_get() == []


def test_a_binding_is_seen_and_ends_with_the_socket(
    served: Served, netdev: Netdev, memory: int
) -> None:
    with Netdev(served.path) as owner:
        binding = owner.bind_rx(NIC, memory, [1, 2])
        bound = [queue.id for queue in netdev.queue_get(NIC) if queue.dmabuf == binding]
        assert bound == [1, 2]
        pools = netdev.page_pool_get()
        assert [(pool.ifindex, pool.dmabuf) for pool in pools] == [(NIC, binding)] * 2
        assert isinstance(pools[0].id, int)
        assert netdev.page_pool_get(pools[0].id) == pools[0]
    served.await_disconnect()
    assert netdev.page_pool_get() == []
    assert [queue for queue in netdev.queue_get() if queue.dmabuf is not None] == []


def test_a_copy_of_the_socket_keeps_the_binding(
    served: Served, netdev: Netdev, memory: int
) -> None:
    owner = Netdev(served.path)
    binding = owner.bind_rx(NIC, memory, [0])
    copy = os.dup(owner.fileno())
    owner.close()
    assert netdev.queue_get(NIC, QueueType.RX, 0).dmabuf == binding
    os.close(copy)
    served.await_disconnect()
    assert netdev.queue_get(NIC, QueueType.RX, 0).dmabuf is None


def test_refusals(netdev: Netdev, memory: int) -> None:
    error = refusal(lambda: netdev.bind_rx(LO, memory, [0]))
    assert (error.errno, error.bad_attr_name) == (errno.EOPNOTSUPP, "ifindex")
    error = refusal(lambda: netdev.bind_rx(NIC, memory, [0, 4]))
    assert (error.errno, error.bad_attr_name) == (errno.EINVAL, "queues/id")
    error = refusal(lambda: netdev.bind_rx(NIC, memory, []))
    assert (error.errno, error.miss_type_name) == (errno.EINVAL, "queues")
    error = refusal(lambda: netdev.qstats_get(NIC))
    assert error.errno == errno.EOPNOTSUPP
    assert refusal(lambda: netdev.bind_tx(NIC, memory)).errno == errno.EOPNOTSUPP


def test_header_split_is_set_and_asked_for(served: Served, netdev: Netdev, memory: int) -> None:
    with Ethtool(served.path) as ethtool:
        rings = ethtool.rings_get(NIC)
        assert (rings.tcp_data_split, rings.hds_thresh) == (TcpDataSplit.ENABLED, 0)
        ethtool.rings_set("nic0", tcp_data_split=TcpDataSplit.DISABLED)
        error = refusal(lambda: netdev.bind_rx(NIC, memory, [0]))
        assert (error.errno, error.extack) == (errno.EINVAL, "tcp-data-split is disabled")
        ethtool.rings_set(NIC, tcp_data_split=TcpDataSplit.ENABLED)
        netdev.bind_rx(NIC, memory, [3])
        error = refusal(lambda: ethtool.rings_set(NIC, tcp_data_split=TcpDataSplit.DISABLED))
        assert error.extack.startswith("can't disable tcp-data-split")
        assert ethtool.channels_get(NIC).header is not None


def test_counters(served: Served) -> None:
    rx = {QstatsAttr.RX_PACKETS: 5, QstatsAttr.RX_BYTES: 1 << 40}
    served.bench.backend.stats[NIC] = QueueStats(
        rx=[rx] * 4, tx=[{}] * 4, base=dict.fromkeys(rx, 0)
    )
    pool = served.bench.backend.add_pool(ifindex=NIC, inflight=7)
    served.bench.backend.pool_counters[pool.id] = dict.fromkeys(
        [attr for attr in PagePoolStatsAttr if attr is not PagePoolStatsAttr.INFO], 1 << 33
    )
    with Netdev(served.path) as netdev:
        (total,) = netdev.qstats_get(NIC)
        assert (total.ifindex, total.rx_packets, total.rx_bytes) == (NIC, 20, 1 << 42)
        each = netdev.qstats_get(NIC, QstatsScope.QUEUE)
        assert [queue.rx_bytes for queue in each if queue.queue_type is QueueType.RX] == [
            1 << 40
        ] * 4
        (stats,) = netdev.page_pool_stats_get()
        assert stats.info is not None
        assert (stats.info.id, stats.recycle_released_refcnt) == (pool.id, 1 << 33)
        assert netdev.page_pool_stats_get(pool.id) == stats


def test_notifications(served: Served, netdev: Netdev, memory: int) -> None:
    with netdev.subscribe(NETDEV_MCGRP_PAGE_POOL) as news:
        netdev.bind_rx(NIC, memory, [0])
        assert select.select([news], [], [], 10)[0] == [news]
        (told,) = news.get_notifications()
        assert told.command is NetdevCmd.PAGE_POOL_ADD_NTF
        assert isinstance(told.record, PagePool)
        assert told.record == netdev.page_pool_get()[0]


def test_a_connected_socket_is_a_target(served: Served) -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(served.path))
    with Notifications(sock, groups=[NETDEV_MCGRP_PAGE_POOL]) as news:
        assert news.get_notifications() == []
    assert sock.fileno() == -1


def test_netdev_dump_of_the_agent(served: Served, netdev: Netdev, memory: int) -> None:
    binding = netdev.bind_rx(NIC, memory, [0])
    options = ["--target", "agent", "--socket", str(served.path), "--ifindex", str(NIC), "--json"]
    command = [sys.executable, "-m", "devmemtcp.agent.cli", "netdev", "dump", "queue-get", *options]
    output = subprocess.run(command, check=True, capture_output=True, timeout=60 * SLOWNESS).stdout
    dumped = json.loads(output)
    assert dumped["target"] == "agent"
    assert dumped["objects"] == [queue.document() for queue in netdev.queue_get(NIC)]
    assert dumped["objects"][0]["dmabuf"] == binding
