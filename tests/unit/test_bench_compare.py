# SPDX-License-Identifier: Apache-2.0
"""`bench compare`: what two runs have in common, what not, and what may be said about it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from devmemtcp.agent.bench import saved
from devmemtcp.agent.bench.compare import Contrast, compare
from devmemtcp.agent.bench.result import Metric, Pair, Result, Run, Sample, judge
from devmemtcp.agent.bench.verdict import Verdict, unpaired_ratio_interval
from devmemtcp.agent.errors import ConfigError

from ..slowness import SLOWNESS

METRICS = (Metric("mpps", "Mpps", "higher"), Metric("instructions", "", "lower", "counted"))


def made(
    *,
    drop: float,
    steer: float,
    bench: str = "xdp-drop",
    seed: int = 1,
    rounds: int = 20,
    **more: float,
) -> Result:
    chance = random.Random(seed)
    variants = {"drop": drop, "steer": steer, **more}
    samples = []
    for number in range(rounds):
        busy = chance.uniform(0.9, 1.1)  # hits all of a round
        for place, (name, rate) in enumerate(variants.items()):
            value = rate * busy * chance.uniform(0.999, 1.001)
            samples.append(Sample("mtu=1500", name, number, place, {"mpps": value}))
    samples.append(Sample("mtu=1500", "drop", 0, 0, {"instructions": 10 * seed}))
    run = Run.begin(
        bench, seed=seed, quick=False, options={"rounds": rounds}, pinning={"softirq": 0}
    )
    pairs = [Pair("steer", "drop", "mpps")]
    return judge(run, samples, metrics=METRICS, variants=list(variants), pairs=pairs)


def verdicts(contrast: Contrast) -> dict[tuple[str, str], Verdict]:
    return {(each.variant, each.metric): each.verdict for each in contrast.changes}


def test_b_is_divided_by_a() -> None:
    contrast = compare(made(drop=5.0, steer=4.0), made(drop=10.0, steer=8.0, seed=2))
    rates = [each for each in contrast.changes if each.metric == "mpps"]
    assert [each.ratio.estimate for each in rates] == [pytest.approx(2, rel=0.1)] * 2
    assert {each.verdict for each in rates} == {Verdict.DIFFERS}
    assert {each.setting for each in rates} == {"mtu=1500"}
    assert rates[0].a.estimate < rates[0].b.estimate


def test_ratios_within_the_runs_do_not_see_that_one_machine_was_twice_as_fast() -> None:
    contrast = compare(made(drop=5.0, steer=4.0), made(drop=10.0, steer=8.0, seed=2))
    (ratio,) = contrast.ratios
    assert (ratio.variant, ratio.against) == ("steer", "drop")
    assert ratio.ratio.estimate == pytest.approx(1.0, abs=0.005)
    assert ratio.verdict is Verdict.WITHIN


def test_ratios_within_the_runs_see_what_changed() -> None:
    """Though the medians of the runs are too far apart, round by round, to tell."""
    contrast = compare(made(drop=5.0, steer=4.0), made(drop=5.0, steer=4.2, seed=2))
    (ratio,) = contrast.ratios
    assert ratio.ratio.estimate == pytest.approx(1.05, abs=0.005)
    assert ratio.verdict is Verdict.DIFFERS
    assert verdicts(contrast)["drop", "mpps"] is Verdict.UNDECIDED


def test_what_is_counted_has_no_noise() -> None:
    one, other = made(drop=5.0, steer=4.0), made(drop=5.0, steer=4.0, seed=2)
    assert verdicts(compare(one, other))["drop", "instructions"] is Verdict.DIFFERS
    assert verdicts(compare(one, one))["drop", "instructions"] is Verdict.WITHIN


def test_what_only_one_has_is_named() -> None:
    contrast = compare(made(drop=5.0, steer=4.0, xsk=2.0), made(drop=5.0, steer=4.0))
    assert (contrast.only_a, contrast.only_b) == (["mtu=1500 xsk"], [])
    assert {each.variant for each in contrast.changes} == {"drop", "steer"}


def test_what_has_no_ratio_is_named_and_keeps_nothing_else_from_being_compared() -> None:
    one = made(drop=5.0, steer=4.0)
    cost = replace(
        one.samples[1], values={"mpps": -0.01}
    )  # the difference of two that were measured
    odd = replace(one, samples=[one.samples[0], cost, *one.samples[2:]])
    for a, b in ((one, odd), (odd, one)):
        contrast = compare(a, b)
        assert contrast.left_out == ["mtu=1500 steer mpps"]
        assert ("drop", "mpps") in verdicts(contrast)
        assert not contrast.ratios


def test_what_else_differed_is_listed() -> None:
    one = made(drop=5.0, steer=4.0)
    other = replace(
        made(drop=5.0, steer=4.0, rounds=10),
        machine=replace(one.machine, kernel="7.0", tsc_ghz=one.machine.tsc_ghz),
        build=replace(one.build, check="off"),
        quick=True,
        load_average=one.load_average,
    )
    found = {each.what: (each.a, each.b) for each in compare(one, other).differences}
    assert found == {
        "machine kernel": (one.machine.kernel, "7.0"),
        "build check": (one.build.check, "off"),
        "option rounds": (20, 10),
        "quick": (False, True),
    }
    assert not compare(one, one).differences


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (made(drop=5.0, steer=4.0, bench="page-pool"), "two benchmarks, xdp-drop and page-pool"),
        (replace(made(drop=5.0, steer=4.0), samples=[]), "no variant in common"),
    ],
)
def test_two_benchmarks_are_not_compared(other: Result, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compare(made(drop=5.0, steer=4.0), other)


def test_the_interval_of_two_medians_is_as_wide_as_both() -> None:
    chance = random.Random(3)
    one = [chance.gauss(10, 1) for _ in range(40)]
    assert unpaired_ratio_interval(one, one, seed=1).estimate == 1.0
    held = 0
    for seed in range(200):
        above = [chance.gauss(12, 1) for _ in range(15)]
        below = [chance.gauss(10, 1) for _ in range(30)]
        interval = unpaired_ratio_interval(above, below, seed=seed, resamples=400)
        assert interval.low is not None
        assert interval.high is not None
        held += interval.low <= 1.2 <= interval.high
    assert held >= 180  # of 200 at 95 %, fewer than 181 in one case of a thousand
    assert unpaired_ratio_interval(one[:5], one, seed=1).low is None
    with pytest.raises(ValueError, match="above zero"):
        unpaired_ratio_interval([0.0], one, seed=1)
    with pytest.raises(ValueError, match="no samples"):
        unpaired_ratio_interval([], one, seed=1)


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "devmemtcp.agent.cli", "bench", "compare"]
    return subprocess.run(
        [*command, *map(str, args)], capture_output=True, text=True, timeout=60 * SLOWNESS
    )


def test_the_command_says_it_and_says_that_the_runs_were_not_interleaved(tmp_path: Path) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    saved.write(made(drop=5.0, steer=4.0), a)
    saved.write(made(drop=9.0, steer=7.2, rounds=10, seed=2), b)
    done = run(a, b)
    assert done.returncode == 0, done.stderr
    for said in ("not interleaved", "differs: better", "within the noise", "option rounds"):
        assert said in done.stdout
    document = json.loads(run(a, b, "--margin", "0.9", "--json").stdout)
    assert (document["ok"], document["exit_code"], document["margin"]) == (True, 0, 0.9)
    (ratio,) = document["ratios"]
    assert (ratio["better"], ratio["verdict"]) == ("higher", "within the noise")


def test_a_margin_that_is_none_gets_one_line(tmp_path: Path) -> None:
    saved.write(made(drop=5.0, steer=4.0), tmp_path / "a.json")
    done = run(tmp_path / "a.json", tmp_path / "a.json", "--margin", "2")
    assert done.returncode == 2
    assert "--margin 2" in done.stderr
