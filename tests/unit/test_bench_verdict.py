# SPDX-License-Identifier: Apache-2.0
"""Intervals hold the truth as often as they say, and a verdict is given only for good reason."""

from __future__ import annotations

import itertools
import math
import os
import random
import statistics
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devmemtcp.agent.bench.machine import Machine, Noise
from devmemtcp.agent.bench.rounds import Turn, allowed, by_variant, pinned, take_turns
from devmemtcp.agent.bench.verdict import (
    MIN_SAMPLES,
    Interval,
    Verdict,
    _student_quantile,
    median_interval,
    ratio_interval,
)
from devmemtcp.agent.errors import ConfigError

Draw = Callable[[random.Random], float]

# (how to draw one, the median)
DISTRIBUTIONS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda r: r.gauss(10, 1), 10.0),
    "exponential": (lambda r: r.expovariate(1.0), math.log(2)),
    "cauchy": (lambda r: math.tan(math.pi * (r.random() - 0.5)), 0.0),  # has no mean at all
    "lognormal": (lambda r: r.lognormvariate(0, 0.5), 1.0),
}


def ends(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


def width(interval: Interval) -> float:
    low, high = ends(interval)
    return high - low


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("size", [7, 15, 30])
def test_the_interval_holds_the_median_95_times_in_100(name: str, size: int) -> None:
    draw, median = DISTRIBUTIONS[name]
    chance = random.Random(f"{name}{size}")
    trials = 300
    held = 0
    for seed in range(trials):
        samples = [draw(chance) for _ in range(size)]
        interval = median_interval(samples, seed=seed, resamples=400)
        low, high = ends(interval)
        held += low <= median <= high
    # Of 300 trials at 95 %, fewer than 273 hold in one case of a thousand.
    assert held >= 273


def test_the_plain_bootstrap_would_be_too_narrow_for_few_samples() -> None:
    """Why the tails are expanded: without that, seven samples give an interval of 5 of them."""
    samples = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    interval = median_interval(samples, seed=1)
    assert (interval.low, interval.high) == (1.0, 7.0)


@pytest.mark.parametrize(
    ("degrees", "known"), [(5, -2.5706), (9, -2.2622), (30, -2.0423), (1000, -1.9623)]
)
def test_student_quantile_is_that_of_the_tables(degrees: int, known: float) -> None:
    assert _student_quantile(0.025, degrees) == pytest.approx(known, rel=2e-3)


def test_more_samples_make_the_interval_narrower() -> None:
    chance = random.Random(5)
    widths = []
    for size in (10, 100, 1000):
        samples = [chance.gauss(0, 1) for _ in range(size)]
        interval = median_interval(samples, seed=1, resamples=500)
        widths.append(width(interval))
    assert widths == sorted(widths, reverse=True)
    # The standard error of a median of n normal samples is 1.2533 / sqrt(n).
    assert widths[2] == pytest.approx(2 * 1.96 * 1.2533 / math.sqrt(1000), rel=0.35)


values = st.floats(min_value=0.001, max_value=1e6)


@given(samples=st.lists(values, min_size=MIN_SAMPLES, max_size=40), seed=st.integers(0, 2**32))
def test_the_interval_is_about_the_median_and_within_the_samples(
    samples: list[float], seed: int
) -> None:
    interval = median_interval(samples, seed=seed, resamples=200)
    assert interval.estimate == statistics.median(samples)
    low, high = ends(interval)
    assert min(samples) <= low <= high <= max(samples)
    assert interval == median_interval(samples, seed=seed, resamples=200)


@given(
    pairs=st.lists(st.tuples(values, values), min_size=MIN_SAMPLES, max_size=20),
    factor=st.floats(min_value=0.01, max_value=100),
)
def test_a_ratio_scales_and_inverts(pairs: list[tuple[float, float]], factor: float) -> None:
    a, b = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    plain = ratio_interval(a, b, seed=1, resamples=100)
    scaled = ratio_interval([factor * value for value in a], b, seed=1, resamples=100)
    assert scaled.estimate == pytest.approx(factor * plain.estimate)
    assert ends(scaled)[0] == pytest.approx(factor * ends(plain)[0])
    assert ratio_interval(b, a, seed=1, resamples=100).estimate == pytest.approx(1 / plain.estimate)


def test_what_slows_a_whole_round_down_cancels_out() -> None:
    chance = random.Random(3)
    weather = [chance.choice([1.0, 5.0]) for _ in range(20)]
    ours = [w * chance.gauss(1, 0.001) for w in weather]
    theirs = [w * chance.gauss(1, 0.001) for w in weather]
    interval = ratio_interval(ours, theirs, seed=1)
    assert width(interval) < 0.01
    assert interval.judge(0.02) is Verdict.WITHIN


def verdict_of(effect: float, noise: float, *, seed: int, rounds: int = 30) -> Verdict:
    chance = random.Random(seed)
    a = [chance.lognormvariate(math.log(effect), noise) for _ in range(rounds)]
    b = [chance.lognormvariate(0, noise) for _ in range(rounds)]
    return ratio_interval(a, b, seed=seed, resamples=300).judge(0.02)


def test_equal_variants_are_found_equal_if_the_measurement_is_good_enough() -> None:
    assert {verdict_of(1.0, 0.005, seed=seed) for seed in range(30)} == {Verdict.WITHIN}


def test_a_noisy_measurement_decides_nothing() -> None:
    """Where a test for a difference would say "none found", as if that were an answer."""
    verdicts = [verdict_of(1.0, 0.3, seed=seed) for seed in range(100)]
    assert Verdict.WITHIN not in verdicts
    assert verdicts.count(Verdict.DIFFERS) <= 12  # 5 expected at most, for there is none


def test_a_difference_is_seen() -> None:
    assert {verdict_of(1.05, 0.01, seed=seed) for seed in range(30)} == {Verdict.DIFFERS}
    assert {verdict_of(0.95, 0.01, seed=seed) for seed in range(30)} == {Verdict.DIFFERS}


def test_a_difference_of_the_margin_passes_for_equal_at_most_one_time_in_forty() -> None:
    wrong = sum(verdict_of(1.02, 0.02, seed=seed) is Verdict.WITHIN for seed in range(400))
    assert wrong <= 20  # 10 expected; more than 20 in one case of a thousand


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.98, 1.02, Verdict.WITHIN),
        (1.005, 1.015, Verdict.WITHIN),  # a difference, but smaller than what matters
        (0.979, 1.0, Verdict.UNDECIDED),
        (1.0, 1.021, Verdict.UNDECIDED),
        (0.9, 1.1, Verdict.UNDECIDED),
        (1.021, 1.5, Verdict.DIFFERS),
        (0.5, 0.979, Verdict.DIFFERS),
        (None, None, Verdict.UNDECIDED),
    ],
)
def test_verdicts(low: float | None, high: float | None, verdict: Verdict) -> None:
    assert Interval(1.0, low, high).judge(0.02) is verdict


def test_too_few_samples_have_a_median_and_no_interval() -> None:
    interval = median_interval([1.0] * (MIN_SAMPLES - 1), seed=1)
    assert interval.estimate == 1.0
    assert (interval.low, interval.high) == (None, None)
    assert interval.judge(0.5) is Verdict.UNDECIDED
    # What MIN_SAMPLES is for: the range of n samples misses the median with 2 / 2^n.
    assert 2 / 2 ** (MIN_SAMPLES - 1) > 0.05 > 2 / 2**MIN_SAMPLES


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: median_interval([], seed=1),
        lambda: median_interval([1.0], seed=1, level=1.0),
        lambda: ratio_interval([1.0], [1.0, 2.0], seed=1),
        lambda: ratio_interval([1.0], [0.0], seed=1),
        lambda: ratio_interval([-1.0], [1.0], seed=1),
        lambda: ratio_interval([math.nan], [1.0], seed=1),
        lambda: Interval(1, 1, 1).judge(0),
        lambda: list(take_turns({}, 1, seed=1)),
        lambda: list(take_turns({"a": lambda: 1}, 0, seed=1)),
    ],
)
def test_nonsense_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        wrong()


# ---- rounds ----


def test_every_round_has_every_variant_and_the_first_is_not_counted() -> None:
    serial = itertools.count()
    variants = {name: lambda: next(serial) for name in "abcd"}
    turns = list(take_turns(variants, 10, seed=1, warm_up=2))
    assert [turn.sample for turn in turns] == list(range(8, 48))
    for number in range(10):
        mine = [turn for turn in turns if turn.round == number]
        assert sorted(turn.variant for turn in mine) == list("abcd")
        assert [turn.place for turn in mine] == [0, 1, 2, 3]
    orders = {tuple(turn.variant for turn in turns if turn.round == number) for number in range(10)}
    assert len(orders) > 1


def test_no_variant_is_always_behind_the_same_one() -> None:
    turns = list(take_turns({"a": int, "b": int, "c": int}, 200, seed=1))
    first = [turn.variant for turn in turns if turn.place == 0]
    assert all(40 <= first.count(name) <= 95 for name in "abc")  # 67 expected, 4 sigma


def test_the_seed_is_the_order() -> None:
    def order(seed: int) -> list[str]:
        return [t.variant for t in take_turns({"a": int, "b": int}, 20, seed=seed)]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_samples_are_paired_by_round() -> None:
    turns = [Turn("b", 1, 0, 4), Turn("a", 1, 1, 3), Turn("a", 0, 0, 1), Turn("b", 0, 1, 2)]
    assert by_variant(turns) == {"a": [1, 3], "b": [2, 4]}


def test_pinned_is_on_one_core_and_back_afterwards() -> None:
    before = os.sched_getaffinity(0)
    with pinned(max(before)):
        assert os.sched_getaffinity(0) == {max(before)}
    assert os.sched_getaffinity(0) == before
    with pytest.raises(ConfigError, match="core 4711"), pinned(4711):
        pass


# ---- the machine ----


def test_the_machine_is_described() -> None:
    machine = Machine.look()
    assert machine.kernel == os.uname().release
    assert set(machine.cores) == os.sched_getaffinity(0)
    assert machine.kernel in str(machine)


def test_noise_is_what_happened_in_between() -> None:
    before = Noise.now()
    usable = sorted(os.sched_getaffinity(0))
    for _ in range(3):
        for cpu in usable:
            with pinned(cpu):
                pass
    noise = Noise.now() - before
    assert noise.steal_ms >= 0
    if noise.migrations is not None and len(usable) > 1:
        assert noise.migrations >= 3


def test_a_quick_measurement_ends_in_time_but_not_before_there_is_an_interval() -> None:
    turns = list(take_turns({"a": lambda: 1, "b": lambda: 2}, 100, seed=1, seconds=0.0))
    assert [turn.round for turn in turns] == [number for number in range(6) for _ in "ab"]
    assert len(list(take_turns({"a": lambda: 1}, 100, seed=1))) == 100
    assert allowed(10.0, quick=True) == 25.0
    assert allowed(10.0, quick=False) == math.inf
