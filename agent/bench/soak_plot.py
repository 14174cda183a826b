# SPDX-License-Identifier: Apache-2.0
"""A soak as a picture: each level over time, and the trend of the half that is judged.

The band is the interval of the trend, drawn around its middle; its title says what it says.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from devmemtcp.agent.bench.plot import metadata, style
from devmemtcp.agent.bench.soak import Sample, SoakReport, amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVELS = (
    ("resident", "MiB resident, both processes", 1 << 20),
    ("private", "MiB of these in heaps", 1 << 20),
    ("descriptors", "descriptors", 1),
    ("buffers_away", "buffers away from the pool", 1),
    ("tokens", "tokens outstanding", 1),
    ("flows", "connections", 1),
)
_COLUMNS = 2
_SIZE = 13.0, 9.0  # inches
_COLOURS = ("#1f6fb4", "#c0504d")


def draw(report: SoakReport, path: Path) -> None:
    """Into a .png or .svg, see `plot.check()`."""
    from matplotlib.figure import Figure

    half = report.samples[len(report.samples) // 2 :]
    title = (
        f"{report.connections} connections in {report.seconds:.0f} s, "
        f"{report.bytes_received / 1e9:.1f} GB, {report.mode} mode, MTU {report.mtu}"
    )
    with style():
        made = Figure(figsize=_SIZE, layout="constrained")
        axes = made.subplots(len(LEVELS) // _COLUMNS, _COLUMNS)
        for at, (name, label, unit) in zip(axes.flat, LEVELS, strict=True):
            _draw_level(at, report.samples, name, label, unit)
            _draw_trend(at, report, half, name, label, unit)
        made.suptitle(title)
        made.savefig(path, metadata=metadata(path, title), dpi=120)


def _draw_level(axes: Axes, samples: Sequence[Sample], name: str, label: str, unit: int) -> None:
    minutes = [sample.seconds / 60 for sample in samples]
    values = [getattr(sample, name) / unit for sample in samples]
    axes.plot(minutes, values, ".", color=_COLOURS[0], markersize=3, alpha=0.6)
    axes.set_title(label, loc="left", fontsize=10)
    axes.set_xlabel("minutes")
    axes.set_ylim(bottom=0, top=1.15 * max(values, default=1) or 1)
    axes.grid(color="0.9", lw=0.5)


def _draw_trend(
    axes: Axes, report: SoakReport, half: Sequence[Sample], name: str, label: str, unit: int
) -> None:
    found = report.trends.get(name)
    if found is None or found.low is None or found.high is None:
        return
    ends = [half[0].seconds / 60, half[-1].seconds / 60]
    level = statistics.median(getattr(sample, name) for sample in half) / unit

    def line(growth: float) -> list[float]:
        return [level - growth / unit / 2, level + growth / unit / 2]

    axes.plot(ends, line(found.growth), "-", color=_COLOURS[1], lw=1.5)
    axes.fill_between(ends, line(found.low), line(found.high), color=_COLOURS[1], alpha=0.25, lw=0)
    verdict = f"{label}: {report.verdicts[name]}, {amount(name, found)}"
    axes.set_title(verdict, loc="left", fontsize=10)
