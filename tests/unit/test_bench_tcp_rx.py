# SPDX-License-Identifier: Apache-2.0
"""What `bench tcp-rx` computes from what it has seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devmemtcp.agent.bench.conditions import CpuTimes
from devmemtcp.agent.bench.copies import BOUND, CORE_BOUND, bounds
from devmemtcp.agent.bench.cores import CoreClocks
from devmemtcp.agent.bench.latency import STEPS, histogram, percentile, percentiles
from devmemtcp.agent.bench.machine import Noise
from devmemtcp.agent.bench.plan import CpuPlan
from devmemtcp.agent.bench.result import Sample
from devmemtcp.agent.bench.tcp_options import TcpRxOptions
from devmemtcp.agent.bench.tcp_rx import contenders, copies_of, derived
from devmemtcp.agent.bench.tcp_turn import _evaluated, _Seen, _Turned
from devmemtcp.agent.bench.tcp_variants import Factors, catalogue, contrasts
from devmemtcp.agent.errors import ConfigError

USUAL = TcpRxOptions.usual(quick=False, seed=1)
QUICK = TcpRxOptions.usual(quick=True, seed=1)

# ---- cores ----

STAT = """cpu  9 9 9 9 9 9 9 9 0 0
cpu0 100 0 50 {idle0} {iowait0} 0 10 {steal0} 0 0
cpu1 100 0 50 {idle1} 0 0 10 0 0 0
intr 5 0
"""


def clocks(at: float, idle0: int, idle1: int, iowait0: int = 0, steal0: int = 0) -> CoreClocks:
    text = STAT.format(idle0=idle0, idle1=idle1, iowait0=iowait0, steal0=steal0)
    return CoreClocks.parse(at, text, [0, 1])


def test_busy_is_what_is_neither_idle_nor_stolen() -> None:
    before = clocks(10.0, 1000, 1000, iowait0=5, steal0=7)
    after = clocks(12.0, 1080, 1200, iowait0=25, steal0=27)
    assert after.busy_since(before) == pytest.approx({0: 0.4, 1: 0.0})


def test_a_share_is_never_beyond_its_ends() -> None:
    before = clocks(10.0, 1000, 1000)
    assert clocks(11.0, 1101, 999).busy_since(before) == {0: 0.0, 1: 1.0}


def test_a_core_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        CoreClocks.parse(0.0, STAT.format(idle0=1, idle1=1, iowait0=0, steal0=0), [2])


# ---- latency ----


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 50), (0.99, 99), (0.999, 100), (0.0, 1), (1.0, 100)]
)
def test_percentiles_are_values_that_were_seen(share: float, value: int) -> None:
    assert percentile(range(1, 101), share) == value


def test_a_percentile_that_too_few_values_have_passed_is_left_out() -> None:
    assert percentiles([3.0, 1.0, 2.0]) == {"p50": 2.0}
    assert percentiles(range(199)).keys() == {"p50"}
    assert percentiles(range(200)) == {"p50": 99, "p99": 197}
    assert percentiles(range(2000)) == {"p50": 999, "p99": 1979, "p99.9": 1997}


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentiles([])


def test_a_histogram_has_every_value_in_a_bucket_that_is_hardly_larger() -> None:
    values = [0.7, 1.0, 1.01, 12.3, 12.31, 900.0]
    buckets = histogram(values)
    assert [count for _, count in buckets] == [1, 1, 1, 2, 1]
    numbers = [number for number, count in buckets for _ in range(count)]
    for value, number in zip(values, numbers, strict=True):
        assert 2 ** ((number - 1) / STEPS) < value <= 2 ** (number / STEPS)


# ---- copies ----


COSTS = {"copy-to-user": 0.05, "copy-for-xdp": 0.15, "copy-to-umem": 0.03}


def test_bounds_put_our_copies_in_the_place_of_the_kernels() -> None:
    found = bounds(50.0, 0.25, COSTS)
    assert found[BOUND] == pytest.approx(50.0 * 0.25 / (0.2 + 0.15 + 0.03))
    assert found[CORE_BOUND] == pytest.approx(8 / 0.18)


def test_a_bound_that_noise_has_swallowed_is_left_out() -> None:
    assert bounds(50.0, 0.25, COSTS | {"copy-for-xdp": -0.04}).keys() == {BOUND}
    assert bounds(50.0, 0.05, COSTS | {"copy-for-xdp": -0.04}) == {}


def sample(variant: str, number: int, **values: float) -> Sample:
    return Sample("here", variant, number, 0, values)


def round_of(number: int) -> list[Sample]:
    return [
        sample("kernel", number, goodput_gbps=50.0, cpu_s_per_gb=0.25),
        sample("copies/recv", number, goodput_gbps=80.0, cpu_s_per_gb=0.3, receiver_cpu=0.9),
        sample("copies/discard", number, goodput_gbps=40.0, cpu_s_per_gb=0.2, receiver_cpu=0.2),
        sample("copies/discard-xdp", number, goodput_gbps=30.0, cpu_s_per_gb=0.35),
        sample("copy-to-umem", number, copy_s_per_gb=0.03),
    ]


def test_copies_cost_what_variants_differ_by() -> None:
    found = {each.variant: each.values for each in derived(round_of(3), "here")}
    assert found["copy-to-user"]["copy_s_per_gb"] == pytest.approx(COSTS["copy-to-user"])
    assert found["copy-for-xdp"]["copy_s_per_gb"] == pytest.approx(COSTS["copy-for-xdp"])
    assert found[BOUND]["goodput_gbps"] == pytest.approx(bounds(50.0, 0.25, COSTS)[BOUND])


def test_what_follows_from_a_round_follows_from_a_whole_one() -> None:
    found = list(derived([*round_of(0), *round_of(1)[:-1]], "here"))
    assert {each.round for each in found} == {0}
    assert {(each.setting, each.variant) for each in found} == {
        (copies_of("here"), "copy-to-user"),
        (copies_of("here"), "copy-for-xdp"),
        ("here", BOUND),
        ("here", CORE_BOUND),
    }


# ---- a turn ----


def seen(at: float, idle: tuple[float, float], **processes: float) -> _Seen:
    cores = CoreClocks(at, dict(enumerate(idle)), {0: 0.0, 1: 0.0})
    accounts = CpuTimes(at, tasks=at, steal=0.0, own=at)
    return _Seen(cores, accounts, processes, Noise(0.0, 0, 0))


def turned(size: int) -> _Turned:
    return _Turned(
        before=seen(10.0, (3.0, 4.0), sender=1.0, app=2.0, stack=3.0),
        after=seen(10.5, (3.0, 4.2), sender=1.2, app=2.05, stack=3.15),
        received={"bytes": size, "seconds": 0.5, "sleeps": 123_456, "drops": 0, "batches": 5},
        sent={"bytes": 2 * size, "mss": 1448, "retransmits": 3, "acks": 8_000},
        asked={"latency": {"p50": 20.0}, "asked": 9, "histogram": [[3, 9]]},
    )


def test_goodput_and_cpu_are_of_the_same_window() -> None:
    turn = _evaluated(turned(4_000_000_000), {"plan": "none"})
    assert turn.values == pytest.approx(
        {
            "goodput_gbps": 64.0,
            "cpu_s_per_gb": (1.0 + 0.6) / 8,
            "latency_us_p50": 20.0,
            "sender_cpu": 0.4,
            "receiver_cpu": 0.4,
            "busiest_core": 1.0,
        }
    )
    assert turn.details["plan"] == "none"
    assert turn.details["acks_per_gb"] == 1000
    assert turn.details["per_gb"] == {"sleeps": 30900, "batches": 1.25}
    assert turn.details["processes"] == {"sender": 0.4, "app": 0.1, "stack": 0.3}
    assert turn.details["cores_busy"] == {"0": 1.0, "1": 0.6}


def test_a_turn_in_which_nothing_came_has_no_values() -> None:
    assert _evaluated(turned(0), {}).values == {}


# ---- variants and settings ----


def test_names_are_distinct_and_differ_from_their_family_by_one_thing() -> None:
    variants = USUAL.chosen()
    names = {each.name: each for each in variants}
    assert len(names) == len(variants)
    for each in variants:
        if each.family == "copies":
            continue
        base = names[each.family]
        differing = [name for name in vars(base) if getattr(base, name) != getattr(each, name)]
        if not each.base:
            differing.remove("name")
        if each.host:  # two things: there is no device memory in a build without the check
            differing.remove("check")
        assert len(differing) == (not each.base), each.name


def test_what_is_held_against_what() -> None:
    variants = catalogue(Factors(("auto", "native"), "plain", ("off", "plain", "static"), (8,)))
    held = set(contrasts(variants))
    for mode in ("generic", "native"):
        ours = f"devmem-{mode}"
        assert {against for name, against in held if name == ours} == {
            "kernel",
            "kernel-plain",
            f"kernel-pass-{mode}",
        }
        assert (f"{ours}/device-static", ours) in held
        assert (f"{ours}/host-static", f"{ours}/host-off") in held
        assert (f"{ours}/host-off", ours) in held
        assert (f"{ours}/ack-8", ours) in held
    assert not any("device-off" in name or "device-plain" in name for name, _ in held)


def test_one_factor_at_a_time() -> None:
    assert USUAL.settings() == [(1500, 1), (9000, 1), (65535, 1), (1500, 16)]
    assert len(USUAL.of((1500, 1))) > 25
    for setting in USUAL.settings()[1:]:
        assert all(each.base for each in USUAL.of(setting))


def test_a_quick_run_is_short_and_has_all_that_aims_and_bound_need() -> None:
    assert QUICK.seconds() < 165
    assert {each.name for each in QUICK.chosen()} >= {
        *(
            "devmem-generic",
            "devmem-native",
            "kernel",
            "copies/recv",
            "copies/discard",
            "copies/discard-xdp",
        ),
        *("kernel-pass-generic", "kernel-pass-native", "devmem-generic/host-off"),
        *("devmem-generic/host-plain", "devmem-generic/host-static"),
    }


def test_variants_are_chosen_by_pattern() -> None:
    options = replace(USUAL, variants=("kernel-pass-*", "copies/d*"))
    names = ["kernel-pass-generic", "kernel-pass-native", "copies/discard", "copies/discard-xdp"]
    assert [each.name for each in options.chosen()] == names
    with pytest.raises(ConfigError, match="--variant x"):
        replace(USUAL, variants=("kernel", "x")).check()


def test_a_plan_without_hope_is_not_tried_again() -> None:
    one, other, third = CpuPlan(), CpuPlan(sender=0), CpuPlan(sender=0, app=0)
    trials: dict[tuple[str, CpuPlan], list[float]] = {
        ("kernel", one): [],
        ("kernel", other): [],
        ("kernel", third): [],
        ("devmem", one): [],
    }
    assert len(contenders(trials)) == 4
    for key, goodput in zip(trials, (80.0, 90.0, 70.0, 9.0), strict=True):
        trials[key].append(goodput)
    assert contenders(trials) == [("kernel", other), ("kernel", one), ("devmem", one)]
    trials["kernel", one] += [99.0, 98.0]
    trials["kernel", other] += [91.0, 20.0]
    assert contenders(trials)[0] == ("kernel", one)
