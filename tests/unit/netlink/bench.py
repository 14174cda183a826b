# SPDX-License-Identifier: Apache-2.0
"""A server with the model on a fake data path, and what a client writes to it and reads."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from devmemtcp.netlink import membership
from devmemtcp.netlink.attribute import Attribute, Walk, nest, put_u8, put_u32
from devmemtcp.netlink.backend import Device
from devmemtcp.netlink.constants import (
    AGENT_FAMILY_NAME,
    AGENT_FAMILY_VERSION,
    DmabufAttr,
    ExtAckAttr,
    MsgFlag,
    MsgType,
    NetdevCmd,
    QueueAttr,
    RingsAttr,
)
from devmemtcp.netlink.emulation import Nic
from devmemtcp.netlink.family import Client, Family
from devmemtcp.netlink.model import NetdevModel
from devmemtcp.netlink.server import NetlinkServer

from .fake import FakeBackend, FakePeer

DO = int(MsgFlag.REQUEST)
ACK = int(MsgFlag.REQUEST | MsgFlag.ACK)
DUMP = int(MsgFlag.REQUEST | MsgFlag.DUMP)
HEADERS = 20  # nlmsghdr and genlmsghdr: where the first attribute stands

LO = 1
NIC = 7
DOWN = 8

_NLMSGHDR = struct.Struct("=IHHII")
_GENLMSGHDR = struct.Struct("=BBH")


def message(
    family: int, cmd: int, attrs: bytes = b"", *, flags: int = DO, seq: int = 1, reserved: int = 0
) -> bytes:
    """Return a generic netlink request."""
    body = _GENLMSGHDR.pack(cmd, 1, reserved) + attrs
    return _NLMSGHDR.pack(_NLMSGHDR.size + len(body), family, flags, seq, 0) + body


@dataclass
class Answer:
    """One message from the server."""

    type: int
    flags: int
    seq: int
    portid: int
    payload: bytes

    @property
    def cmd(self) -> int:
        return self.payload[0]

    def walk(self) -> list[Attribute]:
        return list(Walk(self.payload[4:], HEADERS))

    def attrs(self) -> dict[int, Attribute]:
        return {attr.type: attr for attr in self.walk()}

    def order(self) -> list[int]:
        return [attr.type for attr in self.walk()]


@dataclass
class Refusal:
    """An NLMSG_ERROR, or an NLMSG_DONE with an error."""

    errno: int
    msg: str | None = None
    offs: int | None = None
    miss_type: int | None = None
    miss_nest: int | None = None
    policy: bytes | None = field(default=None, compare=False)


def answers(datagrams: Sequence[bytes]) -> Iterator[Answer]:
    for data in datagrams:
        at = 0
        while at < len(data):
            length, kind, flags, seq, portid = _NLMSGHDR.unpack_from(data, at)
            yield Answer(kind, flags, seq, portid, data[at + _NLMSGHDR.size : at + length])
            at += (length + 3) & ~3


def refusal(answer: Answer) -> Refusal:
    """What an error says. An NLMSG_ERROR is capped: 20 bytes, then TLVs."""
    assert answer.type in (MsgType.ERROR, MsgType.DONE), answer
    (error,) = struct.unpack_from("=i", answer.payload)
    begin = 20 if answer.type == MsgType.ERROR else 4
    tlvs = {attr.type: attr for attr in Walk(answer.payload[begin:], 0)}
    assert bool(answer.flags & MsgFlag.ACK_TLVS) == bool(tlvs)

    def number(kind: ExtAckAttr) -> int | None:
        return tlvs[kind].u32() if kind in tlvs else None

    return Refusal(
        -error,
        tlvs[ExtAckAttr.MSG].string().decode() if ExtAckAttr.MSG in tlvs else None,
        number(ExtAckAttr.OFFS),
        number(ExtAckAttr.MISS_TYPE),
        number(ExtAckAttr.MISS_NEST),
        tlvs[ExtAckAttr.POLICY].data if ExtAckAttr.POLICY in tlvs else None,
    )


def queue_nest(queue: int | None, kind: int | None = 0) -> bytes:
    """Return one queue of a bind-rx request."""
    content = b"" if queue is None else put_u32(QueueAttr.ID, queue)
    content += b"" if kind is None else put_u32(QueueAttr.TYPE, kind)
    return nest(DmabufAttr.QUEUES, content)


def bind_attrs(ifindex: int, *queues: int, fd: int = 3) -> bytes:
    """Return a bind-rx request as the kernel's own clients write it."""
    return (
        put_u32(DmabufAttr.IFINDEX, ifindex)
        + put_u32(DmabufAttr.FD, fd)
        + b"".join(queue_nest(queue) for queue in queues)
    )


class Bench:
    """Loopback, a managed NIC of four queues that is ready for devmem, and one that is down."""

    def __init__(self, *devices: Device, page_pool_stats: bool = True) -> None:
        self.backend = FakeBackend(
            list(devices)
            or [
                Device(ifindex=LO, ifname="lo", num_rx_queues=1, num_tx_queues=1, managed=False),
                Device(ifindex=NIC, ifname="nic0", num_rx_queues=4, num_tx_queues=4),
                Device(ifindex=DOWN, ifname="nic1", num_rx_queues=2, num_tx_queues=1, up=False),
            ]
        )
        self.closed: list[int] = []
        self.server = NetlinkServer(self._close)
        self.model = NetdevModel(self.server, self.backend, page_pool_stats=page_pool_stats)
        self.backend.events = self.model
        self.server.register(
            Family(
                name=AGENT_FAMILY_NAME,
                version=AGENT_FAMILY_VERSION,
                ops=membership.ops(self.server),
            )
        )
        self.peer = FakePeer()
        self.client = self.connect(self.peer)

    def _close(self, fd: int) -> None:
        self.closed.append(fd)
        os.close(fd)

    def connect(self, peer: FakePeer | None = None) -> Client:
        """Open another control connection; ``inbox(client)`` is what it was notified of."""
        inbox: list[bytes] = []
        client = self.server.connect(peer or FakePeer(), inbox.append)
        self._inboxes = {**getattr(self, "_inboxes", {}), client.portid: inbox}
        return client

    def inbox(self, client: Client) -> list[Answer]:
        return list(answers(self._inboxes[client.portid]))

    def family(self, name: str) -> Family:
        return next(f for f in self.server.families.values() if f.name == name)

    def nic(self, ifindex: int = NIC) -> Nic:
        return self.model.nic(ifindex)

    def ready(self, ifindex: int = NIC) -> Nic:
        """Switch header split on, as bind-rx wants it."""
        assert not self.ask("ethtool", 16, header(ifindex) + put_u8(RingsAttr.TCP_DATA_SPLIT, 2))
        return self.nic(ifindex)

    def memory(self) -> int:
        """Return a descriptor that the backend takes for device memory; the server closes it."""
        return os.memfd_create("memory")

    def ask(
        self,
        family: str,
        cmd: int,
        attrs: bytes = b"",
        *,
        flags: int = DO,
        fds: Sequence[int] = (),
        client: Client | None = None,
    ) -> list[Answer]:
        """Send one request, return all that comes back."""
        data = message(self.family(family).id, cmd, attrs, flags=flags)
        sent = self.server.handle(data, client or self.client, fds)
        return list(answers([datagram.data for datagram in sent]))

    def refused(
        self,
        family: str,
        cmd: int,
        attrs: bytes = b"",
        *,
        flags: int = DO,
        fds: Sequence[int] = (),
        client: Client | None = None,
    ) -> Refusal:
        """Send a request that is answered with an error and nothing else."""
        (answer,) = self.ask(family, cmd, attrs, flags=flags, fds=fds, client=client)
        return refusal(answer)

    def bind(self, *queues: int, ifindex: int = NIC, client: Client | None = None) -> int:
        """Bind memory to queues and return the binding's id."""
        (answer,) = self.ask(
            "netdev",
            NetdevCmd.BIND_RX,
            bind_attrs(ifindex, *queues),
            fds=[self.memory()],
            client=client,
        )
        assert answer.cmd == NetdevCmd.BIND_RX
        assert answer.order() == [DmabufAttr.ID]
        return answer.attrs()[DmabufAttr.ID].u32()


def header(ifindex: int | None = NIC, name: bytes | None = None) -> bytes:
    """Return the header nest of an ethtool request."""
    content = b"" if ifindex is None else put_u32(1, ifindex)
    if name is not None:
        content += struct.pack("=HH", 4 + len(name) + 1, 2) + name + b"\0"
        content += bytes(-len(content) % 4)
    return nest(1, content)
