# SPDX-License-Identifier: Apache-2.0
"""A NIC with what drivers do beside what they are asked for, and a process that can be killed.

The quirks are those of drivers in the tree: a change of channels writes another RSS table, unless
a user has written one, and then refuses to take its queues away; the table may grow with the
channels (mlx5), rings may get other sizes; flow rules go with the feature that they need.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from devmemtcp.agent.nic.device import Identity
from devmemtcp.netlink.ethtool import Channels, Feature, Rings
from devmemtcp.netlink.flow_rules import FlowRule
from devmemtcp.netlink.link import Link
from devmemtcp.netlink.rss_table import default_table

NTUPLE = "rx-ntuple-filter"


class Killed(BaseException):
    """The process is no more: nothing that it would do now happens."""


@dataclass
class State:
    """All that undo has to bring back."""

    channels: int = 2
    table: tuple[int, ...] | None = (0, 1, 0, 1, 0, 1, 0, 1)
    configured: bool = False
    """netif_is_rxfh_configured(): the table is a user's."""
    rx_ring: int = 512
    mtu: int = 1500
    wanted: dict[str, bool] = field(default_factory=dict)
    rules: dict[int, FlowRule] = field(default_factory=dict)


class EmulatedNic:
    """Implements `devmemtcp.agent.nic.device.Nic`."""

    identity = Identity(netns=7, ifindex=3, perm_address="52:54:00:12:34:56")

    def __init__(
        self,
        state: State | None = None,
        *,
        max_channels: int = 4,
        fixed: dict[str, bool] | None = None,
        table_grows: bool = False,
        ring_follows: bool = False,
        places: int = 16,
    ) -> None:
        self.state = state or State()
        self.max_channels = max_channels
        self.fixed = fixed or {}
        self.table_grows = table_grows
        self.ring_follows = ring_follows
        self.places = places
        self.ifname = "eth1"
        self.up = True
        self.moments_left: int | None = None
        """How many more moments the process lives."""
        self.fail_writes: Callable[[str], bool] = lambda what: False
        self.writes: list[str] = []

    def snapshot(self) -> State:
        """All of it, to be compared."""
        return deepcopy(self.state)

    def moment(self, event: str = "") -> None:
        """One of those at which the process can be killed; a `Progress`, too."""
        if self.moments_left is not None:
            if self.moments_left == 0:
                raise Killed
            self.moments_left -= 1

    def _write(self, what: str) -> None:
        self.moment()
        if self.fail_writes(what):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.writes.append(what)

    # --- channels and RSS ----------------------------------------------------------------------

    def channels(self) -> Channels:
        self.moment()
        return Channels(combined_max=self.max_channels, combined_count=self.state.channels)

    def set_channels(self, kind: str, count: int) -> None:
        self._write("channels")
        _refuse_if(kind != "combined" or not 0 < count <= self.max_channels)
        state = self.state
        if state.table is not None and state.configured:
            _refuse_if(max(state.table) >= count)
        state.channels = count
        if state.table is not None and not state.configured:
            state.table = default_table(self._table_size(), count)
        if self.ring_follows:
            state.rx_ring = 1024 // count
        self.moment()

    def _table_size(self) -> int:
        assert self.state.table is not None
        return 8 * self.state.channels if self.table_grows else len(self.state.table)

    def rss(self) -> tuple[int, ...]:
        self.moment()
        _refuse_if(self.state.table is None, errno.EOPNOTSUPP)
        assert self.state.table is not None
        return self.state.table

    def set_rss(self, table: Sequence[int]) -> None:
        self._write("rss")
        _refuse_if(self.state.table is None, errno.EOPNOTSUPP)
        assert self.state.table is not None
        _refuse_if(len(table) != len(self.state.table) or max(table) >= self.state.channels)
        self.state.table, self.state.configured = tuple(table), True
        self.moment()

    def reset_rss(self) -> None:
        self._write("rss reset")
        _refuse_if(self.state.table is None, errno.EOPNOTSUPP)
        self.state.table = default_table(self._table_size(), self.state.channels)
        self.state.configured = False
        self.moment()

    # --- the rest ------------------------------------------------------------------------------

    def rings(self) -> Rings:
        self.moment()
        return Rings(rx=self.state.rx_ring, rx_max=4096)

    def set_rx_ring(self, descriptors: int) -> None:
        self._write("ring")
        _refuse_if(not 0 < descriptors <= 4096)
        self.state.rx_ring = descriptors
        self.moment()

    def features(self) -> dict[str, Feature]:
        self.moment()
        fixed = {name: Feature(on, on, changeable=False) for name, on in self.fixed.items()}
        wanted = self.state.wanted.items()
        return fixed | {name: Feature(on, on, changeable=True) for name, on in wanted}

    def set_feature(self, name: str, wanted: bool) -> None:
        self._write(name)
        if name in self.state.wanted:
            self.state.wanted[name] = wanted
        if name == NTUPLE and not wanted:
            self.state.rules = {}
        self.moment()

    def rules(self) -> dict[int, FlowRule | None]:
        self.moment()
        _refuse_if(not self._steers(), errno.EOPNOTSUPP)
        return dict(self.state.rules)

    def insert_rule(self, rule: FlowRule) -> int:
        self._write("rule")
        _refuse_if(not self._steers(), errno.EOPNOTSUPP)
        place = max(set(range(self.places)) - set(self.state.rules))
        self.state.rules[place] = rule
        self.moment()
        return place

    def delete_rule(self, place: int) -> None:
        self._write("rule deleted")
        _refuse_if(place not in self.state.rules, errno.ENOENT)
        del self.state.rules[place]
        self.moment()

    def _steers(self) -> bool:
        return self.fixed.get(NTUPLE, self.state.wanted.get(NTUPLE, False))

    def link(self) -> Link:
        self.moment()
        values: dict[str, Any] = {"ifindex": 3, "ifname": self.ifname, "mtu": self.state.mtu}
        values |= {"min_mtu": 68, "max_mtu": 9216, "perm_address": self.identity.perm_address}
        values |= {"up": self.up, "carrier": self.up, "loopback": False, "kind": None}
        return Link(**values, num_rx_queues=8, num_tx_queues=8, xdp_prog_id=None)

    def set_mtu(self, mtu: int) -> None:
        self._write("mtu")
        _refuse_if(not 68 <= mtu <= 9216)
        self.state.mtu = mtu
        self.moment()


def _refuse_if(wrong: bool, number: int = errno.EINVAL) -> None:
    if wrong:
        raise OSError(number, os.strerror(number))
