# SPDX-License-Identifier: Apache-2.0
"""A scenario that has been read: its cases, and where they run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .steps import App, Batch, Expect, Fill, Icmp, Line, Repeat, Send, Silence, Wait
from .words import XDP_JUDGES


@dataclass(frozen=True, slots=True)
class Offer:
    """What a peer's SYN offers, and the window it announces."""

    mss: int | None = 1460
    ws: int | None = 7
    ts: int | None = 1000
    sackok: bool = True
    win: int = 65535
    isn: int = 0x10000000


@dataclass(frozen=True, slots=True)
class Case:
    """A scenario with the values of its `for` put in."""

    label: str
    given: str
    offers: Mapping[str, Offer]
    lines: tuple[Line, ...]
    stack: Mapping[str, str]

    @property
    def greedy(self) -> bool:
        """Does it take all the memory that the stack has?"""
        return any(
            isinstance(step, Fill) or (isinstance(step, App) and step.verb == "pause")
            for step in (line.step for line in all_lines(self.lines))
        )

    @property
    def waits(self) -> int:
        """How much time passes on purpose, ns: the longest are best begun first."""
        return _waits(self.lines)

    @property
    def judged_by_xdp(self) -> bool:
        """Is something sent that never reaches the C core, whatever it would make of it?"""
        return any(
            isinstance(step, Icmp)
            or (isinstance(step, Send) and bool(XDP_JUDGES & set(step.damage)))
            for step in (line.step for line in all_lines(self.lines))
        )


@dataclass(frozen=True, slots=True)
class Scenario:
    """A name, the rows that it covers, where it runs, and its cases."""

    file: Path
    line: int
    name: str
    rows: tuple[int, ...]
    reasons: Mapping[str, str]  # "only core", "not kernel", "linux differs", ...: why
    cases: tuple[Case, ...] = field(default=())

    @property
    def id(self) -> str:
        return "-".join([*(f"row{row:02}" for row in self.rows), self.name])

    def why_not(self, target: str, family: int) -> str | None:
        """Why it does not run there, or None."""
        if f"only v{10 - family}" in self.reasons:
            return self.reasons[f"only v{10 - family}"]
        if target == "core":
            judged = any(case.judged_by_xdp for case in self.cases)
            return "the XDP program judges it" if judged else self.reasons.get("not core")
        if "only core" in self.reasons:
            return self.reasons["only core"]
        return self.reasons.get("not kernel") if target == "kernel" else None

    def newer_than(self, release: tuple[int, ...]) -> str | None:
        """What this kernel does not do yet, and since when there is one that does; or None."""
        since, _, what = self.reasons.get("linux since", "0.0").partition(":")
        if tuple(map(int, since.split("."))) <= release:
            return None
        return f"Linux {since}:{what}"


def all_lines(lines: tuple[Line, ...]) -> Iterator[Line]:
    """Those in blocks too, each once."""
    for line in lines:
        yield line
        if isinstance(line.step, Repeat | Batch):
            yield from all_lines(line.step.body)


def _waits(lines: tuple[Line, ...]) -> int:
    total = 0
    for line in lines:
        if isinstance(line.step, Wait | Silence):
            total += line.step.time
        elif isinstance(line.step, Expect):
            total += line.step.after
        elif isinstance(line.step, Repeat):
            times = line.step.times.tree
            count = times.value if isinstance(times, ast.Constant) else 1
            total += _waits(line.step.body) * int(str(count))
    return total
