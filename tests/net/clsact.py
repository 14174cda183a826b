# SPDX-License-Identifier: Apache-2.0
"""BPF programs where packets enter and leave an interface: tc's clsact, in direct action."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from devmemtcp.pyxdp import Program

from .veth import VethEnd

INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3  # TC_H_CLSACT with TC_H_MIN_INGRESS, _EGRESS


@contextmanager
def clsact(end: VethEnd, programs: Mapping[int, Program]) -> Iterator[None]:
    """Run the programs at INGRESS or EGRESS of the end, until the block ends."""
    with end.netlink() as handle:
        handle.tc("add", "clsact", end.ifindex)
    try:
        for parent, program in programs.items():
            with end.netlink() as handle:
                handle.tc(
                    "add-filter",
                    "bpf",
                    end.ifindex,
                    fd=program.fd,
                    name=program.name,
                    parent=parent,
                    direct_action=True,
                    prio=1,
                )
        yield
    finally:
        end.run(["tc", "qdisc", "delete", "dev", end.ifname, "clsact"])
