# SPDX-License-Identifier: Apache-2.0
"""The running kernel and the model get the same bytes; their answers must be the same bytes.

The kernel has the families but no device with queue management, so it can be asked up to there:
policies, permissions, headers, dumps, and everything that loopback and veth answer. The model
stands on a backend that describes the devices of the namespace. Families and groups get the
kernel's numbers, the client its port: nothing is left to be masked.
"""

from __future__ import annotations

import itertools
import os
import platform
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from devmemtcp.netlink.attribute import Attribute, Walk, nest, nest_noflag, put, put_u8, put_u32
from devmemtcp.netlink.backend import Device, Napi
from devmemtcp.netlink.constants import (
    NETLINK_GENERIC,
    SOL_NETLINK,
    CtrlAttr,
    CtrlCmd,
    CtrlMcastGrpAttr,
    MsgType,
    NapiAttr,
    NetdevCmd,
    QueueAttr,
    SocketOption,
)
from devmemtcp.netlink.family import Client
from devmemtcp.netlink.model import NetdevModel
from devmemtcp.netlink.server import NLMSG_GOODSIZE, NetlinkServer

from ..unit.netlink.bench import ACK, DO, DUMP, answers, bind_attrs, message, queue_nest
from ..unit.netlink.fake import FakeBackend, FakePeer
from ..unit.netlink.strategies import request

if TYPE_CHECKING:
    from tests.net.veth import Veth

CTRL = 16
LO = 1
ABSENT = 9999
RINGS_GET, RINGS_SET, CHANNELS_GET, CHANNELS_SET = 15, 16, 17, 18
QUEUES = 64
U32_MAX = 0xFFFFFFFF


class Kernel:
    """A generic netlink socket that reads what the server would send in one turn."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        self.socket.setsockopt(SOL_NETLINK, SocketOption.CAP_ACK, 1)
        self.socket.setsockopt(SOL_NETLINK, SocketOption.EXT_ACK, 1)
        self.socket.bind((0, 0))
        self.portid: int = self.socket.getsockname()[0]

    def handle(self, data: bytes) -> list[bytes]:
        """The kernel answers within send(), and goes on with a dump within each recv().

        The size of the reads decides how it cuts dumps: larger ones make larger datagrams.
        """
        self.socket.send(data)
        got = []
        while True:
            try:
                got.append(self.socket.recv(NLMSG_GOODSIZE, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return got

    def family(self, name: str) -> tuple[int, dict[str, int]]:
        """Return the family's id and its groups'."""
        (data,) = self.handle(message(CTRL, CtrlCmd.GETFAMILY, put(2, name.encode() + b"\0")))
        attrs = next(answers([data])).attrs()
        groups = {}
        for entry in attrs[CtrlAttr.MCAST_GROUPS].children():
            group = {attr.type: attr for attr in entry.children()}
            groups[group[CtrlMcastGrpAttr.NAME].string().decode()] = group[
                CtrlMcastGrpAttr.ID
            ].u32()
        return attrs[CtrlAttr.FAMILY_ID].u16(), groups


class Oracle:
    """The kernel's namespace and its likeness."""

    def __init__(self, ifindex: int) -> None:
        self.veth = ifindex
        self.kernel = Kernel()
        self.backend = FakeBackend()
        self.server = NetlinkServer()
        NetdevModel(self.server, self.backend, page_pool_stats=False)
        self.netdev, self.ethtool = self._renumber()
        self.peer = FakePeer()
        self.client: Client = self.server.connect(self.peer, self._unexpected)
        self.client.portid = self.kernel.portid
        self.likeness()

    def _renumber(self) -> tuple[int, int]:
        """Give the model's families the numbers that the kernel has for them."""
        controller, netdev, ethtool = self.server.families.values()
        for family in (netdev, ethtool):
            family.id, family.group_ids = self.kernel.family(family.name)
        self.server.families.clear()
        for family in (controller, netdev, ethtool):
            self.server.families[family.id] = family
        return netdev.id, ethtool.id

    def _unexpected(self, data: bytes) -> None:
        raise AssertionError(data)

    def likeness(self) -> None:
        """Describe the kernel's devices to the model."""
        self.backend.device_list.clear()
        for row in self._dump(NetdevCmd.DEV_GET):
            ifindex = row[1].u32()
            queues = [
                queue
                for queue in self._dump(NetdevCmd.QUEUE_GET, put_u32(2, ifindex))
                if queue[QueueAttr.IFINDEX].u32() == ifindex
            ]
            counts = [sum(q[QueueAttr.TYPE].u32() == kind for q in queues) for kind in (0, 1)]
            self.backend.device_list.append(
                Device(
                    ifindex=ifindex,
                    ifname=socket.if_indextoname(ifindex),
                    num_rx_queues=counts[0],
                    num_tx_queues=counts[1],
                    up=bool(queues),
                    managed=False,
                    xdp_features=row[3].uint(),
                    xdp_rx_metadata_features=row[5].uint(),
                    xsk_features=row[6].uint(),
                    napis=[
                        Napi(id=napi[NapiAttr.ID].u32())
                        for napi in self._dump(NetdevCmd.NAPI_GET, put_u32(1, ifindex))
                    ],
                )
            )

    def _dump(self, cmd: int, attrs: bytes = b"") -> list[dict[int, Attribute]]:
        data = self.kernel.handle(message(self.netdev, cmd, attrs, flags=DUMP))
        return [one.attrs() for one in answers(data) if one.type == self.netdev]

    def both(self, data: bytes) -> tuple[list[bytes], list[bytes]]:
        return (
            self.kernel.handle(data),
            [datagram.data for datagram in self.server.handle(data, self.client)],
        )

    def agree(self, data: bytes) -> list[bytes]:
        kernel, model = self.both(data)
        assert [m.hex() for m in model] == [k.hex() for k in kernel], data.hex()
        return kernel


@pytest.fixture
def pair(netns_pair: Callable[..., Veth]) -> Veth:
    """Loopback and a veth with more queues than fit into one datagram."""
    release = tuple(int(part) for part in platform.release().split(".")[:2])
    if release != (6, 18):
        pytest.skip(f"the model answers as Linux 6.18 does; this is {platform.release()}")
    return netns_pair(queues=QUEUES)


@pytest.fixture
def oracle(pair: Veth) -> Iterator[Oracle]:
    with ExitStack() as undo:
        with pair.left.enter():
            made = Oracle(pair.left.ifindex)
        undo.callback(made.kernel.socket.close)
        yield made


def u64(kind: int, value: int) -> bytes:
    return put(kind, struct.pack("=Q", value))


def queue(ifindex: int, kind: int, number: int) -> bytes:
    return put_u32(2, ifindex) + put_u32(3, kind) + put_u32(1, number)


def test_both_answer_alike(oracle: Oracle) -> None:
    netdev, veth = oracle.netdev, oracle.veth
    bind = bind_attrs(veth, 1)
    rows = [
        (1, b""), (1, put_u32(1, LO)), (1, put_u32(1, veth)), (1, put_u32(1, ABSENT)),
        (1, put_u32(1, 0)), (1, put_u32(2, 1)), (1, put_u32(1, LO) + b"\0"),
        (2, b""), (3, b""), (4, b""), (6, b""), (7, b""), (8, b""), (0, b""), (99, b""),
        (5, b""), (5, put_u32(1, 5)), (5, u64(1, 5)), (5, u64(1, 1 << 32)), (5, put_u32(1, 0)),
        (5, put(1, b"abc")), (5, put_u32(2, veth)), (9, b""), (9, nest(1, put_u32(1, 5))),
        (10, b""), (10, put_u32(1, 0)), (10, put_u32(1, 0) + put_u32(3, 0)),
        (10, queue(LO, 0, 0)), (10, queue(LO, 1, 0)), (10, queue(LO, 0, 1)),
        (10, queue(veth, 0, QUEUES - 1)), (10, queue(veth, 1, QUEUES)), (10, queue(veth, 2, 0)),
        (10, queue(ABSENT, 0, 0)), (10, queue(0, 0, 0)), (10, queue(veth, 0, U32_MAX)),
        (10, put_u32(0x8002, LO)), (10, put_u32(0x4002, LO)), (10, put_u8(1, 0)),
        (11, b""), (11, put_u32(2, 5)), (11, put_u32(2, 0)), (11, put_u32(1, LO)),
        (12, b""), (12, put_u32(4, 1)), (12, put_u32(4, 2)), (12, u64(4, 1 << 63)),
        (12, put_u32(1, LO)), (12, put_u32(1, veth)), (12, put_u32(1, ABSENT)),
        (12, put_u32(2, 0)), (12, put_u32(4, 0)), (12, put_u32(3, 0)), (12, put_u32(5, 0)),
        (13, b""), (13, put_u32(1, 0)), (13, put_u32(1, veth)),
        (13, put_u32(1, veth) + put_u32(3, 5)),
        (13, put_u32(3, 5) + queue_nest(1)), (13, bind), (13, bind_attrs(LO, 0)),
        (13, bind_attrs(ABSENT, 0)), (13, bind + put_u32(4, 1)), (13, put_u32(5, 4096) + bind),
        (13, bind_attrs(veth) + queue_nest(1, 2)), (13, bind_attrs(veth) + nest(2)),
        (13, bind_attrs(veth) + nest_noflag(2)), (13, bind_attrs(veth) + put(0x8002, b"ab")),
        (13, bind_attrs(veth) + nest(2, put_u32(2, 1))),
        (13, bind_attrs(veth) + nest(2, put_u32(4, 1))),
        (13, bind_attrs(veth) + nest(2, put_u32(1, 1) + b"xy")), (13, bind + queue_nest(None)),
        (13, bind_attrs(veth) + nest(2, nest(1, b""))),
        (13, bind_attrs(veth) + nest(2, put(1, b"xyz"))),
        (14, b""), (14, put_u32(2, 5)), (14, put_u32(2, 5) + put_u32(8, 3)),
        (14, put_u32(2, 5) + put_u32(8, 2)), (14, put_u32(2, 5) + put_u32(5, 1 << 31)),
        (14, put_u32(2, 5) + put(6, b"")), (14, put_u32(3, 5)), (14, put_u32(9, 5)),
        (15, b""), (15, put_u32(1, veth)), (15, put_u32(1, veth) + put_u32(3, 5)),
        (15, put_u32(1, LO) + put_u32(3, 5)), (15, put_u32(1, ABSENT) + put_u32(3, 5)),
        (15, queue_nest(1)), (15, put_u32(4, 1)),
    ]  # fmt: skip
    for (cmd, attrs), flags in itertools.product(rows, (DO, ACK, DUMP, DUMP | ACK)):
        oracle.agree(message(netdev, cmd, attrs, flags=flags))


def test_ethtool_answers_alike(oracle: Oracle) -> None:
    def header(content: bytes) -> bytes:
        return nest(1, content)

    veth = header(put_u32(1, oracle.veth))
    for attrs, flags in itertools.product(
        [
            b"",
            header(b""),
            header(put_u32(1, ABSENT)),
            header(put(2, b"nobody\0")),
            header(put(2, b"nobody")),
            header(put(2, b"x" * 127 + b"\0")),
            header(put(2, b"x" * 128 + b"\0")),
            header(put_u32(1, LO) + put(2, b"nobody\0")),
            header(put_u32(1, LO)),
            header(put(2, b"lo\0")),
            header(put_u32(1, LO) + put(2, b"lo\0\0xyz")),
            header(put_u32(3, 3)),
            header(put_u32(3, 4)),
            header(put_u32(4, 1)),
            header(put_u32(5, 1)),
            nest_noflag(1),
            header(b"abc"),
        ],
        (DO, ACK, DUMP),
    ):
        for cmd in (RINGS_GET, RINGS_SET):
            oracle.agree(message(oracle.ethtool, cmd, attrs, flags=flags))
        if attrs != b"" or flags != DUMP:  # a dump of channels has veth in it, which is managed
            if flags != DUMP:
                oracle.agree(message(oracle.ethtool, CHANNELS_GET, attrs, flags=flags))
            oracle.agree(message(oracle.ethtool, CHANNELS_SET, attrs, flags=flags))
    for kind in range(20):
        for data in (
            put_u8(kind, 1),
            put_u8(kind, 3),
            put_u32(kind, 0),
            put_u32(kind, 2),
            nest(kind),
        ):
            oracle.agree(message(oracle.ethtool, RINGS_SET, veth + data))
            oracle.agree(message(oracle.ethtool, RINGS_GET, veth + data))
            oracle.agree(message(oracle.ethtool, CHANNELS_SET, header(put_u32(1, LO)) + data))


def test_headers_are_checked_alike(oracle: Oracle) -> None:
    lo = put_u32(1, LO)
    for family, cmd in ((oracle.netdev, 1), (oracle.ethtool, RINGS_GET), (CTRL, 3), (999, 1)):
        for bit in range(16):
            oracle.agree(message(family, cmd, lo, flags=DO | 1 << bit))
            oracle.agree(message(family, cmd, lo, flags=1 << bit))
        oracle.agree(message(family, cmd, lo, reserved=1))
        whole = message(family, cmd, lo, flags=ACK)
        for length in range(1, len(whole) + 1):
            oracle.agree(struct.pack("=I", length) + whole[4:])
            oracle.agree(struct.pack("=I", length) + whole[4:length] + bytes(4))
            oracle.agree(whole[:length])
            oracle.agree(whole + whole[:length])
    for kind in range(16):
        oracle.agree(message(kind, 1, lo))
        oracle.agree(message(kind, 1, lo, flags=ACK))


def test_the_controller_answers_alike(oracle: Oracle) -> None:
    def family_id(number: int) -> bytes:
        return put(1, struct.pack("=H", number))

    for attrs in (
        b"",
        family_id(CTRL),
        family_id(oracle.netdev),
        family_id(999),
        family_id(999) + put(2, b"nlctrl\0"),
        put(1, b"\x10\0ab"),
        put(1, b"x"),
        put(2, b"netdev\0"),
        put(2, b"netdev"),
        put(2, b"nobody\0"),
        put(2, b"fifteen-letters\0"),
        put(2, b"sixteen-letters.\0"),
        put(2, b"netdev\0") + b"abc",
        put(2, b"netdev\0") + put(99),
        nest(2, b"netdev\0"),
        put(7),
        put_u32(10, 3) + family_id(CTRL),
    ):
        for flags in (DO, ACK):
            oracle.agree(message(CTRL, CtrlCmd.GETFAMILY, attrs, flags=flags))
            oracle.agree(message(CTRL, CtrlCmd.GETPOLICY, attrs, flags=flags))
        oracle.agree(message(CTRL, CtrlCmd.GETPOLICY, attrs, flags=DUMP))
    for cmd in range(16):
        attrs = family_id(oracle.netdev) + put_u32(10, cmd)
        oracle.agree(message(CTRL, CtrlCmd.GETPOLICY, attrs, flags=DUMP))
    for cmd in (RINGS_GET, RINGS_SET, CHANNELS_GET, CHANNELS_SET):
        attrs = family_id(oracle.ethtool) + put_u32(10, cmd)
        oracle.agree(message(CTRL, CtrlCmd.GETPOLICY, attrs, flags=DUMP))


def test_dumps_are_cut_alike(oracle: Oracle) -> None:
    got = oracle.agree(message(oracle.netdev, NetdevCmd.QUEUE_GET, flags=DUMP))
    assert len(got) == 2
    assert [one.type for one in answers(got)].count(oracle.netdev) == 2 + 2 * QUEUES
    dump = message(oracle.netdev, NetdevCmd.QUEUE_GET, flags=DUMP)
    other = message(oracle.netdev, NetdevCmd.DEV_GET, put_u32(1, LO), flags=ACK)
    assert len(oracle.agree(dump + dump)) == 3
    assert len(oracle.agree(other + dump + other + dump + other)) == 9


def test_several_messages_are_answered_alike(oracle: Oracle) -> None:
    lo, absent = put_u32(1, LO), put_u32(1, ABSENT)
    good = message(oracle.netdev, NetdevCmd.DEV_GET, lo, flags=ACK, seq=1)
    bad = message(oracle.netdev, NetdevCmd.DEV_GET, absent, seq=2)
    dump = message(oracle.netdev, NetdevCmd.DEV_GET, flags=DUMP, seq=3)
    for parts in itertools.permutations([good, bad, dump, message(3, 1), good[:30]]):
        oracle.agree(b"".join(parts))


def test_napi_instances_are_shown_and_set_alike(oracle: Oracle, pair: Veth) -> None:
    pair.left.run(["ethtool", "-K", pair.left.ifname, "gro", "on"])
    with pair.left.enter():
        oracle.likeness()
    netdev = oracle.netdev
    device = next(d for d in oracle.backend.device_list if d.ifindex == oracle.veth)
    assert len(device.napis) == QUEUES
    oracle.agree(message(netdev, NetdevCmd.NAPI_GET, flags=DUMP))
    first = put_u32(2, device.napis[0].id)
    for attrs in (
        b"",
        put_u32(5, 7) + put_u32(6, 8) + u64(7, 1 << 33),
        put_u32(5, 0x7FFFFFFF),
        u64(6, 5),
        put_u32(8, 2),
    ):
        oracle.agree(message(netdev, NetdevCmd.NAPI_SET, first + attrs, flags=ACK))
        oracle.agree(message(netdev, NetdevCmd.NAPI_GET, first, flags=ACK))
    pair.left.run(["ip", "link", "set", pair.left.ifname, "down"])
    position = oracle.backend.device_list.index(device)
    oracle.backend.device_list[position] = replace(device, up=False)
    for cmd, attrs in ((11, first), (14, first), (10, queue(oracle.veth, 0, 0))):
        oracle.agree(message(netdev, cmd, attrs))
    for cmd in (1, 10, 11, 12):
        oracle.agree(message(netdev, cmd, flags=DUMP))


def test_who_has_no_capability_is_refused_alike(oracle: Oracle, pair: Veth) -> None:
    """The kernel looks at who opened the socket and at who sends."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            oracle.peer.is_admin = False
            os.setgroups([])
            os.setresuid(65534, 65534, 65534)
            for cmd, attrs in itertools.product(range(17), (b"", put_u32(1, oracle.veth))):
                oracle.agree(message(oracle.netdev, cmd, attrs))
            for cmd in (RINGS_GET, RINGS_SET, CHANNELS_SET):
                oracle.agree(message(oracle.ethtool, cmd, b"junk"))
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def strategies(oracle: Oracle) -> st.SearchStrategy[bytes]:
    """Requests that both can be asked: no family of somebody else, no channels of veth."""
    ifindex = st.sampled_from([LO, oracle.veth, ABSENT, 0]).map(lambda n: put_u32(1, n))
    targets = st.one_of(
        ifindex,
        ifindex.map(lambda attr: nest(1, attr)),
        st.sampled_from(
            [
                b"",
                bind_attrs(oracle.veth, 1),
                bind_attrs(LO, 0),
                queue(oracle.veth, 0, 1),
                queue(LO, 1, 0),
                put(2, b"netdev\0"),
                put(1, struct.pack("=H", oracle.netdev)),
            ]
        ),
    )
    return st.one_of(
        request(st.just(oracle.netdev), st.integers(0, 17), targets),
        request(st.just(oracle.ethtool), st.sampled_from([RINGS_GET, RINGS_SET]), targets),
        request(st.just(CTRL), st.sampled_from([1, 3, 10, 11]), targets),
        request(st.sampled_from([0, 1, 2, 3, 15, 999]), st.integers(0, 255), targets),
    )


def of_others(oracle: Oracle, datagrams: list[bytes]) -> bool:
    """Say whether the controller told about families that the model does not have."""
    for answer in answers(datagrams):
        if answer.type == CTRL:
            told = next(iter(Walk(answer.payload[4:], 0).__iter__()))
            ids = {attr.u16() for attr in answer.walk() if attr.type == CtrlAttr.FAMILY_ID}
            if told.type == CtrlAttr.OP_POLICY or ids - {CTRL, oracle.netdev}:
                return True
    return False


def test_broken_requests_are_refused_alike(oracle: Oracle) -> None:
    compared = {"errors": 0, "answers": 0}

    @settings(max_examples=500, suppress_health_check=list(HealthCheck))
    @given(st.lists(strategies(oracle), min_size=1, max_size=2).map(b"".join))
    def compare(data: bytes) -> None:
        kernel, model = oracle.both(data)
        assume(not of_others(oracle, kernel))
        assert [m.hex() for m in model] == [k.hex() for k in kernel], data.hex()
        error = any(answer.type == MsgType.ERROR for answer in answers(kernel))
        compared["errors" if error else "answers"] += 1

    compare()
    assert compared["errors"] > 100
    assert compared["answers"] > 30
