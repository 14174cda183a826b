# SPDX-License-Identifier: Apache-2.0
"""How busy each core was: what the kernel's idle clock did not count.

Tick-sampled accounts book softirq work on whoever was interrupted, and do not see what is
shorter than a tick. The time that a core spends in its idle loop is not sampled: since ticks
stop there (CONFIG_NO_HZ_COMMON), it is taken by the clock when a core becomes idle, when it is
interrupted and when it is idle again (tick_nohz_start_idle(), tick_nohz_stop_idle()), and that
is what /proc/stat shows, in units of 10 ms. Whatever is not idle and not stolen is busy, with
tasks, softirqs or interrupts, and nothing has to run beside what is measured to find out.

    before = CoreClocks.now([0, 1])
    ...
    shares = CoreClocks.now([0, 1]).busy_since(before)      # {0: 0.98, 1: 0.41}
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

_TICKS = os.sysconf("SC_CLK_TCK")
_IDLE, _IOWAIT, _STEAL = 3, 4, 7  # of a line of /proc/stat, proc_stat(5)
_CPUCLOCK_SCHED = 2  # include/linux/posix-timers.h


@dataclass(frozen=True)
class CoreClocks:
    """What each core's clocks say at one moment, in seconds."""

    at: float
    """time.monotonic()."""
    idle: dict[int, float]
    """By core."""
    steal: dict[int, float]
    """That the hypervisor gave to others while there was something to do."""

    @classmethod
    def now(cls, cores: Sequence[int]) -> CoreClocks:
        """Read them. Raises KeyError for a core that is not there."""
        with open("/proc/stat") as stat:
            return cls.parse(time.monotonic(), stat.read(), cores)

    @classmethod
    def parse(cls, at: float, text: str, cores: Sequence[int]) -> CoreClocks:
        """From the text of /proc/stat."""
        lines = {}
        for line in text.splitlines():
            name, *fields = line.split()
            if name.startswith("cpu") and name != "cpu":
                lines[int(name[3:])] = [int(field) / _TICKS for field in fields]
        idle = {core: lines[core][_IDLE] + lines[core][_IOWAIT] for core in cores}
        return cls(at, idle, {core: lines[core][_STEAL] for core in cores})

    def busy_since(self, before: CoreClocks) -> dict[int, float]:
        """Share of the time since then that each core was busy, 0 to 1.

        Off by up to 10 ms at either end, in either direction: right on average.
        """
        seconds = self.at - before.at
        return {
            core: min(
                1.0, max(0.0, 1 - (idle - before.idle[core] + self._stolen(core, before)) / seconds)
            )
            for core, idle in self.idle.items()
        }

    def _stolen(self, core: int, before: CoreClocks) -> float:
        return self.steal[core] - before.steal[core]


def process_seconds(pid: int) -> float:
    """CPU time of all threads of a process, to the nanosecond; softirqs on its back included.

    Raises OSError when there is no such process.
    """
    return time.clock_gettime_ns(~pid << 3 | _CPUCLOCK_SCHED) / 1e9  # MAKE_PROCESS_CPUCLOCK


def ksoftirqd(core: int) -> int | None:
    """The process that a core's softirqs are left to when others want the core.

    None where the kernel's threads cannot be seen: in a PID namespace.
    """
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError), open(f"/proc/{entry.name}/comm") as comm:
                if comm.read() == f"ksoftirqd/{core}\n":
                    return int(entry.name)
    return None
