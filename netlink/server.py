# SPDX-License-Identifier: Apache-2.0
"""A generic netlink server: datagrams of messages in, datagrams of answers out.

It stands where ``af_netlink.c`` and ``genetlink.c`` stand in the kernel, and answers like them,
byte for byte, a socket that has NETLINK_CAP_ACK and NETLINK_EXT_ACK set. It holds no socket:
the agent receives from its AF_UNIX connections and hands the bytes over.

Order of calls: ``register()`` each family; then per connection ``connect()``, any number of
``handle()``, ``disconnect()``. One thread.

Whatever the bytes are, ``handle()`` does not raise because of them, and every descriptor that
came with them has been closed when it returns.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from devmemtcp.netlink import controller
from devmemtcp.netlink.attribute import Walk, align
from devmemtcp.netlink.constants import GENL_ID_CTRL, MsgFlag, MsgType
from devmemtcp.netlink.extack import ExtAck, Refused
from devmemtcp.netlink.family import (
    GENL_HDRLEN,
    NLMSG_HDRLEN,
    Client,
    Family,
    Op,
    Peer,
    Reply,
    Request,
)
from devmemtcp.netlink.ids import CyclicIds
from devmemtcp.netlink.policy import Attrs, Policy, parse

NLMSG_MIN_TYPE = 16
GENL_MIN_FAMILY = 19  # GENL_START_ALLOC: those below are the controller's and two old abuses'
FIRST_GROUP = 2
FIRST_PORTID, LAST_PORTID = 0x80000000, 0xFFFFEFFF  # for connections whose pid is taken

NLMSG_GOODSIZE = 3776
"""Bytes in a datagram of a dump: what the kernel packs for a reader it knows nothing of."""

_NLMSGHDR = struct.Struct("=IHHII")
_GENLMSGHDR = struct.Struct("=BBH")
_ERROR = struct.Struct("=i")

_DONE_LEN = NLMSG_HDRLEN + _ERROR.size


@dataclass(frozen=True, slots=True)
class Datagram:
    """What to send, and the descriptors to send along: close them afterwards."""

    data: bytes
    fds: tuple[int, ...] = ()


@dataclass(slots=True)
class _Message:
    """One message of a datagram, from its header to nlmsg_len."""

    data: bytes
    type: int
    flags: int
    seq: int

    @property
    def payload(self) -> bytes:
        return self.data[NLMSG_HDRLEN:]

    @property
    def is_dump(self) -> bool:
        return self.flags & MsgFlag.DUMP == MsgFlag.DUMP


@dataclass(slots=True)
class _Turn:
    """One ``handle()``: who asks, what came along, what has been answered so far."""

    client: Client
    fds: Sequence[int]
    answers: list[Datagram] = field(default_factory=list)
    rest_of_dump: list[Datagram] = field(default_factory=list)

    def discard(self) -> None:
        """Nothing of this will be sent."""
        for datagram in self.answers:
            for fd in datagram.fds:
                os.close(fd)


class NetlinkServer:
    """Families, clients and multicast groups.

    Args:
        close_fd: closes a descriptor that came from a client. close() of a stranger's descriptor
            can block (SO_LINGER, FUSE): whoever must not block passes something better.

    Attributes:
        families: by id, as CTRL_CMD_GETFAMILY lists them.
    """

    def __init__(self, close_fd: Callable[[int], None] = os.close) -> None:
        self._close_fd = close_fd
        self.families: dict[int, Family] = {}
        self._clients: set[Client] = set()
        self._next_group = FIRST_GROUP
        self._portids = CyclicIds(FIRST_PORTID, LAST_PORTID)
        self.register(controller.family(self.families))

    # --- families ------------------------------------------------------------------------------

    def register(self, family: Family) -> None:
        """Give the family its ids and answer for it from now on.

        Raises:
            ValueError: there is one of this name.
        """
        if any(other.name == family.name for other in self.families.values()):
            raise ValueError(f"a family {family.name!r} is registered already")
        if not self.families:
            family.id = GENL_ID_CTRL
            family.group_ids = dict.fromkeys(family.groups, GENL_ID_CTRL)
        else:
            family.id = max(GENL_MIN_FAMILY, max(self.families) + 1)
            for name in family.groups:
                family.group_ids[name] = self._take_group()
        self.families[family.id] = family

    def _take_group(self) -> int:
        if self._next_group == GENL_ID_CTRL:
            self._next_group += 1
        self._next_group += 1
        return self._next_group - 1

    # --- clients -------------------------------------------------------------------------------

    def connect(self, peer: Peer, notify: Callable[[bytes], None]) -> Client:
        """Begin to serve a connection. ``notify``: see :class:`Client`.

        Its address is the peer's pid, as with a netlink socket that binds to 0, if that is free.
        """
        taken = any(client.portid == peer.pid for client in self._clients)
        if taken or not 0 < peer.pid < FIRST_PORTID:
            client = Client(self._portids.alloc(), peer, notify)
        else:
            client = Client(peer.pid, peer, notify)
        self._clients.add(client)
        return client

    def disconnect(self, client: Client) -> None:
        """The connection is closed: what belonged to it goes, netlink_release(). Call it once."""
        self._clients.remove(client)
        if client.portid >= FIRST_PORTID:
            self._portids.free(client.portid)
        for family in self.families.values():
            if family.disconnect is not None:
                family.disconnect(client)

    def join(self, client: Client, group: int) -> None:
        """NETLINK_ADD_MEMBERSHIP.

        Raises:
            Refused: EINVAL, there is no such group.
        """
        self._check_group(group)
        client.groups.add(group)

    def leave(self, client: Client, group: int) -> None:
        """NETLINK_DROP_MEMBERSHIP; leaving a group without being in it is no error.

        Raises:
            Refused: EINVAL, there is no such group.
        """
        self._check_group(group)
        client.groups.discard(group)

    def _check_group(self, group: int) -> None:
        if not any(group in family.group_ids.values() for family in self.families.values()):
            raise Refused(errno.EINVAL)

    def multicast(
        self, family: Family, group: str, cmd: int, attrs: bytes, *, seq: int = 0
    ) -> None:
        """Notify the members of a group: genlmsg_multicast_netns(), from portid 0."""
        body = _GENLMSGHDR.pack(cmd, family.version, 0) + attrs
        data = _nlmsg(family.id, 0, seq, 0, body)
        number = family.group_ids[group]
        for client in [c for c in self._clients if number in c.groups]:
            client.notify(data)

    # --- messages ------------------------------------------------------------------------------

    def handle(self, data: bytes, client: Client, fds: Sequence[int] = ()) -> list[Datagram]:
        """Answer one datagram, netlink_rcv_skb(): all messages in it, in order.

        Args:
            data: what one recvmsg() gave.
            client: whose connection it came from.
            fds: the descriptors of its SCM_RIGHTS; closed here, whatever the answer is.

        Returns:
            Datagrams to send to this client, in this order.
        """
        turn = _Turn(client, fds)
        try:
            for message in _messages(data):
                self._receive(turn, message)
        except BaseException:
            turn.discard()
            raise
        finally:
            for fd in fds:
                self._close_fd(fd)
        return turn.answers + turn.rest_of_dump

    def _receive(self, turn: _Turn, message: _Message) -> None:
        """One message, and the ACK if it wants one or has earned an error."""
        extack = ExtAck()
        error = 0
        if message.flags & MsgFlag.REQUEST and message.type >= NLMSG_MIN_TYPE:
            try:
                call = self._call(turn, message, extack)
                if message.is_dump:
                    _dump(call)
                    return  # it ends with NLMSG_DONE instead
                _do(call)
            except OSError as refused:
                error = _errno_of(refused, extack)
        if error or message.flags & MsgFlag.ACK:
            turn.answers.append(Datagram(_ack(turn.client, message, error, extack)))

    def _call(self, turn: _Turn, message: _Message, extack: ExtAck) -> _Call:
        """genl_rcv_msg(): what is checked before anything of the message is parsed."""
        family = self.families.get(message.type)
        if family is None:
            raise Refused(errno.ENOENT)
        if len(message.payload) < GENL_HDRLEN:
            raise Refused(errno.EINVAL)
        cmd, _version, reserved = _GENLMSGHDR.unpack_from(message.payload)
        if cmd >= family.resv_start_op:
            _check_reserved(message, reserved)
        op = family.ops.get(cmd)
        if op is None or (op.dump if message.is_dump else op.do) is None:
            raise Refused(errno.EOPNOTSUPP)
        if op.perm and not turn.client.peer.admin():
            raise Refused(errno.EPERM)
        return _Call(turn, message, extack, family, op, cmd)


@dataclass(slots=True)
class _Call:
    """A message that has found its operation."""

    turn: _Turn
    message: _Message
    extack: ExtAck
    family: Family
    op: Op
    cmd: int

    def request(self, policy: Policy | None, *, strict: bool) -> Request:
        """Parse: a command without a policy takes any attributes and looks at none of them."""
        data = self.message.data
        attrs: Attrs = {}
        if policy is not None:
            begin = NLMSG_HDRLEN + GENL_HDRLEN
            attrs = parse(Walk(data[begin:], begin), policy, self.extack, strict=strict)
        return Request(self.turn.client, data, self.cmd, attrs, self.extack, self.turn.fds)

    def answer(self, attrs: bytes, flags: int = 0) -> bytes:
        """Return one message of the family's, to whoever asked."""
        cmd = self.cmd if self.op.reply_cmd is None else self.op.reply_cmd
        body = _GENLMSGHDR.pack(cmd, self.family.version, 0) + attrs
        return _nlmsg(self.family.id, flags, self.message.seq, self.turn.client.portid, body)


def _do(call: _Call) -> None:
    """genl_family_rcv_msg_doit()."""
    assert call.op.do is not None
    answer = call.op.do(call.request(call.op.do_policy, strict=call.op.strict))
    if answer is None:
        return
    reply = answer if isinstance(answer, Reply) else Reply(answer)
    call.turn.answers.append(Datagram(call.answer(reply.attrs), reply.fds))


def _dump(call: _Call) -> None:
    """netlink_dump(), to the end at once.

    The kernel goes on with a dump when the reader reads: the rest of it comes behind all other
    answers of the turn, and another dump is refused before. So it is here, which bounds what a
    datagram can ask for.
    """
    turn, op = call.turn, call.op
    if turn.rest_of_dump:
        raise Refused(errno.EBUSY)
    assert op.dump is not None
    rows = op.dump(call.request(op.dump_policy, strict=True))
    out = _Packer()
    error = 0
    try:
        for row in rows:
            out.add(call.answer(row, MsgFlag.MULTI if op.multi else 0))
    except OSError as refused:
        error = _errno_of(refused, call.extack)
    out.done(_done(turn.client, call.message, error, call.extack), apart=op.done_apart)
    first, *rest = (Datagram(data) for data in out.datagrams)
    turn.answers.append(first)
    turn.rest_of_dump = rest


class _Packer:
    """The datagrams of a dump: each message goes where the last one went, if it fits."""

    def __init__(self) -> None:
        self.datagrams: list[bytes] = []

    def add(self, message: bytes) -> None:
        if self._fits(len(message)):
            self.datagrams[-1] += message
        else:
            self.datagrams.append(message)

    def done(self, message: bytes, *, apart: bool) -> None:
        if not apart and self._fits(_DONE_LEN):
            self.datagrams[-1] += message
        else:
            self.datagrams.append(message)

    def _fits(self, length: int) -> bool:
        return bool(self.datagrams) and len(self.datagrams[-1]) + length <= NLMSG_GOODSIZE


def _messages(data: bytes) -> Iterator[_Message]:
    """Walk a datagram; what claims to be shorter than a header or longer than it ends it."""
    at = 0
    while len(data) - at >= NLMSG_HDRLEN:
        length, kind, flags, seq, _portid = _NLMSGHDR.unpack_from(data, at)
        if length < NLMSG_HDRLEN or length > len(data) - at:
            return
        yield _Message(data[at : at + length], kind, flags, seq)
        at += align(length)


def _check_reserved(message: _Message, reserved: int) -> None:
    """genl_header_check()."""
    if reserved:
        raise Refused(errno.EINVAL, "genlmsghdr.reserved field is not 0")
    allowed = MsgFlag.REQUEST | MsgFlag.ACK | MsgFlag.ECHO
    if message.is_dump:
        allowed |= MsgFlag.DUMP
    if message.flags & ~int(allowed):
        raise Refused(errno.EINVAL, "ambiguous or reserved bits set in nlmsg_flags")


def _errno_of(refused: OSError, extack: ExtAck) -> int:
    if isinstance(refused, Refused):
        extack.take(refused)
    return refused.errno or errno.EIO


def _nlmsg(kind: int, flags: int, seq: int, portid: int, body: bytes) -> bytes:
    header = _NLMSGHDR.pack(NLMSG_HDRLEN + len(body), kind, flags, seq, portid)
    return header + body + bytes(align(len(body)) - len(body))


def _ack(client: Client, message: _Message, error: int, extack: ExtAck) -> bytes:
    """netlink_ack() to a socket with NETLINK_CAP_ACK: of the request, the header comes back."""
    tlvs = extack.tlvs(error)
    flags = MsgFlag.CAPPED | (MsgFlag.ACK_TLVS if tlvs else MsgFlag(0))
    body = _ERROR.pack(-error) + message.data[:NLMSG_HDRLEN] + tlvs
    return _nlmsg(MsgType.ERROR, flags, message.seq, client.portid, body)


def _done(client: Client, message: _Message, error: int, extack: ExtAck) -> bytes:
    """netlink_dump_done()."""
    tlvs = extack.tlvs(error)
    flags = MsgFlag.MULTI | (MsgFlag.ACK_TLVS if tlvs else MsgFlag(0))
    return _nlmsg(MsgType.DONE, flags, message.seq, client.portid, _ERROR.pack(-error) + tlvs)
