# SPDX-License-Identifier: Apache-2.0
"""The connection: answers of the kernel become results and errors, and nonsense an error."""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devmemtcp.netlink.connection import Connection
from devmemtcp.netlink.constants import MsgFlag, MsgType, PolicyTypeAttr, QueueType
from devmemtcp.netlink.errors import (
    DumpInterrupted,
    NetlinkError,
    NotificationsLost,
    ProtocolError,
    Unsupported,
)
from devmemtcp.netlink.messages import netdev_dmabuf_msg, netdev_qstats_msg
from devmemtcp.netlink.netdev import Netdev
from devmemtcp.netlink.records import Record

FAMILY = 20
QUEUE = {"attrs": [("NETDEV_A_QUEUE_ID", 0), ("NETDEV_A_QUEUE_TYPE", 2)]}
BIND = [
    ("NETDEV_A_DMABUF_IFINDEX", 1),
    ("NETDEV_A_DMABUF_FD", 0),
    ("NETDEV_A_DMABUF_QUEUES", QUEUE),
]

# Payloads of Linux 6.18's NLMSG_ERROR and NLMSG_DONE for requests to lo, from a capture.
DEVICE_CANNOT = "a1ffffff 38000000 1400 0500 07000000 00000000 0800 0200 14000000"
BAD_TYPE = (
    "deffffff 38000000 1400 0500 07000000 00000000"
    "1900 0100 696e7465676572206f7574206f662072616e676500 000000"
    "0800 0200 30000000"
    "2400 0480 0c00 0400 0000000000000000 0c00 0500 0100000000000000 0800 0100 04000000"
)
NO_FD = "eaffffff 1c000000 1400 0500 07000000 00000000 0800 0500 03000000"
NO_TYPE = "eaffffff 38000000 1400 0500 07000000 00000000 0800 0500 03000000 0800 0600 24000000"
NO_STATISTICS = "a1ffffff 0800 0200 14000000"

ACK = "00000000 38000000 1400 0500 07000000 00000000"
CAPPED = MsgFlag.CAPPED | MsgFlag.ACK_TLVS


def nlmsg(
    kind: int, payload: str | bytes = b"", flags: int = 0, seq: int = 1, port: int = 4711
) -> bytes:
    data = bytes.fromhex(payload) if isinstance(payload, str) else payload
    return struct.pack("=IHHII", 16 + len(data), kind, flags, seq, port) + data


def request(message_class: type[Any], attrs: list[tuple[str, Any]], command: int) -> Any:
    message = message_class()
    message["header"]["type"] = FAMILY
    message["cmd"], message["version"] = command, 1
    message["attrs"] = list(attrs)
    return message


class Pair:
    """A connection and the other end of its socket, which has its answers ready beforehand."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection = Connection(ours, timeout=0.2)

    def ask(self, *answers: bytes, fds: tuple[int, ...] = ()) -> list[Any]:
        for answer in answers:
            self.peer.send(answer)
        return list(
            self.connection.request(request(netdev_dmabuf_msg, BIND, 13), "bind-rx", fds=fds)
        )

    def dump(self, *answers: bytes) -> list[Any]:
        for answer in answers:
            self.peer.send(answer)
        attrs = [("NETDEV_A_QSTATS_IFINDEX", 1)]
        asked = request(netdev_qstats_msg, attrs, 12)
        return list(self.connection.request(asked, "qstats-get", dump=True))

    def close(self) -> None:
        self.connection.close()
        self.peer.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def test_a_refusal_that_names_an_attribute(pair: Pair) -> None:
    with pytest.raises(NetlinkError) as caught:
        pair.ask(nlmsg(MsgType.ERROR, DEVICE_CANNOT, CAPPED))
    error = caught.value
    assert (error.errno, error.extack) == (errno.EOPNOTSUPP, "")
    assert (error.bad_attr, error.bad_attr_name) == (20, "ifindex")
    assert (error.miss_type, error.miss_nest, error.policy) == (None, None, None)
    assert error.strerror == "bind-rx: Operation not supported (attribute ifindex)"


def test_a_refusal_with_text_and_policy_about_an_attribute_in_a_nest(pair: Pair) -> None:
    with pytest.raises(NetlinkError) as caught:
        pair.ask(nlmsg(MsgType.ERROR, BAD_TYPE, CAPPED))
    error = caught.value
    assert (error.errno, error.extack) == (errno.ERANGE, "integer out of range")
    assert (error.bad_attr, error.bad_attr_name) == (48, "queues/type")
    assert error.policy == {
        PolicyTypeAttr.MIN_VALUE_U: 0,
        PolicyTypeAttr.MAX_VALUE_U: 1,
        PolicyTypeAttr.TYPE: 4,
    }


@pytest.mark.parametrize(
    ("payload", "nest", "name"), [(NO_FD, None, "fd"), (NO_TYPE, 36, "queues/type")]
)
def test_a_missing_attribute(pair: Pair, payload: str, nest: int | None, name: str) -> None:
    with pytest.raises(NetlinkError) as caught:
        pair.ask(nlmsg(MsgType.ERROR, payload, CAPPED))
    error = caught.value
    assert (error.errno, error.miss_type, error.miss_nest) == (errno.EINVAL, 3, nest)
    assert error.miss_type_name == name
    assert f"missing attribute {name}" in str(error)


def test_a_refusal_of_a_dump_is_in_its_end(pair: Pair) -> None:
    with pytest.raises(NetlinkError) as caught:
        pair.dump(nlmsg(MsgType.DONE, NO_STATISTICS, MsgFlag.MULTI | MsgFlag.ACK_TLVS))
    assert (caught.value.errno, caught.value.bad_attr_name) == (errno.EOPNOTSUPP, "ifindex")


def test_a_refusal_that_repeats_the_whole_request(pair: Pair) -> None:
    """Without NETLINK_CAP_ACK the attributes stand behind a copy of any length."""
    request_copy = struct.pack("=IHHII", 30, FAMILY, 5, 7, 0) + bytes(14 + 2)
    text = bytes.fromhex("0800 0100 6e6f0000")
    payload = struct.pack("=i", -errno.EPERM) + request_copy + text
    with pytest.raises(NetlinkError) as caught:
        pair.ask(nlmsg(MsgType.ERROR, payload, MsgFlag.ACK_TLVS))
    assert (caught.value.errno, caught.value.extack) == (errno.EPERM, "no")


def test_answers_before_the_ack_in_one_datagram_or_several(pair: Pair) -> None:
    first, second = nlmsg(FAMILY, b"one_"), nlmsg(FAMILY, b"two_")
    answer = pair.ask(first + second, nlmsg(MsgType.ERROR, ACK, MsgFlag.CAPPED))
    assert [message.payload for message in answer] == [b"one_", b"two_"]


def test_what_answers_another_request_is_skipped(pair: Pair) -> None:
    late = nlmsg(MsgType.ERROR, DEVICE_CANNOT, CAPPED, seq=0xFFFFFFFF)
    news = nlmsg(FAMILY, b"news", seq=0, port=0)
    counted = nlmsg(FAMILY, b"news", seq=1, port=0)  # ethtool numbers its notifications
    answer = pair.ask(late, news, counted, nlmsg(FAMILY, b"mine"), nlmsg(MsgType.ERROR, ACK))
    assert [message.payload for message in answer] == [b"mine"]


def test_a_request_as_it_goes_out(pair: Pair) -> None:
    pair.ask(nlmsg(MsgType.ERROR, ACK))
    data = pair.peer.recv(4096)
    length, kind, flags, seq, port = struct.unpack_from("=IHHII", data)
    assert (length, kind, seq, port) == (len(data), FAMILY, 1, 0)
    assert flags == MsgFlag.REQUEST | MsgFlag.ACK


def test_a_descriptor_goes_along(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_text("of a device")
    fd = os.open(path, os.O_RDONLY)
    try:
        pair.ask(nlmsg(MsgType.ERROR, ACK), fds=(fd,))
        _, fds, _, _ = socket.recv_fds(pair.peer, 4096, 8)
        assert len(fds) == 1
        assert os.path.samestat(os.fstat(fds[0]), os.fstat(fd))
        os.close(fds[0])
    finally:
        os.close(fd)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe, whose reading end is for sending along."""
    read, write = os.pipe()
    yield read, write
    for end in (read, write):
        with suppress(OSError):
            os.close(end)


def with_fd(pair: Pair, data: bytes, fd: int) -> None:
    socket.send_fds(pair.peer, [data], [fd])


def assert_nobody_reads(read: int, write: int) -> None:
    """That ours was the last copy of the reading end."""
    os.close(read)
    with pytest.raises(BrokenPipeError):
        os.write(write, b"is anybody there?")


ENDS = nlmsg(FAMILY, b"ends")


def test_descriptors_that_come_with_an_answer(pair: Pair, pipe: tuple[int, int]) -> None:
    with_fd(pair, ENDS, pipe[0])
    pair.ask(nlmsg(MsgType.ERROR, ACK))
    (fd,) = pair.connection.take_fds()
    assert pair.connection.take_fds() == []
    assert os.path.samestat(os.fstat(fd), os.fstat(pipe[0]))
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_descriptors_that_nobody_takes_are_closed(pair: Pair, pipe: tuple[int, int]) -> None:
    with_fd(pair, ENDS, pipe[0])
    pair.ask(nlmsg(MsgType.ERROR, ACK))
    pair.connection.close()
    assert_nobody_reads(*pipe)


def test_descriptors_of_the_request_before_are_closed(pair: Pair, pipe: tuple[int, int]) -> None:
    with_fd(pair, ENDS, pipe[0])
    pair.ask(nlmsg(MsgType.ERROR, ACK))
    pair.ask(nlmsg(MsgType.ERROR, ACK, seq=2))
    assert pair.connection.take_fds() == []
    assert_nobody_reads(*pipe)


def test_descriptors_of_a_late_answer_are_closed(pair: Pair, pipe: tuple[int, int]) -> None:
    with_fd(pair, nlmsg(FAMILY, b"late", seq=0xFFFFFFFF), pipe[0])
    pair.ask(nlmsg(MsgType.ERROR, ACK))
    assert pair.connection.take_fds() == []
    assert_nobody_reads(*pipe)


def test_an_interrupted_dump(pair: Pair) -> None:
    with pytest.raises(DumpInterrupted) as caught:
        pair.dump(nlmsg(FAMILY, b"half", MsgFlag.MULTI | MsgFlag.DUMP_INTR))
    assert caught.value.errno == errno.EINTR


def test_an_overrun(pair: Pair) -> None:
    with pytest.raises(NotificationsLost) as caught:
        pair.ask(nlmsg(MsgType.OVERRUN, seq=0, port=0))
    assert caught.value.errno == errno.ENOBUFS


def test_an_agent_that_says_nothing(pair: Pair) -> None:
    with pytest.raises(TimeoutError) as caught:
        pair.ask()
    assert caught.value.errno == errno.ETIMEDOUT


def test_an_agent_that_goes(pair: Pair) -> None:
    pair.peer.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionResetError):
        pair.ask()


@pytest.mark.parametrize(
    "datagram",
    [
        b"\x01",
        nlmsg(FAMILY, b"x")[:15],
        struct.pack("=IHHII", 15, FAMILY, 0, 1, 0),
        struct.pack("=IHHII", 17, FAMILY, 0, 1, 0),
        nlmsg(MsgType.ERROR, b"\xff\xff\xff"),
        nlmsg(MsgType.ERROR, b"\xff\xff\xff\xff" + bytes(15)),
        nlmsg(MsgType.DONE, "a1ffffff 0900 0200 14000000", MsgFlag.ACK_TLVS),
        nlmsg(MsgType.DONE, "a1ffffff 0600 0200 14000000", MsgFlag.ACK_TLVS),
        nlmsg(FAMILY, bytes(65536)),
    ],
)
def test_a_malformed_answer(pair: Pair, datagram: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        pair.ask(datagram)
    assert caught.value.errno == errno.EBADMSG


@given(st.binary(min_size=1, max_size=200))
def test_no_answer_does_more_than_raise_an_error(datagram: bytes) -> None:
    made = Pair()
    made.peer.send(datagram + b"\0" * (-len(datagram) % 4))
    made.peer.shutdown(socket.SHUT_WR)
    try:
        with pytest.raises((NetlinkError, ProtocolError, NotificationsLost, ConnectionResetError)):
            made.ask()
    finally:
        made.close()


SIZES = st.sampled_from([0, 3, 4, 5, 8, 12, 20, 65535])
NUMBERS = st.integers(1, 9) | st.sampled_from([0x8001, 0x8006, 0x8007])
ATTRIBUTE = st.builds(
    lambda size, number, payload: struct.pack("=HH", size, number) + payload,
    SIZES,
    NUMBERS,
    st.sampled_from([0, 4, 8]).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
)
METHODS: list[Callable[[Netdev], object]] = [
    lambda netdev: netdev.dev_get(1),
    lambda netdev: netdev.queue_get(1, QueueType.RX, 0),
    lambda netdev: netdev.napi_get(1),
    lambda netdev: netdev.page_pool_get(1),
    lambda netdev: netdev.page_pool_stats_get(1),
    lambda netdev: netdev.qstats_get(),
    lambda netdev: netdev.bind_rx(1, 0, [0]),
]


@given(st.sampled_from(METHODS), st.lists(ATTRIBUTE, max_size=5))
def test_no_attributes_do_more_than_raise_an_error(
    method: Callable[[Netdev], object], attributes: list[bytes]
) -> None:
    answer = nlmsg(FAMILY, b"\x01\x01\0\0" + b"".join(attributes), seq=2)
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for datagram in (one_family("netdev", FAMILY), nlmsg(MsgType.ERROR, ACK), answer):
        peer.send(datagram)
    peer.send(nlmsg(MsgType.DONE, "00000000", seq=2))
    with peer, Netdev(ours) as netdev, suppress(ProtocolError):
        result = method(netdev)
        for record in result if isinstance(result, list) else [result]:
            if isinstance(record, Record):
                record.document()


def one_family(name: str, number: int) -> bytes:
    attrs = struct.pack("=HHHH", 6, 1, number, 0)
    attrs += struct.pack("=HH", 5 + len(name), 2) + name.encode() + bytes(-(5 + len(name)) % 4 + 1)
    return nlmsg(16, b"\x01\x02\0\0" + attrs)


Client = Callable[..., tuple[Netdev, socket.socket]]


@pytest.fixture
def client() -> Iterator[Client]:
    """A Netdev whose peer has found the family for it and has these answers to what follows."""
    made: list[tuple[Netdev, socket.socket]] = []

    def make(*answers: bytes) -> tuple[Netdev, socket.socket]:
        ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for datagram in (one_family("netdev", FAMILY), nlmsg(MsgType.ERROR, ACK), *answers):
            peer.send(datagram)
        made.append((Netdev(ours), peer))
        peer.recv(4096)
        return made[-1]

    yield make
    for netdev, peer in made:
        netdev.close()
        peer.close()


def test_bind_rx_sends_one_descriptor_and_gives_the_id(client: Client) -> None:
    bound = bytes.fromhex("0d010000 0800 0400 07000000")
    netdev, peer = client(nlmsg(FAMILY, bound, seq=2), nlmsg(MsgType.ERROR, ACK, seq=2))
    fd = os.memfd_create("region")
    try:
        assert netdev.bind_rx(5, fd, [2, 3]) == 7
        data, ancillary, _, _ = peer.recvmsg(4096, 4096)
        ((level, kind, rights),) = ancillary
        assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        (received,) = array.array("i", rights)
        assert os.path.samestat(os.fstat(received), os.fstat(fd))
        os.close(received)
    finally:
        os.close(fd)
    asked = netdev_dmabuf_msg(data)
    asked.decode()
    assert asked.get_attr("NETDEV_A_DMABUF_FD") == fd
    nests = asked.get_attrs("NETDEV_A_DMABUF_QUEUES")
    assert [nest.get_attr("NETDEV_A_QUEUE_ID") for nest in nests] == [2, 3]


def test_bind_rx_answered_without_an_id(client: Client) -> None:
    empty = nlmsg(FAMILY, "0d010000", seq=2)
    netdev, _ = client(empty, nlmsg(MsgType.ERROR, ACK, seq=2))
    with pytest.raises(ProtocolError, match="without an id"):
        netdev.bind_rx(5, 0, [0])


def test_do_answered_with_nothing(client: Client) -> None:
    netdev, _ = client(nlmsg(MsgType.ERROR, ACK, seq=2))
    with pytest.raises(ProtocolError, match="0 messages"):
        netdev.dev_get(1)


def test_a_value_of_the_wrong_size(client: Client) -> None:
    """An ifindex of one byte, at the end of the datagram: pyroute2 cannot decode it."""
    short = nlmsg(FAMILY, "01010000 0500 0100 01", seq=2)
    netdev, _ = client(short, nlmsg(MsgType.ERROR, ACK, seq=2))
    with pytest.raises(ProtocolError):
        netdev.dev_get(1)


def test_a_family_that_is_acknowledged_but_not_told() -> None:
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, peer:
        peer.send(nlmsg(MsgType.ERROR, ACK))
        with pytest.raises(ProtocolError, match="0 families are called 'netdev'"):
            Netdev(ours)


def test_a_nest_that_cannot_be_decoded(client: Client) -> None:
    """It claims more than there is: pyroute2 gives its bytes."""
    short = nlmsg(FAMILY, "09010000 0c000180", seq=2)
    netdev, _ = client(short, nlmsg(MsgType.ERROR, ACK, seq=2))
    with pytest.raises(ProtocolError, match="info"):
        netdev.page_pool_stats_get(1)


def test_no_such_family() -> None:
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, peer:
        peer.send(nlmsg(MsgType.ERROR, struct.pack("=i", -errno.ENOENT) + bytes(16)))
        with pytest.raises(Unsupported, match="the agent has no netlink family 'netdev'"):
            Netdev(ours)
        assert ours.fileno() == -1


def test_no_agent(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no agent answers") as caught:
        Netdev(tmp_path / "agent.sock")
    assert caught.value.filename == str(tmp_path / "agent.sock")


def test_a_socket_of_another_kind() -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock,
        pytest.raises(ValueError, match="SOCK_SEQPACKET"),
    ):
        Netdev(sock)


def test_a_namespace_is_the_kernels() -> None:
    with pytest.raises(ValueError, match="netns"):
        Netdev("/run/nowhere.sock", netns="blue")


def test_a_given_socket_has_no_second_for_notifications(client: Client) -> None:
    netdev, _ = client()
    with pytest.raises(ValueError, match="of its own"):
        netdev.subscribe("mgmt")
