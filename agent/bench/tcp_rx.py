# SPDX-License-Identifier: Apache-2.0
"""What it costs to receive one TCP stream: ours, and what a user would have instead.

In one run, on one veth pair and the same cores, the variants take turns in an order
drawn anew for each round, so that what the machine does meanwhile hits all of them:

    devmem            ours: payload in the device region, fragments to the application
    kernel            (a) recv(), with the offloads that the veth has
    kernel-plain      (b) recv(), without segmentation offloads on both ends
    kernel-plain-sum  recv(), without these and with checksums made and verified
    kernel-pass       (c) recv(), with an XDP program that passes everything on, attached as ours is

A turn is one new connection: warm-up, then a window in which goodput is taken, then
one in which the soaker (soaker.c) runs beside it and takes what CPU is left. Each
variant has a turn with each of its CPU plans, and the best one counts. Ratios are made
within rounds; what is reported of them is the median.
"""

from __future__ import annotations

import errno
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from devmemtcp.agent.bench import conditions
from devmemtcp.agent.bench.conditions import CpuTimes
from devmemtcp.agent.bench.plan import CpuPlan
from devmemtcp.agent.bench.soaker import Sample, Soaker, busy, rates
from devmemtcp.agent.bench.worker import PORT, Worker
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.lab import Lab, check_mtu
from devmemtcp.agent.region import check_size
from devmemtcp.agent.runtime import Mode, RxCsum

OURS = "devmem"
WARM_UP_SECONDS = 0.4
TURN_ATTEMPTS = 5
SETTLE_SECONDS = 0.05
"""Between the order to run and the soaker's first count."""
OVERHEAD_SECONDS = 1.2
"""Of a turn, besides its windows: set-up, warm-up, calibration; roughly."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """A way to receive."""

    name: str
    segmentation: bool = True
    """TSO, GSO and GRO as the veth has them; else off, on both ends."""
    tx_checksum: bool = True
    """Checksums left unfinished, as over a veth nothing can damage them."""
    xdp_pass: bool = False


VARIANTS = (
    Variant(OURS),
    Variant("kernel"),
    Variant("kernel-plain", segmentation=False),
    Variant("kernel-plain-sum", segmentation=False, tx_checksum=False),
    Variant("kernel-pass", xdp_pass=True),
)


@dataclass(frozen=True)
class TcpRxOptions:
    """What was asked for on the command line."""

    mtus: tuple[int, ...]
    modes: tuple[Mode, ...]
    duration: float
    """Seconds of each of a turn's two windows."""
    rounds: int
    plans: tuple[CpuPlan, ...]
    """For ours; each is measured, and the one with the best goodput counts."""
    kernel_plans: tuple[CpuPlan, ...]
    """The same for the kernel's variants."""
    region_size: int
    rx_csum: RxCsum
    window: int
    """Largest receive window, in bytes."""
    spin_us: int
    busy_poll: bool
    copy: bool
    variants: tuple[str, ...]
    seed: int

    def check(self) -> None:
        """Raise ConfigError for what cannot work, as far as it shows in the values."""
        if self.rounds < 1:
            raise ConfigError(f"--rounds {self.rounds}: at least 1 is needed")
        if not 0.05 <= self.duration <= 60:
            raise ConfigError(f"--duration {self.duration}: 0.05 to 60 seconds")
        unknown = set(self.variants) - {each.name for each in VARIANTS}
        if unknown:
            known = ", ".join(each.name for each in VARIANTS)
            raise ConfigError(f"--variant {sorted(unknown)[0]} is unknown; there are {known}")
        for mtu in self.mtus:
            check_mtu(mtu)
        check_size(self.region_size)

    def contestants(self) -> list[tuple[Variant, CpuPlan]]:
        """Who has a turn in each round."""
        return [
            (variant, plan)
            for variant in VARIANTS
            if variant.name in self.variants
            for plan in (self.plans if variant.name == OURS else self.kernel_plans)
        ]

    def seconds(self) -> float:
        """About how long it will take."""
        turns = len(self.mtus) * len(self.modes) * self.rounds * len(self.contestants())
        return turns * (2 * self.duration + OVERHEAD_SECONDS)


@dataclass
class Turn:
    """One variant, measured once."""

    variant: str
    plan: str
    round: int
    goodput_gbps: float
    """10^9 bits of payload a second, nothing else running that could be kept away."""
    goodput_soaked_gbps: float
    """The same in the second window, with the soaker beside it."""
    soaker_rates: list[float]
    """Units a second that the soaker was left with on each core, in the second window."""
    idle_rates: list[float]
    """The same around the turn, with nothing running: the better of before and after."""
    foreign_cores: float
    """Cores that processes outside the measurement had, in both windows."""
    stolen_cores: float
    """Cores that the hypervisor took, in both windows."""
    mss: int
    retransmits: int
    offloads: dict[str, bool]
    """Of the sending end."""
    details: dict[str, Any] = field(default_factory=dict)
    """What our loop counted; drops."""
    busy_cores: float = 0.0
    """By the soaker's best rates of the whole run, so known only after it."""
    cpu_seconds_per_gb: float = 0.0
    """Seconds of a core for 10^9 bytes, sender included."""

    def account(self, idle_rates: Sequence[float]) -> None:
        """Set the two above, by what each core does when nothing else runs."""
        self.busy_cores = busy(self.soaker_rates, idle_rates)
        self.cpu_seconds_per_gb = self.busy_cores * 8 / self.goodput_soaked_gbps


@dataclass
class Spread:
    """Median and extremes over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """At least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Row:
    """One variant over all rounds; the last two are ours divided by this one's, round by round."""

    variant: str
    plan: str
    """The best one."""
    goodput_gbps: Spread
    cpu_seconds_per_gb: Spread
    cycles_per_byte: float | None
    """Of the time stamp counter, by the median."""
    foreign_cores: Spread
    stolen_cores: Spread
    goodput_ratio: Spread | None
    cpu_ratio: Spread | None


@dataclass
class Setting:
    """All variants at one MTU and in one mode."""

    mtu: int
    asked_mode: str
    mode: str
    """As attached."""
    rows: list[Row]
    turns: list[Turn]


@dataclass
class TcpRxReport:
    """`asdict()` of it is the JSON document."""

    ok: bool
    kernel: str
    cpu: str
    cores: int
    tsc_ghz: float
    congestion: str
    region_size: int
    rx_csum: str
    window: int
    spin_us: int
    busy_poll: bool
    copy: bool
    duration: float
    rounds: int
    seed: int
    seconds: float
    settings: list[Setting]


def run_tcp_rx(options: TcpRxOptions, say: Say) -> TcpRxReport:
    """Measure; `say` is called with a line for each turn.

    Nothing is left behind, whatever happens. Raises ConfigError for what cannot work, OSError
    when the kernel refuses, Unsupported for a mode that the veth does not have.
    """
    options.check()
    say(f"this takes about {options.seconds():.0f} s")
    start = time.monotonic()
    settings: list[Setting] = []
    congestion = ""
    with Soaker(sorted(os.sched_getaffinity(0))) as soaker:
        for mtu in options.mtus:
            with Bench(options, mtu, soaker) as bench:
                for mode in options.modes:
                    settings.append(bench.measure(mode, say))
                congestion = bench.congestion
    return TcpRxReport(
        ok=True,
        kernel=os.uname().release,
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        tsc_ghz=conditions.tsc_hz() / 1e9,
        congestion=congestion,
        region_size=options.region_size,
        rx_csum=options.rx_csum,
        window=options.window,
        spin_us=options.spin_us,
        busy_poll=options.busy_poll,
        copy=options.copy,
        duration=options.duration,
        rounds=options.rounds,
        seed=options.seed,
        seconds=time.monotonic() - start,
        settings=settings,
    )


def _cpu_model() -> str:
    with open("/proc/cpuinfo") as cpuinfo:
        for line in cpuinfo:
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return os.uname().machine


class Readings(NamedTuple):
    """What was read beside a turn's windows: accounts at both ends, the soaker at the second's."""

    accounts_before: CpuTimes
    accounts_after: CpuTimes
    soaked_before: list[Sample]
    soaked_after: list[Sample]

    def soaker_rates(self) -> list[float]:
        """Units a second that were left on each core in the second window."""
        return rates(self.soaked_before, self.soaked_after)

    def foreign_cores(self) -> float:
        """Cores that others had, in both windows."""
        return conditions.foreign_cores(self.accounts_before, self.accounts_after)

    def stolen_cores(self) -> float:
        """Cores that the hypervisor had, in both windows."""
        return conditions.stolen_cores(self.accounts_before, self.accounts_after)


class Bench:
    """A lab at one MTU with a worker in each end: a context manager."""

    def __init__(self, options: TcpRxOptions, mtu: int, soaker: Soaker) -> None:
        self.congestion = ""
        self._options = options
        self._mtu = mtu
        self._soaker = soaker
        self._random = random.Random(options.seed)
        self._undo = ExitStack()

    def __enter__(self) -> Bench:
        with ExitStack() as undo:
            self._lab = undo.enter_context(Lab(mtu=self._mtu))
            self._near = undo.enter_context(Worker(self._lab.near))
            self._far = undo.enter_context(Worker(self._lab.far))
            none: dict[str, bool] = {}
            self._defaults = {
                each: worker.ask(do="offloads", ifname=side.ifname, wanted=none)["offloads"]
                for each, worker, side in self._ends()
            }
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._undo.close()

    def _ends(self) -> Iterator[tuple[Literal["near", "far"], Worker, Any]]:
        yield "near", self._near, self._lab.near
        yield "far", self._far, self._lab.far

    def measure(self, asked: Mode, say: Say) -> Setting:
        """All rounds in one mode."""
        mode = self._near.ask(do="mode", **self._ours(asked, CpuPlan()))["mode"]
        contestants = self._options.contestants()
        turns: list[Turn] = []
        for number in range(1, self._options.rounds + 1):
            for variant, plan in self._random.sample(contestants, len(contestants)):
                turn = self._repeated_turn(variant, plan, number, mode)
                turns.append(turn)
                say(
                    f"MTU {self._mtu} {mode}, round {number}, {variant.name} ({plan}): "
                    f"{turn.goodput_gbps:.2f} Gb/s"
                )
        idle_rates = [max(core) for core in zip(*(t.idle_rates for t in turns), strict=True)]
        for turn in turns:
            turn.account(idle_rates)
        rows = list(_rows(turns, dict.fromkeys(variant.name for variant, _ in contestants)))
        return Setting(self._mtu, asked, mode, rows, turns)

    def _ours(self, mode: str, plan: CpuPlan) -> dict[str, Any]:
        """How a runtime is to be made, as the worker wants to be told."""
        options = self._options
        return {
            "ifname": self._lab.near.ifname,
            "mode": mode,
            "region_size": options.region_size,
            "rx_csum": options.rx_csum,
            "rcv_wnd": options.window,
            "spin_us": options.spin_us,
            "busy_poll": options.busy_poll,
            "loop_cpu": plan.loop,
            "copy": options.copy,
        }

    def _prepare(self, variant: Variant, plan: CpuPlan) -> dict[str, bool]:
        """Set offloads and steering; returns the offloads of the sending end."""
        for each, worker, side in self._ends():
            wanted = dict(self._defaults[each])
            wanted["tx-checksum"] &= variant.tx_checksum
            for name in conditions.SEGMENTATION:
                wanted[name] &= variant.segmentation
            answer = worker.ask(do="offloads", ifname=side.ifname, wanted=wanted)
            cpu = plan.rps if each == "near" else plan.acks
            worker.ask(do="rps", ifname=side.ifname, cpu=cpu)
        return dict(answer["offloads"])

    def _repeated_turn(self, variant: Variant, plan: CpuPlan, number: int, mode: str) -> Turn:
        """A turn in which something came in both windows: a busy machine may sleep through one.

        Raises OSError (ETIMEDOUT) when there is none in TURN_ATTEMPTS.
        """
        for _ in range(TURN_ATTEMPTS):
            turn = self._turn(variant, plan, number, mode)
            if turn.goodput_gbps and turn.goodput_soaked_gbps:
                return turn
        raise OSError(
            errno.ETIMEDOUT,
            f"the machine is too busy: {TURN_ATTEMPTS} times nothing came to {variant.name} "
            f"within {self._options.duration} s",
        )

    def _turn(self, variant: Variant, plan: CpuPlan, number: int, mode: str) -> Turn:
        ours = variant.name == OURS
        offloads = self._prepare(variant, plan)
        idle = self._soaker.calibrate()
        address = [self._lab.near.ip4, PORT]
        request = {"address": address, "cpu": plan.app, **self._ours(mode, plan)}
        if ours:
            ready = self._near.ask(do="receive_devmem", **request)
        else:
            ready = self._near.ask(do="receive_kernel", xdp_pass=variant.xdp_pass, **request)
        hello = self._far.ask(do="send", address=address, cpu=plan.sender)
        self.congestion = hello["congestion"]
        self._near.hear()
        pids = [os.getpid(), self._near.pid, self._far.pid, ready.get("pid", os.getpid())]
        seen = self._windows(pids)
        received = self._near.hear()
        sent = self._far.hear()
        first, second = received.pop("windows")
        idle_after = self._soaker.calibrate()
        return Turn(
            variant=variant.name,
            plan=str(plan),
            round=number,
            goodput_gbps=first["bytes"] * 8 / first["seconds"] / 1e9,
            goodput_soaked_gbps=second["bytes"] * 8 / second["seconds"] / 1e9,
            soaker_rates=seen.soaker_rates(),
            idle_rates=[max(pair) for pair in zip(idle, idle_after, strict=True)],
            foreign_cores=seen.foreign_cores(),
            stolen_cores=seen.stolen_cores(),
            mss=sent["mss"],
            retransmits=sent["retransmits"],
            offloads=offloads,
            details=received | {"frags": first["frags"] + second["frags"]} if ours else {},
        )

    def _windows(self, pids: Sequence[int]) -> Readings:
        """Lead the receiver through its windows, and read what is to be read beside them."""
        duration = int(self._options.duration * 1e9)
        first = time.monotonic_ns() + int(WARM_UP_SECONDS * 1e9)
        second = first + duration + int(2 * SETTLE_SECONDS * 1e9)
        self._near.tell(windows=[[first, first + duration], [second, second + duration]])
        _sleep_until(first)
        accounts = CpuTimes.now(pids)
        _sleep_until(first + duration)
        with self._soaker.running():
            _sleep_until(second)
            soaked = self._soaker.read()
            _sleep_until(second + duration)
            return Readings(accounts, CpuTimes.now(pids), soaked, self._soaker.read())


def _sleep_until(ns: int) -> None:
    time.sleep(max(0, ns - time.monotonic_ns()) / 1e9)


def _rows(turns: Sequence[Turn], names: Iterable[str]) -> Iterator[Row]:
    """One a variant, each with its best plan."""
    cycles = conditions.tsc_hz() / 1e9
    best = {name: _best_plan([turn for turn in turns if turn.variant == name]) for name in names}
    ours = {turn.round: turn for turn in best.get(OURS, [])}
    for name, mine in best.items():
        cpu = Spread.of([turn.cpu_seconds_per_gb for turn in mine])
        paired = [(ours[turn.round], turn) for turn in mine] if ours and name != OURS else []
        goodput_ratios = [a.goodput_gbps / b.goodput_gbps for a, b in paired]
        cpu_ratios = [a.cpu_seconds_per_gb / b.cpu_seconds_per_gb for a, b in paired]
        yield Row(
            variant=name,
            plan=mine[0].plan,
            goodput_gbps=Spread.of([turn.goodput_gbps for turn in mine]),
            cpu_seconds_per_gb=cpu,
            cycles_per_byte=cpu.median * cycles or None,
            foreign_cores=Spread.of([turn.foreign_cores for turn in mine]),
            stolen_cores=Spread.of([turn.stolen_cores for turn in mine]),
            goodput_ratio=Spread.of(goodput_ratios) if paired else None,
            cpu_ratio=Spread.of(cpu_ratios) if paired else None,
        )


def _best_plan(turns: Sequence[Turn]) -> list[Turn]:
    """The turns of the plan with the highest median goodput."""
    plans: dict[str, list[Turn]] = {}
    for turn in turns:
        plans.setdefault(turn.plan, []).append(turn)
    return max(plans.values(), key=lambda each: statistics.median(t.goodput_gbps for t in each))
