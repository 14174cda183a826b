# SPDX-License-Identifier: Apache-2.0
"""Results as tables on the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from devmemtcp.agent.bench.compare import BETWEEN
from devmemtcp.agent.bench.progress import duration
from devmemtcp.agent.bench.result import Aim, Better, Estimate, Result
from devmemtcp.agent.bench.verdict import Interval, Verdict

if TYPE_CHECKING:
    from devmemtcp.agent.bench.compare import Change, Contrast, RatioChange

WIDTH = 200
"""Where there is no terminal that has one."""

_SIDES = ("A (95 %)", "B (95 %)", "B : A", "verdict")
_NAMES = {"variant", "against"}
"""Columns that are never cut: without its end, a variant's name is another's."""

_WORDS = {"variant", "against", "metric", "verdict", "aim", "in", "setting", "differs", "met"}


def console() -> Console:
    """On stdout."""
    width = None if sys.stdout.isatty() else WIDTH
    return Console(width=width, highlight=False)


def show(result: Result, out: Console) -> None:
    """Everything: estimates, verdicts, aims, and what they were measured on."""
    show_estimates(result, out)
    show_verdicts([result], out)
    show_aims([result], out)
    show_conditions(result, out)


def show_estimates(result: Result, out: Console) -> None:
    """A table for each setting."""
    for setting in result.settings():
        out.print(Text(f"{_place(result, setting)}: median (95 %)"))  # a title would be folded
        out.print(_estimates(result, setting))


def show_verdicts(results: Sequence[Result], out: Console) -> None:
    """Of one benchmark or of several, together."""
    rows = []
    for result in results:
        for each in result.comparisons:
            names = (each.variant, each.against, each.metric)
            better = result.metric(each.metric).better
            verdict = judged(each.verdict, each.ratio, each.margin, better)
            rows.append((_place(result, each.setting), *names, figures(each.ratio), verdict))
    _print(out, ("in", "variant", "against", "metric", "ratio (95 %)", "verdict"), rows)


def show_aims(results: Sequence[Result], out: Console) -> None:
    """Of one benchmark or of several, together."""
    rows = [
        (_place(result, aim.setting), aim.text, measured(aim), wanted(aim), met(aim))
        for result in results
        for aim in result.aims
    ]
    _print(out, ("in", "aim", "value (95 %)", "wanted", "met"), rows)


def _print(out: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table, without its first column when that says the same in each row."""
    first = 1 if len({row[0] for row in rows}) == 1 else 0
    made = table(*columns[first:])
    for row in rows:
        made.add_row(*map(Text, row[first:]))
    if rows:
        out.print(made)


def show_conditions(result: Result, out: Console) -> None:
    """What a result was measured on."""
    for line in conditions(result):
        out.print(Text(line))


def _place(result: Result, setting: str) -> str:
    return f"{result.bench} {setting}".strip()


def show_contrast(contrast: Contrast, out: Console) -> None:
    """Two results: what differed, what changed."""
    if contrast.differences:
        made = table("differs", "A", "B")
        for each in contrast.differences:
            made.add_row(Text(each.what), *(Text(_json(value)) for value in (each.a, each.b)))
        out.print(made)
    out.print(Text(f"{contrast.bench}: medians of the two runs"))
    _print(
        out,
        ("setting", "variant", "metric", *_SIDES),
        [
            (each.setting, each.variant, each.metric, *_change(each, contrast.margin))
            for each in contrast.changes
        ],
    )
    if contrast.ratios:
        out.print(Text(f"{contrast.bench}: ratios made within each run"))
    _print(
        out,
        ("setting", "variant", "against", "metric", *_SIDES),
        [(each.setting, *_pair(each), *_change(each, contrast.margin)) for each in contrast.ratios],
    )
    for run, only in (("A", contrast.only_a), ("B", contrast.only_b)):
        if only:
            out.print(Text(f"Only {run} has {', '.join(only)}."))
    if contrast.left_out:
        out.print(Text(f"Not above zero, so without a ratio: {', '.join(contrast.left_out)}."))
    out.print(Text(BETWEEN))


def _change(change: Change | RatioChange, margin: float) -> tuple[str, str, str, str]:
    verdict = judged(change.verdict, change.ratio, margin, change.better)
    return figures(change.a), figures(change.b), figures(change.ratio), verdict


def _pair(change: RatioChange) -> tuple[str, str, str]:
    return change.variant, change.against, change.metric


def _json(value: Any) -> str:
    """In ASCII, so that nothing in it is more than text; cut to what fits a cell."""
    return shorten(json.dumps(value), 60, placeholder=" ...")


def conditions(result: Result) -> list[str]:
    """What is to be known beside the figures, in lines."""
    loads = ", ".join(f"{each:.2f}" for each in result.load_average)
    pinning = ", ".join(f"{name} {_cores(core)}" for name, core in result.pinning.items())
    quick = "quick, " if result.quick else ""
    lines = [
        f"{result.machine}",
        f"{result.build}; pinned: {pinning or 'nothing'}; load before {loads}",
        f"{quick}{duration(result.seconds)}, from {result.started}, seed {result.seed}; "
        f"{result.noise}",
    ]
    return lines + [result.caveat] * bool(result.caveat)


def _cores(value: Any) -> str:
    """A core, or what could be chosen from."""
    return " or ".join(map(str, value)) if isinstance(value, list) else str(value)


def _estimates(result: Result, setting: str) -> Table:
    metrics = [each for each in result.metrics if _has(result.estimates, setting, each.name)]
    made = table("variant", *(f"{heading(each.name, each.unit)}" for each in metrics))
    mine = [each for each in result.estimates if each.setting == setting]
    for variant in dict.fromkeys(each.variant for each in mine):
        cells = [result.estimate(setting, variant, each.name) for each in metrics]
        made.add_row(Text(variant), *(figures(each.interval) if each else "" for each in cells))
    return made


def _has(estimates: Sequence[Estimate], setting: str, metric: str) -> bool:
    return any((each.setting, each.metric) == (setting, metric) for each in estimates)


def judged(verdict: Verdict, ratio: Interval, margin: float, better: Better) -> str:
    """A verdict as a cell: where there is a difference, to which side; and the margin."""
    said = str(verdict)
    if verdict is Verdict.DIFFERS:
        said += ": better" if (ratio.estimate > 1) == (better == "higher") else ": worse"
    return f"{said} ({margin:.0%})"


def heading(name: str, unit: str) -> str:
    """Of a column: the metric, and its unit where its name is not that already."""
    return name if unit in ("", name) else f"{name} [{unit}]"


def figure(value: float) -> str:
    """Four digits, or a whole number."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:#.4g}"


def figures(interval: Interval) -> str:
    """An estimate with its interval, if there is one."""
    if interval.low is None or interval.high is None or interval.low == interval.high:
        return figure(interval.estimate)
    return f"{figure(interval.estimate)} ({figure(interval.low)} - {figure(interval.high)})"


def measured(aim: Aim) -> str:
    """What was reached."""
    if aim.value is None:
        return "not measured"
    return figures(aim.interval) if aim.interval else figure(aim.value)


def wanted(aim: Aim) -> str:
    """What was to be reached."""
    return f"{'at least' if aim.at_least else 'at most'} {aim.wanted:g}"


def met(aim: Aim) -> str:
    """Whether it was, by the estimate; and whether the interval has values on the other side."""
    word = {True: "yes", False: "NOT MET", None: ""}[aim.met]
    low, high = (aim.interval.low, aim.interval.high) if aim.interval else (None, None)
    if low is None or high is None or not low < aim.wanted < high:
        return word
    return f"{word}, interval has both"


def table(*columns: str) -> Table:
    """One with words on the left and numbers on the right."""
    made = Table()
    for column in columns:
        words = column in _WORDS
        made.add_column(
            Text(column), justify="left" if words else "right", no_wrap=column in _NAMES
        )
    return made
