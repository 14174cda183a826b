# SPDX-License-Identifier: Apache-2.0
"""The document that every benchmark ends in: samples, and what follows from them.

    run = Run.begin("page-pool", seed=options.seed, quick=False, options=..., pinning=...)
    samples = [Sample(...), ...]                  one a turn
    result = judge(run, samples, metrics=..., variants=..., pairs=..., goals=...)

A benchmark supplies samples, and says which pairs of variants it wants compared and which goals
it has; medians, intervals, ratios, verdicts and aims are computed here, from the samples as the
document holds them (six digits), so that whoever has the document can compute them again.

Samples of one round were taken next to each other. A ratio is therefore made within rounds, and
within a *setting* (an MTU, a mode): what differs between settings is never compared.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

from devmemtcp.agent.bench.machine import Build, Machine, Noise
from devmemtcp.agent.bench.verdict import Interval, Verdict, median_interval, ratio_interval

SCHEMA = "devmemtcp-bench/1"
DIGITS = 6
"""Of a number in the document: more than any of these measurements has."""

Better = Literal["higher", "lower"]
Kind = Literal["measured", "derived", "counted"]
"""Derived: another metric in another unit, so neither drawn nor compared. Counted: it has no noise,
and one sample is enough."""


@dataclass(frozen=True)
class Metric:
    """What is measured."""

    name: str
    unit: str
    better: Better
    kind: Kind = "measured"


@dataclass(frozen=True)
class Sample:
    """One turn of one variant; or, with another set of metrics, what is counted but once."""

    setting: str
    """As `mtu=1500 mode=generic`; empty where there is but one."""
    variant: str
    round: int
    place: int
    """In its round."""
    values: dict[str, float]
    """By metric. A turn need not have all of them."""
    noise: Noise | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """The median of one variant, and its interval."""

    setting: str
    variant: str
    metric: str
    interval: Interval


@dataclass(frozen=True)
class Comparison:
    """One variant divided by another, round by round."""

    setting: str
    variant: str
    against: str
    metric: str
    ratio: Interval
    margin: float
    verdict: Verdict


@dataclass(frozen=True)
class Aim:
    """What was hoped for, and what became of it."""

    text: str
    setting: str
    value: float | None
    """None: not measured in this run."""
    wanted: float
    at_least: bool
    """Else at most."""
    met: bool | None
    interval: Interval | None = None
    """Of the value. `met` does not look at it."""


@dataclass(frozen=True)
class Pair:
    """Two variants that are to be compared, wherever both were measured."""

    variant: str
    against: str
    metric: str
    margin: float = 0.02


class Quantity(StrEnum):
    """What of the samples a goal is about."""

    MEDIAN = "median"
    RATIO = "ratio"
    DIFFERENCE = "difference"
    """Of the medians."""
    DEVIATION = "deviation"
    """How far the interval of the ratio reaches from 1: at most the margin, if equivalent."""


@dataclass(frozen=True)
class Goal:
    """An aim before anything was measured; one Aim in each setting that it is for."""

    text: str
    wanted: float
    variant: str
    metric: str
    against: str | None = None
    """For all quantities but MEDIAN."""
    quantity: Quantity = Quantity.RATIO
    at_least: bool = True
    settings: tuple[str, ...] | None = None
    """None: wherever it can be told; and once, unmet and without a value, where it never can."""


@dataclass(frozen=True)
class Result:
    """`asdict()` of it is the JSON document."""

    schema: str
    bench: str
    quick: bool
    started: str
    """ISO 8601, UTC."""
    seconds: float
    seed: int
    build: Build
    machine: Machine
    load_average: tuple[float, float, float]
    """At the start, of 1, 5 and 15 minutes."""
    noise: Noise
    """Of the whole run."""
    pinning: dict[str, Any]
    veth: bool
    """The packets went over one."""
    options: dict[str, Any]
    metrics: list[Metric]
    estimates: list[Estimate]
    comparisons: list[Comparison]
    aims: list[Aim]
    details: dict[str, Any]
    samples: list[Sample]

    @property
    def caveat(self) -> str:
        """What is to be said wherever these figures are shown; empty: nothing."""
        if not self.veth:
            return ""
        where = " in a virtual machine" if self.machine.virtual else ""
        return f"A veth{where} is not a NIC: not to be held beside figures of one."

    def found(self) -> Found:
        """The samples, sorted. Raises ValueError for some that contradict each other."""
        variants = list(dict.fromkeys(each.variant for each in self.estimates))
        return Found(self.samples, self.metrics, variants, self.seed)

    def metric(self, name: str) -> Metric:
        """Of that name. Raises KeyError."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)

    def settings(self) -> list[str]:
        """In the order of the estimates."""
        return list(dict.fromkeys(each.setting for each in self.estimates))

    def estimate(self, setting: str, variant: str, metric: str) -> Estimate | None:
        """None: not measured."""
        for each in self.estimates:
            if (each.setting, each.variant, each.metric) == (setting, variant, metric):
                return each
        return None


@dataclass(frozen=True)
class Run:
    """A measurement that has begun: what it is, and what the machine was like."""

    bench: str
    quick: bool
    seed: int
    options: dict[str, Any]
    pinning: dict[str, Any]
    veth: bool
    started: str
    began: float
    build: Build
    machine: Machine
    load_average: tuple[float, float, float]
    noise: Noise
    """Up to the start."""

    @classmethod
    def begin(
        cls,
        bench: str,
        *,
        seed: int,
        quick: bool,
        options: Mapping[str, Any],
        pinning: Mapping[str, Any],
        veth: bool = False,
    ) -> Run:
        """Look at everything, 0.1 s long. `options` and `pinning` are what JSON can hold.

        `veth`: the packets go over one.
        """
        machine, build = Machine.look(), Build.look()
        return cls(
            bench=bench,
            quick=quick,
            seed=seed,
            options=dict(options),
            pinning=dict(pinning),
            veth=veth,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            began=time.monotonic(),
            build=build,
            machine=machine,
            load_average=_load_average(),
            noise=Noise.now(),
        )


def judge(
    run: Run,
    samples: Iterable[Sample],
    *,
    metrics: Sequence[Metric],
    variants: Sequence[str],
    pairs: Sequence[Pair] = (),
    goals: Sequence[Goal] = (),
    details: Mapping[str, Any] | None = None,
) -> Result:
    """Everything that follows from the samples, at the end of a run.

    `metrics` and `variants` give the order in which things are reported; settings come in the
    order of their first sample. A variant, a pair or a goal without samples is left out (a goal
    is then an aim without a value). Raises ValueError for samples that contradict each other: an
    unknown variant or metric, two samples of one round, values that have no ratio.
    """
    rounded = [_rounded(sample) for sample in samples]
    found = Found(rounded, metrics, variants, run.seed)
    return Result(
        schema=SCHEMA,
        bench=run.bench,
        quick=run.quick,
        started=run.started,
        seconds=_round(time.monotonic() - run.began),
        seed=run.seed,
        build=run.build,
        machine=run.machine,
        load_average=run.load_average,
        noise=Noise.now() - run.noise,
        pinning=run.pinning,
        veth=run.veth,
        options=run.options,
        metrics=list(metrics),
        estimates=found.estimates(),
        comparisons=found.comparisons(pairs),
        aims=found.aims(goals),
        details=dict(details or {}),
        samples=rounded,
    )


class Found:
    """Samples, sorted by where they belong."""

    def __init__(
        self,
        samples: Sequence[Sample],
        metrics: Sequence[Metric],
        variants: Sequence[str],
        seed: int,
    ) -> None:
        self.settings = list(dict.fromkeys(each.setting for each in samples))
        self._metrics = {each.name: each for each in metrics}
        self._variants, self._seed = variants, seed
        self._values: dict[tuple[str, str, str], dict[int, float]] = {}
        for each in samples:
            if each.variant not in variants:
                raise ValueError(f"a sample of an unknown variant, {each.variant}")
            for name, value in each.values.items():
                self._add(each, name, value)

    def _add(self, sample: Sample, metric: str, value: float) -> None:
        if metric not in self._metrics:
            raise ValueError(f"a sample of an unknown metric, {metric}")
        rounds = self._values.setdefault((sample.setting, sample.variant, metric), {})
        if sample.round in rounds:
            raise ValueError(f"{sample.variant} has two samples of round {sample.round}")
        rounds[sample.round] = value

    def values(self, setting: str, variant: str, metric: str) -> dict[int, float]:
        """By round; empty: not measured."""
        return self._values.get((setting, variant, metric), {})

    def median(self, setting: str, variant: str, metric: str) -> Interval | None:
        """None: not measured."""
        values = list(self.values(setting, variant, metric).values())
        if not values:
            return None
        if self._metrics[metric].kind == "counted":
            count = statistics.median(values)
            return Interval(count, count, count)
        return _rounded_interval(median_interval(values, seed=self._seed))

    def ratio(self, setting: str, variant: str, against: str, metric: str) -> Interval | None:
        """Of the rounds that both have; None: there is none."""
        mine = self.values(setting, variant, metric)
        theirs = self.values(setting, against, metric)
        both = [number for number in mine if number in theirs]
        if not both:
            return None
        interval = ratio_interval(
            [mine[number] for number in both], [theirs[number] for number in both], seed=self._seed
        )
        return _rounded_interval(interval)

    def ratios(self, setting: str, variant: str, against: str, metric: str) -> dict[int, float]:
        """The same, round by round; without those rounds in which one of them is not above 0."""
        theirs = self.values(setting, against, metric)
        return {
            number: value / theirs[number]
            for number, value in self.values(setting, variant, metric).items()
            if value > 0 and theirs.get(number, 0) > 0
        }

    def estimates(self) -> list[Estimate]:
        """In the order of settings, metrics, variants."""
        found = []
        for setting in self.settings:
            for metric in self._metrics:
                for variant in self._variants:
                    interval = self.median(setting, variant, metric)
                    if interval:
                        found.append(Estimate(setting, variant, metric, interval))
        return found

    def comparisons(self, pairs: Sequence[Pair]) -> list[Comparison]:
        """In the order of settings, pairs."""
        found = []
        for setting in self.settings:
            for pair in pairs:
                ratio = self.ratio(setting, pair.variant, pair.against, pair.metric)
                if ratio:
                    verdict = ratio.judge(pair.margin)
                    found.append(Comparison(setting, **asdict(pair), ratio=ratio, verdict=verdict))
        return found

    def aims(self, goals: Sequence[Goal]) -> list[Aim]:
        """In the order of goals, settings."""
        found = []
        for goal in goals:
            told = [(each, self._told(goal, each)) for each in goal.settings or self.settings]
            if goal.settings is None:
                told = [each for each in told if each[1]] or [("", None)]
            found += [_aim(goal, setting, interval) for setting, interval in told]
        return found

    def _told(self, goal: Goal, setting: str) -> Interval | None:
        """What the samples say on a goal."""
        if goal.quantity is Quantity.MEDIAN:
            return self.median(setting, goal.variant, goal.metric)
        if goal.against is None:
            raise ValueError(f"against what? {goal.text}")
        if goal.quantity is Quantity.DIFFERENCE:
            mine = self.median(setting, goal.variant, goal.metric)
            theirs = self.median(setting, goal.against, goal.metric)
            if mine is None or theirs is None:
                return None
            return Interval(_round(mine.estimate - theirs.estimate), None, None)
        ratio = self.ratio(setting, goal.variant, goal.against, goal.metric)
        if ratio is None or goal.quantity is Quantity.RATIO:
            return ratio
        if ratio.low is None or ratio.high is None:
            return None
        return Interval(_round(max(abs(ratio.low - 1), abs(ratio.high - 1))), None, None)


def _load_average() -> tuple[float, float, float]:
    one, five, fifteen = (round(each, 2) for each in os.getloadavg())
    return one, five, fifteen


def _aim(goal: Goal, setting: str, told: Interval | None) -> Aim:
    value = told.estimate if told else None
    met = None
    if value is not None:
        met = value >= goal.wanted if goal.at_least else value <= goal.wanted
    known = told if told and told.low is not None else None
    return Aim(goal.text, setting, value, goal.wanted, goal.at_least, met, known)


def _round(value: float) -> float:
    """To DIGITS significant digits."""
    return float(f"{value:.{DIGITS}g}")


def _rounded_interval(interval: Interval) -> Interval:
    low, high = (None if end is None else _round(end) for end in (interval.low, interval.high))
    return Interval(_round(interval.estimate), low, high)


def _rounded(sample: Sample) -> Sample:
    for name, value in sample.values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} of {sample.variant} is {value}")
    values = {name: _round(value) for name, value in sample.values.items()}
    return Sample(
        sample.setting,
        sample.variant,
        sample.round,
        sample.place,
        values,
        sample.noise,
        shortened(sample.details),
    )


def shortened(details: Any) -> Any:
    """Anything of JSON, with its floats rounded to DIGITS."""
    if isinstance(details, float):
        return _round(details)
    if isinstance(details, Mapping):
        return {name: shortened(value) for name, value in details.items()}
    if isinstance(details, list | tuple):
        return [shortened(value) for value in details]
    return details
