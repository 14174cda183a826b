# SPDX-License-Identifier: Apache-2.0
"""Does a level that was sampled over time grow?

The slope is Theil's and Sen's: the median of the slopes of all pairs of points, which outliers do
not move (P. K. Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau", J. Am. Stat.
Assoc. 63, 1968). Its interval comes from the distribution of Kendall's statistic, as there. That
is right for samples that are independent, and neighbours are not: so the points are medians of
blocks of neighbours.

As with ratios (verdict.py) the burden of proof is on who says that nothing happens: a level is
*flat* when all of the interval lies within the tolerance, not when no growth was found.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

BLOCKS = 30
"""Points a slope is fitted to: their interval is narrow enough, and blocks are long enough."""
MIN_POINTS = 8
"""Fewer are no trend: the interval is unknown."""
_QUANTILE = statistics.NormalDist().inv_cdf(0.975)


class Direction(StrEnum):
    """What an interval says about a level, given a tolerance."""

    FLAT = "flat"
    """All of it is within the tolerance, of either sign."""
    GROWS = "grows"
    """All of it is above 0, and the estimate above the tolerance."""
    UNDECIDED = "undecided"
    """Neither: look longer, or with less noise."""


@dataclass(frozen=True)
class Trend:
    """How much more there is at the end of the samples than at their start, by the slope."""

    growth: float
    low: float | None
    high: float | None
    """Ends of the 95 % interval; None: too few samples."""
    tolerance: float

    @property
    def direction(self) -> Direction:
        """The verdict."""
        if self.low is None or self.high is None:
            return Direction.UNDECIDED
        if -self.tolerance <= self.low and self.high <= self.tolerance:
            return Direction.FLAT
        if self.low > 0 and self.growth > self.tolerance:
            return Direction.GROWS
        return Direction.UNDECIDED


def trend(at: Sequence[float], values: Sequence[float], tolerance: float) -> Trend:
    """Of `values` at the times `at`, which rise; what grows by less than `tolerance` is flat."""
    points = _blocks(at, values)
    slopes = sorted(
        (second[1] - first[1]) / (second[0] - first[0])
        for number, first in enumerate(points)
        for second in points[number + 1 :]
    )
    span = at[-1] - at[0] if at else 0.0
    if not slopes:
        return Trend(0.0, None, None, tolerance)
    growth = statistics.median(slopes) * span
    if len(points) < MIN_POINTS:
        return Trend(growth, None, None, tolerance)
    low, high = _ends(len(points), len(slopes))
    return Trend(growth, slopes[low] * span, slopes[high] * span, tolerance)


def _ends(points: int, slopes: int) -> tuple[int, int]:
    """Which of the sorted slopes are the ends of the interval (Sen 1968, section 5)."""
    spread = _QUANTILE * math.sqrt(points * (points - 1) * (2 * points + 5) / 18)
    low = max(0, math.floor((slopes - spread) / 2))
    return low, min(slopes - 1, math.ceil((slopes + spread) / 2))


def _blocks(at: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """Medians of up to BLOCKS runs of samples: (time, value)."""
    size = max(1, len(at) // BLOCKS)
    return [
        (
            statistics.median(at[start : start + size]),
            statistics.median(values[start : start + size]),
        )
        for start in range(0, len(at) - size + 1, size)
    ]
