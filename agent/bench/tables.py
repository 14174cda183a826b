# SPDX-License-Identifier: Apache-2.0
"""Results as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from devmemtcp.agent.bench.progress import duration
from devmemtcp.agent.bench.result import Aim, Better, Comparison, Estimate, Result
from devmemtcp.agent.bench.verdict import Interval, Verdict

WIDTH = 160
"""At least; a narrower terminal wraps lines."""


def console() -> Console:
    """One on stdout that tables fit."""
    return Console(width=max(WIDTH, Console().width), highlight=False)


def show(result: Result, out: Console) -> None:
    """Everything: estimates, comparisons, aims, and what they were measured on."""
    for setting in result.settings():
        out.print(_estimates(result, setting))
        comparisons = [each for each in result.comparisons if each.setting == setting]
        if comparisons:
            out.print(_comparisons(result, comparisons))
    show_aims([result], out)
    for line in conditions(result):
        out.print(Text(line))


def show_aims(results: Sequence[Result], out: Console) -> None:
    """Of one benchmark or of several, together."""
    made = table("aim", "in", "value (95 %)", "wanted", "met")
    for result in results:
        for aim in result.aims:
            where = " ".join(filter(None, [result.bench, aim.setting]))
            made.add_row(aim.text, where, measured(aim), wanted(aim), met(aim))
    if made.row_count:
        out.print(made)


def conditions(result: Result) -> list[str]:
    """What is to be known beside the figures, in lines."""
    loads = ", ".join(f"{each:.2f}" for each in result.load_average)
    pinning = ", ".join(f"{name} {core}" for name, core in result.pinning.items())
    quick = "quick, " if result.quick else ""
    lines = [
        f"{result.machine}",
        f"{result.build}; pinned: {pinning or 'nothing'}; load before {loads}",
        f"{quick}{duration(result.seconds)}, from {result.started}, seed {result.seed}; "
        f"{result.noise}",
    ]
    return lines + [result.caveat] * bool(result.caveat)


def _estimates(result: Result, setting: str) -> Table:
    metrics = [each for each in result.metrics if _has(result.estimates, setting, each.name)]
    made = table("variant", *(f"{heading(each.name, each.unit)}" for each in metrics))
    made.title = f"{result.bench} {setting}".strip() + ": median (95 %)"
    mine = [each for each in result.estimates if each.setting == setting]
    for variant in dict.fromkeys(each.variant for each in mine):
        cells = [result.estimate(setting, variant, each.name) for each in metrics]
        made.add_row(variant, *(figures(each.interval) if each else "" for each in cells))
    return made


def _has(estimates: Sequence[Estimate], setting: str, metric: str) -> bool:
    return any((each.setting, each.metric) == (setting, metric) for each in estimates)


def _comparisons(result: Result, comparisons: Sequence[Comparison]) -> Table:
    made = table("variant", "against", "metric", "ratio (95 %)", "verdict")
    for each in comparisons:
        better = result.metric(each.metric).better
        made.add_row(
            each.variant,
            each.against,
            each.metric,
            figures(each.ratio),
            judged(each.verdict, each.ratio, each.margin, better),
        )
    return made


def judged(verdict: Verdict, ratio: Interval, margin: float, better: Better) -> str:
    """A verdict as a cell: where there is a difference, to which side."""
    said = str(verdict)
    if verdict is Verdict.DIFFERS:
        said += ": better" if (ratio.estimate > 1) == (better == "higher") else ": worse"
    return f"{said} (margin {margin:.0%})"


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
    if interval.low is None or interval.high is None:
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
    """Whether it was."""
    return {True: "yes", False: "NOT MET", None: ""}[aim.met]


def table(*columns: str) -> Table:
    """One with words on the left and numbers on the right."""
    made = Table(title_justify="left")
    for column in columns:
        words = column in ("variant", "against", "metric", "verdict", "aim", "in", "setting")
        made.add_column(Text(column), justify="left" if words else "right")
    return made
