# SPDX-License-Identifier: Apache-2.0
"""The interface as a link: up, with a carrier and addresses, not the way out."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from devmemtcp.agent import preflight
from devmemtcp.agent.doctor.peer import Peer
from devmemtcp.agent.doctor.record import Check, State, fail, ok, warn
from devmemtcp.agent.netdev import NetDev, addresses_of
from devmemtcp.netlink.link import Link

_EXAMPLE = "192.0.2.1/24"
"""RFC 5737: an address that nobody has."""


def checks(dev: NetDev, link: Link, peer: Peer | None) -> Iterator[Check]:
    """Of one interface; `peer` is a veth's other end, if it can be seen."""
    refused = {
        refusal.check: Check.of(refusal)
        for refusal in preflight.link_refusals(dev, dev.features.mtu, force=False)
    }
    yield refused.get("link") or _carrier(link, peer)
    yield refused.get("default route") or ok(
        "default route", "does not leave by it", "the machine stays reachable"
    )
    yield refused.get("MTU") or _mtu(link, peer)
    if link.up:
        yield _addresses(link)
    if link.master is not None:
        yield warn(
            "port",
            f"{link.ifname} is a port of a bridge or bond",
            "XDP sees its packets first, but the addresses are the bridge's or bond's",
            f"ip link set {quote(link.ifname)} nomaster",
        )


def _carrier(link: Link, peer: Peer | None) -> Check:
    if link.carrier:
        return ok("link", f"{link.ifname} is up", "and has a carrier")
    mend = None
    if peer and not peer.link.up:
        mend = f"{peer.prefix}ip link set {quote(peer.link.ifname)} up"
    return warn("link", f"{link.ifname} has no carrier", "its other end is down", mend)


def _mtu(link: Link, peer: Peer | None) -> Check:
    found = f"{link.mtu} bytes"
    if peer is not None and peer.link.mtu > link.mtu:
        return warn(
            "MTU",
            f"{found}, and its peer's {peer.link.mtu}",
            "what is longer than ours is dropped by the veth",
            f"{peer.prefix}ip link set {quote(peer.link.ifname)} mtu {link.mtu}",
        )
    if link.mtu <= preflight.LINEAR_MTU:
        return ok("MTU", found, "a packet fits one buffer")
    return ok("MTU", found, f"above {preflight.LINEAR_MTU} it takes multi-buffer XDP and AF_XDP")


def _addresses(link: Link) -> Check:
    addresses = addresses_of(link.ifname)
    routable = [str(address) for address in addresses if not address.is_link_local]
    if routable:
        return ok("addresses", ", ".join(sorted(routable)), "listeners can be at each")
    mend = f"ip address add {_EXAMPLE} dev {quote(link.ifname)}"
    means = f"listeners have nowhere to be; {_EXAMPLE} stands for one of yours"
    if addresses:
        return Check("addresses", State.WARN, "link-local ones alone", means, mend)
    return fail("addresses", "none", means, mend)
