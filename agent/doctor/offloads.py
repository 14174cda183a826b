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


def merging(offloads: Offloads) -> list[str]:
    """Those that keep native XDP off, by the names that `ethtool -K` takes."""
    return [option for name, option in MERGING.items() if is_on(offloads, name)]


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
    if found := merging(offloads):
        options = " ".join(f"{option} off" for option in found)
        yield warn(
            "merging in the NIC",
            f"{', '.join(found)} on",
            "some drivers refuse native XDP with it, others turn it off, as generic mode does",
            f"ethtool -K {quote(ifname)} {options}",
        )
    else:
        yield ok("merging in the NIC", "off (LRO, GRO_HW)", "packets come as they were sent")
    yield _gro(ifname, offloads, multi_buffer=multi_buffer)


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
