# SPDX-License-Identifier: Apache-2.0
"""A report for people: a row a check, and the command that mends it below."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from devmemtcp.agent.doctor.record import Check, Report, State, Verdict
from devmemtcp.agent.terminal import cell

_COLOURS = {State.OK: "green", State.NOTE: "cyan", State.WARN: "yellow", State.FAIL: "bold red"}
_UNLIMITED = 10_000


def show(report: Report) -> None:
    """Print it. What is not a terminal gets a line a check, however long."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_UNLIMITED)
    for line in _group(report) if console.is_terminal else _plain(report):
        console.print(line)


def _group(report: Report) -> Iterable[Group | Table]:
    yield _checks(report.checks)
    if report.modes:
        yield _verdicts("mode", report.modes)
        yield _verdicts("stack", report.places)


def _checks(checks: Iterable[Check]) -> Table:
    table = Table.grid(padding=(0, 2))
    for check in checks:
        text = cell(f"{check.found}: {check.means}")
        if check.mend:
            text.append("\n").append(cell(f"$ {check.mend}", "bold"))
        table.add_row(Text(check.state, style=_COLOURS[check.state]), cell(check.name), text)
    return table


def _verdicts(title: str, verdicts: Iterable[Verdict]) -> Table:
    table = Table(title=title, show_header=False, title_justify="left")
    for verdict in verdicts:
        colour = "green" if verdict.usable else "yellow"
        name = f"{verdict.mode} (auto)" if verdict.chosen else verdict.mode
        table.add_row(Text(name, style=colour), cell(_conclusion(verdict)))
    return table


def _conclusion(verdict: Verdict) -> str:
    return "; ".join(verdict.promises) if verdict.usable else f"no: {verdict.why_not}"


def _plain(report: Report) -> Iterable[Text]:
    for check in report.checks:
        mend = f"; `{check.mend}`" if check.mend else ""
        yield cell(f"{check.state:<5}{check.name}: {check.found}: {check.means}{mend}")
    for title, verdicts in (("mode", report.modes), ("stack", report.places)):
        for verdict in verdicts:
            name = f"{verdict.mode} (auto)" if verdict.chosen else verdict.mode
            yield cell(f"{title:<5} {name}: {_conclusion(verdict)}")
