# SPDX-License-Identifier: Apache-2.0
"""Two results of one benchmark, held side by side.

What was measured in two runs was not measured in turns: a machine that was busier during one of
them shows as a difference of everything. Two things help, and both are here. What else differed
(machine, options, load) is listed. And a ratio that each run made within its own rounds is
compared as such: whatever slowed one run down is in both of its halves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from devmemtcp.agent.bench.result import Better, Comparison, Result
from devmemtcp.agent.bench.verdict import Interval, Verdict, unpaired_ratio_interval
from devmemtcp.agent.errors import ConfigError

MARGIN = 0.02
BETWEEN = (
    "The runs were not interleaved: what changed between them is in every ratio of medians, and "
    "no interval knows of it. Ratios made within each run are free of that."
)


@dataclass(frozen=True)
class Difference:
    """What the runs do not have in common, besides what was measured."""

    what: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Change:
    """A median of both runs."""

    setting: str
    variant: str
    metric: str
    better: Better
    a: Interval
    b: Interval
    ratio: Interval
    """B divided by A."""
    verdict: Verdict


@dataclass(frozen=True)
class RatioChange:
    """A comparison that both runs made."""

    setting: str
    variant: str
    against: str
    metric: str
    better: Better
    a: Interval
    b: Interval
    ratio: Interval
    """Of the two ratios: B's divided by A's."""
    verdict: Verdict


@dataclass(frozen=True)
class Contrast:
    """`asdict()` of it is the JSON document."""

    bench: str
    margin: float
    differences: list[Difference]
    changes: list[Change]
    ratios: list[RatioChange]
    only_a: list[str]
    only_b: list[str]
    """Variants, with their settings, that the other run does not have."""
    left_out: list[str]
    """Medians of what is not always above zero, such as the difference of two costs: no ratio."""


def compare(a: Result, b: Result, *, margin: float = MARGIN) -> Contrast:
    """Everything that both have. Raises ConfigError for two benchmarks, or nothing in common."""
    if a.bench != b.bench:
        raise ConfigError(f"these are two benchmarks, {a.bench} and {b.bench}: nothing to compare")
    if not 0 < margin < 1:
        raise ConfigError(f"--margin {margin}: between 0 and 1, as 0.02 for 2 %")
    sides = _Sides(a, b, margin)
    changes = list(sides.changes())
    if not changes and not sides.left_out:
        raise ConfigError("the two runs have no variant in common")
    return Contrast(
        bench=a.bench,
        margin=margin,
        differences=list(_differences(a, b)),
        changes=changes,
        ratios=list(sides.ratios()),
        only_a=_only(a, b),
        only_b=_only(b, a),
        left_out=sides.left_out,
    )


class _Sides:
    """The samples of both."""

    def __init__(self, a: Result, b: Result, margin: float) -> None:
        self._a, self._b, self._margin = a, b, margin
        self._found_a, self._found_b = a.found(), b.found()
        self.left_out: list[str] = []
        """Known when all changes were asked for."""

    def changes(self) -> Iterator[Change]:
        """In the order of A's estimates."""
        for each in self._a.estimates:
            key = (each.setting, each.variant, each.metric)
            a, b = self._found_a.median(*key), self._found_b.median(*key)
            if a is None or b is None or self._a.metric(each.metric).kind == "derived":
                continue
            above, below = self._found_b.values(*key), self._found_a.values(*key)
            if min(*above.values(), *below.values()) <= 0:
                self.left_out.append(" ".join(filter(None, key)))
                continue
            ratio = self._ratio(above, below)
            if self._a.metric(each.metric).kind == "counted":
                ratio = Interval(ratio.estimate, ratio.estimate, ratio.estimate)
            better = self._a.metric(each.metric).better
            yield Change(*key, better, a, b, ratio, ratio.judge(self._margin))

    def ratios(self) -> Iterator[RatioChange]:
        """In the order of A's comparisons."""
        both = {_pair(each) for each in self._b.comparisons}
        for each in self._a.comparisons:
            key = _pair(each)
            above, below = self._found_b.ratios(*key), self._found_a.ratios(*key)
            if key not in both or not above or not below or not self._is_positive(*key):
                continue
            a, b = self._found_a.ratio(*key), self._found_b.ratio(*key)
            assert a is not None
            assert b is not None
            ratio = self._ratio(above, below)
            better = self._a.metric(each.metric).better
            yield RatioChange(*key, better, a, b, ratio, ratio.judge(self._margin))

    def _is_positive(self, setting: str, variant: str, against: str, metric: str) -> bool:
        return all(
            value > 0
            for found in (self._found_a, self._found_b)
            for name in (variant, against)
            for value in found.values(setting, name, metric).values()
        )

    def _ratio(self, above: dict[int, float], below: dict[int, float]) -> Interval:
        return unpaired_ratio_interval(
            list(above.values()), list(below.values()), seed=self._a.seed
        )


def _pair(of: Comparison) -> tuple[str, str, str, str]:
    return of.setting, of.variant, of.against, of.metric


def _only(mine: Result, theirs: Result) -> list[str]:
    """Variants of the first, with their settings."""
    have = {(each.setting, each.variant) for each in theirs.estimates}
    found = dict.fromkeys((each.setting, each.variant) for each in mine.estimates)
    return [" ".join(filter(None, each)) for each in found if each not in have]


def _differences(a: Result, b: Result) -> Iterator[Difference]:
    facts_a, facts_b = _facts(a), _facts(b)
    for what in dict.fromkeys([*facts_a, *facts_b]):
        mine, theirs = facts_a.get(what), facts_b.get(what)
        if mine != theirs:
            yield Difference(what, mine, theirs)


def _facts(result: Result) -> dict[str, Any]:
    """What should be the same, by a name for people. The TSC's frequency is itself measured."""
    groups = {
        "machine": asdict(result.machine) | {"tsc_ghz": f"{result.machine.tsc_ghz or 0:.2f}"},
        "build": asdict(result.build),
        "pinning": result.pinning,
        "option": {name: each for name, each in result.options.items() if name != "seed"},
    }
    found = {
        f"{group} {name}": value for group, each in groups.items() for name, value in each.items()
    }
    return found | {"quick": result.quick, "load before": list(result.load_average)}
