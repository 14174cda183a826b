# SPDX-License-Identifier: Apache-2.0
"""Which core runs what: `sender=0,app=1,loop=0,rps=1`.

=======  ===========================================================================
sender   the process that calls send()
app      who receives: recv() of the kernel, or the application of a devmem receiver
loop     the stack of a devmem receiver (the kernel has none: it runs in softirq)
rps      where the receiving interface's packets are taken up (rps_cpus)
acks     the same for the sender's interface, whose packets are acknowledgements
napi     a thread that polls the receiving interface, where that has NAPI: in native mode
=======  ===========================================================================

What is not named runs where the scheduler, or the packet, puts it.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

from devmemtcp.agent.errors import ConfigError


@dataclass(frozen=True)
class CpuPlan:
    """Cores by number; None: nobody is told."""

    sender: int | None = None
    app: int | None = None
    loop: int | None = None
    rps: int | None = None
    napi: int | None = None
    acks: int | None = None

    def __str__(self) -> str:
        named = [f"{k}={v}" for k, v in dataclasses.asdict(self).items() if v is not None]
        return ",".join(named) or "none"


def parse_plan(text: str) -> CpuPlan:
    """Read a plan; `none` pins nothing.

    Raises ConfigError for an unknown role, and for a core that this process may not use.
    """
    roles = [field.name for field in dataclasses.fields(CpuPlan)]
    usable = os.sched_getaffinity(0)
    found: dict[str, int] = {}
    for item in [] if text == "none" else text.split(","):
        role, equals, number = item.partition("=")
        if role not in roles or not equals or not number.isdecimal():
            raise ConfigError(
                f"CPU plan {text!r}: {item!r} is not ROLE=CORE with a role of {', '.join(roles)}"
            )
        if role in found:
            raise ConfigError(f"CPU plan {text!r} names {role} twice")
        if int(number) not in usable:
            cores = ", ".join(map(str, sorted(usable)))
            raise ConfigError(f"CPU plan {text!r}: core {number} is not one of {cores}")
        found[role] = int(number)
    return CpuPlan(**found)


def two_cores_plan() -> CpuPlan:
    """The sender on one core, with the softirq that its packets raise; recv() on the other."""
    first, second = _two_cores()
    return CpuPlan(sender=first, app=second)


def default_kernel_plans() -> tuple[CpuPlan, ...]:
    """recv() and the receive softirq on one core; recv() beside the sender; or as it comes."""
    first, second = _two_cores()
    return (
        CpuPlan(sender=first, app=second, rps=second, napi=second),
        CpuPlan(sender=first, app=first, rps=second, napi=second),
        CpuPlan(),
    )


def default_plans() -> tuple[CpuPlan, ...]:
    """The sender and the stack on one core, the receive softirq on the other.

    The stack's transmissions execute the sender's ACK processing, and often its next send,
    in place: they share what is in that core's cache. The application has so little to do
    that it fits on either.
    """
    first, second = _two_cores()
    return tuple(
        CpuPlan(sender=first, app=app, loop=first, rps=second, napi=second)
        for app in (first, second)
    )


def _two_cores() -> tuple[int, int]:
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[min(1, len(usable) - 1)]
