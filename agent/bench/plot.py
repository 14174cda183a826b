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
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devmemtcp.agent.bench.result import Comparison, Estimate, Result
from devmemtcp.agent.bench.tables import conditions, heading
from devmemtcp.agent.bench.verdict import Interval
from devmemtcp.agent.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
COLUMNS = 2
_PANEL_WIDTH, _ROW_HEIGHT, _FRAME_HEIGHT = 7.0, 0.32, 1.05
_CAPTION_HEIGHT = 1.3
_EDGE = 0.02
"""The share of samples at either end that may lie outside of the panel."""
_COLOURS = ("#1f6fb4", "#c0504d")
_SALT = "devmemtcp"
"""Of the names in an SVG: the same picture is the same file."""


def check(path: Path) -> None:
    """Raise ConfigError when nothing can be drawn there: to be called before it is measured."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--plot {path}: a picture ends in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: there is no folder {path.parent}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--plot needs matplotlib; install it with: pip install devmemtcp[plot]")


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


def draw(result: Result, path: Path) -> None:
    """Draw all panels into the file; its name says the format."""
    import matplotlib as mpl

    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    # So that the same result is the same file.
    metadata: dict[str, Any] = {"Software": None}
    if path.suffix == ".svg":
        metadata = {"Date": None, "Creator": None}
    with mpl.rc_context({**mpl.rcParamsDefault, "svg.hashsalt": _SALT, "font.size": 9}):
        figure(result).savefig(path, metadata=metadata, dpi=120)


def figure(result: Result) -> Figure:
    """The picture, not yet in a file."""
    from matplotlib.figure import Figure

    drawn = list(panels(result))
    if not drawn:
        raise ConfigError("there are no samples to be drawn")
    lines = [drawn[at : at + COLUMNS] for at in range(0, len(drawn), COLUMNS)]
    heights = [
        _FRAME_HEIGHT + _ROW_HEIGHT * max(len(panel.rows) for panel in line) for line in lines
    ]
    made = Figure(
        figsize=(_PANEL_WIDTH * COLUMNS, sum(heights) + _CAPTION_HEIGHT), layout="constrained"
    )
    rows = [*heights, _CAPTION_HEIGHT]
    grid = made.add_gridspec(len(rows), COLUMNS, height_ratios=rows)
    for at, panel in enumerate(drawn):
        _draw_panel(made.add_subplot(grid[at // COLUMNS, at % COLUMNS]), panel)
    caption = made.add_subplot(grid[-1, :])
    caption.set_axis_off()
    caption.text(0, 1, _caption(result), va="top", fontsize=8, parse_math=False)
    return made


def _caption(result: Result) -> str:
    lines = [
        "Dots: samples; triangles: samples beyond the edge. Bars: median and its 95 % interval. "
        "Ratios: a dot is a round, the band is the margin.",
        *conditions(result),
    ]
    return "\n".join(lines)


def panels(result: Result) -> Iterator[Panel]:
    """For each setting: its metrics, and its ratios. Counted metrics have but one sample: none."""
    values: dict[tuple[str, str, str], dict[int, float]] = {}
    for sample in result.samples:
        for name, value in sample.values.items():
            key = (sample.setting, sample.variant, name)
            values.setdefault(key, {})[sample.round] = value
    for setting in result.settings():
        for metric in result.metrics:
            rows = [
                (each, values.get((setting, each.variant, metric.name), {}))
                for each in result.estimates
                if (each.setting, each.metric) == (setting, metric.name)
            ]
            if any(len(samples) > 1 for _, samples in rows):
                title = f"{result.bench} {setting}".strip()
                label = heading(metric.name, metric.unit) + f", {metric.better} is better"
                yield from _estimate_panels(title, label, rows)
        yield from _ratio_panels(result, setting, values)


def _estimate_panels(
    title: str, label: str, rows: Sequence[tuple[Estimate, dict[int, float]]]
) -> Iterator[Panel]:
    """One; several, where names have parts (`fast/host/off`), one for each first part."""
    families: dict[str, list[Row]] = {}
    for estimate, samples in rows:
        family = estimate.variant.partition("/")[0] if "/" in estimate.variant else ""
        row = Row(estimate.variant, list(samples.values()), estimate.interval)
        families.setdefault(family, []).append(row)
    for family, members in families.items():
        yield Panel(f"{title} {family}".strip(), label, members)


def _ratio_panels(
    result: Result, setting: str, values: dict[tuple[str, str, str], dict[int, float]]
) -> Iterator[Panel]:
    for metric in result.metrics:
        rows, margins = [], []
        for each in result.comparisons:
            ratios = _ratios(each, values)
            if (each.setting, each.metric) == (setting, metric.name) and len(ratios) > 1:
                rows.append(Row(f"{each.variant} : {each.against}", ratios, each.ratio))
                margins.append(each.margin)
        if rows:
            title = f"{result.bench} {setting}".strip() + ", ratios within rounds"
            label = f"ratio of {metric.name}, {metric.better} is better"
            yield Panel(title, label, rows, margins)


def _ratios(of: Comparison, values: dict[tuple[str, str, str], dict[int, float]]) -> list[float]:
    mine = values.get((of.setting, of.variant, of.metric), {})
    theirs = values.get((of.setting, of.against, of.metric), {})
    return [value / theirs[number] for number, value in mine.items() if theirs.get(number)]


def _draw_panel(axes: Axes, panel: Panel) -> None:
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
    for points, marker in ((within, "."), (beyond, "^")):
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            marker,
            color=_COLOURS[0],
            markersize=3,
            alpha=0.5,
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
    room = 0.04 * (high - low) or 0.04 * abs(high) or 1.0
    return low - room, high + room
