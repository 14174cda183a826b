# SPDX-License-Identifier: Apache-2.0
"""What follows from samples: medians, ratios within rounds and settings, aims."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from devmemtcp.agent.bench.result import (
    Aim,
    Goal,
    Metric,
    Pair,
    Quantity,
    Result,
    Run,
    Sample,
    judge,
)
from devmemtcp.agent.bench.verdict import Verdict

METRICS = [Metric("ns", "ns", "lower"), Metric("instructions", "1", "lower")]


def run() -> Run:
    return Run.begin("page-pool", seed=1, quick=False, options={"rounds": 12}, pinning={"cpu": 0})


def made(**values: float) -> list[Sample]:
    """Twelve rounds of each variant, about that value; round by round it drifts by half."""
    return [
        Sample("", name, number, place, {"ns": value * (1 + number / 24)})
        for number in range(12)
        for place, (name, value) in enumerate(reversed(values.items()))
    ]


def judged(samples: list[Sample], **wanted: Any) -> Result:
    variants = wanted.pop("variants", ["off", "static", "floor"])
    return judge(run(), samples, metrics=METRICS, variants=variants, **wanted)


def aim(goal: Goal, samples: list[Sample] | None = None) -> Aim:
    (one,) = judged(samples or made(off=2.0, static=3.0), goals=[goal]).aims
    return one


def test_a_ratio_is_made_within_rounds() -> None:
    """So a drift that is far larger than the difference takes nothing from it."""
    result = judged(made(off=2.0, static=2.5), pairs=[Pair("static", "off", "ns")])
    (ratio,) = result.comparisons
    assert ratio.ratio.estimate == pytest.approx(1.25)
    assert ratio.ratio.low == pytest.approx(1.25)
    assert (ratio.margin, ratio.verdict) == (0.02, Verdict.DIFFERS)


def test_rounds_that_one_of_them_lacks_are_left_out() -> None:
    samples = [each for each in made(off=2.0, static=2.5) if each.variant == "off" or each.round]
    (ratio,) = judged(samples, pairs=[Pair("static", "off", "ns")]).comparisons
    assert ratio.ratio.estimate == pytest.approx(1.25)


def test_settings_are_apart() -> None:
    samples = [
        Sample(setting, name, number, 0, {"ns": value})
        for setting, factor in (("mtu=9000", 10.0), ("mtu=1500", 1.0))
        for name, value in (("off", 2.0 * factor), ("static", 2.0 * factor * factor))
        for number in range(6)
    ]
    result = judged(samples, pairs=[Pair("static", "off", "ns")])
    assert result.settings() == ["mtu=9000", "mtu=1500"]
    assert [each.ratio.estimate for each in result.comparisons] == [pytest.approx(10.0), 1.0]
    assert [each.interval.estimate for each in result.estimates] == [20.0, 200.0, 2.0, 2.0]


def test_estimates_are_in_the_order_of_the_variants_not_of_the_turns() -> None:
    result = judged(made(static=1.0, floor=2.0, off=3.0))
    assert [each.variant for each in result.estimates] == ["off", "static", "floor"]
    first = result.estimate("", "off", "ns")
    assert first is not None
    samples = [each.values["ns"] for each in result.samples if each.variant == "off"]
    assert first.interval.estimate == pytest.approx(statistics.median(samples), rel=1e-5)


def test_what_was_not_measured_is_left_out() -> None:
    result = judged(made(off=2.0), pairs=[Pair("static", "off", "ns")])
    assert not result.comparisons
    assert {each.variant for each in result.estimates} == {"off"}
    assert result.estimate("", "static", "ns") is None


def test_what_is_counted_once_has_no_interval() -> None:
    samples = [
        Sample("", name, 0, 0, {"instructions": n}) for name, n in (("off", 34), ("static", 35))
    ]
    goal = Goal("more", 1, "static", "instructions", "off", Quantity.DIFFERENCE, at_least=False)
    result = judged(samples, goals=[goal], pairs=[Pair("static", "off", "instructions")])
    assert result.estimates[0].interval.low is None
    assert result.comparisons[0].verdict is Verdict.UNDECIDED
    assert (result.aims[0].value, result.aims[0].met) == (1.0, True)


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (Goal("t", 1.4, "static", "ns", "off"), 1.5, True),
        (Goal("t", 1.5, "static", "ns", "off"), 1.5, True),
        (Goal("t", 1.6, "static", "ns", "off"), 1.5, False),
        (Goal("t", 1.4, "static", "ns", "off", at_least=False), 1.5, False),
        (Goal("t", 0.02, "static", "ns", "off", Quantity.DEVIATION, at_least=False), 0.5, False),
        (Goal("t", 1.0, "off", "ns", quantity=Quantity.MEDIAN), 2.45833, True),
        (Goal("t", 1.0, "floor", "ns", "off"), None, None),
        (Goal("t", 1.0, "static", "ns", "off", settings=("elsewhere",)), None, None),
    ],
)
def test_an_aim_is_met_or_not_or_was_not_measured(
    goal: Goal, value: float | None, met: bool | None
) -> None:
    told = aim(goal)
    assert told.value == (value if value is None else pytest.approx(value, rel=1e-4))
    assert (told.text, told.met) == ("t", met)


def test_a_deviation_needs_an_interval() -> None:
    goal = Goal("t", 0.02, "static", "ns", "off", Quantity.DEVIATION, at_least=False)
    few = [each for each in made(off=2.0, static=2.0) if each.round < 3]
    assert aim(goal, few).met is None
    assert aim(goal, made(off=2.0, static=2.0)).met is True


def test_a_goal_without_settings_has_an_aim_in_each() -> None:
    samples = [Sample(s, "off", n, 0, {"ns": 2.0}) for s in ("a", "b") for n in range(6)]
    goal = Goal("t", 1.0, "off", "ns", quantity=Quantity.MEDIAN)
    assert [each.setting for each in judged(samples, goals=[goal]).aims] == ["a", "b"]


def test_the_samples_of_the_document_give_its_figures() -> None:
    """They are rounded before anything is computed, not after."""
    samples = [Sample("", "off", n, 0, {"ns": 1 / (3 + n)}) for n in range(8)]
    result = judged(samples)
    again = judged(result.samples)
    assert again.estimates == result.estimates
    assert again.samples == result.samples
    assert result.samples[0].values["ns"] == 0.333333


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (Sample("", "magic", 0, 0, {"ns": 1.0}), "unknown variant, magic"),
        (Sample("", "off", 0, 0, {"mpps": 1.0}), "unknown metric, mpps"),
        (Sample("", "off", 1, 0, {"ns": 1.0}), "two samples of round 1"),
        (Sample("", "off", 2, 0, {"ns": float("nan")}), "ns of off is nan"),
        (Sample("", "off", 2, 0, {"ns": float("inf")}), "ns of off is inf"),
    ],
)
def test_samples_that_contradict_each_other_are_refused(sample: Sample, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        judged([Sample("", "off", 1, 0, {"ns": 1.0}), sample])


def test_a_run_says_what_it_was_measured_on() -> None:
    result = judged(made(off=1.0))
    assert result.machine.kernel
    assert len(result.load_average) == 3
    assert result.build.version
    assert len(result.build.digest) == 16
    assert run().build == result.build
    assert result.started.endswith("+00:00")
    assert result.seconds >= 0
