# SPDX-License-Identifier: Apache-2.0
"""Percentiles of many latencies, and a histogram that keeps their shape in little room."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

STEPS = 8
"""Buckets of an octave: neighbours differ by 9 %."""
BEYOND = 2
"""Values that are to be beyond a percentile: of each turn, and there are several."""

PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


def percentile(ordered: Sequence[float], share: float) -> float:
    """The least value that at least this share of the sorted values do not exceed (nearest rank).

    Raises ValueError without values.
    """
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """All of PERCENTILES that there are values enough for: BEYOND of them beyond it.

    Raises ValueError without values.
    """
    ordered = sorted(values)
    return {
        name: percentile(ordered, share)
        for name, share in PERCENTILES.items()
        if len(ordered) * (1 - share) >= BEYOND or share == PERCENTILES["p50"]
    }


def histogram(values: Sequence[float]) -> list[tuple[int, int]]:
    """(n, how many) of each bucket that has any; buckets grow with the values.

    As HdrHistogram's: n is of the values above 2^((n - 1) / STEPS), up to 2^(n / STEPS). Values
    are above zero.
    """
    return sorted(Counter(math.ceil(math.log2(value) * STEPS) for value in values).items())
