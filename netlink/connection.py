# SPDX-License-Identifier: Apache-2.0
"""A netlink socket to the kernel or to the agent: requests, answers, sequence numbers.

The same bytes go over both. The kernel's is AF_NETLINK; the agent's is AF_UNIX SOCK_SEQPACKET,
which keeps the boundaries of datagrams, too, and can carry a file descriptor.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

from devmemtcp.netlink.acknowledgement import Acknowledgement
from devmemtcp.netlink.constants import (
    NETLINK_GENERIC,
    SOL_NETLINK,
    MsgFlag,
    MsgType,
    SocketOption,
)
from devmemtcp.netlink.errors import (
    DumpInterrupted,
    NetlinkError,
    NotificationsLost,
    ProtocolError,
)
from devmemtcp.netlink.naming import attribute_name, missing_name
from devmemtcp.netlink.target import NetNs, Target, open_socket

DEFAULT_TIMEOUT = 10.0
"""Seconds. The kernel answers before send() returns; an agent may hang."""

_NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence number, port id
_ERROR = struct.Struct("=i")
_MAX_DATAGRAM = 65536  # more than the kernel's largest dump datagram, 32 KiB
_KERNEL_PORT = 0
_MAX_FDS = 8  # with one datagram
_FD_SIZE = array.array("i").itemsize


class Message(NamedTuple):
    """One netlink message as it was received."""

    type: int
    flags: MsgFlag
    seq: int
    port: int
    """Of whom it answers; 0 in what is told unasked."""
    data: bytes
    """All of it, the header included."""

    @property
    def payload(self) -> bytes:
        """What follows the header."""
        return self.data[_NLMSGHDR.size :]


class Connection:
    """One netlink socket. What the other side ties to it lasts until :meth:`close`.

    Not for several threads at a time. Raises NetlinkError for what is refused, ProtocolError
    for a malformed answer, TimeoutError for none, ConnectionError when the agent is gone.
    """

    def __init__(self, sock: socket.socket, *, timeout: float | None = DEFAULT_TIMEOUT) -> None:
        """Own a socket: AF_NETLINK and bound, or AF_UNIX SOCK_SEQPACKET and connected."""
        self.is_kernel = sock.family == socket.AF_NETLINK
        if not self.is_kernel and (sock.family, sock.type) != (
            socket.AF_UNIX,
            socket.SOCK_SEQPACKET,
        ):
            raise ValueError("not a netlink socket: AF_NETLINK or AF_UNIX SOCK_SEQPACKET is needed")
        self._sock = sock
        self._sock.settimeout(timeout)
        self._port = sock.getsockname()[0] if self.is_kernel else None
        self._seq = 0
        self._room_for_fds = 0 if self.is_kernel else socket.CMSG_SPACE(_MAX_FDS * _FD_SIZE)
        self._fds: list[int] = []

    @classmethod
    def open(
        cls,
        target: Target,
        *,
        protocol: int = NETLINK_GENERIC,
        netns: NetNs | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> Self:
        """Connect to a target.

        Raises what :func:`devmemtcp.netlink.target.open_socket` does.
        """
        sock = open_socket(target, protocol=protocol, netns=netns, timeout=timeout)
        return cls(sock, timeout=timeout)

    def fileno(self) -> int:
        """Return the descriptor, e.g. for select()."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the socket; what hangs on it, such as a binding, ends. Twice is once."""
        self._sock.close()
        self._drop_fds(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def join(self, group: int) -> None:
        """Become a member of a multicast group of the kernel. Raises OSError."""
        self._sock.setsockopt(SOL_NETLINK, SocketOption.ADD_MEMBERSHIP, group)

    def request(
        self, message: Any, what: str, *, dump: bool = False, fds: Sequence[int] = ()
    ) -> list[Message]:
        """Send a request, a pyroute2 message with its type set, and collect its answer.

        `what` names the request in errors; `fds` go along by SCM_RIGHTS (not to the kernel).
        Returns the messages before the ACK or the end of the dump, which may be none.
        """
        self._drop_fds(0)
        self._seq = self._seq % 0xFFFFFFFF + 1  # 0 is for notifications
        flags = MsgFlag.REQUEST | (MsgFlag.DUMP if dump else MsgFlag.ACK)
        message["header"].update(flags=int(flags), sequence_number=self._seq, pid=0)
        message.encode()
        self._send(bytes(message.data), fds)
        answer: list[Message] = []
        for reply in self._answers(self._seq):
            if reply.flags & MsgFlag.DUMP_INTR:
                raise DumpInterrupted(what)
            if reply.type == MsgType.ERROR or reply.type == MsgType.DONE:
                _raise_refusal(reply, message, what)
                return answer
            answer.append(reply)
        raise AssertionError("unreachable: the answers do not end by themselves")

    def take_fds(self) -> list[int]:
        """Take the descriptors that came with the agent's answer to the last request, in order.

        They are the caller's from now on. Those that nobody takes are closed by the next request
        or by :meth:`close`.
        """
        fds, self._fds = self._fds, []
        return fds

    def receive(self) -> list[Message]:
        """Receive one datagram. Raises NotificationsLost (ENOBUFS), TimeoutError."""
        try:
            data, rights, flags, sender = self._sock.recvmsg(
                _MAX_DATAGRAM, self._room_for_fds, socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise NotificationsLost from error
            if isinstance(error, TimeoutError):  # settimeout()'s, which has no errno
                waited = f"no netlink answer for {self._sock.gettimeout()} s"
                raise TimeoutError(errno.ETIMEDOUT, waited) from error
            raise
        for level, kind, fds in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._fds += array.array("i", fds)
        if self.is_kernel and sender[0] != _KERNEL_PORT:
            return []  # any process may send to our port
        if not data and not self.is_kernel:
            raise ConnectionResetError(errno.ECONNRESET, "the agent closed the connection")
        if flags & socket.MSG_TRUNC:
            raise ProtocolError(f"a datagram of more than {_MAX_DATAGRAM} bytes")
        messages = list(_split(data))
        if any(message.type == MsgType.OVERRUN for message in messages):
            raise NotificationsLost
        return messages

    def _send(self, data: bytes, fds: Sequence[int]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        self._sock.sendmsg([data], rights if fds and not self.is_kernel else [])

    def _answers(self, seq: int) -> Iterator[Message]:
        """Messages that answer one request.

        What is told unasked is skipped, and what answers an earlier one that timed out. Of our
        port id at the agent we only know that there is one.
        """
        while True:
            fds = len(self._fds)
            mine = [each for each in self.receive() if each.seq == seq and self._is_for_us(each)]
            if not mine:
                self._drop_fds(fds)
            yield from mine

    def _is_for_us(self, message: Message) -> bool:
        return message.port == self._port if self.is_kernel else message.port != 0

    def _drop_fds(self, first: int) -> None:
        """Close the descriptors, from the `first` on, that nobody has taken."""
        for fd in self._fds[first:]:
            os.close(fd)
        del self._fds[first:]


def _split(datagram: bytes) -> Iterator[Message]:
    while datagram:
        if len(datagram) < _NLMSGHDR.size:
            raise ProtocolError("a header is cut off")
        size, kind, flags, seq, port = _NLMSGHDR.unpack_from(datagram)
        if not _NLMSGHDR.size <= size <= len(datagram):
            raise ProtocolError(f"a message of {size} bytes in {len(datagram)}")
        yield Message(kind, MsgFlag(flags), seq, port, datagram[:size])
        datagram = datagram[(size + 3) & ~3 :]


def _raise_refusal(reply: Message, request: Any, what: str) -> None:
    """Raise NetlinkError if an NLMSG_ERROR or NLMSG_DONE says so.

    A dump that fails after it began says it in NLMSG_DONE, where no copy of the request stands
    between the errno and the attributes.
    """
    payload = reply.payload
    if len(payload) < _ERROR.size:
        raise ProtocolError("an acknowledgement is cut off")
    number = -_ERROR.unpack_from(payload)[0]
    if number <= 0:
        return
    rest = payload[_ERROR.size :]
    if reply.type == MsgType.ERROR:
        rest = rest[_copied(rest, reply.flags) :]
    ack = Acknowledgement.parse(rest) if reply.flags & MsgFlag.ACK_TLVS else Acknowledgement()
    raise NetlinkError(
        number,
        what,
        ack,
        bad_attr_name=None if ack.bad_attr is None else attribute_name(request, ack.bad_attr),
        miss_type_name=(
            None if ack.miss_type is None else missing_name(request, ack.miss_type, ack.miss_nest)
        ),
    )


def _copied(rest: bytes, flags: MsgFlag) -> int:
    """Bytes of the request that an NLMSG_ERROR repeats: its header, or all of it."""
    if len(rest) < _NLMSGHDR.size:
        raise ProtocolError("an acknowledgement is cut off")
    size: int = _NLMSGHDR.size if flags & MsgFlag.CAPPED else _NLMSGHDR.unpack_from(rest)[0]
    return (size + 3) & ~3
