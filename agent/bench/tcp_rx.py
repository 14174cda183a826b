# SPDX-License-Identifier: Apache-2.0
"""What it costs to receive TCP streams: ours, and what a user would have instead.

In one run, on one veth pair and the same cores, the variants (tcp_variants.py) take turns
(tcp_turn.py) in an order drawn anew for each round, so that what the machine does meanwhile hits
all of them. Settings are what changes for all of them, an MTU and a number of connections. The
first is the base: there each factor is varied alone. In the others one of the two differs, and
nothing else is varied.

Which cores a family of variants has is found out beforehand, each plan being tried the same
number of times, in turns that do not count: to choose the best of what is reported would favour
who has more to choose from.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from devmemtcp.agent.bench.copies import (
    BOUND,
    COPIES,
    CORE_BOUND,
    FOR_XDP,
    TO_UMEM,
    TO_USER,
    bounds,
)
from devmemtcp.agent.bench.machine import Noise
from devmemtcp.agent.bench.plan import CpuPlan
from devmemtcp.agent.bench.result import Goal, Metric, Pair, Result, Run, Sample, judge
from devmemtcp.agent.bench.rounds import take_turns
from devmemtcp.agent.bench.tcp_options import AIMED, TRIALS, TcpRxOptions, setting_name
from devmemtcp.agent.bench.tcp_turn import Bench, Turn
from devmemtcp.agent.bench.tcp_variants import (
    DISCARD,
    DISCARD_XDP,
    KERNEL,
    PLAIN,
    RECV,
    Variant,
    contrasts,
    ours,
    passing,
)
from devmemtcp.agent.datapath_config import RCV_WND
from devmemtcp.pyxdp import Unsupported

if TYPE_CHECKING:
    from devmemtcp.agent.bench.progress import Progress

HOPELESS = 0.85
"""Of the best plan's goodput: who has less is not tried again."""
MARGIN = 0.05
"""Of verdicts: TCP over two cores does not repeat itself better than that."""

GOODPUT = Metric("goodput_gbps", "Gb/s", "higher")
CPU = Metric("cpu_s_per_gb", "CPU s/GB", "lower")
LATENCY = tuple(Metric(f"latency_us_{name}", "us", "lower") for name in ("p50", "p99", "p99.9"))
SHARES = (
    Metric("sender_cpu", "cores", "lower", "derived"),
    Metric("receiver_cpu", "cores", "lower", "derived"),
    Metric("busiest_core", "busy", "lower", "derived"),
)
"""Who is the limit: a sender that has a whole core tells nothing about receivers."""
COPY = Metric("copy_s_per_gb", "CPU s/GB", "lower")


def run_tcp_rx(options: TcpRxOptions, progress: Progress) -> Result:
    """Measure.

    Nothing is left behind, whatever happens. Raises ConfigError for what cannot work, OSError
    when the kernel refuses. What this kernel or veth does not have is left out, and said.
    """
    options.check()
    progress.expect("tcp-rx", options.turns(), options.seconds())
    run = Run.begin(
        "tcp-rx",
        seed=options.seed,
        quick=options.quick,
        options=options.as_json(),
        pinning={
            "ours": [str(plan) for plan in options.plans],
            "kernel": [str(plan) for plan in options.kernel_plans],
        },
        veth=True,
    )
    found = [
        _Setting(options, mtu, connections, progress).measure()
        for mtu, connections in options.settings()
    ]
    chosen = options.chosen()
    return judge(
        run,
        [sample for each in found for sample in each.samples],
        metrics=(GOODPUT, CPU, *LATENCY, *SHARES, COPY),
        variants=[*(each.name for each in chosen), BOUND, CORE_BOUND, *COPIES],
        pairs=list(_pairs(chosen)),
        goals=list(_goals(options)),
        details={each.name: each.about() for each in found},
    )


@dataclass
class _Setting:
    """An MTU and a number of connections, and what was measured there."""

    options: TcpRxOptions
    mtu: int
    connections: int
    progress: Progress
    samples: list[Sample] = field(default_factory=list)
    plans: dict[str, CpuPlan] = field(default_factory=dict)
    """The chosen ones, by family."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Variants, and why."""
    congestion: str = ""

    @property
    def name(self) -> str:
        """As in the document."""
        return setting_name(self.mtu, self.connections)

    def about(self) -> dict[str, Any]:
        """What is to be known of all of its samples."""
        plans = {family: str(plan) for family, plan in self.plans.items()}
        return {"plans": plans, "left_out": self.left_out, "congestion": self.congestion}

    def measure(self) -> _Setting:
        """All rounds."""
        variants = self.options.of((self.mtu, self.connections))
        common = self.options.common
        with Bench(self.mtu, replace(common, ask_seconds=0)) as bench:
            self._choose_plans(bench, variants)
        with Bench(self.mtu, common) as bench:
            turns: dict[str, Callable[[], Turn | None]] = {
                each.name: partial(self._turn, bench, each) for each in variants
            }
            if DISCARD in turns:
                turns[TO_UMEM] = partial(self._copy, bench)
            seed = self.options.seed
            for done in take_turns(turns, self.options.rounds, seed=seed, warm_up=0):
                if done.sample:
                    self._note(done.variant, done.round, done.place, done.sample)
            self.congestion = bench.congestion
        self.samples += list(derived(self.samples, self.name))
        return self

    def _choose_plans(self, bench: Bench, variants: Sequence[Variant]) -> None:
        """The plan with the best goodput for each family, of the family's first variant."""
        first = {each.family: each for each in reversed(variants)}
        trials = {
            (family, plan): list[float]()
            for family in first
            for plan in self.options.plans_of(family)
        }
        for number in range(TRIALS):
            tried = contenders(trials)
            turns = {
                f"{family} ({plan})": partial(self._trial, bench, first[family], plan)
                for family, plan in tried
                if len(self.options.plans_of(family)) > 1
            }
            seed = self.options.seed + number
            for done in take_turns(turns, 1, seed=seed, warm_up=0) if turns else ():
                self.progress.turn(f"{self.name}, trial: {done.variant} {done.sample:.1f} Gb/s")
                (key,) = (each for each in tried if f"{each[0]} ({each[1]})" == done.variant)
                trials[key].append(done.sample)
        for family, plan in reversed(contenders(trials)):
            self.plans[family] = plan  # the best comes first

    def _trial(self, bench: Bench, variant: Variant, plan: CpuPlan) -> float:
        try:
            return bench.turn(variant, plan, self.connections).values[GOODPUT.name]
        except Unsupported:
            return 0.0  # the rounds will say so

    def _turn(self, bench: Bench, variant: Variant) -> Turn | None:
        if variant.name in self.left_out:
            return None
        try:
            return bench.turn(variant, self.plans[variant.family], self.connections)
        except Unsupported as error:
            self.left_out[variant.name] = str(error)
            self.progress.say(f"{self.name}, {variant.name} is left out: {error}")
            return None

    def _copy(self, bench: Bench) -> Turn:
        plan = self.options.kernel_plans[0]
        before = Noise.now()
        seconds = bench.copy(plan.rps, self.options.window or RCV_WND)
        return Turn({COPY.name: seconds}, {}, Noise.now() - before)

    def _note(self, variant: str, number: int, place: int, turn: Turn) -> None:
        setting = copies_of(self.name) if variant in COPIES else self.name
        self.samples.append(
            Sample(setting, variant, number, place, turn.values, turn.noise, turn.details)
        )
        if GOODPUT.name in turn.values:
            goodput = turn.values[GOODPUT.name]
            self.progress.turn(f"{self.name}, round {number + 1}: {variant} {goodput:.1f} Gb/s")


def contenders(trials: Mapping[tuple[str, CpuPlan], Sequence[float]]) -> list[tuple[str, CpuPlan]]:
    """Plans that may yet be their family's best, the best first; before any trial, all."""
    medians = {key: statistics.median(seen) if seen else 0.0 for key, seen in trials.items()}
    best: dict[str, float] = {}
    for (family, _), median in medians.items():
        best[family] = max(median, best.get(family, 0.0))
    found = [key for key in trials if medians[key] >= HOPELESS * best[key[0]]]
    return sorted(found, key=lambda key: -medians[key])


def copies_of(setting: str) -> str:
    """The setting that costs of copies are in: the metrics are others."""
    return f"copies, {setting}"


def derived(samples: Iterable[Sample], setting: str) -> Iterator[Sample]:
    """Costs of copies, and bounds, of each round that has all that they follow from.

    They have the places behind those that were measured.
    """
    rounds: dict[int, dict[str, Sample]] = {}
    for sample in samples:
        rounds.setdefault(sample.round, {})[sample.variant] = sample
    for number, seen in rounds.items():
        if not {KERNEL, RECV, DISCARD, DISCARD_XDP, TO_UMEM} <= seen.keys():
            continue
        costs = {
            TO_USER: _receiving(seen[RECV]) - _receiving(seen[DISCARD]),
            FOR_XDP: seen[DISCARD_XDP].values[CPU.name] - seen[DISCARD].values[CPU.name],
            TO_UMEM: seen[TO_UMEM].values[COPY.name],
        }
        for name in (TO_USER, FOR_XDP):
            values = {COPY.name: costs[name]}
            yield Sample(copies_of(setting), name, number, len(seen), values)
        kernel = seen[KERNEL].values
        for name, bound in bounds(kernel[GOODPUT.name], kernel[CPU.name], costs).items():
            yield Sample(setting, name, number, len(seen), {GOODPUT.name: bound})


def _receiving(sample: Sample) -> float:
    """CPU seconds of the receiving process for 10^9 bytes."""
    return sample.values["receiver_cpu"] * 8 / sample.values[GOODPUT.name]


def _pairs(variants: Sequence[Variant]) -> Iterator[Pair]:
    metrics = (GOODPUT, CPU, *LATENCY[:2])
    for variant, against in contrasts(variants):
        for metric in metrics:
            yield Pair(variant, against, metric.name, MARGIN)
    for name in {each.name: None for each in variants if each.base and each.mode == "generic"}:
        yield from (Pair(name, bound, GOODPUT.name, MARGIN) for bound in (BOUND, CORE_BOUND))


def _goals(options: TcpRxOptions) -> Iterator[Goal]:
    settings = (setting_name(*AIMED),)
    if "auto" in options.modes:
        auto, passes = ours("auto"), passing("auto")
        yield Goal(
            "automatic mode: goodput of the kernel's recv(), no XDP",
            *(1.0, auto, GOODPUT.name, KERNEL),
            settings=settings,
        )
        yield Goal(
            "automatic mode: goodput of recv() behind XDP_PASS",
            *(1.3, auto, GOODPUT.name, passes),
            settings=settings,
        )
        yield Goal(
            "automatic mode: CPU for a byte of recv() behind XDP_PASS",
            *(0.9, auto, CPU.name, passes),
            at_least=False,
            settings=settings,
        )
    if "native" in options.modes:
        yield Goal(
            "native mode: goodput of recv() without offloads, no XDP",
            *(1.2, ours("native"), GOODPUT.name, PLAIN),
            settings=settings,
        )
