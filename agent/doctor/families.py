# SPDX-License-Identifier: Apache-2.0
"""Netlink families: which commands this kernel knows. Only their list is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from devmemtcp.agent.doctor.look import looked
from devmemtcp.agent.doctor.record import Check, note, ok
from devmemtcp.netlink.connection import Connection
from devmemtcp.netlink.constants import (
    ETHTOOL_FAMILY_NAME,
    ETHTOOL_FAMILY_VERSION,
    NETDEV_FAMILY_NAME,
    NETDEV_FAMILY_VERSION,
    NetdevCmd,
)
from devmemtcp.netlink.errors import Unsupported
from devmemtcp.netlink.genl import GenlFamily


@dataclass(frozen=True)
class _Command:
    """Of the netdev family."""

    name: str
    number: NetdevCmd
    means: str
    without: str


_COMMANDS = (
    _Command(
        "netdev dev-get",
        NetdevCmd.DEV_GET,
        "drivers say what XDP they have",
        "what drivers have is known from a table, or by trying",
    ),
    _Command(
        "netdev queue-get",
        NetdevCmd.QUEUE_GET,
        "queues say who has them",
        "sock_diag alone can tell who has a queue",
    ),
    _Command(
        "netdev bind-rx",
        NetdevCmd.BIND_RX,
        "the kernel has devmem TCP, for drivers that take part",
        "the kernel has no devmem TCP; ours stands in for it",
    ),
)


def checks() -> Iterator[Check]:
    """A line for each command, and one for ethtool's family."""
    known = _commands(NETDEV_FAMILY_NAME, NETDEV_FAMILY_VERSION)
    for command in _COMMANDS:
        if command.number in known:
            yield ok(command.name, "known", command.means)
        else:
            yield note(command.name, "not in this kernel", command.without)
    yield from looked("ethtool netlink", _ethtool)


def _ethtool() -> Iterator[Check]:
    if _commands(ETHTOOL_FAMILY_NAME, ETHTOOL_FAMILY_VERSION):
        yield ok("ethtool netlink", "known", "offloads and header split can be looked at")
    else:
        yield note("ethtool netlink", "not in this kernel", "offloads cannot be looked at")


def _commands(name: str, version: int) -> frozenset[int]:
    """Numbers of the commands that a family has; empty for one that is not there."""
    try:
        with GenlFamily(Connection.open("kernel"), name, version) as family:
            return family.commands
    except Unsupported:
        return frozenset()
