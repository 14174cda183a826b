# SPDX-License-Identifier: Apache-2.0
"""The nouns of a generic netlink server: family, operation, request, client.

A family is an object with a table of operations; whoever has something to offer makes one and
registers it with the server, as ``struct genl_family`` is registered with the kernel. Handlers
are plain functions of a :class:`Request`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from devmemtcp.netlink.attribute import Attribute, Walk
from devmemtcp.netlink.constants import GenlOpFlag
from devmemtcp.netlink.extack import ExtAck, Refused
from devmemtcp.netlink.policy import Attrs, Policy

NLMSG_HDRLEN = 16
GENL_HDRLEN = 4


class Peer(Protocol):
    """Who is at the other end, and what the agent's rules let it do."""

    @property
    def pid(self) -> int:
        """Process id, as SO_PEERCRED tells it."""
        ...

    def admin(self) -> bool:
        """Say whether the peer passes where the kernel asks for CAP_NET_ADMIN.

        Asked before a message is parsed, so it knows no interface: a peer that may administer
        some interface is an admin here, and :meth:`may_administer` decides about the rest.
        """
        ...

    def may_administer(self, ifname: str) -> bool:
        """Say whether the peer may bind on, and configure, this interface."""
        ...


@dataclass(eq=False)
class Client:
    """One control connection: what the kernel keeps in a netlink socket.

    Attributes:
        portid: its address; stands in the nlmsg_pid of all answers to it.
        notify: takes a datagram that no request of this client asked for. Called from within
            other calls of the server: it queues, and neither blocks nor raises.
        groups: multicast groups that it has joined.
    """

    portid: int
    peer: Peer
    notify: Callable[[bytes], None]
    groups: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer of a do request: attributes, and descriptors to send along.

    The descriptors belong to the reply: whoever sends it closes them afterwards, so a handler
    dups what it wants to keep.
    """

    attrs: bytes
    fds: tuple[int, ...] = ()


@dataclass(slots=True)
class Request:
    """A request whose attributes have passed the operation's policy: ``struct genl_info``.

    Attributes:
        message: from the nlmsghdr to nlmsg_len; offsets in extacks count from its start.
        fds: descriptors that came with the datagram, borrowed: the server closes them.
    """

    client: Client
    message: bytes
    cmd: int
    attrs: Attrs
    extack: ExtAck
    fds: Sequence[int] = ()

    def require(self, *types: int) -> None:
        """GENL_REQ_ATTR_CHECK() of each in turn.

        Raises:
            Refused: EINVAL with the type of the first one that is missing.
        """
        for kind in types:
            if kind not in self.attrs:
                raise Refused(errno.EINVAL, miss_type=kind)

    def walk(self) -> Walk:
        """Return all attributes of the message, repeated ones included."""
        begin = NLMSG_HDRLEN + GENL_HDRLEN
        return Walk(self.message[begin:], begin)

    def each(self, kind: int) -> Iterator[Attribute]:
        """nla_for_each_attr_type()."""
        return (attr for attr in self.walk() if attr.type == kind)


NO_PERM = GenlOpFlag(0)

Do = Callable[[Request], Reply | bytes | None]
"""Answers with attributes, or with None if there is nothing to say but the ACK."""

Dump = Callable[[Request], Iterator[bytes]]
"""Yields the attributes of one message after the other. What it raises when it is called is
answered at once (the kernel's ``start``); what it raises later ends the dump."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """What a command does: ``struct genl_split_ops``, do and dump in one.

    Attributes:
        perm: ADMIN_PERM or UNS_ADMIN_PERM, if ``Peer.admin()`` is asked.
        reply_cmd: command of the answer, if it is not the request's.
        strict: False is GENL_DONT_VALIDATE_STRICT, for do only.
        multi: the messages of a dump carry NLM_F_MULTI (those of netdev do not, in 6.18).
        done_apart: the end of a dump gets a datagram of its own, even if it would fit; so it
            is with dumps of the kernel that return a length and not 0 when they are through.
    """

    do: Do | None = None
    dump: Dump | None = None
    do_policy: Policy | None = None
    dump_policy: Policy | None = None
    perm: GenlOpFlag = NO_PERM
    reply_cmd: int | None = None
    strict: bool = True
    multi: bool = True
    done_apart: bool = False


@dataclass(eq=False, kw_only=True)
class Family:
    """A generic netlink family: ``struct genl_family``.

    Attributes:
        ops: command -> what it does.
        groups: names of its multicast groups.
        resv_start_op: from this command on, reserved bits of the headers must be 0; commands
            older than the check are excused.
        disconnect: called once for each client that goes, whether or not it used the family.
        id: given by ``NetlinkServer.register()``, as is ``group_ids`` (by name).
    """

    name: str
    version: int
    ops: Mapping[int, Op]
    groups: Sequence[str] = ()
    resv_start_op: int = 0
    disconnect: Callable[[Client], None] | None = None
    id: int = 0
    group_ids: dict[str, int] = field(default_factory=dict)
