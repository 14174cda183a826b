# SPDX-License-Identifier: Apache-2.0
"""What came of the tests of one guest, and of all of them: from pytest's JUnit report."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET  # of a file that our own pytest has written
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

_KERNEL_COMPLAINS = re.compile(r"\b(?:BUG|WARNING|Oops|general protection fault|KASAN)\b.*")
_HARMLESS = re.compile(r"WARNING\b|BUG: (?:soft|workqueue) lockup\b")
"""A lockup by the clock: an emulated CPU is late, see docs/vm.md."""


@dataclass
class Outcome:
    """Of one guest."""

    kernel: str
    nic: str
    seconds: float = 0.0
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    """Tests, each with the first line of why; why there is no report; bugs of the kernel."""

    skipped: Counter[str] = field(default_factory=Counter)
    """By reason."""

    complaints: list[str] = field(default_factory=list)
    """Of the guest's kernel, such as warnings and oopses."""

    def read(self, report: Path) -> None:
        """Count the test cases of a report; that there is none, or nothing in it, is a failure."""
        try:
            cases = list(ET.parse(report).iter("testcase"))
        except FileNotFoundError:
            self.failed.append("pytest has left no report")
            return
        except ET.ParseError as error:
            self.failed.append(f"pytest's report is torn: {error}")
            return
        if not cases:
            self.failed.append("no test was run")
        for case in cases:
            trouble = [case.find(kind) for kind in ("failure", "error")]
            skip = case.find("skipped")
            wrong = next((found for found in trouble if found is not None), None)
            if wrong is not None:
                name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
                why = wrong.get("message", "").partition("\n")[0]
                self.failed.append(f"{name}: {why}")
            elif skip is not None:
                self.skipped[skip.get("message", "")] += 1
            else:
                self.passed += 1

    def listen(self, console: Path) -> None:
        """Note what the kernel has complained of; what is more than a warning is a failure."""
        if console.exists():
            text = console.read_text(errors="replace")
            self.complaints = [found[0].strip() for found in _KERNEL_COMPLAINS.finditer(text)]
            worse = [one for one in self.complaints if not _HARMLESS.match(one)]
            self.failed += [f"the guest's kernel: {one}" for one in worse]


def table(outcomes: list[Outcome]) -> Table:
    """For people; why tests were skipped is below it."""
    made = Table("kernel", "NIC", "passed", "failed", "skipped", "kernel complained", "seconds")
    for column in made.columns[2:]:
        column.justify = "right"
    for one in outcomes:
        counts = (one.passed, len(one.failed), one.skipped.total(), len(one.complaints))
        made.add_row(one.kernel, one.nic, *map(str, counts), f"{one.seconds:.0f}")
    return made


def finish(outcomes: list[Outcome], left_out: dict[str, str]) -> int:
    """Print all of it; returns the exit code."""
    console = Console(width=None if Console().is_terminal else 160, highlight=False)
    console.print(table(outcomes))
    for reason, where in _skips(outcomes).items():
        console.print(f"skipped: {reason} ({', '.join(where)})", markup=False)
    for reason in dict.fromkeys(left_out.values()):
        places = [place for place, why in left_out.items() if why == reason]
        console.print(f"left to the host, {reason}: {', '.join(places)}", markup=False)
    for one in outcomes:
        for complaint in one.complaints:
            console.print(f"{one.kernel} {one.nic}: kernel: {complaint}", markup=False)
        for failure in one.failed:
            console.print(f"{one.kernel} {one.nic}: FAILED {failure}", markup=False)
    return 1 if any(one.failed for one in outcomes) else 0


def _skips(outcomes: list[Outcome]) -> dict[str, list[str]]:
    """For each reason the guests, with how often."""
    found: dict[str, list[str]] = {}
    for one in outcomes:
        for reason, count in one.skipped.items():
            found.setdefault(reason, []).append(f"{one.kernel} {one.nic}: {count}")
    return found
