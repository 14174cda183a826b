# SPDX-License-Identifier: Apache-2.0
"""AF_XDP, tried: sockets that are bound for a moment. No packet can get into them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from devmemtcp.agent.doctor.record import Check, fail, note, ok, warn
from devmemtcp.pyxdp import Features


@dataclass(frozen=True)
class _Wanted:
    """A feature that the kernel has or lacks, whatever the driver is."""

    field: str
    name: str
    means: str
    without: str
    needed: bool = False


_FEATURES = (
    _Wanted("af_xdp", "AF_XDP", "sockets can be bound", "no mode works", needed=True),
    _Wanted(
        "unaligned_chunks",
        "unaligned chunks",
        "payload can begin at the start of a device page",
        "only zero-copy mode's layout is left",
        needed=True,
    ),
    _Wanted(
        "multi_buffer",
        "AF_XDP multi-buffer",
        "packets of any length",
        "packets of one buffer: a small MTU, native mode on a veth",
    ),
    _Wanted("need_wakeup", "need-wakeup", "fewer system calls", "each send is a system call"),
    _Wanted("busy_poll", "busy-poll", "`busy_poll` can be asked for", "NAPI runs by interrupts"),
)


def checks(can: Features) -> Iterator[Check]:
    """What was found on one interface, be it the loopback device."""
    for wanted in _FEATURES:
        yield _check(wanted, getattr(can, wanted.field), can)


def _check(wanted: _Wanted, there: bool | None, can: Features) -> Check:
    if there:
        return ok(wanted.name, "yes", wanted.means)
    reason = can.reasons.get(wanted.field, "")
    if there is None:
        mend = "ip link set lo up" if reason.startswith("lo is down") else None
        return note(wanted.name, reason, "so it could not be tried", mend)
    return (fail if wanted.needed else warn)(wanted.name, reason, wanted.without)
