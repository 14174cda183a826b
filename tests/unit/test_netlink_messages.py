# SPDX-License-Identifier: Apache-2.0
"""The messages: what is encoded is decoded, as the kernel does it, and what is new does no harm."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devmemtcp.netlink import constants, ethtool_messages, messages
from devmemtcp.netlink.constants import (
    NETDEV_FAMILY_VERSION,
    NapiThreaded,
    NetdevCmd,
    QueueType,
    XdpAct,
    XdpRxMetadata,
    XskFlags,
)
from devmemtcp.netlink.messages import NETDEV_MESSAGES
from devmemtcp.netlink.naming import short_name
from devmemtcp.netlink.records import Device, Napi, PagePool, PagePoolStats, Qstats, Queue

NUMBERS: dict[Any, Any] = {
    messages.netdev_dev_msg: constants.DevAttr,
    messages.netdev_page_pool_msg: constants.PagePoolAttr,
    messages.netdev_page_pool_stats_msg: constants.PagePoolStatsAttr,
    messages.netdev_queue_msg: constants.QueueAttr,
    messages.netdev_napi_msg: constants.NapiAttr,
    messages.netdev_qstats_msg: constants.QstatsAttr,
    messages.netdev_dmabuf_msg: constants.DmabufAttr,
    ethtool_messages.ethtool_rings_msg: constants.RingsAttr,
    ethtool_messages.ethtool_channels_msg: constants.ChannelsAttr,
    ethtool_messages.ethtoolheader: constants.EthtoolHeaderAttr,
}

# What the kernel sent for one interface each: lo, a veth with an AF_XDP socket, a virtio NIC.
LO = "010100000800010001000000" + "0c0003000000000000000000" + "0c0005000000000000000000"
LO += "0c0006000000000000000000"
QUEUE_XSK = "0a010000080001000100000008000300000000000800020002000000080004000200000004000780"
VIRTIO = "0101000008000100040000000c0003002b000000000000000c00050000000000000000000c000600"
VIRTIO += "00000000000000000800040001000000"


def entries(message_class: type[Any]) -> dict[int, tuple[str, str]]:
    """Number: (name, type) of all that a class describes."""
    found = {}
    for number, entry in enumerate(message_class.nla_map):
        number, name, kind = entry if isinstance(entry[0], int) else (number, *entry)
        found[number] = (name, kind)
    return found


def received(message_class: type[Any], payload: bytes) -> Any:
    header = struct.pack("=IHHII", 16 + len(payload), 20, 0, 1, 0)
    message = message_class(header + payload)
    message.decode()
    return message


def values(message_class: type[Any], kind: str) -> st.SearchStrategy[Any]:
    numbers = {"uint8": 8, "uint32": 32, "uint64": 64, "uint": 64}
    if kind in numbers:
        return st.integers(0, 2 ** numbers[kind] - 1)
    if kind == "asciiz":
        return st.text("abcxyz0123", max_size=15)
    if kind == "array(I)":
        return st.lists(st.integers(0, 2**32 - 1), max_size=9).map(tuple)
    if kind == "cdata":
        return st.binary(max_size=40)
    return attributes(getattr(message_class, kind)).map(lambda attrs: {"attrs": attrs})


def attributes(message_class: type[Any]) -> st.SearchStrategy[list[tuple[str, Any]]]:
    known = [(name, kind) for name, kind in entries(message_class).values() if kind != "none"]
    if not known:
        return st.just([])
    one = st.sampled_from(known)
    return st.lists(
        one.flatmap(lambda e: st.tuples(st.just(e[0]), values(message_class, e[1]))), max_size=6
    )


def plain(message: Any) -> list[tuple[str, Any]]:
    return [
        (slot[0], {"attrs": plain(slot[1])} if isinstance(slot[1], dict) else slot[1])
        for slot in message["attrs"]
    ]


@pytest.mark.parametrize("message_class", NUMBERS, ids=lambda c: c.__name__)
def test_the_tables_have_the_numbers_of_the_headers(message_class: type[Any]) -> None:
    described = {
        number: short_name(message_class, name)
        for number, (name, _) in entries(message_class).items()
        if number
    }
    assert described == {
        member.value: constants.spec_name(member) for member in NUMBERS[message_class]
    }


@given(st.data())
def test_what_is_encoded_is_decoded(data: st.DataObject) -> None:
    message_class = data.draw(st.sampled_from([*NUMBERS, ethtool_messages.ethtool_rss_msg]))
    attrs = data.draw(attributes(message_class))
    sent = message_class()
    sent["attrs"] = list(attrs)
    sent.encode()
    got = message_class(bytes(sent.data))
    got.decode()
    assert plain(got) == attrs


@pytest.mark.parametrize(
    ("value", "width"), [(0, 4), (0xFFFFFFFF, 4), (0x100000000, 8), (2**64 - 1, 8)]
)
def test_a_uint_is_as_wide_as_it_must_be(value: int, width: int) -> None:
    message = messages.netdev_qstats_msg()
    message["attrs"] = [("NETDEV_A_QSTATS_RX_BYTES", value)]
    message.encode()
    assert bytes(message.data)[20:] == struct.pack("=HH", 4 + width, 9) + value.to_bytes(
        width, "little"
    )


@given(st.integers(8, 0x3FFF), st.binary(max_size=40), st.booleans())
def test_an_attribute_of_a_later_kernel_is_passed_over(
    number: int, payload: bytes, nested: bool
) -> None:
    new = struct.pack("=HH", 4 + len(payload), number | nested << 15)
    new += payload + bytes(-len(payload) % 4)
    before, after = QUEUE_XSK[:24], QUEUE_XSK[24:]
    message = received(
        messages.netdev_queue_msg, bytes.fromhex(before) + new + bytes.fromhex(after)
    )
    assert Queue.of(message) == Queue(
        id=1, type=QueueType.RX, ifindex=2, napi_id=2, dmabuf=None, io_uring=False, xsk=True
    )


def test_a_queue_with_an_af_xdp_socket() -> None:
    queue = Queue.of(received(messages.netdev_queue_msg, bytes.fromhex(QUEUE_XSK)))
    assert queue.document() == {"id": 1, "type": "rx", "ifindex": 2, "napi-id": 2, "xsk": {}}


def test_features_of_devices() -> None:
    lo = Device.of(received(messages.netdev_dev_msg, bytes.fromhex(LO)))
    assert lo == Device(1, XdpAct(0), None, XdpRxMetadata(0), XskFlags(0))
    virtio = Device.of(received(messages.netdev_dev_msg, bytes.fromhex(VIRTIO)))
    assert virtio.document() == {
        "ifindex": 4,
        "xdp-features": ["basic", "redirect", "xsk-zerocopy", "rx-sg"],
        "xdp-zc-max-segs": 1,
        "xdp-rx-metadata-features": [],
        "xsk-features": [],
    }


def test_a_member_of_a_later_kernel_stays_a_number() -> None:
    message = messages.netdev_napi_msg()
    message["attrs"] = [("NETDEV_A_NAPI_THREADED", 2), ("NETDEV_A_NAPI_ID", 7)]
    message.encode()
    known = received(messages.netdev_napi_msg, bytes(message.data)[16:])
    assert Napi.of(known).threaded is NapiThreaded.BUSY_POLL
    message = messages.netdev_napi_msg()
    message["attrs"] = [("NETDEV_A_NAPI_THREADED", 3)]
    message.encode()
    new = received(messages.netdev_napi_msg, bytes(message.data)[16:])
    assert Napi.of(new).document() == {"threaded": 3}


def test_bind_rx_is_what_ncdevmem_sends() -> None:
    """ifindex, fd, then one nest a queue, each {id, type}; NLA_F_NESTED is set."""
    message: Any = NETDEV_MESSAGES[NetdevCmd.BIND_RX]()
    message["header"].update(type=20, flags=5, sequence_number=1)
    message["cmd"], message["version"] = int(NetdevCmd.BIND_RX), NETDEV_FAMILY_VERSION
    queue = [("NETDEV_A_QUEUE_ID", 3), ("NETDEV_A_QUEUE_TYPE", 0)]
    message["attrs"] = [
        ("NETDEV_A_DMABUF_IFINDEX", 2),
        ("NETDEV_A_DMABUF_FD", 9),
        ("NETDEV_A_DMABUF_QUEUES", {"attrs": queue}),
    ]
    message.encode()
    assert bytes(message.data).hex() == (
        "38000000" "1400" "0500" "01000000" "00000000"  # nlmsghdr
        "0d010000"  # genlmsghdr
        "0800010002000000"
        "0800030009000000"
        "14000280" "0800010003000000" "0800030000000000"
    )  # fmt: skip


def test_every_command_has_a_class_and_every_record_its_fields() -> None:
    assert set(NETDEV_MESSAGES) == set(NetdevCmd)
    records: dict[NetdevCmd, Any] = {
        NetdevCmd.DEV_GET: Device,
        NetdevCmd.PAGE_POOL_GET: PagePool,
        NetdevCmd.PAGE_POOL_STATS_GET: PagePoolStats,
        NetdevCmd.QUEUE_GET: Queue,
        NetdevCmd.NAPI_GET: Napi,
        NetdevCmd.QSTATS_GET: Qstats,
    }
    for command, record in records.items():
        message_class: Any = NETDEV_MESSAGES[command]
        described = {
            name.removeprefix(message_class.prefix).lower()
            for number, (name, _) in entries(message_class).items()
            if number
        }
        asked_only = {"pad", "scope"}  # of requests, or of nobody
        assert set(record.__dataclass_fields__) == described - asked_only
