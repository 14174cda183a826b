# SPDX-License-Identifier: Apache-2.0
"""Results as a picture: every sample a dot, beneath it the median and its interval.

Never a bar of a mean: it would hide what there is to be seen, which is how far the samples of one
variant lie apart, and whether those of two overlap. One panel for each setting and metric, and one
with the ratios, each dot a round, and the margin as a band: an interval within the band is what
the verdict "within the noise" means.

What lies far outside is drawn at the edge, as a triangle, so that one stolen time slice does not
squeeze all the rest.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devmemtcp.agent.bench.result import Comparison, Found, Result
from devmemtcp.agent.bench.tables import conditions, heading
from devmemtcp.agent.bench.verdict import Interval
from devmemtcp.agent.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
COLUMNS = 2
# In inches: a column, of which labels and margin take some; a row of a panel; what is above the
# rows, and in all around them; a line of the caption.
_COLUMN, _LABELS, _RIGHT = 8.2, 3.5, 0.3
_ROW, _TITLE, _AROUND, _LINE = 0.3, 0.35, 1.0, 0.16
_EDGE = 0.02
"""The share of samples at either end that may lie outside of the panel."""
_DECADE = 10
"""An axis is logarithmic when its ends lie further apart than this factor."""
_COLOURS = ("#1f6fb4", "#c0504d")
_SALT = "devmemtcp"
"""Of the names in an SVG: the same picture is the same file."""


def check(path: Path, option: str = "--plot") -> None:
    """Raise ConfigError when nothing can be drawn there: to be called before it is measured."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{option} {path}: a picture ends in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: there is no folder {path.parent}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(f"{option} needs matplotlib: pip install 'devmemtcp[plot]'")


@dataclass(frozen=True)
class Row:
    """A line of a panel."""

    label: str
    values: Sequence[float]
    interval: Interval


@dataclass(frozen=True)
class Panel:
    """What has an axis of its own."""

    title: str
    label: str
    rows: list[Row]
    margins: list[float] = field(default_factory=list)
    """Of ratios: half the width of the band around 1, one a row."""


def draw(result: Result, path: Path, metrics: Sequence[str] = ()) -> None:
    """Draw all panels into the file, or those of some metrics; its name says the format."""
    with style():
        figure(result, metrics).savefig(path, metadata=metadata(path, title(result)), dpi=120)


def style() -> AbstractContextManager[None]:
    """Of all pictures."""
    import matplotlib as mpl

    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    return mpl.rc_context(
        {**mpl.rcParamsDefault, "svg.hashsalt": _SALT, "svg.fonttype": "none", "font.size": 9}
    )


def metadata(path: Path, title: str) -> dict[str, Any]:
    """What is in the file besides: nothing that makes the same result another file."""
    if path.suffix == ".svg":
        return {"Title": title, "Date": None, "Creator": None}
    return {"Title": title, "Software": None}


def title(result: Result) -> str:
    """Which result it is, in the file: the run, and how much of it."""
    count = len(result.samples)
    return f"{result.bench}, {result.started}, seed {result.seed}, {count} samples"


def figure(result: Result, metrics: Sequence[str] = ()) -> Figure:
    """The picture, not yet in a file."""
    from matplotlib.figure import Figure

    drawn = list(panels(result, metrics))
    if not drawn:
        raise ConfigError(f"no samples to be drawn; there are metrics {_names(result)}")
    lines = [drawn[at : at + COLUMNS] for at in range(0, len(drawn), COLUMNS)]
    heights = [_ROW * max(len(panel.rows) for panel in line) for line in lines]
    caption = _caption(result)
    below = _LINE * (len(caption.splitlines()) + 1)
    width, height = COLUMNS * _COLUMN, sum(heights) + _AROUND * len(lines) + below
    made = Figure(figsize=(width, height))
    top = height
    for line, inner in zip(lines, heights, strict=True):
        for column, panel in enumerate(line):
            left, bottom = column * _COLUMN + _LABELS, top - _TITLE - inner
            size = (_COLUMN - _LABELS - _RIGHT) / width, inner / height
            _draw_panel(made.add_axes((left / width, bottom / height, *size)), panel)
        top -= inner + _AROUND
    made.text(_RIGHT / width, below / height, caption, va="top", fontsize=8, parse_math=False)
    return made


def _names(result: Result) -> str:
    return ", ".join(each.name for each in result.metrics)


def _caption(result: Result) -> str:
    lines = [
        "Dots: samples; triangles: samples beyond the edge. Bars: median and its 95 % interval. "
        "Ratios: a dot is a round, the band is the margin.",
        *conditions(result),
    ]
    return "\n".join(lines)


def panels(result: Result, metrics: Sequence[str] = ()) -> Iterator[Panel]:
    """For each setting: its metrics, and its ratios. What was counted once is no distribution."""
    found = result.found()
    drawn = [each for each in result.metrics if each.kind == "measured"]
    if metrics:
        drawn = [each for each in result.metrics if each.name in metrics]
    for setting in result.settings():
        title = f"{result.bench} {setting}".strip()
        for metric in drawn:
            rows = [
                Row(each.variant, list(values.values()), each.interval)
                for each in result.estimates
                if (each.setting, each.metric) == (setting, metric.name)
                if len(values := found.values(setting, each.variant, metric.name)) > 1
            ]
            label = f"{heading(metric.name, metric.unit)}, {metric.better} is better"
            yield from _families(title, label, rows)
        for metric in drawn:
            label = f"ratio of {metric.name}, {metric.better} is better"
            compared = [
                each
                for each in result.comparisons
                if (each.setting, each.metric) == (setting, metric.name)
            ]
            yield from _ratio_panel(f"{title}, ratios within rounds", label, compared, found)


def _families(title: str, label: str, rows: Sequence[Row]) -> Iterator[Panel]:
    """One panel; several, where names have parts (`fast/host/off`), one for each first part.

    What is called as a first part alone is in both: it is what the others vary.
    """
    families: dict[str, list[Row]] = {}
    for row in rows:
        family, *parts = row.label.split("/")
        families.setdefault(family if parts else "", []).append(row)
    for family, members in families.items():
        base = [row for row in rows if row.label == family]
        yield Panel(f"{title} {family}".strip(), label, base + members)


def _ratio_panel(
    title: str, label: str, compared: Sequence[Comparison], found: Found
) -> Iterator[Panel]:
    """One, if there is anything to be drawn."""
    rows, margins = [], []
    for each in compared:
        ratios = found.ratios(each.setting, each.variant, each.against, each.metric)
        if len(ratios) > 1:
            rows.append(Row(_pair(each), list(ratios.values()), each.ratio))
            margins.append(each.margin)
    if rows:
        yield Panel(title, label, rows, margins)


def _pair(of: Comparison) -> str:
    """As `fast/host/static : off`: what both names begin with is said once."""
    mine, theirs = of.variant.split("/"), of.against.split("/")
    while len(theirs) > 1 and mine and mine[0] == theirs[0]:
        mine, theirs = mine[1:], theirs[1:]
    return f"{of.variant} : {'/'.join(theirs)}"


def _draw_panel(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = _limits(panel)
    jitter = random.Random(0)  # of its own, so that a panel does not depend on those before it
    for at, row in enumerate(panel.rows):
        if panel.margins:
            band = panel.margins[at]
            axes.fill_betweenx([at - 0.5, at + 0.5], 1 - band, 1 + band, color="0.88", lw=0)
        _draw_row(axes, at, row, (low, high), jitter)
    if panel.margins:
        axes.axvline(1, color="0.5", lw=0.8)
    axes.set_title(panel.title, loc="left", fontsize=10, parse_math=False)
    axes.set_xlabel(panel.label, parse_math=False)
    axes.set_yticks(range(len(panel.rows)), [row.label for row in panel.rows], parse_math=False)
    axes.set_ylim(len(panel.rows) - 0.5, -0.5)
    if 0 < low * _DECADE < high:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(low, high)
    axes.grid(axis="x", color="0.9", lw=0.5)
    axes.set_axisbelow(True)


def _draw_row(
    axes: Axes, at: int, row: Row, limits: tuple[float, float], jitter: random.Random
) -> None:
    low, high = limits
    within: list[tuple[float, float]] = []
    beyond: list[tuple[float, float]] = []
    for value in row.values:
        place = at + jitter.uniform(-0.3, 0.3)
        if low <= value <= high:
            within.append((value, place))
        else:
            beyond.append((min(max(value, low), high), place))
    for points, marker in ((within, "o"), (beyond, "^")):
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            marker,
            color=_COLOURS[0],
            markersize=3.2,
            alpha=0.6,
            markeredgewidth=0,
            clip_on=False,
        )
    interval = row.interval
    axes.plot([interval.estimate] * 2, [at - 0.42, at + 0.42], "-", color=_COLOURS[1], lw=1.5)
    if interval.low is not None and interval.high is not None:
        axes.plot([interval.low, interval.high], [at] * 2, "-", color=_COLOURS[1], lw=2.5)


def _limits(panel: Panel) -> tuple[float, float]:
    """What holds all but the outermost samples, all medians and intervals, and the band."""
    inner: list[float] = []
    for row in panel.rows:
        ordered = sorted(row.values)
        cut = math.floor(len(ordered) * _EDGE)
        inner += [ordered[cut], ordered[-1 - cut]] if ordered else []
        ends = (row.interval.low, row.interval.estimate, row.interval.high)
        inner += [end for end in ends if end is not None]
    inner += [1 + sign * margin for margin in panel.margins for sign in (-1, 1)]
    low, high = min(inner), max(inner)
    if 0 < low * _DECADE < high:
        return low / 1.2, high * 1.2
    room = 0.04 * (high - low) or 0.04 * abs(high) or 1.0
    return low - room, high + room
