# SPDX-License-Identifier: Apache-2.0
"""The four targets, and what became of the scenarios there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from . import core
from .kernel import kernel_sink
from .lab import Job, Lab, lab, run_all
from .live import live_sink
from .run import Diverged
from .scenario import Scenario
from .server import Sink

TARGETS = ("core", "native", "generic", "kernel")
FAMILIES = (4, 6)

#: What is to be run: a scenario over a family.
Wanted = tuple[Scenario, int]


class StaleDifference(Diverged):
    """A scenario says that Linux differs, and it does not."""


def run_on_core(scenario: Scenario, family: int) -> None:
    """All cases, each with a stack of its own. Raises Diverged."""
    for case in scenario.cases:
        core.run(case, family)


@contextmanager
def _sink(target: str, place: Lab) -> Iterator[Sink]:
    if target == "kernel":
        with kernel_sink(place.veth.right) as kernel:
            yield kernel
    else:
        with live_sink(place.veth.right, "native" if target == "native" else "generic") as live:
            yield live


class Results:
    """What became of all that was run at one target behind a veth."""

    def __init__(self, target: str, wanted: Iterable[Wanted]) -> None:
        """Runs them. Raises whatever keeps the target from being set up, or left clean."""
        self.target = target
        self._jobs: dict[tuple[str, int], list[Job]] = {}
        for scenario, family in wanted:
            self._jobs[scenario.name, family] = list(_jobs(scenario, family, target))
        with lab() as place, _sink(target, place) as sink:
            run_all(place, sink, [job for jobs in self._jobs.values() for job in jobs])

    @property
    def repeated(self) -> int:
        """Cases that were run once more, alone, since they were late."""
        return sum(job.repeated for jobs in self._jobs.values() for job in jobs)

    def judge(self, scenario: Scenario, family: int) -> None:
        """Raises Diverged."""
        as_we = []
        for job in self._jobs[scenario.name, family]:
            if self.target == "kernel" and job.whose == "ours":
                as_we.append(job.failure is None)
            elif job.failure is not None:
                raise job.failure
        if as_we and all(as_we):
            where = f"{scenario.file.name}:{scenario.line}"
            raise StaleDifference(f"{where}: Linux does all that 'ours' says: no difference")


def _jobs(scenario: Scenario, family: int, target: str) -> Iterator[Job]:
    """Where Linux differs it is to do what is said of it, and to fail what is said of us."""
    differs = "linux differs" in scenario.reasons
    for case in scenario.cases:
        yield Job(case, family, "linux" if target == "kernel" else "ours")
        if target == "kernel" and differs:
            yield Job(case, family, "ours")
