# SPDX-License-Identifier: Apache-2.0
"""Could the kernel's own devmem TCP be used instead? Concluded, not tried.

A bind-rx on a device without a parent makes Linux 6.12 warn, which kills a machine that panics
on warnings.
"""

from __future__ import annotations

from devmemtcp.agent.doctor.matrix import DRIVERS, Can, Release, drivers_with
from devmemtcp.agent.doctor.record import Check, note, ok
from devmemtcp.netlink.constants import TcpDataSplit
from devmemtcp.netlink.ethtool import Rings
from devmemtcp.pyxdp import Features

_SINCE: Release = (6, 12)
_NAME = "kernel's devmem"


def check(can: Features, kernel: Release, rings: Rings | None) -> Check:
    """Of one interface."""
    if kernel < _SINCE:
        return note(_NAME, "not in this kernel", "it came with Linux 6.12; ours stands in for it")
    row = DRIVERS.get(can.driver or "")
    has = row.has(Can.DEVMEM, kernel) if row else None
    if not has:
        others = ", ".join(drivers_with(Can.DEVMEM))
        who = can.driver or f"the driver of {can.ifname}"
        found = f"none for {who}" if row else f"nothing is known of {who}"
        if has is None and row:
            found = f"perhaps: between Linux 6.12 and a later one {can.driver} got it"
        return note(_NAME, found, f"these drivers have it: {others}; ours stands in for it")
    if rings is None or rings.tcp_data_split != TcpDataSplit.ENABLED or rings.hds_thresh:
        return note(_NAME, "the driver has it", "it needs the header split above")
    return ok(
        _NAME,
        "can be had",
        "instead of ours: it refuses an interface with an XDP program (EEXIST), and a queue with "
        "an AF_XDP socket (EBUSY)",
    )
