# SPDX-License-Identifier: Apache-2.0
"""What the page_pool costs, and the check "page or net_iov?" in it.

pool_cost.c has the cases: those of the kernel's bench_page_pool_simple, on our pool. It is
compiled with each form of the check into a module of its own (`FORMS`), so that all forms are
in one process and take turns:

    off           no check: a build without device memory
    plain         a bit test and a branch
    static        behind a static key that is down: no device memory is bound
    static-bound  the same code, with the key up: some is bound, elsewhere

A sample is the median of short runs, each shorter than a time slice. Where the code happens to be
loaded moves a path of ten cycles by one or two, for as long as the process lives: more than what is
to be seen, and no number of turns shows it. So each round has copies of the modules of its own, at
other addresses (T. Mytkowicz et al., "Producing Wrong Data Without Doing Anything Obviously
Wrong!", ASPLOS 2009).

Instructions are counted by running a case in a child process that is traced one instruction at a
time: no estimate, and no counter of the CPU's, which a virtual machine seldom has. Where valgrind
is installed they are counted once more, by callgrind.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import shutil
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any, TypeVar

from devmemtcp.agent.bench.machine import Noise
from devmemtcp.agent.bench.progress import Progress
from devmemtcp.agent.bench.result import (
    Goal,
    Metric,
    Pair,
    Quantity,
    Result,
    Run,
    Sample,
    judge,
)
from devmemtcp.agent.bench.rounds import Turn, allowed, check_rounds, pinned, take_turns
from devmemtcp.agent.errors import ConfigError

T = TypeVar("T")

FORMS = ("off", "plain", "static", "static-bound")
FLOORS = ("loads", "chase", "slot", "lifo")
"""Readings of "a loop and two memory accesses": see pool_api.h, and docs/benchmarks.md for which of
them is the one to be held to, and why. It is `lifo`."""
BASELINES = ("empty", "atomic", "lock", *FLOORS)
CASES = ("fast", "ring", "slow")
PROVIDERS = ("host", "device")
MARGIN = 0.02
LAYOUTS = 128
"""Copies of each form's module; a longer measurement uses them again."""
RUNS = 3
"""Of a sample; it is their median."""
_NAME = "devmemtcp.agent.bench._pool_"
_PERIODS = {"slow/device": 256, "ring/host": 64, "ring/device": 64, "slow/host": 64}
"""Loops after which the same instructions come again: the pool moves buffers in batches."""
_FAST_LOOPS = 16
_TRACE_ROOM = 1 << 16


@dataclass(frozen=True)
class Variant:
    """A case, with a provider and a form of the check; baselines have neither."""

    case: str
    provider: str | None = None
    form: str | None = None

    @property
    def name(self) -> str:
        """As `fast/host/static`."""
        return "/".join(part for part in (self.case, self.provider, self.form) if part)


def variants() -> Iterator[Variant]:
    """All there are. Where there is device memory its key is up: `static` has no such turn."""
    yield from (Variant(case) for case in BASELINES)
    for case in CASES:
        yield from (Variant(case, "host", form) for form in FORMS)
        yield from (Variant(case, "device", form) for form in ("plain", "static-bound"))


PAIRS = (
    *(
        (Variant(case, "host", form), Variant(case, "host", "off"))
        for case in CASES
        for form in FORMS[1:]
    ),
    *((Variant("fast", "host", "static"), Variant(floor)) for floor in FLOORS),
)


METRICS = (
    Metric("ns", "ns", "lower"),
    Metric("ticks", "TSC", "lower", kind="derived"),
    Metric("instructions", "", "lower", kind="counted"),
    Metric("callgrind", "instructions", "lower", kind="counted"),
)

_STATIC, _OFF = "fast/host/static", "fast/host/off"
GOALS = (
    Goal(
        "static branch, nothing bound: equivalent to off (its interval's distance from 1)",
        MARGIN,
        _STATIC,
        "ns",
        _OFF,
        Quantity.DEVIATION,
        at_least=False,
    ),
    Goal(
        "static branch, nothing bound: instructions more than off",
        1,
        _STATIC,
        "instructions",
        _OFF,
        Quantity.DIFFERENCE,
        at_least=False,
    ),
    Goal(
        "fast path, static: time against the floor, an array's top and its count",
        1.5,
        _STATIC,
        "ns",
        "lifo",
        at_least=False,
    ),
)


@dataclass(frozen=True)
class PagePoolOptions:
    """What was asked for on the command line."""

    rounds: int
    loops: int
    """Of one short run."""
    cpu: int
    seed: int
    quick: bool = False

    @classmethod
    def usual(cls, *, quick: bool, seed: int) -> PagePoolOptions:
        """What is measured when nothing else is asked for."""
        return cls(
            rounds=24 if quick else 120,
            loops=100_000,
            cpu=min(os.sched_getaffinity(0)),
            seed=seed,
            quick=quick,
        )

    def check(self) -> None:
        """Raise ConfigError for what cannot work, as far as it shows in the values."""
        check_rounds(self.rounds)
        if not 1000 <= self.loops < 1 << 32:
            raise ConfigError(f"--loops {self.loops}: 1000 to 4294967295")

    def turns(self) -> int:
        """That are counted."""
        return self.rounds * len(list(variants()))

    def seconds(self) -> float:
        """About how long it will take, at 6 ns a loop."""
        turns = self.turns() * (self.rounds + 1) / self.rounds
        counting = 4 + (12 if shutil.which("valgrind") else 0)
        return counting + turns * (RUNS * self.loops * 6e-9 + 1e-3)


@dataclass(frozen=True)
class Timed:
    """One turn: medians of its runs, for one alloc and put."""

    ns: float
    ticks: float | None
    """Of the time stamp counter, which need not be the core's cycles; None: there is none."""
    noise: Noise


@functools.cache
def _file(form: str) -> str:
    """Where a form's module was installed. To be asked before any copy of it is loaded."""
    spec = importlib.util.find_spec(_NAME + form)
    assert spec is not None
    assert spec.origin is not None
    return spec.origin


@functools.cache
def module(form: str, layout: int) -> Any:
    """The module of a form, loaded from a file of its own: at addresses of its own."""
    with tempfile.TemporaryDirectory() as directory:
        path = shutil.copy(_file(form), directory)
        spec = importlib.util.spec_from_file_location(_NAME + form, path)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
    return loaded


class Pool:
    """A pool of one provider in one form of the check: a context manager."""

    def __init__(self, form: str, provider: str, layout: int = 0) -> None:
        """Raises OSError: EOPNOTSUPP for device memory in the form that has none."""
        loaded = module(form.partition("-")[0], layout)
        self._ffi, self._lib = loaded.ffi, loaded.lib
        error = self._ffi.new("int *")
        self._provider = provider
        self._bound: Any = None
        self._handle = self._lib.pool_bench_new(provider == "device", error)
        if self._handle == self._ffi.NULL:
            raise OSError(-error[0], f"no pool of {provider} memory, form {form}")
        if form.endswith("-bound") and provider != "device":
            self._bound = self._lib.pool_bench_new(True, error)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in (self._bound, self._handle):
            if handle is not None:
                self._lib.pool_bench_free(handle)
        self._bound = self._handle = None

    def sample(self, case: str, loops: int, runs: int = RUNS) -> Timed:
        """Time some runs of `loops` turns each."""
        out = self._ffi.new("struct pool_time *")
        ns, ticks, noise = [], [], Noise.now()
        for _ in range(runs):
            self._lib.pool_bench_time(self._handle, self._case(case), loops, out)
            ns.append(out.ns / loops)
            ticks.append(out.ticks / loops)
        return Timed(statistics.median(ns), statistics.median(ticks) or None, Noise.now() - noise)

    def trace(self, case: str, loops: int) -> tuple[int, list[int]]:
        """(how many instructions in all, the addresses of the last ones).

        Raises OSError where ptrace(2) is forbidden.
        """
        pcs = self._ffi.new("uint64_t[]", _TRACE_ROOM)
        args = (self._handle, self._case(case), loops, pcs, _TRACE_ROOM)
        steps = self._lib.pool_bench_trace(*args)
        if steps < 0:
            raise OSError(-steps, f"cannot trace a process: {os.strerror(-steps)}")
        return steps, list(pcs[0 : min(steps, _TRACE_ROOM)])

    def instructions(self, case: str) -> float:
        """For one loop: the difference of two traces, so that what surrounds the loop is not."""
        few = _PERIODS.get(f"{case}/{self._provider}", _FAST_LOOPS)
        many = 2 * few
        return (self.trace(case, many)[0] - self.trace(case, few)[0]) / (many - few)

    def code(self, address: int, size: int) -> bytes:
        """What is at an address of a trace."""
        out = self._ffi.new("uint8_t[]", size)
        self._lib.pool_bench_code(address, out, size)
        return bytes(self._ffi.buffer(out))

    def fast_path(self) -> list[str]:
        """The instructions of one alloc and put, in order; empty without capstone."""
        decoder = _decoder()
        if decoder is None:
            return []
        _, pcs = self.trace("fast", _FAST_LOOPS)
        every_time = {pc for pc, times in Counter(pcs).items() if times >= _FAST_LOOPS - 1}
        first = next(index for index, pc in enumerate(pcs) if pc in every_time)
        period = pcs.index(pcs[first], first + 1) - first
        lines = []
        for pc in pcs[first : first + period]:
            (text,) = decoder.disasm(self.code(pc, 16), pc, 1)
            lines.append(f"{text.mnemonic} {text.op_str}".strip())
        return lines

    @property
    def handle(self) -> Any:
        """`struct pool_bench *`, for the other calls of its module."""
        return self._handle

    def misuse(self) -> bool:
        """Take a buffer for a page: True when that gave NULL, and a warning."""
        result = self._lib.pool_bench_misuse(self._handle)
        if result < 0:
            raise OSError(-result, "no buffer")
        return bool(result)

    def warnings(self) -> int:
        """Sites that have warned so far: each does so once."""
        return int(self._lib.pool_bench_warnings())

    def _case(self, case: str) -> int:
        return int(getattr(self._lib, f"POOL_{case.upper()}"))


def run_page_pool(options: PagePoolOptions, progress: Progress) -> Result:
    """Measure. Raises ConfigError for what cannot work, OSError when the kernel refuses."""
    options.check()
    progress.expect("page-pool", options.turns(), options.seconds())
    run = Run.begin(
        "page-pool",
        seed=options.seed,
        quick=options.quick,
        options={**asdict(options), "runs": RUNS, "layouts": min(LAYOUTS, options.rounds + 1)},
        pinning={"core": options.cpu},
    )
    samples: list[Sample] = []
    with pinned(options.cpu):
        chosen = {each.name: each for each in variants()}
        measures = {name: _measurement(each, options.loops) for name, each in chosen.items()}
        limit = allowed(options.seconds(), quick=options.quick)
        for turn in take_turns(measures, options.rounds, seed=options.seed, seconds=limit):
            samples.append(_sample(turn))
            progress.turn(f"page-pool, round {turn.round + 1} of {options.rounds}")
        counted = {name: _instructions(each, progress) for name, each in chosen.items()}
        again = _callgrind([name for name, each in chosen.items() if each.form], progress)
        fast_path = {
            form: _with_pool(Variant("fast", "host", form), lambda pool: pool.fast_path())
            for form in FORMS
            if counted[Variant("fast", "host", form).name] is not None
        }
    samples += [
        Sample("", name, 0, 0, {"instructions": count})
        for name, count in counted.items()
        if count is not None
    ]
    samples += [Sample("", name, 0, 0, {"callgrind": count}) for name, count in again.items()]
    return judge(
        run,
        samples,
        metrics=METRICS,
        variants=list(chosen),
        pairs=[Pair(each.name, against.name, "ns", MARGIN) for each, against in PAIRS],
        goals=GOALS,
        details={"fast_path": fast_path},
    )


def _sample(turn: Turn[Timed]) -> Sample:
    timed = turn.sample
    values = {"ns": timed.ns}
    if timed.ticks is not None:
        values["ticks"] = timed.ticks
    return Sample("", turn.variant, turn.round, turn.place, values, timed.noise)


def _with_pool(variant: Variant, use: Callable[[Pool], T], layout: int = 0) -> T:
    with Pool(variant.form or "plain", variant.provider or "host", layout) as pool:
        return use(pool)


def _measurement(variant: Variant, loops: int) -> Callable[[], Timed]:
    layout = itertools.cycle(range(LAYOUTS))

    def measure() -> Timed:
        return _with_pool(variant, lambda pool: pool.sample(variant.case, loops), next(layout))

    return measure


def _instructions(variant: Variant, progress: Progress) -> float | None:
    """None where no process may be traced, which is said."""
    try:
        count = _with_pool(variant, lambda pool: pool.instructions(variant.case))
    except PermissionError as error:
        progress.say(f"instructions are not counted: {error.strerror}")
        return None
    return count


def _callgrind(names: Sequence[str], progress: Progress) -> dict[str, float]:
    """Nothing where valgrind is not installed or fails, which is said."""
    # Here, because it asks this module what there is to be counted.
    from devmemtcp.agent.bench import callgrind

    if not callgrind.available():
        progress.say("instructions are not counted again: valgrind is not installed")
        return {}
    try:
        return callgrind.counts(names)
    except OSError as error:
        progress.say(f"instructions are not counted again: {error}")
        return {}


def _decoder() -> Any:
    """A disassembler for this machine's code; None without capstone."""
    try:
        capstone = import_module("capstone")
    except ModuleNotFoundError:
        return None
    if os.uname().machine == "aarch64":
        return capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
