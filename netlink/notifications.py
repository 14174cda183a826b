# SPDX-License-Identifier: Apache-2.0
"""What the netdev family tells unasked, on a socket that gets nothing else."""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from pyroute2.netlink import genlmsg

from devmemtcp.netlink.agent_messages import agent_membership_msg
from devmemtcp.netlink.connection import DEFAULT_TIMEOUT, Connection, Message
from devmemtcp.netlink.constants import (
    AGENT_FAMILY_NAME,
    AGENT_FAMILY_VERSION,
    NETDEV_FAMILY_NAME,
    NETDEV_FAMILY_VERSION,
    AgentCmd,
    NetdevCmd,
    spec_name,
)
from devmemtcp.netlink.genl import GenlFamily, decode
from devmemtcp.netlink.messages import NETDEV_MESSAGES
from devmemtcp.netlink.records import Device, PagePool, Record
from devmemtcp.netlink.target import NetNs, Target

_RECORDS: dict[int, type[Record]] = {
    NetdevCmd.DEV_ADD_NTF: Device,
    NetdevCmd.DEV_DEL_NTF: Device,
    NetdevCmd.DEV_CHANGE_NTF: Device,
    NetdevCmd.PAGE_POOL_ADD_NTF: PagePool,
    NetdevCmd.PAGE_POOL_DEL_NTF: PagePool,
    NetdevCmd.PAGE_POOL_CHANGE_NTF: PagePool,
}


@dataclass(frozen=True)
class Notification:
    """That something happened, and to what: the object as its ``*-get`` would show it."""

    command: NetdevCmd
    record: Record

    def document(self) -> dict[str, Any]:
        """Return ``name`` and ``msg``, as the kernel's ynl prints a notification."""
        return {"name": spec_name(self.command), "msg": self.record.document()}


class Notifications:
    """Notifications of multicast groups, from its making until :meth:`close`.

    An iterator over what comes, without end; or, for those who wait for other things, too,
    :meth:`get_notifications` whenever :meth:`fileno` is readable. Both raise NotificationsLost
    (ENOBUFS), once, where some are missing.
    """

    def __init__(
        self, target: Target = "kernel", netns: NetNs | None = None, groups: Iterable[str] = ()
    ) -> None:
        """Open a socket as :class:`Netdev` does and join the groups.

        Raises ValueError for a group that the family does not have.
        """
        connection = Connection.open(target, netns=netns, timeout=DEFAULT_TIMEOUT)
        try:
            family = GenlFamily(connection, NETDEV_FAMILY_NAME, NETDEV_FAMILY_VERSION)
            for group in groups:
                if group not in family.groups:
                    raise ValueError(f"no group {group!r}; there are {', '.join(family.groups)}")
                _join(connection, family.groups[group])
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        self._family_id = family.id
        self._pending: deque[Notification] = deque()

    def fileno(self) -> int:
        """Return a descriptor that is readable when :meth:`get_notifications` has some."""
        return self._connection.fileno()

    def get_notifications(self, timeout: float | None = 0) -> list[Notification]:
        """Return what has come, after up to `timeout` seconds if that is nothing (None: ever)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._pending and self._wait(deadline):
            self._receive()
        while self._wait(0):
            self._receive()
        found = list(self._pending)
        self._pending.clear()
        return found

    def close(self) -> None:
        """Leave the groups. Twice is once."""
        self._connection.close()

    def __iter__(self) -> Iterator[Notification]:
        return self

    def __next__(self) -> Notification:
        while not self._pending:
            self._wait(None)
            self._receive()
        return self._pending.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _wait(self, deadline: float | None) -> bool:
        """Whether the socket is readable before a time (of the monotonic clock; None: ever)."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        return bool(poll.poll(left))

    def _receive(self) -> None:
        for message in self._connection.receive():
            if message.type == self._family_id:
                self._pending.extend(_notification(message))


def _join(connection: Connection, group: int) -> None:
    if connection.is_kernel:
        connection.join(group)
        return
    # The socket option of AF_NETLINK is a message of the agent's own family.
    agent = GenlFamily(connection, AGENT_FAMILY_NAME, AGENT_FAMILY_VERSION)
    attrs = [("DEVMEMTCP_A_MEMBERSHIP_GROUP", group)]
    agent.do(AgentCmd.SUBSCRIBE, agent_membership_msg, attrs, "subscribe")


def _notification(message: Message) -> Iterator[Notification]:
    """Decode a notification, unless it is of a kind that a later kernel has."""
    (head,) = decode([message], genlmsg)
    command = head["cmd"]
    if command in _RECORDS:
        (decoded,) = decode([message], NETDEV_MESSAGES[command])
        yield Notification(NetdevCmd(command), _RECORDS[command].of(decoded))
