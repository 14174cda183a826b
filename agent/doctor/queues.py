# SPDX-License-Identifier: Apache-2.0
"""Queues, and what puts packets into them: RSS, flow rules; and the header split of NICs."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from shlex import quote

from devmemtcp.agent import preflight
from devmemtcp.agent.doctor.look import looked, queues_named
from devmemtcp.agent.doctor.record import Check, note, ok
from devmemtcp.agent.netdev import NetDev
from devmemtcp.netlink.constants import TcpDataSplit
from devmemtcp.netlink.errors import NetlinkError, Unsupported
from devmemtcp.netlink.ethtool import NTUPLE, Ethtool, Feature, Rings
from devmemtcp.netlink.flow_rules import FlowRules
from devmemtcp.netlink.rss_table import RssTable
from devmemtcp.pyxdp import Features


def checks(dev: NetDev, offloads: Mapping[str, Feature], rings: Rings | None) -> Iterator[Check]:
    """Of one interface. `rings`: None where the driver does not tell."""
    can = dev.features
    yield _queues(can)
    yield from _unless_lacking("RSS", lambda: _rss(dev, steers=_steers(offloads)))
    yield from _unless_lacking("flow steering", lambda: _steering(can, offloads))
    yield _split(can.ifname, rings)


def _unless_lacking(name: str, ask: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """As `looked()`; that a driver has none is nothing out of the way."""

    def asked() -> Iterator[Check]:
        try:
            yield from ask()
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            yield note(name, "the driver has none", "it is not needed: all queues are received")

    return looked(name, asked)


def _queues(can: Features) -> Check:
    if can.rx_queues is None:
        return note("queues", can.reasons["rx_queues"], "one is taken for granted")
    for refusal in preflight.queue_refusals(can, can.rx_queues):
        return Check.of(refusal)
    return ok("queues", f"{can.rx_queues} of {can.max_rx_queues}", "each is received from")


def _rss(dev: NetDev, *, steers: bool) -> Iterator[Check]:
    with RssTable(dev.features.ifname) as rss:
        yield rss_check(dev, rss.get(), steers=steers)


def rss_check(dev: NetDev, table: Sequence[int], *, steers: bool) -> Check:
    """What an indirection table means. `steers`: the driver has flow rules."""
    used = sorted(set(table))
    found = f"{len(table)} entries, over {queues_named(used)}"
    if not dev.up:
        return note("RSS", found, "a driver may write another table when the interface comes up")
    spare = sorted(set(range(dev.features.rx_queues or 1)) - set(used))
    if not spare:
        return ok("RSS", found, "`devmemtcp nic plan` keeps a queue free for one application")
    if steers:
        return ok("RSS", found, f"flow rules can lead to {queues_named(spare)}")
    return ok("RSS", found, f"no TCP comes to {queues_named(spare)}: the driver has no flow rules")


def _steers(offloads: Mapping[str, Feature]) -> bool:
    return NTUPLE in offloads and offloads[NTUPLE].available


def _steering(can: Features, offloads: Mapping[str, Feature]) -> Iterator[Check]:
    name = "flow steering"
    if not _steers(offloads):
        yield note(name, "the driver has none", "RSS or the sender chooses the queue")
    elif not offloads[NTUPLE].active:
        yield note(
            name,
            "off",
            "flows cannot be given a queue of their own",
            f"ethtool -K {quote(can.ifname)} ntuple on",
        )
    else:
        with FlowRules(can.ifname) as rules:
            count = len(rules.dump())
        yield ok(name, f"on, {count} rules", "flows can be given a queue of their own")


def _split(ifname: str, rings: Rings | None) -> Check:
    """For the kernel's devmem TCP; ours splits by itself."""
    name = "header split"
    if rings is None or not rings.tcp_data_split:
        return note(name, "the NIC has none", "the XDP program splits; the kernel's devmem cannot")
    if rings.tcp_data_split != TcpDataSplit.ENABLED:
        return note(
            name,
            "tcp-data-split is off",
            "the kernel's devmem TCP needs it, ours does not (ethtool 6.14 knows it, 6.1 does not)",
            f"ethtool -G {quote(ifname)} tcp-data-split on",
        )
    if rings.hds_thresh:
        return note(
            name,
            f"on, but hds-thresh is {rings.hds_thresh}",
            "the kernel's devmem TCP needs 0, ours does not (ethtool 6.14 does not know it yet)",
            f"ethtool -G {quote(ifname)} hds-thresh 0",
        )
    return ok(name, "on, for packets of any length", "as the kernel's devmem TCP needs it")


def rings_of(ifindex: int) -> Rings | None:
    """None: the driver or the kernel does not tell. Raises OSError."""
    try:
        with Ethtool() as ethtool:
            return ethtool.rings_get(ifindex)
    except Unsupported:
        return None
    except NetlinkError as error:
        if error.errno == errno.EOPNOTSUPP:
            return None
        raise
