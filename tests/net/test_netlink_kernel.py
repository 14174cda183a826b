# SPDX-License-Identifier: Apache-2.0
"""The netdev client against the running kernel, in namespaces of the tests' own."""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from pyroute2 import NetNS

from devmemtcp.netlink.constants import (
    NETDEV_MCGRP_MGMT,
    NETDEV_MCGRP_PAGE_POOL,
    SOL_NETLINK,
    NapiThreaded,
    NetdevCmd,
    PolicyTypeAttr,
    QstatsScope,
    QueueType,
    SocketOption,
    TcpDataSplit,
)
from devmemtcp.netlink.errors import NetlinkError, NotificationsLost
from devmemtcp.netlink.ethtool import Ethtool, Feature
from devmemtcp.netlink.flow_rules import FlowRule, FlowRules
from devmemtcp.netlink.link import Links
from devmemtcp.netlink.netdev import Netdev
from devmemtcp.netlink.notifications import Notification
from devmemtcp.netlink.records import Device, Record
from devmemtcp.pyxdp import BindFlags, Umem, XskSocket

from ..capability import RELEASE, since
from ..slowness import SLOWNESS

if TYPE_CHECKING:
    from tests.net.veth import Veth, VethEnd

QUEUES = 2
NOBODY = 65534
LO = 1


@pytest.fixture
def end(netns_pair: Callable[..., Veth]) -> VethEnd:
    """One end of a veth pair with two queues each way."""
    return netns_pair(queues=QUEUES).right


@pytest.fixture
def netdev(end: VethEnd) -> Iterator[Netdev]:
    with Netdev(netns=end.netns) as client:
        yield client


def refusal(call: Callable[[], object]) -> NetlinkError:
    with pytest.raises(NetlinkError) as caught:
        call()
    return caught.value


# --- what there is ---------------------------------------------------------------------------


def test_devices(netdev: Netdev, end: VethEnd) -> None:
    every = netdev.dev_get()
    assert {device.ifindex for device in every} >= {LO, end.ifindex}
    one = netdev.dev_get(end.ifindex)
    assert one in every
    assert one.document()["xdp-features"][:2] == ["basic", "redirect"]


def test_queues(netdev: Netdev, end: VethEnd) -> None:
    every = netdev.queue_get(end.ifindex)
    assert [(queue.type, queue.id) for queue in every] == [
        (kind, number) for kind in QueueType for number in range(QUEUES)
    ]
    assert netdev.queue_get(end.ifindex, QueueType.TX, 1) == every[3]
    assert set(netdev.queue_get()) > set(every)


@since(6, 15, "NETDEV_A_QUEUE_XSK")
def test_a_queue_that_has_an_af_xdp_socket(netdev: Netdev, end: VethEnd) -> None:
    """Copy mode, too: the queue shows the empty nest on both of its sides."""

    def taken() -> list[tuple[int | None, int | None]]:
        return [(queue.type, queue.id) for queue in netdev.queue_get(end.ifindex) if queue.xsk]

    assert taken() == []
    with (
        end.enter(),
        Umem.allocate(64 * 4096) as umem,
        XskSocket(end.ifname, 1, umem, bind_flags=BindFlags.COPY),
    ):
        assert taken() == [(QueueType.RX, 1), (QueueType.TX, 1)]
        assert netdev.queue_get(end.ifindex, QueueType.TX, 1).document() == {
            "id": 1,
            "type": "tx",
            "ifindex": end.ifindex,
            "xsk": {},
        }
    deadline = time.monotonic() + 10 * SLOWNESS
    while taken():  # the kernel lets go in a work item, of which nobody is told
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_napi_instances(netdev: Netdev, end: VethEnd) -> None:
    """A veth has them as soon as GRO is on."""
    end.run(["ethtool", "-K", end.ifname, "gro", "on"], capture_output=True)
    every = netdev.napi_get(ifindex=end.ifindex)
    assert len(every) == QUEUES
    napi_id = every[0].id
    assert napi_id is not None
    assert netdev.napi_get(napi_id) == every[0]


@since(6, 17, "NETDEV_A_NAPI_THREADED")
def test_napi_set(netdev: Netdev, end: VethEnd) -> None:
    end.run(["ethtool", "-K", end.ifname, "gro", "on"], capture_output=True)
    napi_id = netdev.napi_get(ifindex=end.ifindex)[0].id
    assert napi_id is not None
    timeout = 5 << 32  # nanoseconds: needs the wide form of a "uint"
    netdev.napi_set(
        napi_id,
        defer_hard_irqs=3,
        gro_flush_timeout=20_000,
        irq_suspend_timeout=timeout,
        threaded=NapiThreaded.ENABLED,
    )
    napi = netdev.napi_get(napi_id)
    assert (napi.defer_hard_irqs, napi.gro_flush_timeout) == (3, 20_000)
    assert (napi.irq_suspend_timeout, napi.threaded) == (timeout, NapiThreaded.ENABLED)
    assert napi.pid is not None


def test_page_pools(netdev: Netdev) -> None:
    """Those of a veth are linked to no interface: the kernel does not show them."""
    assert netdev.page_pool_get() == []
    error = refusal(lambda: netdev.page_pool_get(4_000_000_000))
    assert (error.errno, error.bad_attr) == (errno.ENOENT, None)


def test_queue_statistics_of_all_skip_those_that_have_none(netdev: Netdev, end: VethEnd) -> None:
    assert end.ifindex not in {each.ifindex for each in netdev.qstats_get(scope=QstatsScope.QUEUE)}


# --- what is refused, and in which words -----------------------------------------------------


@since(6, 18, "the device is looked at before the dma-buf")
@pytest.mark.parametrize("kind", ["lo", "veth"])
def test_bind_rx_on_a_device_that_cannot(netdev: Netdev, end: VethEnd, kind: str) -> None:
    ifindex = LO if kind == "lo" else end.ifindex
    error = refusal(lambda: netdev.bind_rx(ifindex, 0, [0]))
    assert (error.errno, error.extack) == (errno.EOPNOTSUPP, "")
    assert (error.bad_attr, error.bad_attr_name) == (20, "ifindex")


def test_bind_rx_without_queues(netdev: Netdev) -> None:
    error = refusal(lambda: netdev.bind_rx(LO, 0, []))
    assert (error.errno, error.miss_type, error.miss_nest) == (errno.EINVAL, 2, None)
    assert error.miss_type_name == "queues"


def test_bind_rx_on_no_interface(netdev: Netdev) -> None:
    error = refusal(lambda: netdev.bind_rx(0, 0, [0]))
    assert (error.errno, error.extack) == (errno.ERANGE, "integer out of range")
    assert error.bad_attr == 20
    assert error.policy is not None
    assert error.policy[PolicyTypeAttr.MIN_VALUE_U] == 1


def test_bind_rx_on_an_interface_that_is_not_there(netdev: Netdev) -> None:
    error = refusal(lambda: netdev.bind_rx(4_000_000, 0, [0]))
    assert (error.errno, error.extack, error.bad_attr) == (errno.ENODEV, "", None)


@since(6, 16, "NETDEV_CMD_BIND_TX")
def test_bind_tx(netdev: Netdev, end: VethEnd) -> None:
    error = refusal(lambda: netdev.bind_tx(end.ifindex, 0))
    assert error.errno == errno.EOPNOTSUPP
    assert error.extack == "Driver does not support netmem TX"


def test_queue_get_of_none(netdev: Netdev, end: VethEnd) -> None:
    rx = QueueType.RX
    assert refusal(lambda: netdev.queue_get(end.ifindex, rx, QUEUES)).errno == errno.EINVAL
    assert refusal(lambda: netdev.queue_get(4_000_000, rx, 0)).errno == errno.ENODEV
    assert refusal(lambda: netdev.queue_get(4_000_000)).errno == errno.ENODEV
    with Links(end.netns) as links:
        links.set(end.ifindex, up=False)
        assert not links.get(end.ifname).up
    assert refusal(lambda: netdev.queue_get(end.ifindex, rx, 0)).errno == errno.ENOENT
    assert netdev.queue_get(end.ifindex) == []


def test_napi_get_of_none(netdev: Netdev) -> None:
    error = refusal(lambda: netdev.napi_get(4_000_000_000))
    assert (error.errno, error.bad_attr_name) == (errno.ENOENT, "id")


def test_statistics_of_a_device_without(netdev: Netdev) -> None:
    """The refusal of a dump comes in NLMSG_DONE."""
    error = refusal(lambda: netdev.qstats_get(LO))
    assert (error.errno, error.bad_attr_name) == (errno.EOPNOTSUPP, "ifindex")
    error = refusal(lambda: netdev.qstats_get(scope=QstatsScope(2)))
    assert (error.errno, error.extack) == (errno.EINVAL, "reserved bit set")


def in_a_child_as(uid: int, work: Callable[[], object]) -> str:
    """Run work() as another user; returns the repr of its result, or the errno of its error."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setresuid(uid, uid, uid)
            try:
                told = repr(work())
            except OSError as error:
                told = f"errno {error.errno}"
            os.write(write, told.encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as answer:
        told = answer.read()
    os.waitpid(pid, 0)
    return told


def test_who_may_bind(netdev: Netdev, end: VethEnd) -> None:
    """bind-rx is for CAP_NET_ADMIN, which is asked before anything else; bind-tx is for all."""
    assert in_a_child_as(NOBODY, lambda: netdev.bind_rx(0, 0, [])) == f"errno {errno.EPERM}"
    if RELEASE >= (6, 16):
        sent = in_a_child_as(NOBODY, lambda: netdev.bind_tx(end.ifindex, 0))
        assert sent == f"errno {errno.EOPNOTSUPP}"
    assert in_a_child_as(NOBODY, lambda: len(netdev.dev_get())) == str(len(netdev.dev_get()))


# --- what is told unasked --------------------------------------------------------------------


def of(news: Iterable[Notification], command: NetdevCmd) -> list[int | None]:
    """The interfaces that notifications of one kind are about."""
    told = [each.record for each in news if each.command is command]
    return [record.ifindex for record in told if isinstance(record, Device)]


def add_veth(handle: NetNS, name: str) -> int:
    handle.link("add", ifname=name, kind="veth", peer={"ifname": f"{name}p"})
    ifindex: int = handle.link_lookup(ifname=name)[0]
    return ifindex


def test_a_new_interface_is_announced_and_its_end_too(netdev: Netdev, end: VethEnd) -> None:
    with (
        netdev.subscribe(NETDEV_MCGRP_MGMT, NETDEV_MCGRP_PAGE_POOL) as news,
        NetNS(end.netns) as handle,
    ):
        assert news.get_notifications() == []
        ifindex = add_veth(handle, "new")
        assert select.select([news], [], [], 10)[0] == [news]
        told = news.get_notifications()
        assert len(of(told, NetdevCmd.DEV_ADD_NTF)) == 2
        assert ifindex in of(told, NetdevCmd.DEV_ADD_NTF)
        # Its driver gives it features once it has a peer.
        assert Notification(NetdevCmd.DEV_CHANGE_NTF, netdev.dev_get(ifindex)) in told
        handle.link("del", index=ifindex)
        gone = news.get_notifications(timeout=10 * SLOWNESS)
        assert ifindex in of(gone, NetdevCmd.DEV_DEL_NTF)
        assert {each.document()["name"] for each in gone} >= {"dev-del-ntf"}
        assert news.get_notifications(timeout=0.01) == []


def test_notifications_as_an_iterator(netdev: Netdev, end: VethEnd) -> None:
    with netdev.subscribe(NETDEV_MCGRP_MGMT) as news, NetNS(end.netns) as handle:
        ifindex = add_veth(handle, "new")
        added = [each for each in islice(news, 2) if each.command is NetdevCmd.DEV_ADD_NTF]
        assert added
        assert of(added, NetdevCmd.DEV_ADD_NTF)[-1] in (ifindex, ifindex - 1, ifindex + 1)


def test_lost_notifications(netdev: Netdev, end: VethEnd) -> None:
    """The kernel says ENOBUFS once and goes on."""
    with (
        netdev.subscribe(NETDEV_MCGRP_MGMT) as news,
        socket.socket(fileno=os.dup(news.fileno())) as duplicate,
        NetNS(end.netns) as handle,
    ):
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel's least
        for number in range(10):
            add_veth(handle, f"new{number}")
        with pytest.raises(NotificationsLost) as caught:
            news.get_notifications()
        assert caught.value.errno == errno.ENOBUFS
        assert news.get_notifications()  # what had come before
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        ifindex = add_veth(handle, "last")
        assert ifindex in of(news.get_notifications(timeout=10 * SLOWNESS), NetdevCmd.DEV_ADD_NTF)


def test_a_group_that_there_is_not(netdev: Netdev) -> None:
    with pytest.raises(ValueError, match="no group 'queues'; there are mgmt, page-pool"):
        netdev.subscribe("queues")


# --- the socket ------------------------------------------------------------------------------


def test_the_socket_is_in_the_namespace_and_the_caller_is_not(end: VethEnd) -> None:
    home = os.stat("/proc/thread-self/ns/net").st_ino
    with Netdev(netns=f"/run/netns/{end.netns}") as netdev, Links(end.netns) as links:
        assert links.get(end.ifname).ifindex == end.ifindex
        assert end.ifindex in {device.ifindex for device in netdev.dev_get()}
    assert os.stat("/proc/thread-self/ns/net").st_ino == home
    with pytest.raises(FileNotFoundError):
        Netdev(netns="no-such-namespace")


def test_options_of_the_socket(netdev: Netdev) -> None:
    with socket.socket(fileno=os.dup(netdev.fileno())) as duplicate:
        for option in SocketOption.CAP_ACK, SocketOption.EXT_ACK, SocketOption.GET_STRICT_CHK:
            assert duplicate.getsockopt(SOL_NETLINK, option) == 1


def test_a_message_from_another_process_is_no_answer(netdev: Netdev, end: VethEnd) -> None:
    """Anyone with CAP_NET_ADMIN may send to our port; only the kernel's port, 0, is heard."""
    queues = netdev.queue_get(end.ifindex)
    port = socket.socket(fileno=os.dup(netdev.fileno()))
    with port, end.enter(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16) as intruder:
        ours = port.getsockname()[0]
        for seq in range(1, 20):
            refused = struct.pack("=IHHIIi16x", 36, 2, 0, seq, ours, -errno.EPERM)
            intruder.sendto(refused, (ours, 0))
    assert netdev.queue_get(end.ifindex) == queues


def test_a_dump_in_several_datagrams(netns_pair: Callable[..., Veth]) -> None:
    """The kernel fills datagrams of up to 32 KiB."""
    many = netns_pair(queues=500).right
    with Netdev(netns=many.netns) as netdev:
        queues = netdev.queue_get(many.ifindex)
    assert [(queue.type, queue.id) for queue in queues] == [
        (kind, number) for kind in QueueType for number in range(500)
    ]


# --- ethtool and links -----------------------------------------------------------------------


@since(6, 14, "ETHTOOL_A_RINGS_HDS_THRESH")
def test_rings_of_a_veth(end: VethEnd) -> None:
    with Ethtool(netns=end.netns) as ethtool:
        assert refusal(lambda: ethtool.rings_get(end.ifname)).errno == errno.EOPNOTSUPP
        error = refusal(lambda: ethtool.rings_set(end.ifindex, tcp_data_split=TcpDataSplit.ENABLED))
        assert error.errno == errno.EOPNOTSUPP
        assert error.extack == "setting TCP data split is not supported"
        assert error.bad_attr_name == "tcp-data-split"
        error = refusal(lambda: ethtool.rings_set(end.ifname, hds_thresh=0))
        assert error.extack == "setting hds-thresh is not supported"


def test_channels_of_a_veth(end: VethEnd) -> None:
    with Ethtool(netns=end.netns) as ethtool:
        channels = ethtool.channels_get(end.ifname)
        assert channels.header is not None
        assert channels.header.dev_index == end.ifindex
        assert (channels.rx_count, channels.tx_count) == (QUEUES, QUEUES)
        ethtool.channels_set(end.ifindex, rx=1)
        assert ethtool.channels_get(end.ifindex).rx_count == 1
        error = refusal(lambda: ethtool.channels_set(end.ifindex, rx=QUEUES + 1))
        assert error.extack == "requested channel count exceeds maximum"
        assert error.bad_attr_name == "rx-count"


def test_features_are_read_and_asked_for(end: VethEnd) -> None:
    with Ethtool(netns=end.netns) as ethtool:
        before = ethtool.features_get(end.ifname)
        assert before["rx-vlan-hw-parse"] == Feature(active=True, wanted=True, changeable=True)
        assert not before["rx-lro"].changeable
        ethtool.features_set(end.ifindex, {"rx-vlan-hw-parse": False, "rx-lro": True})
        # What is fixed is left, without a word.
        off = Feature(active=False, wanted=False, changeable=True)
        assert ethtool.features_get(end.ifindex) == {**before, "rx-vlan-hw-parse": off}
        shown = end.run(["ethtool", "-k", end.ifname], capture_output=True, text=True).stdout
        assert "rx-vlan-offload: off\n" in shown
        ethtool.features_set(end.ifname, {"rx-vlan-hw-parse": True})
        assert ethtool.features_get(end.ifname) == before
        error = refusal(lambda: ethtool.features_set(end.ifname, {"no-such-thing": True}))
        assert error.errno == errno.EOPNOTSUPP
        assert error.extack == "bit name not found"


def test_a_device_that_ethtool_does_not_find(end: VethEnd) -> None:
    with Ethtool(netns=end.netns) as ethtool:
        error = refusal(lambda: ethtool.channels_get("nowhere0"))
        assert (error.errno, error.bad_attr_name) == (errno.ENODEV, "header/dev-name")
        assert refusal(lambda: ethtool.rss_set(end.ifname, indir=[0, 1])).errno == errno.EOPNOTSUPP
        assert refusal(lambda: ethtool.rss_get(end.ifname)).errno == errno.EOPNOTSUPP


def test_flow_rules_of_a_veth(end: VethEnd) -> None:
    with FlowRules(end.ifname, end.netns) as rules:
        for call in (
            lambda: rules.insert(FlowRule(4, 1, dst_port=5201)),
            lambda: rules.delete(0),
            rules.dump,
        ):
            with pytest.raises(OSError, match=f"{end.ifname}: cannot .* flow rule") as caught:
                call()
            assert caught.value.errno == errno.EOPNOTSUPP


def test_links(end: VethEnd) -> None:
    with Links(end.netns) as links:
        link = links.get(end.ifname)
        assert link in links.dump()
        assert link == links.get(end.ifindex)
        assert (link.kind, link.up, link.carrier, link.loopback) == ("veth", True, True, False)
        assert (link.num_rx_queues, link.num_tx_queues, link.xdp_prog_id) == (QUEUES, QUEUES, None)
        links.set(end.ifname, mtu=1400)
        assert links.get(end.ifindex).mtu == 1400
        assert refusal(lambda: links.get("nowhere0")).errno == errno.ENODEV
        error = refusal(lambda: links.set(end.ifindex, mtu=1))
        assert error.extack == "mtu less than device minimum"


# --- the command line ------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["dev-get", "queue-get", "napi-get", "page-pool-get"])
def test_netdev_dump(netdev: Netdev, end: VethEnd, command: str) -> None:
    base = [sys.executable, "-m", "devmemtcp.agent.cli", "netdev", "dump", command]
    of_end = ["-i", end.ifname]
    dumped = json.loads(end.run([*base, *of_end, "--json"], capture_output=True).stdout)
    assert (dumped["ok"], dumped["command"], dumped["target"]) == (True, command, "kernel")
    objects: dict[str, Callable[[], Sequence[Record]]] = {
        "dev-get": lambda: [netdev.dev_get(end.ifindex)],
        "queue-get": lambda: netdev.queue_get(end.ifindex),
        "napi-get": lambda: netdev.napi_get(ifindex=end.ifindex),
        "page-pool-get": list,
    }
    assert dumped["objects"] == [record.document() for record in objects[command]()]
    table = end.run([*base, *of_end], capture_output=True, text=True).stdout
    assert table.startswith(f"{command} of the kernel")
