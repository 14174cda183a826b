# SPDX-License-Identifier: Apache-2.0
"""What a plan is made from: a NIC's settings, and how the XDP program will be attached to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from devmemtcp.agent.datapath_config import AttachMode, XdpMode, attach_mode
from devmemtcp.agent.netdev import NetDev
from devmemtcp.agent.nic.device import Nic, if_there
from devmemtcp.agent.refusal import raise_first
from devmemtcp.agent.zerocopy import MTU_MAX, zero_copy_refusals
from devmemtcp.netlink.ethtool import NTUPLE, Channels, Feature, Rings
from devmemtcp.netlink.flow_rules import FlowRule
from devmemtcp.netlink.link import Link
from devmemtcp.pyxdp.netdev import XdpAct


@dataclass(frozen=True)
class Attachment:
    """How the XDP program will see packets; nothing that is set here changes it."""

    driver: str | None
    mode: AttachMode
    multi_buffer: bool
    """Whether a packet may have more than one buffer, in that mode."""
    programs: tuple[str, ...] = ()
    """XDP programs that are attached now."""
    default_route: bool = False
    untried: str | None = None
    """Why it is not known whether a packet may have more buffers; then it is taken for no."""

    @classmethod
    def of(cls, dev: NetDev, mode: XdpMode | Literal["zerocopy"]) -> Self:
        """For an interface, in the mode that was asked for.

        Raises ConfigError for zero-copy where the driver has none.
        """
        can = dev.features
        if mode == "zerocopy":
            raise_first(zero_copy_refusals(can, min(can.mtu, MTU_MAX)))  # the MTU can be set
        chosen = attach_mode(mode, can.driver, multi_buffer=can.multi_buffer is not False) or (
            "generic" if can.native_xdp is False else "native"
        )
        advertised = bool(can.xdp_features and can.xdp_features & XdpAct.RX_SG)
        possible = chosen == "generic" or (chosen == "native" and advertised)
        tried = can.multi_buffer is not None
        return cls(
            can.driver,
            chosen,
            multi_buffer=can.multi_buffer is True and possible,
            programs=tuple(str(program) for program in can.programs),
            default_route=dev.default_route,
            untried=can.reasons.get("multi_buffer") if possible and not tried else None,
        )


@dataclass(frozen=True)
class Facts:
    """Settings of a NIC, as they were when asked; None is what it does not have."""

    attachment: Attachment
    link: Link
    channels: Channels | None
    rings: Rings | None
    features: Mapping[str, Feature]
    rss: tuple[int, ...] | None
    rules: Mapping[int, FlowRule | None]
    """Those there are; none, too, while flow rules are off."""

    @classmethod
    def of(cls, nic: Nic, attachment: Attachment) -> Self:
        """Ask a NIC. Raises OSError."""
        return cls(
            attachment,
            nic.link(),
            channels=if_there(nic.channels),
            rings=if_there(nic.rings),
            features=if_there(nic.features) or {},
            rss=if_there(nic.rss),
            rules=if_there(nic.rules) or {},
        )

    @property
    def channel_kind(self) -> str | None:
        """Which count of channels makes RX queues; None: it cannot be set."""
        counts = self.channels
        if counts is None:
            return None
        return "combined" if counts.combined_max else "rx" if counts.rx_max else None

    @property
    def queues(self) -> int:
        """RX queues in use."""
        counts = self.channels
        if counts is None or self.channel_kind is None:
            return self.link.num_rx_queues
        return (counts.combined_count or 0) + (counts.rx_count or 0)

    @property
    def max_queues(self) -> int:
        """RX queues that there could be."""
        counts = self.channels
        if counts is None or self.channel_kind is None:
            return self.queues
        return (counts.combined_max or counts.rx_max or 0) + self.fixed_queues

    @property
    def fixed_queues(self) -> int:
        """RX queues of the other kind, where a driver has both (ice): they stay as they are."""
        counts = self.channels
        return (counts.rx_count or 0) if counts and self.channel_kind == "combined" else 0

    @property
    def can_steer(self) -> bool:
        """Whether there can be flow rules."""
        ntuple = self.features.get(NTUPLE)
        return ntuple is not None and ntuple.available
