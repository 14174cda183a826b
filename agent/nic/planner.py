# SPDX-License-Identifier: Apache-2.0
"""What has to be set on a NIC so that our flows come where we want them, as one packet a frame.

A plan is made of facts and wishes alone, so it can be made anew after each step: what a driver
changes beside what it was asked for (a table of RSS with the number of channels) is seen then.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from shlex import quote

from devmemtcp.agent._loop import lib
from devmemtcp.agent.endpoint import ANY, Endpoint
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.nic.facts import Facts
from devmemtcp.agent.nic.plan import Plan, Step
from devmemtcp.agent.nic.setting import (
    ChannelCount,
    Mtu,
    OffloadWanted,
    RssSpread,
    RxRing,
    Steering,
    spread,
)
from devmemtcp.agent.preflight import LINEAR_MTU
from devmemtcp.agent.zerocopy import MTU_MAX
from devmemtcp.netlink.constants import TcpDataSplit
from devmemtcp.netlink.ethtool import NTUPLE
from devmemtcp.netlink.flow_rules import FlowRule

_IPV6_MIN_MTU = 1280
"""RFC 8200, section 5. Below it the kernel takes IPv6 addresses away, which nothing puts back."""


@dataclass(frozen=True)
class Wishes:
    """What the user wants; what is None or empty is ours to choose."""

    queues: tuple[int, ...] | None = None
    """RX queues for our flows; None: all that are in use, and RSS stays as it is."""
    listen: tuple[Endpoint, ...] = ()
    """Where our flows go to."""
    rss: bool = False
    """Spread everything over our queues, in place of flow rules."""
    channels: int | None = None
    rx_ring: int | None = None
    mtu: int | None = None


def make_plan(facts: Facts, wishes: Wishes) -> Plan:
    """Compare what is with what should be. Raises ConfigError for what cannot be."""
    link = facts.link
    if not link.up:
        raise ConfigError(
            f"{link.ifname} is down: its driver may write settings anew when it comes up, and not "
            f"all can be found out before; `ip link set {quote(link.ifname)} up` first"
        )
    return _Planner(facts, wishes).plan()


class _Planner:
    def __init__(self, facts: Facts, wishes: Wishes) -> None:
        self._facts = facts
        self._wishes = wishes
        self._name = facts.link.ifname
        self._steps: list[Step] = []
        self._notes: list[str] = []
        self._channels = self._channels_wanted()
        self._ours = wishes.queues or tuple(range(self._channels))
        self._others = tuple(q for q in range(self._channels) if q not in self._ours)
        self._steers = bool(wishes.queues and self._others and facts.can_steer and not wishes.rss)

    def plan(self) -> Plan:
        if self._steers and not self._wishes.listen:
            raise ConfigError(
                f"--queues keeps all flows but ours off these queues of {self._name}: say which "
                "are ours (--listen ADDR:PORT), or let all flows come there (--rss)"
            )
        queues, rss = list(self._plan_channels()), list(self._plan_rss())
        # A table that leads to a queue must be gone before the queue; a queue is there before it.
        lowers = self._channels < self._facts.queues
        self._steps += rss + queues if lowers else queues + rss
        self._steps += self._plan_ring()
        self._steps += self._plan_offloads()
        self._steps += self._plan_rules()
        self._steps += self._plan_mtu()
        self._note_the_rest()
        return Plan(self._name, tuple(self._steps), tuple(self._notes), tuple(self._risks()))

    # --- queues --------------------------------------------------------------------------------

    def _channels_wanted(self) -> int:
        """How many RX queues there should be. Raises ConfigError when there cannot be so many."""
        facts, wishes = self._facts, self._wishes
        needed = max(wishes.queues, default=0) + 1 if wishes.queues else 1
        if wishes.queues and len(set(wishes.queues)) == needed < facts.max_queues:
            # One must be left for the flows of others, if they can be kept apart.
            needed += facts.can_steer and not wishes.rss
        wanted = wishes.channels or min(max(facts.queues, needed), lib.STACK_MAX_QUEUES)
        if wishes.channels is not None and facts.channel_kind is None:
            raise ConfigError(f"{self._name}: its driver cannot change the number of channels")
        if facts.channel_kind is not None and wanted != facts.queues:
            needed = max(needed, facts.fixed_queues + 1)
        if not needed <= wanted <= facts.max_queues:
            raise ConfigError(
                f"{self._name} would need {max(needed, wanted)} RX queues, and "
                f"{min(wanted, facts.max_queues)} are possible"
            )
        return wanted

    def _plan_channels(self) -> Iterator[Step]:
        facts, kind = self._facts, self._facts.channel_kind
        if kind is None or self._channels == facts.queues:
            return
        if self._wishes.channels:
            why = "as --channels wants it"
        elif self._channels > facts.queues:
            why = "queues for our flows, and at least one for those of others"
        else:
            why = f"our stack serves at most {lib.STACK_MAX_QUEUES} queues"
        now, wanted = (count - facts.fixed_queues for count in (facts.queues, self._channels))
        yield Step(ChannelCount(kind), now, wanted, why)

    def _plan_rss(self) -> Iterator[Step]:
        facts = self._facts
        if self._wishes.queues is None:
            return
        if facts.rss is None:
            self._notes.append(
                "there is no RSS table: what comes to a queue that is not ours is received into "
                "host memory and copied"
            )
            return
        aim = self._others if self._steers else self._ours
        led_to = set(facts.rss)
        fits = led_to <= set(aim) if self._steers else led_to == set(aim)
        # A driver may write another table when it adds channels.
        if fits and self._channels <= facts.queues:
            return
        if self._steers:
            why = "flows of others stay off our queues, which flow rules lead to"
        else:
            why = "all flows come to our queues; the XDP program hands on those of others"
        yield Step(RssSpread(), facts.rss, spread(len(facts.rss), aim), why)

    def _plan_rules(self) -> Iterator[Step]:
        facts, listen = self._facts, self._wishes.listen
        if not self._steers:
            if listen:
                self._note_no_rules()
            return
        if not facts.features[NTUPLE].active:
            yield self._feature_step(NTUPLE, True, "flow rules are off without it")
        for number, endpoint in enumerate(listen):
            queue = self._ours[number % len(self._ours)]
            for rule in _rules(endpoint, queue):
                if rule not in facts.rules.values():
                    why = f"connections to {endpoint} come to queue {queue}"
                    yield Step(Steering(rule), False, True, why)
        if len(self._ours) > len(listen):
            self._notes.append(
                "a flow rule leads to one queue: there are more of ours than addresses to listen "
                "on, so some stay idle; --rss spreads all flows over them"
            )

    def _note_no_rules(self) -> None:
        if not self._facts.can_steer:
            driver = self._facts.attachment.driver or "the driver"
            self._notes.append(
                f"flow rules: {driver} has none (rx-ntuple-filter is off and fixed); the XDP "
                "program picks our flows out on every queue that they come to"
            )
        elif self._wishes.rss:
            self._notes.append(
                "flow rules: not needed, --rss leads all flows to our queues and the XDP program "
                "picks ours out"
            )
        else:
            self._notes.append(
                "flow rules: not needed, all queues are ours and the XDP program picks our flows "
                "out; --queues with some of them keeps those of others off"
            )

    # --- packets -------------------------------------------------------------------------------

    def _plan_offloads(self) -> Iterator[Step]:
        attachment = self._facts.attachment
        for name in ("rx-lro", "rx-gro-hw"):
            yield from self._off(
                name,
                "packets merged by the NIC may not fit a buffer, and drivers refuse XDP",
                fixed=self._fixed_merging(),
            )
        if attachment.mode == "generic" and not attachment.multi_buffer:
            yield from self._off(
                "rx-gro", "generic XDP runs after GRO, and a merged packet does not fit a buffer"
            )
        if attachment.driver == "veth":
            return  # there the tag is its peer's affair, see docs/nic.md
        for name in ("rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"):
            yield from self._off(
                name, "a tag that the NIC takes out cannot be seen: a VLAN's flow looks like ours"
            )

    def _fixed_merging(self) -> str:
        """What it means for the NIC's use that nobody can have it off."""
        attachment = self._facts.attachment
        if attachment.mode != "generic":
            return (
                "unless its driver does that itself it refuses native XDP; the NIC can be used all "
                "the same: --mode auto takes generic then"
            )
        if attachment.multi_buffer:
            return "the NIC can be used: generic mode takes merged packets as they come"
        return "generic mode loses merged packets here, which do not fit the one buffer they have"

    def _off(self, name: str, why: str, *, fixed: str | None = None) -> Iterator[Step]:
        """`fixed`: what to say, other than `why`, of a feature that cannot be changed."""
        feature = self._facts.features.get(name)
        if feature is None or not (feature.wanted if feature.changeable else feature.active):
            return
        if feature.changeable:
            yield self._feature_step(name, False, why)
        else:
            self._notes.append(f"{name} cannot be turned off: {fixed or why}")

    def _feature_step(self, name: str, wanted: bool, why: str) -> Step:
        return Step(OffloadWanted(name), self._facts.features[name].wanted, wanted, why)

    def _plan_mtu(self) -> Iterator[Step]:
        link, attachment = self._facts.link, self._facts.attachment
        limit = link.max_mtu or (1 << 16) - 1
        if not attachment.multi_buffer:
            limit = min(limit, MTU_MAX if attachment.mode == "zerocopy" else LINEAR_MTU)
        wanted = self._wishes.mtu
        if wanted is None:
            wanted = min(link.mtu, limit)
            why = (
                f"a packet has to fit one buffer in {attachment.mode} mode here; some drivers "
                "want it smaller still, and say so when the program is attached"
            )
        else:
            least, why = max(link.min_mtu, _IPV6_MIN_MTU), "as --mtu wants it"
            if not least <= wanted <= limit:
                raise ConfigError(f"an MTU of {least} to {limit} is possible on {self._name}")
        if wanted != link.mtu:
            yield Step(Mtu(), link.mtu, wanted, why)

    def _plan_ring(self) -> Iterator[Step]:
        wanted, rings = self._wishes.rx_ring, self._facts.rings
        if wanted is None:
            return
        if rings is None or not rings.rx:
            raise ConfigError(f"{self._name}: its driver has no RX ring whose size can be set")
        if not 0 < wanted <= (rings.rx_max or 0):
            raise ConfigError(f"{self._name}: an RX ring has 1 to {rings.rx_max} descriptors")
        if wanted != rings.rx:
            yield Step(RxRing(), rings.rx, wanted, "as --rx-ring wants it")

    # --- what is said beside -------------------------------------------------------------------

    def _note_the_rest(self) -> None:
        attachment, rings = self._facts.attachment, self._facts.rings
        if rings is not None and rings.tcp_data_split is not None:
            split = TcpDataSplit(rings.tcp_data_split).name.lower()
            thresh = "" if rings.hds_thresh is None else f", hds-thresh {rings.hds_thresh}"
            self._notes.append(
                f"tcp-data-split {split}{thresh}: left, for the XDP program splits headers itself; "
                "the kernel's own devmem TCP would want it enabled, and 0"
            )
        if attachment.untried:
            self._notes.append(
                "whether a packet may have several buffers could not be tried "
                f"({attachment.untried}): planned as if not, which may be another plan than where "
                "it can be"
            )

    def _risks(self) -> Iterator[str]:
        attachment = self._facts.attachment
        if attachment.default_route and self._steps:
            yield (
                f"the default route leaves by {self._name}, and a NIC may lose its link while it "
                "is set up: choose another interface"
            )
        pauses = [step.setting.key for step in self._steps if step.setting.interrupts]
        if attachment.programs and pauses:
            yield (
                f"{self._name} has an XDP program, {', '.join(attachment.programs)}, whose "
                f"receiver would be interrupted by {', '.join(pauses)}: end that first"
            )


def _rules(endpoint: Endpoint, queue: int) -> Iterator[FlowRule]:
    """One for an address; one a family where it is every address."""
    for host in [endpoint.host] if endpoint.host else ANY:
        address = ipaddress.ip_address(host)
        if address.version == 6 and address.scope_id:
            raise ConfigError(
                f"{endpoint}: a flow rule knows no zone; leave out %{address.scope_id}"
            )
        dst = None if address.is_unspecified else address
        yield FlowRule(address.version, queue, dst=dst, dst_port=endpoint.port)
