# SPDX-License-Identifier: Apache-2.0
"""A NIC as its settings see it: what can be read and written, and which NIC it is."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from devmemtcp.agent.errors import Unsupported
from devmemtcp.agent.namespaces import netns_cookie
from devmemtcp.netlink import errors
from devmemtcp.netlink.ethtool import Channels, Ethtool, Feature, Rings
from devmemtcp.netlink.flow_rules import FlowRule, FlowRules
from devmemtcp.netlink.link import Link, Links
from devmemtcp.netlink.rss_table import RssTable

T = TypeVar("T")


@dataclass(frozen=True)
class Identity:
    """Which NIC it is, whatever it is called by now."""

    netns: int
    """The namespace's cookie: unlike its inode number it is not given again until a reboot."""
    ifindex: int
    perm_address: str | None
    """Tells it from one that was made with the index of one that is gone. None: it has none."""
    parent: str | None = None
    """Its device and bus. Both together tell one that has come back with another index."""

    @classmethod
    def of(cls, netns: int, link: Link) -> Self:
        """Of an interface in that namespace."""
        return cls(netns, link.ifindex, link.perm_address, link.parent)


class Nic(Protocol):
    """What the settings ask of a NIC. All raise OSError: EOPNOTSUPP for what it does not have."""

    def channels(self) -> Channels:
        """Numbers of queues."""

    def set_channels(self, kind: str, count: int) -> None:
        """Set the number of "combined" or "rx" channels."""

    def rings(self) -> Rings:
        """Ring sizes, tcp-data-split and hds-thresh."""

    def set_rx_ring(self, descriptors: int) -> None:
        """Set the size of each RX ring."""

    def features(self) -> dict[str, Feature]:
        """Offloads by the kernel's names."""

    def set_feature(self, name: str, wanted: bool) -> None:
        """Ask for one, or for it to be off."""

    def rss(self) -> tuple[int, ...]:
        """The indirection table."""

    def set_rss(self, table: Sequence[int]) -> None:
        """Write the indirection table."""

    def reset_rss(self) -> None:
        """Have the kernel's default written."""

    def rules(self) -> dict[int, FlowRule | None]:
        """Flow rules by their places."""

    def insert_rule(self, rule: FlowRule) -> int:
        """Insert a rule at a free place; returns the place."""

    def delete_rule(self, place: int) -> None:
        """Delete the rule at a place."""

    def link(self) -> Link:
        """Name, MTU and its limits."""

    def set_mtu(self, mtu: int) -> None:
        """Set the MTU, in bytes."""


def if_there(read: Callable[[], T]) -> T | None:
    """What `read` returns; None where the NIC has no such thing (EOPNOTSUPP). Raises OSError."""
    try:
        return read()
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return None
        raise


class KernelNic:
    """A NIC of the calling thread's network namespace, held by its index; it may be renamed."""

    def __init__(self, ifindex: int) -> None:
        """Open sockets to the kernel.

        Raises OSError, ENODEV: there is no such interface; Unsupported: the kernel was built
        without ethtool's netlink family.
        """
        self._ifindex = ifindex
        try:
            self._ethtool = Ethtool()
        except errors.Unsupported as error:
            raise Unsupported(str(error)) from error
        self._links = Links()
        try:
            self.identity = Identity.of(netns_cookie(), self.link())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the sockets."""
        self._links.close()
        self._ethtool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def channels(self) -> Channels:
        """Numbers of queues."""
        return self._ethtool.channels_get(self._ifindex)

    def set_channels(self, kind: str, count: int) -> None:
        """Set the number of "combined" or "rx" channels."""
        self._ethtool.channels_set(self._ifindex, **{kind: count})

    def rings(self) -> Rings:
        """Ring sizes, tcp-data-split and hds-thresh."""
        return self._ethtool.rings_get(self._ifindex)

    def set_rx_ring(self, descriptors: int) -> None:
        """Set the size of each RX ring."""
        self._ethtool.rings_set(self._ifindex, rx=descriptors)

    def features(self) -> dict[str, Feature]:
        """Offloads by the kernel's names."""
        return self._ethtool.features_get(self._ifindex)

    def set_feature(self, name: str, wanted: bool) -> None:
        """Ask for one, or for it to be off."""
        self._ethtool.features_set(self._ifindex, {name: wanted})

    def rss(self) -> tuple[int, ...]:
        """The indirection table."""
        with self._rss_table() as rss:
            return rss.get()

    def set_rss(self, table: Sequence[int]) -> None:
        """Write the indirection table."""
        with self._rss_table() as rss:
            rss.set(table)

    def reset_rss(self) -> None:
        """Have the kernel's default written."""
        with self._rss_table() as rss:
            rss.reset()

    def rules(self) -> dict[int, FlowRule | None]:
        """Flow rules by their places."""
        with self._flow_rules() as rules:
            return rules.dump()

    def insert_rule(self, rule: FlowRule) -> int:
        """Insert a rule at a free place; returns the place."""
        with self._flow_rules() as rules:
            return rules.insert(rule)

    def delete_rule(self, place: int) -> None:
        """Delete the rule at a place."""
        with self._flow_rules() as rules:
            rules.delete(place)

    def link(self) -> Link:
        """Name, MTU and its limits."""
        return self._links.get(self._ifindex)

    def set_mtu(self, mtu: int) -> None:
        """Set the MTU, in bytes."""
        self._links.set(self._ifindex, mtu=mtu)

    def _rss_table(self) -> RssTable:
        return RssTable(self.link().ifname)

    def _flow_rules(self) -> FlowRules:
        return FlowRules(self.link().ifname)
