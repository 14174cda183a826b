# SPDX-License-Identifier: Apache-2.0
"""Kinds of settings: how each is read, written, put back, and said to ethtool(8) or ip(8).

A setting is known by its `key`, which is what a journal has of it; `parse()` makes one of a key.
Its value is what JSON can hold: a number, whether something is on or there, a table.
"""

from __future__ import annotations

import errno
import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from shlex import quote
from typing import ClassVar

from devmemtcp.agent.nic.device import Nic, if_there
from devmemtcp.netlink.ethtool import Channels
from devmemtcp.netlink.flow_rules import FlowRule
from devmemtcp.netlink.rss_table import default_table

Value = int | bool | tuple[int, ...]

MAX_COUNT = 1 << 20
"""More than any NIC has of queues, descriptors, bytes of a packet or places of a table."""


class Setting(ABC):
    """One thing that can be set on a NIC."""

    leaves_a_mark: ClassVar[bool] = False
    """Whether the kernel remembers that it was written, even with the value that it had."""
    interrupts: ClassVar[bool] = True
    """Whether a driver may stop its queues, or the link, to write it."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Its name, e.g. "feature rx-lro"."""

    @abstractmethod
    def _read(self, nic: Nic) -> Value:
        """Raises OSError, EOPNOTSUPP."""

    @abstractmethod
    def write(self, nic: Nic, value: Value) -> None:
        """Raises OSError as the kernel or the driver does."""

    @abstractmethod
    def command(self, ifname: str, value: Value) -> str:
        """The shell command that would write it, for a name as the shell takes it: quoted."""

    def read(self, nic: Nic) -> Value | None:
        """Its value; None where the NIC has no such thing. Raises OSError."""
        return if_there(lambda: self._read(nic))

    def put_back(self, nic: Nic, value: Value) -> None:
        """Write a value that was there before."""
        self.write(nic, value)

    def trace(self, nic: Nic, value: Value) -> str | None:
        """What is not as it was although the value is; None: nothing."""
        return None

    def show(self, value: Value | None) -> str:
        """In words."""
        return "none" if value is None else str(value)

    def check(self, value: object) -> Value:
        """The value, if it is one of this kind. Raises ValueError: a journal can hold anything."""
        if type(value) is not int or not 0 < value <= MAX_COUNT:
            raise ValueError(f"{self.key} is a number, not {value!r}")
        return value


@dataclass(frozen=True)
class ChannelCount(Setting):
    """How many queues are in use."""

    kind: str
    """"combined", or "rx" where the driver counts receive queues apart."""

    @property
    def key(self) -> str:
        """Its name."""
        return f"channels {self.kind}"

    def _read(self, nic: Nic) -> Value:
        count: int | None = getattr(nic.channels(), f"{self.kind}_count")
        return _there(count)

    def write(self, nic: Nic, value: Value) -> None:
        """Drivers may reset the link, and write another RSS table."""
        nic.set_channels(self.kind, _number(value))

    def put_back(self, nic: Nic, value: Value) -> None:
        """A table of RSS that leads to queues which are to go does not keep them."""
        try:
            self.write(nic, value)
        except OSError as error:
            if error.errno != errno.EINVAL or RssSpread().read(nic) is None:
                raise
            nic.reset_rss()
            self.write(nic, value)

    def command(self, ifname: str, value: Value) -> str:
        """Return ethtool's."""
        return f"ethtool -L {ifname} {self.kind} {value}"


@dataclass(frozen=True)
class RxRing(Setting):
    """Descriptors of each RX ring."""

    @property
    def key(self) -> str:
        """Its name."""
        return "ring rx"

    def _read(self, nic: Nic) -> Value:
        return _there(nic.rings().rx)

    def write(self, nic: Nic, value: Value) -> None:
        """Drivers may reset the link."""
        nic.set_rx_ring(_number(value))

    def command(self, ifname: str, value: Value) -> str:
        """Return ethtool's."""
        return f"ethtool -G {ifname} rx {value}"


@dataclass(frozen=True)
class Mtu(Setting):
    """Bytes of an IP packet."""

    @property
    def key(self) -> str:
        """Its name."""
        return "mtu"

    def _read(self, nic: Nic) -> Value:
        return nic.link().mtu

    def write(self, nic: Nic, value: Value) -> None:
        """EINVAL beyond the driver's limits."""
        nic.set_mtu(_number(value))

    def command(self, ifname: str, value: Value) -> str:
        """Return ip's."""
        return f"ip link set {ifname} mtu {value}"


@dataclass(frozen=True)
class OffloadWanted(Setting):
    """Whether a feature is asked for, as `ethtool -K` does; active is what comes of it."""

    name: str
    """The kernel's, which ethtool(8) takes, too."""

    @property
    def key(self) -> str:
        """Its name."""
        return f"feature {self.name}"

    def _read(self, nic: Nic) -> Value:
        feature = nic.features().get(self.name)
        if feature is None or not feature.changeable:
            raise OSError(errno.EOPNOTSUPP, f"{self.name} is fixed")
        return feature.wanted

    def write(self, nic: Nic, value: Value) -> None:
        """A driver may refuse by not doing it, without an error: that is EOPNOTSUPP here."""
        self.put_back(nic, value)
        if nic.features()[self.name].active != value:
            raise OSError(errno.EOPNOTSUPP, f"the driver keeps it {self.show(not value)}")

    def put_back(self, nic: Nic, value: Value) -> None:
        """What is asked for need not have been active before."""
        nic.set_feature(self.name, bool(value))

    def command(self, ifname: str, value: Value) -> str:
        """Return ethtool's."""
        return f"ethtool -K {ifname} {self.name} {'on' if value else 'off'}"

    def show(self, value: Value | None) -> str:
        """On or off."""
        return "fixed" if value is None else "on" if value else "off"

    def check(self, value: object) -> Value:
        """Whether it is a bool."""
        return _bool(self.key, value)


@dataclass(frozen=True)
class RssSpread(Setting):
    """The RSS indirection table."""

    leaves_a_mark = True
    interrupts = False

    @property
    def key(self) -> str:
        """Its name."""
        return "rss"

    def _read(self, nic: Nic) -> Value:
        return nic.rss()

    def write(self, nic: Nic, value: Value) -> None:
        """EINVAL for another size than the table has, or for a queue that there is not."""
        nic.set_rss(_table(value))

    def put_back(self, nic: Nic, value: Value) -> None:
        """Ask for the default where that is what it was.

        The kernel then no longer takes it for a user's (netif_is_rxfh_configured()), which nobody
        can read, but which keeps a later `ethtool -L` from taking queues away.
        """
        table = _table(value)
        if is_default(table, nic.channels()):
            nic.reset_rss()
        if nic.rss() != table:
            nic.set_rss(table)

    def trace(self, nic: Nic, value: Value) -> str | None:
        """A default of the driver's own (igb's) cannot be written without the mark."""
        if is_default(_table(value), nic.channels()):
            return None
        ifname = quote(nic.link().ifname)
        return (
            "the RSS table is what it was, but counts as a user's, if it did not before: then "
            f"`ethtool -L` keeps the queues that it leads to, until `ethtool -X {ifname} default`"
        )

    def command(self, ifname: str, value: Value) -> str:
        """Return ethtool's, which fills the table in the same way as spread()."""
        queues = sorted(set(_table(value)))
        if queues == list(range(queues[0], queues[-1] + 1)):
            start = f" start {queues[0]}" if queues[0] else ""
            return f"ethtool -X {ifname}{start} equal {len(queues)}"
        weights = (int(queue in queues) for queue in range(queues[-1] + 1))
        return f"ethtool -X {ifname} weight {' '.join(map(str, weights))}"

    def show(self, value: Value | None) -> str:
        """The queues that it leads to."""
        if value is None:
            return "none"
        queues = sorted(set(_table(value)))
        return f"queue{'s' if len(queues) > 1 else ''} {', '.join(map(str, queues))}"

    def check(self, value: object) -> Value:
        """Whether it is a table of queues."""
        if not isinstance(value, list | tuple) or not 0 < len(value) <= MAX_COUNT:
            raise ValueError(f"{self.key} is a table, not {value!r}")
        if not all(type(queue) is int and 0 <= queue < MAX_COUNT for queue in value):
            raise ValueError(f"{self.key} is a table of queues")
        return tuple(value)


def is_default(table: tuple[int, ...], channels: Channels) -> bool:
    """Whether the kernel would write this table for those channels, if asked for the default."""
    queues = (channels.combined_count or 0) + (channels.rx_count or 0)
    return queues > 0 and table == default_table(len(table), queues)


def spread(size: int, queues: Sequence[int]) -> tuple[int, ...]:
    """A table that leads to these queues in equal parts, as `ethtool -X` fills one.

    Neighbours take turns (``equal``), others have a stretch each (``weight``).
    """
    first, last = min(queues), max(queues)
    if len(queues) == last - first + 1:
        return tuple(first + bucket % len(queues) for bucket in range(size))
    ends = [size * share // len(queues) for share in range(1, len(queues) + 1)]
    return tuple(sorted(queues)[bisect_right(ends, bucket)] for bucket in range(size))


_RULE = re.compile(
    r"rule tcp([46])(?: dst-ip ([0-9a-f.:]{2,39}))? dst-port ([0-9]{1,5}) queue ([0-9]{1,7})",
    re.ASCII,
)


@dataclass(frozen=True)
class Steering(Setting):
    """Whether a flow rule is there. One that was there before is never touched."""

    interrupts = False
    rule: FlowRule

    @property
    def key(self) -> str:
        """Its name."""
        return f"rule {self._words()} queue {self.rule.queue}"

    def _words(self) -> str:
        address = f" dst-ip {self.rule.dst}" if self.rule.dst else ""
        return f"tcp{self.rule.version}{address} dst-port {self.rule.dst_port}"

    def _read(self, nic: Nic) -> Value:
        # Some drivers list none while rx-ntuple-filter is off.
        return self.rule in (if_there(nic.rules) or {}).values()

    def write(self, nic: Nic, value: Value) -> None:
        """Insert the rule, or delete it wherever it is."""
        if value:
            place = nic.insert_rule(self.rule)
            if not self._read(nic):
                # Nobody would know it again: it is not what was asked for.
                nic.delete_rule(place)
            return
        for place in [place for place, rule in nic.rules().items() if rule == self.rule]:
            nic.delete_rule(place)

    def command(self, ifname: str, value: Value) -> str:
        """Return ethtool's; which place it would have had is not known beforehand."""
        if value:
            return f"ethtool -N {ifname} flow-type {self._words()} queue {self.rule.queue}"
        return f"ethtool -N {ifname} delete PLACE"

    def show(self, value: Value | None) -> str:
        """Whether it is there."""
        return "there" if value else "not there"

    def check(self, value: object) -> Value:
        """Whether it is a bool."""
        return _bool(self.key, value)


def parse(key: str) -> Setting:
    """The setting of that key. Raises ValueError for anything but what `key` can be."""
    for setting in (ChannelCount("combined"), ChannelCount("rx"), RxRing(), Mtu(), RssSpread()):
        if key == setting.key:
            return setting
    kind, _, name = key.partition(" ")
    if kind == "feature" and re.fullmatch(r"[a-z0-9_-]{1,31}", name, re.ASCII):
        return OffloadWanted(name)
    match = _RULE.fullmatch(key)
    if match is None:
        raise ValueError(f"there is no setting {key!r}")
    version, address, port, queue = match.groups()
    rule = FlowRule(
        int(version),
        int(queue),
        dst=ip_address(address) if address else None,
        dst_port=int(port),
    )
    if Steering(rule).key != key or int(port) > 0xFFFF:
        raise ValueError(f"{key!r} is not how a rule is written")
    return Steering(rule)


def _there(count: int | None) -> int:
    if not count:  # drivers say 0 of what they do not have
        raise OSError(errno.EOPNOTSUPP, "the driver has none")
    return count


def _number(value: Value) -> int:
    if isinstance(value, tuple):
        raise TypeError("a number, not a table")
    return value


def _table(value: Value) -> tuple[int, ...]:
    if not isinstance(value, tuple):
        raise TypeError("a table, not a number")
    return value


def _bool(key: str, value: object) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{key} is true or false, not {value!r}")
    return value
