# SPDX-License-Identifier: Apache-2.0
"""Offloads that decide what an XDP program gets to see, or whether it can be attached at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from shlex import quote

from devmemtcp.agent.doctor.record import Check, ok, warn
from devmemtcp.netlink.ethtool import Ethtool, Feature

Offloads = Mapping[str, Feature]

MERGING = {"rx-lro": "lro", "rx-gro-hw": "rx-gro-hw"}
"""Of the NIC, in front of XDP, as `ethtool -K` calls them. Drivers refuse a program meanwhile, or
turn them off for good (vmxnet3_xdp_set()), as generic_xdp_install() does."""

_SEGMENTATION = ("tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-generic-segmentation")


def offloads_of(ifname: str) -> Offloads:
    """Of an interface of the calling thread's namespace. Raises OSError, Unsupported."""
    with Ethtool() as ethtool:
        return ethtool.features_get(ifname)


def is_on(offloads: Offloads, name: str) -> bool:
    """Whether a feature is active."""
    return name in offloads and offloads[name].active


def segmenting(offloads: Offloads) -> bool:
    """Whether a sender's packets of 64 KB leave uncut."""
    return any(is_on(offloads, name) for name in _SEGMENTATION)


def checks(ifname: str, offloads: Offloads, *, multi_buffer: bool) -> Iterator[Check]:
    """Of the interface itself."""
    sums = "on" if is_on(offloads, "rx-checksum") else "off"
    yield ok("rx checksum", sums, "the program verifies sums itself (`--rx-csum trust`: the NIC)")
    yield _merging(ifname, offloads)
    yield _gro(ifname, offloads, multi_buffer=multi_buffer)


def _merging(ifname: str, offloads: Offloads) -> Check:
    name = "merging in the NIC"
    on = [each for each in MERGING if is_on(offloads, each)]
    if not on:
        return ok(name, "off (LRO, GRO_HW)", "packets come as they were sent")
    fixed = [each for each in on if not offloads[each].changeable]
    off = [f"{MERGING[each]} off" for each in on if each not in fixed]
    found = ", ".join(f"{MERGING[each]}{' [fixed]' if each in fixed else ''}" for each in on)
    means = "some drivers refuse native XDP with it, others turn it off, as generic mode does"
    if fixed:
        means = (
            "what is fixed only the driver itself can turn off, and one that does not refuses "
            "native XDP: `--mode auto` takes generic then"
        )
    mend = f"ethtool -K {quote(ifname)} {' '.join(off)}" if off else None
    return warn(name, f"{found} on", means, mend)


def _gro(ifname: str, offloads: Offloads, *, multi_buffer: bool) -> Check:
    if not is_on(offloads, "rx-gro"):
        return ok("GRO", "off", "generic mode sees each packet by itself")
    if multi_buffer:
        return ok("GRO", "on", "generic mode sees merged packets, fewer and longer ones")
    return warn(
        "GRO",
        "on",
        "generic mode would get merged packets, longer than the one buffer they may have here",
        f"ethtool -K {quote(ifname)} gro off",
    )


def peer_checks(
    ifname: str, prefix: str, offloads: Offloads, *, multi_buffer: bool
) -> Iterator[Check]:
    """Of a veth's other end. `prefix`: what a command there begins with."""
    sums = "on" if is_on(offloads, "tx-checksum-ip-generic") else "off"
    yield ok(
        "peer's tx checksum",
        sums,
        "a local sender's unfinished sums are known for what they are",
    )
    if not segmenting(offloads):
        yield ok("peer's TSO and GSO", "off", "packets come cut to the MTU")
    elif multi_buffer:
        yield ok(
            "peer's TSO and GSO",
            "on",
            "generic mode gets packets of up to 64 KB uncut; native mode turns it off there",
        )
    else:
        yield warn(
            "peer's TSO and GSO",
            "on",
            "generic mode would get packets of 64 KB, longer than the one buffer they may have "
            "here; native mode turns it off there",
            f"{prefix}ethtool -K {quote(ifname)} tso off gso off",
        )
