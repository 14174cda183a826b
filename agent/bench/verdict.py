# SPDX-License-Identifier: Apache-2.0
"""From samples to a verdict: median, interval, and whether two variants are the same.

Medians, because one sample in which a neighbour ran is no reason to move the result. Their
intervals are bootstrapped: the samples are drawn anew, with replacement, many times over, and
the middle 95 % of the medians are the interval. On few samples such an interval is too narrow
(nine normal ones: it holds the truth nine times in ten); it is widened as Hesterberg does, by
taking as much of the tails as Student's t would (T. Hesterberg, "What Teachers Should Know About
the Bootstrap", The American Statistician 69(4), 2015, section 4.3.3).

Whether a check costs anything is not answered by "no significant difference": a bad enough
measurement never finds one. So the question is turned round (TOST, two one-sided tests: D.
Schuirmann, J. Pharmacokin. Biopharm. 15, 1987): the variants are *within the noise* only when
the whole interval of their ratio lies within the margin, which takes a measurement good enough
to have shown a difference that large.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

MIN_SAMPLES = 6
"""The whole range of fewer does not hold the median 95 % of the time, whatever is computed."""

_RESAMPLES = 4000
_NORMAL = statistics.NormalDist()


class Verdict(StrEnum):
    """What an interval says about two variants, given a margin."""

    WITHIN = "within the noise"
    """The interval of the ratio lies within 1 +- margin."""
    DIFFERS = "differs"
    """It lies beyond, all of it."""
    UNDECIDED = "undecided"
    """It reaches across an end of the margin, or there were too few samples: measure longer."""


@dataclass(frozen=True)
class Interval:
    """An estimate and the range that holds the truth as often as was asked for."""

    estimate: float
    low: float | None
    high: float | None
    """None: too few samples to tell."""

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.estimate:.3f}"
        return f"{self.estimate:.3f} ({self.low:.3f} - {self.high:.3f})"

    def judge(self, margin: float) -> Verdict:
        """What this interval says, being one of a ratio; `margin` 0.02 is 2 %."""
        if not 0 < margin < 1:
            raise ValueError(f"a margin of {margin} is not between 0 and 1")
        if self.low is None or self.high is None:
            return Verdict.UNDECIDED
        if 1 - margin <= self.low and self.high <= 1 + margin:
            return Verdict.WITHIN
        if self.high < 1 - margin or 1 + margin < self.low:
            return Verdict.DIFFERS
        return Verdict.UNDECIDED


def median_interval(
    samples: Sequence[float], *, seed: int, level: float = 0.95, resamples: int = _RESAMPLES
) -> Interval:
    """The median of `samples` and its interval; the same seed gives the same interval.

    With fewer than MIN_SAMPLES samples the interval is unknown: its ends are None. Raises
    ValueError without samples, and for a level that is no probability.
    """
    if not samples:
        raise ValueError("no samples")
    if not 0 < level < 1:
        raise ValueError(f"a level of {level} is not between 0 and 1")
    estimate = statistics.median(samples)
    if len(samples) < MIN_SAMPLES:
        return Interval(estimate, None, None)
    medians = sorted(_resampled_medians(samples, seed, resamples))
    tail = _expanded_tail((1 - level) / 2, len(samples))
    return Interval(estimate, _quantile(medians, tail), _quantile(medians, 1 - tail))


def ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = _RESAMPLES,
) -> Interval:
    """The median of numerator / denominator, pair by pair, and its interval.

    A pair is of one round: what slowed the machine down then slowed both, and cancels out.
    Raises ValueError for unequal lengths, and for values that are not above zero.
    """
    if len(numerators) != len(denominators):
        raise ValueError(f"{len(numerators)} numerators, {len(denominators)} denominators")
    if any(not value > 0 for value in (*numerators, *denominators)):
        raise ValueError("a ratio is of values above zero")
    # The median of logarithms, so that a / b is the inverse of b / a also for an even count.
    logs = [math.log(a / b) for a, b in zip(numerators, denominators, strict=True)]
    interval = median_interval(logs, seed=seed, level=level, resamples=resamples)
    low, high = (None if end is None else math.exp(end) for end in (interval.low, interval.high))
    return Interval(math.exp(interval.estimate), low, high)


def unpaired_ratio_interval(
    numerators: Sequence[float],
    denominators: Sequence[float],
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = _RESAMPLES,
) -> Interval:
    """The ratio of two medians, and its interval: of samples that were not taken in turns.

    So whatever changed between the two measurements is in it, and the interval does not know.
    Raises ValueError as `ratio_interval` does, and without samples.
    """
    if any(not value > 0 for value in (*numerators, *denominators)):
        raise ValueError("a ratio is of values above zero")
    if not numerators or not denominators:
        raise ValueError("no samples")
    above, below = ([math.log(value) for value in each] for each in (numerators, denominators))
    estimate = math.exp(statistics.median(above) - statistics.median(below))
    size = min(len(above), len(below))
    if size < MIN_SAMPLES:
        return Interval(estimate, None, None)
    # Two draws: with one for both, samples of the same place would go together.
    drawn = zip(
        _resampled_medians(above, seed, resamples),
        _resampled_medians(below, seed + 1, resamples),
        strict=True,
    )
    differences = sorted(a - b for a, b in drawn)
    tail = _expanded_tail((1 - level) / 2, size)
    low, high = (math.exp(_quantile(differences, share)) for share in (tail, 1 - tail))
    return Interval(estimate, low, high)


def _resampled_medians(samples: Sequence[float], seed: int, resamples: int) -> list[float]:
    ordered = sorted(samples)
    return [
        (ordered[low] + ordered[high]) / 2
        for low, high in _median_ranks(len(samples), seed, resamples)
    ]


@lru_cache(maxsize=64)
def _median_ranks(size: int, seed: int, resamples: int) -> list[tuple[int, int]]:
    """Of each resample, which of the ordered samples its median is the middle of.

    That depends on the samples' number alone, so it is drawn once for all variants of a run.
    """
    draw = random.Random(seed)
    ranks = range(size)
    found = []
    for _ in range(max(resamples, 1)):
        drawn = sorted(draw.choices(ranks, k=size))
        found.append((drawn[(size - 1) // 2], drawn[size // 2]))
    return found


def _expanded_tail(tail: float, size: int) -> float:
    """The share to cut off either end of the bootstrap distribution of `size` samples."""
    return _NORMAL.cdf(math.sqrt(size / (size - 1)) * _student_quantile(tail, size - 1))


def _student_quantile(probability: float, degrees: int) -> float:
    """Of Student's t, by the series of Abramowitz and Stegun 26.7.5: 3 digits from 5 degrees on."""
    z = _NORMAL.inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / float(degrees) ** power for power, term in enumerate(terms))


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Of sorted values, linear between them."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
