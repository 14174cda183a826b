# SPDX-License-Identifier: Apache-2.0
"""Runs every scenario on every target, and says in docs/tcp.md which requirement that covers.

What a receiver must do is in tests/scenario/requirements.tsv, a row for each requirement; which
rows a scenario is of stands in the scenario, and which row a unit test is of in its name. The
table is made of those and of what became of the tests, the list of differences of what the
scenarios say of Linux.

    python -m tests.conformance           run all, write the page; exit 1 when anything fails
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from .arguments import Arguments
from .scenario import language
from .scenario.scenario import Scenario

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/tcp.md"
SCENARIOS = ROOT / "tests/scenario"
TARGETS = ("core", "native", "generic", "kernel")
FAMILIES = (4, 6)

Outcome = Callable[[str], str]
"""What became of a test, by its name: "passed", "failed" or "skipped"."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One row; ``reason`` is why no scenario is of it."""

    row: int
    id: str
    level: str
    text: str
    reason: str


def requirements() -> list[Requirement]:
    """All rows, in order."""
    rows = []
    for line in (SCENARIOS / "requirements.tsv").read_text().splitlines():
        if not line.startswith("#"):
            number, id_, level, text, *reason = line.split("\t")
            rows.append(Requirement(int(number), id_, level, text, "".join(reason)))
    return rows


def scenarios() -> list[Scenario]:
    """All of tests/scenario."""
    return language.load(SCENARIOS)


def unit_tests() -> dict[int, list[str]]:
    """Names of the unit tests that are of a row, by row."""
    found: dict[int, list[str]] = {}
    for path in sorted((ROOT / "tests/unit").glob("test_*.py")):
        for name, row in re.findall(r"^def (test_row(\d+)_\w+)", path.read_text(), re.MULTILINE):
            found.setdefault(int(row), []).append(name)
    return found


def names_of(scenario: Scenario, target: str) -> list[str]:
    """The tests of a scenario at a target."""
    return [
        f"{scenario.id}[{target}-v{family}]"
        for family in FAMILIES
        if scenario.why_not(target, family) is None
    ]


# ---- the page ----


def page(text: str, outcome: Outcome) -> str:
    """The page with all that is generated made anew. Raises ValueError when it has no place."""
    known = scenarios()
    for name, lines in (
        ("requirements", _table(known, outcome)),
        ("differences", _differences(known)),
        ("elsewhere", _elsewhere(known)),
    ):
        begin, end = f"<!-- {name}, by ./dev conformance -->\n", f"<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"docs/tcp.md: no {begin.strip()} ... {end}")
        text = before + begin + "\n".join(lines) + "\n" + end + after
    return text


def _table(known: Sequence[Scenario], outcome: Outcome) -> list[str]:
    units = unit_tests()
    lines = [
        f"| row | id | level | requirement | scenarios | {' | '.join(TARGETS)} | unit tests |",
        "|--:|---|---|---|---|" + "--:|" * (len(TARGETS) + 1),
    ]
    for row in requirements():
        mine = [scenario for scenario in known if row.row in scenario.rows]
        names = ", ".join(scenario.name for scenario in mine) or f"*{row.reason}*"
        cells = [_cell(mine, target, outcome) for target in TARGETS]
        unit = _count([outcome(name) for name in units.get(row.row, [])])
        lines.append(
            f"| {row.row} | {row.id} | {row.level} | {row.text} | {names} |"
            f" {' | '.join(cells)} | {unit} |"
        )
    return lines


def _cell(mine: Sequence[Scenario], target: str, outcome: Outcome) -> str:
    results = [outcome(name) for scenario in mine for name in names_of(scenario, target)]
    differ = sum(
        len(names_of(scenario, target)) for scenario in mine if "linux differs" in scenario.reasons
    )
    return _count(results) + (f", {differ} differ" if target == "kernel" and differ else "")


def _count(results: Sequence[str]) -> str:
    """How many passed; of how many, if not all did."""
    if not results:
        return "-"
    passed = results.count("passed")
    return str(passed) if passed == len(results) else f"**{passed} of {len(results)}**"


def _differences(known: Sequence[Scenario]) -> list[str]:
    lines = ["| row | scenario | Linux |", "|--:|---|---|"]
    for scenario in sorted(known, key=lambda each: each.rows):
        if why := scenario.reasons.get("linux differs"):
            lines.append(f"| {_rows(scenario)} | {scenario.name} | {why} |")
    return lines


def _elsewhere(known: Sequence[Scenario]) -> list[str]:
    lines = ["| row | scenario | where | why |", "|--:|---|---|---|"]
    for scenario in sorted(known, key=lambda each: each.rows):
        for what in ("only core", "not core", "not kernel"):
            if why := scenario.reasons.get(what):
                lines.append(f"| {_rows(scenario)} | {scenario.name} | {what} | {why} |")
    return lines


def _rows(scenario: Scenario) -> str:
    return ", ".join(map(str, scenario.rows))


# ---- running ----


class _Recorder:
    """A pytest plugin: outcomes by test name, of each test the worst of its parts."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            name = report.nodeid.partition("::")[2]
            if name.startswith("test_"):
                name = name.partition("[")[0]  # a unit test with all its parameters
            worst = ("passed", "skipped", "failed")
            now = self.outcomes.get(name, "passed")
            self.outcomes[name] = max(now, report.outcome, key=worst.index)


def _summary(outcomes: Mapping[str, str]) -> list[str]:
    known, units = scenarios(), unit_tests()
    rows = requirements()
    of_scenarios = {row for scenario in known for row in scenario.rows}
    reachable = [row for row in rows if not row.reason]
    lines = [
        f"{len(of_scenarios)} of {len(rows)} rows are covered by {len(known)} scenarios,"
        f" {len(units)} by {sum(map(len, units.values()))} unit tests;"
        f" {len(rows) - len(reachable)} have a reason instead"
    ]
    for target in TARGETS:
        names = [name for scenario in known for name in names_of(scenario, target)]
        passed = sum(outcomes.get(name) == "passed" for name in names)
        differ = sum(
            len(names_of(scenario, target))
            for scenario in known
            if "linux differs" in scenario.reasons
        )
        extra = f", {differ} of them by differing as is said" if target == "kernel" else ""
        lines.append(f"{target:8} {passed} of {len(names)} tests passed{extra}")
    return lines


def main() -> None:
    """Run all, write the page, print how many."""
    Arguments("conformance", description=(__doc__ or "").partition("\n")[0]).given()
    recorder = _Recorder()
    arguments = ["-q", "-ra", "--no-header", "-p", "no:cacheprovider", "-k", "row"]
    pytest.main([*arguments, str(SCENARIOS), str(ROOT / "tests/unit")], plugins=[recorder])
    outcomes = recorder.outcomes
    wanted = [name for names in unit_tests().values() for name in names]
    for scenario in scenarios():
        wanted += [name for target in TARGETS for name in names_of(scenario, target)]
    print("\n".join(_summary(outcomes)))
    if any(outcomes.get(name) == "skipped" for name in wanted):
        sys.exit("conformance: some were skipped; docs/tcp.md stays as it is")
    PAGE.write_text(page(PAGE.read_text(), lambda name: outcomes.get(name, "failed")))
    missing = [name for name in wanted if outcomes.get(name) != "passed"]
    if missing:
        sys.exit(f"conformance: {len(missing)} failed")


if __name__ == "__main__":
    main()
