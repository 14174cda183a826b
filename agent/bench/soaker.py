# SPDX-License-Identifier: Apache-2.0
"""CPU time as what a thread of the lowest class can no longer get: see soaker.c.

with Soaker([0, 1]) as soaker:
    idle = soaker.calibrate()
    with soaker.running():
        before = soaker.read()
        ...
        cores = busy(rates(before, soaker.read()), idle)  # cores: 0.0 ... 2.0
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple, Self

from devmemtcp.agent.bench._native import ffi, lib

_SLICES = 12
_SLICE_SECONDS = 0.02


class Sample(NamedTuple):
    """One core at one moment."""

    work: int
    ns: int


class Soaker:
    """A context manager: its threads, one a core, exist inside the `with` block and rest."""

    def __init__(self, cpus: Sequence[int]) -> None:
        """Raises OSError when a thread cannot be started on one of `cpus`."""
        self.cpus = tuple(cpus)
        out = ffi.new("struct soaker **")
        result = lib.soaker_start(out, list(self.cpus), len(self.cpus))
        if result < 0:
            raise OSError(-result, f"cannot measure the cores {cpus}: {os.strerror(-result)}")
        self._soaker = out[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        soaker, self._soaker = self._soaker, None
        lib.soaker_stop(soaker)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the threads take what is left, for the length of the block."""
        lib.soaker_run(self._soaker)
        try:
            yield
        finally:
            lib.soaker_rest(self._soaker)

    def read(self) -> list[Sample]:
        """What each core has done so far."""
        out = ffi.new("struct soaker_sample[]", len(self.cpus))
        lib.soaker_read(self._soaker, out)
        return [Sample(each.work, each.ns) for each in out]

    def calibrate(self) -> list[float]:
        """Units a second that each core does when nothing else runs; takes a quarter of a second.

        Short slices, and the upper quartile of them: a moment in which somebody else ran must
        not count as idle.
        """
        slices = []
        with self.running():
            before = self.read()
            for _ in range(_SLICES):
                time.sleep(_SLICE_SECONDS)
                after = self.read()
                slices.append(rates(before, after))
                before = after
        return [sorted(core)[-_SLICES // 4] for core in zip(*slices, strict=True)]


def rates(before: Sequence[Sample], after: Sequence[Sample]) -> list[float]:
    """Units a second of each core between two readings."""
    return [(b.work - a.work) * 1e9 / (b.ns - a.ns) for a, b in zip(before, after, strict=True)]


def busy(left: Sequence[float], idle: Sequence[float]) -> float:
    """Cores that were busy: `left` is what the soaker still got, `idle` what it gets of all.

    Raises OSError (EBUSY) when a core was never seen idle.
    """
    if not all(idle):
        raise OSError(errno.EBUSY, "the machine is too busy: a core was never idle")
    return sum(1.0 - min(rate, full) / full for rate, full in zip(left, idle, strict=True))
