# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of a control connection, and what the rules let them do.

A netlink socket's privilege is that of two processes: the one that opened the socket, and the
one that sends by it now (netlink_capable()). So a connection that a daemon opened and passed on
gives the receiver nothing it may not do itself, and neither does a descriptor that leaked into a
root process. Here it is the same: the opener is who connect(2)ed (SO_PEERCRED, SO_PEERGROUPS), the
sender comes with each message (SCM_CREDENTIALS), and both must be allowed.

What the kernel decides by capability is decided by user here: a peer's capabilities cannot be
asked for. Root is uid 0 of the agent's user namespace.
"""

from __future__ import annotations

import array
import errno
import grp
import pwd
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from devmemtcp.agent.daemon.config import Rule
from devmemtcp.agent.errors import ConfigError

UCRED = struct.Struct("=iII")
"""struct ucred: pid, uid, gid."""
_SO_PEERGROUPS = 59
_MAX_GETSOCKOPT = 1024
"""Bytes that `socket.getsockopt()` takes: 256 groups."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A process as the kernel told it; `groups` holds `gid` too."""

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]


def opener_of(sock: socket.socket) -> Credentials:
    """Who connected, with its groups as of then."""
    pid, uid, gid = UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    return Credentials(pid, uid, gid, frozenset((gid, *_supplementary_groups(sock))))


def _supplementary_groups(sock: socket.socket) -> Sequence[int]:
    """None of them for a user with more than Python has room for."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_GETSOCKOPT)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        return ()
    return array.array("I", raw)


def sender_of(ucred: bytes, opener: Credentials) -> Credentials:
    """Who sent, by the SCM_CREDENTIALS of a message.

    They hold no supplementary groups: another user than the opener counts with its primary
    group alone.
    """
    pid, uid, gid = UCRED.unpack(ucred)
    groups = opener.groups if uid == opener.uid else frozenset((gid,))
    return Credentials(pid, uid, gid, groups)


@dataclass(frozen=True, slots=True)
class _Grant:
    """A rule with its names resolved; `users` is None for everybody."""

    users: frozenset[int] | None
    groups: frozenset[int]
    rule: Rule

    def applies_to(self, who: Credentials) -> bool:
        return self.users is None or who.uid in self.users or not self.groups.isdisjoint(who.groups)

    def covers(self, ifname: str) -> bool:
        return "*" in self.rule.interfaces or ifname in self.rule.interfaces


class RuleBook:
    """What users may do: the union of the rules that apply to them."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        """Raises ConfigError for a user or a group that there is not."""
        self._grants = [
            _Grant(
                users=None if "*" in rule.users else frozenset(map(user_id, rule.users)),
                groups=frozenset(map(group_id, rule.groups)),
                rule=rule,
            )
            for rule in rules
        ]

    def _allows(self, who: Credentials, ifname: str | None, fits: Callable[[Rule], bool]) -> bool:
        if who.uid == 0:
            return True
        return any(
            grant.applies_to(who) and (ifname is None or grant.covers(ifname)) and fits(grant.rule)
            for grant in self._grants
        )

    def may_use(self, who: Credentials, ifname: str) -> bool:
        """Open a channel to the interface's stack."""
        return self._allows(who, ifname, lambda rule: True)

    def may_listen(self, who: Credentials, ifname: str, port: int) -> bool:
        """Listen there. Port 0, any that is free, is one that needs no permission of its own."""
        return self._allows(
            who, ifname, lambda rule: port == 0 or any(port in ports for ports in rule.ports)
        )

    def may_administer(self, who: Credentials, ifname: str | None = None) -> bool:
        """What the kernel wants CAP_NET_ADMIN for, on this interface or (None) on any of them."""
        return self._allows(who, ifname, lambda rule: rule.admin)

    def lowest_port(self) -> int:
        """The lowest that any rule lets anybody but root listen on; 65536 if none does."""
        return min(
            (ports.first for grant in self._grants for ports in grant.rule.ports), default=65536
        )


class AgentPeer:
    """A control connection's peer, as the netlink server asks for it."""

    def __init__(self, opener: Credentials, rules: Callable[[], RuleBook]) -> None:
        """`rules`: those in force when asked; they may be reloaded meanwhile."""
        self.opener = opener
        self.sender = opener
        """Of the message that is being handled; set before each."""
        self._rules = rules

    @property
    def pid(self) -> int:
        """The opener's."""
        return self.opener.pid

    @property
    def uid(self) -> int:
        """The opener's, whom limits are counted for."""
        return self.opener.uid

    def _both(self, allowed: Callable[[RuleBook, Credentials], bool]) -> bool:
        rules = self._rules()
        return all(allowed(rules, who) for who in (self.opener, self.sender))

    def admin(self) -> bool:
        """Whether it passes where the kernel asks for CAP_NET_ADMIN, for some interface."""
        return self._both(lambda rules, who: rules.may_administer(who))

    def may_administer(self, ifname: str) -> bool:
        """Whether it may bind on, and configure, this interface."""
        return self._both(lambda rules, who: rules.may_administer(who, ifname))

    def may_use(self, ifname: str) -> bool:
        """Whether it may have a channel to this interface's stack."""
        return self._both(lambda rules, who: rules.may_use(who, ifname))

    def may_listen(self, ifname: str, port: int) -> bool:
        """Whether it may listen on this port there."""
        return self._both(lambda rules, who: rules.may_listen(who, ifname, port))


def user_id(who: str | int) -> int:
    """The number of a user. Raises ConfigError when there is no such name."""
    try:
        return who if isinstance(who, int) else pwd.getpwnam(who).pw_uid
    except KeyError:
        raise ConfigError(f"there is no user {who!r}; `getent passwd` lists them") from None


def group_id(who: str | int) -> int:
    """The number of a group. Raises ConfigError when there is no such name."""
    try:
        return who if isinstance(who, int) else grp.getgrnam(who).gr_gid
    except KeyError:
        raise ConfigError(f"there is no group {who!r}; `getent group` lists them") from None
