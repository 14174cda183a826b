# SPDX-License-Identifier: Apache-2.0
"""What grows is told from what is merely noisy, and a soak fails for it."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from devmemtcp.agent.bench.soak import Sample, SoakReport, judge
from devmemtcp.agent.bench.trend import BLOCKS, Direction, trend

MIB = 1 << 20
COUNT = 240
REGION = 64 << 20


def noise(seed: int, memory: float = 0.0) -> Callable[[], float]:
    """Normal noise; with `memory`, of which that share stays until the next sample."""
    chance, state = random.Random(seed), [0.0]

    def next_one() -> float:
        state[0] = memory * state[0] + chance.gauss(0, 1)
        return state[0]

    return next_one


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("slope", [0.0, 0.2, 5.0, -5.0])
def test_the_interval_holds_the_truth_and_the_verdict_follows(seed: int, slope: float) -> None:
    """In units of the noise, over the whole span."""
    shake = noise(seed)
    at = [float(n) for n in range(COUNT)]
    found = trend(at, [50 + slope * n / (COUNT - 1) + shake() for n in range(COUNT)], 2.0)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.growth <= found.high
    assert found.growth == pytest.approx(slope, abs=1.5)
    assert found.direction is {5.0: Direction.GROWS, -5.0: Direction.UNDECIDED}.get(
        slope, Direction.FLAT
    )


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Also where each sample resembles the one before: 95 %, and some more or less by chance."""
    held = 0
    for seed in range(200):
        shake = noise(seed, memory=0.3)
        found = trend(range(COUNT), [shake() for _ in range(COUNT)], 1.0)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0 <= found.high
    assert held >= 170


def test_outliers_do_not_move_it() -> None:
    values = [10.0] * COUNT
    for n in range(COUNT - 20, COUNT, 4):
        values[n] = 10_000.0
    found = trend(range(COUNT), values, 1.0)
    assert (found.growth, found.direction) == (0.0, Direction.FLAT)


def test_noise_that_hides_what_it_is_to_show_is_no_proof() -> None:
    shake = noise(1)
    found = trend(range(COUNT), [100 * shake() for _ in range(COUNT)], 1.0)
    assert found.direction is Direction.UNDECIDED


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_too_few_samples_are_no_trend(count: int) -> None:
    found = trend(range(count), [5.0 * n for n in range(count)], 1.0)
    assert (found.low, found.direction) == (None, Direction.UNDECIDED)


def test_what_was_sampled_seldom_is_not_put_into_blocks() -> None:
    found = trend(range(BLOCKS - 1), [2.0 * n for n in range(BLOCKS - 1)], 1.0)
    assert found.growth == pytest.approx(2.0 * (BLOCKS - 2))


# ---- the verdict of a soak ----


def soaked(seconds: float, **levels: Callable[[float], float]) -> SoakReport:
    """The report of a soak whose levels are these functions of the time, from 0 to 1."""
    usual = {
        "resident": 100 * MIB,
        "private": 40 * MIB,
        "descriptors": 55,
        "buffers_away": 100,
        "tokens": 90,
        "flows": 16,
    }
    samples = []
    for n in range(COUNT):
        at = n / (COUNT - 1)
        values = {name: levels[name](at) if name in levels else usual[name] for name in usual}
        samples.append(Sample(at * seconds, **{k: int(v) for k, v in values.items()}))
    report = SoakReport(
        seconds=seconds,
        connections=1000,
        region_size=REGION,
        resident_peak=120 * MIB,
        resident_allowed=200 * MIB,
        samples=samples,
        at_end=Sample(seconds, 100 * MIB, 40 * MIB, 55, 0, 0, 0),
    )
    judge(report)
    return report


def test_a_level_soak_passes() -> None:
    report = soaked(600.0)
    assert report.failures == []
    assert set(report.verdicts.values()) == {"flat"}


def test_what_is_touched_once_in_the_first_half_is_no_leak() -> None:
    assert soaked(600.0, private=lambda at: 40 * MIB * min(1, 4 * at)).failures == []


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("private", lambda at: 40 * MIB + 3 * MIB * at),
        ("descriptors", lambda at: 55 + 20 * at),
        ("buffers_away", lambda at: 100 + 1000 * at),
        ("tokens", lambda at: 90 + 1000 * at),
    ],
)
def test_a_soak_fails_for_each_level_that_grows(name: str, level: Callable[[float], float]) -> None:
    for seconds in (60.0, 600.0):
        (failure,) = soaked(seconds, **{name: level}).failures
        assert failure.startswith(f"{name} grows: +")
    assert soaked(59.0, **{name: level}).failures == []  # all of it is warm-up


def test_a_long_soak_must_prove_it() -> None:
    shake = noise(3)
    level = {"private": lambda at: 40 * MIB + 20 * MIB * shake()}
    (failure,) = soaked(600.0, **level).failures
    assert failure.startswith("private undecided: ")
    assert soaked(300.0, **level).failures == []


def test_a_soak_fails_for_what_did_not_come_back() -> None:
    report = soaked(600.0)
    report.at_end = Sample(600.0, 100 * MIB, 40 * MIB, 55, 3, 2, 0)
    report.resident_peak = report.resident_allowed + 1
    report.wrong_bytes = 5
    report.connections = 0
    report.failures.clear()
    judge(report)
    assert [failure.split()[0] for failure in report.failures] == ["209715201", "5", "2", "no"]
