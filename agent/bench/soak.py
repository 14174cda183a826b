# SPDX-License-Identifier: Apache-2.0
"""Receive for minutes, and look whether anything grows.

Connections come and go all the time: each sender's thread connects, sends up to a few
megabytes of the pattern, and waits for the receiver's end of it. Meanwhile resident
memory and descriptors of the application and of the stack's process are sampled, and
what the stack counts.

Growth is the slope of a line fitted to the samples (least squares), the first quarter
left out, times the time it spans: a leak grows all the time, a cache does not. Buffers and
tokens come and go with the load; they are judged at the end, when all must be back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from devmemtcp.agent.bench.progress import Progress
from devmemtcp.agent.bench.resident import let_go_of_setup, resident
from devmemtcp.agent.bench.worker import PORT, Worker
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.lab import Lab, check_mtu
from devmemtcp.agent.options import DEFAULT_PERIOD
from devmemtcp.agent.region import PAGE_SIZE, Region, RegionView, check_size
from devmemtcp.agent.runtime import Mode, Runtime
from devmemtcp.agent.socket import Connection, Listener

POLL_SECONDS = 0.2
SAMPLES = 240
"""In the whole run, but at most one every POLL_SECONDS."""
FIXED_BYTES = 64 << 20
"""What the processes may have resident besides twice the region."""
GROWTH = {"resident": 1 << 20, "descriptors": 1.0}
"""How much of each may be more at the end by the fitted line: noise of the sampling."""
JUDGED_SECONDS = 60.0
"""A shorter run is all warm-up: its growth is reported, not judged."""


@dataclass(frozen=True)
class SoakOptions:
    """What was asked for on the command line."""

    minutes: float
    connections: int
    mtu: int
    mode: Mode
    region_size: int

    def check(self) -> None:
        """Raise ConfigError for what cannot work, as far as it shows in the numbers."""
        if not 0 < self.minutes <= 24 * 60:
            raise ConfigError(f"--minutes {self.minutes:g}: more than 0, and at most a day")
        if not 1 <= self.connections <= 1000:
            raise ConfigError(f"--connections {self.connections}: 1 to 1000")
        check_mtu(self.mtu)
        check_size(self.region_size)

    def samples(self) -> int:
        """How many are taken."""
        return max(1, min(SAMPLES, int(self.minutes * 60 / POLL_SECONDS)))


@dataclass(frozen=True)
class Sample:
    """One look."""

    seconds: float
    resident: int
    """Bytes of application and stack together; a page that they share counts once."""
    descriptors: int
    buffers_away: int
    """Device buffers neither free nor in a fill ring."""
    tokens: int
    flows: int


@dataclass
class SoakReport:
    """`asdict()` of it is the JSON document."""

    ok: bool = False
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    connections: int = 0
    """That were received to their end."""
    bytes_received: int = 0
    wrong_bytes: int = 0
    mode: str = ""
    mtu: int = 0
    region_size: int = 0
    resident_peak: int = 0
    resident_allowed: int = 0
    growth: dict[str, float] = field(default_factory=dict)
    """By the fitted line, over the time it was fitted to."""
    at_end: Sample | None = None
    """With all connections gone."""
    samples: list[Sample] = field(default_factory=list)


def run_soak(options: SoakOptions, progress: Progress) -> SoakReport:
    """Receive for `options.minutes`; nothing is left behind. Raises as Runtime and Lab do."""
    options.check()
    progress.expect("soak", options.samples(), options.minutes * 60)
    with ExitStack() as undo:
        region = undo.enter_context(Region(options.region_size))
        view = undo.enter_context(region.map())
        lab = undo.enter_context(Lab(mtu=options.mtu))
        far = undo.enter_context(Worker(lab.far))
        rt = undo.enter_context(
            Runtime(lab.near.ifname, region, mode=options.mode, isolate=True, netns=lab.near.netns)
        )
        listener = undo.enter_context(rt.listen((lab.near.ip4, PORT)))
        let_go_of_setup()
        soak = Soak(rt, view, listener, options, progress)
        far.ask(do="churn", address=[lab.near.ip4, PORT], connections=options.connections)
        soak.receive(options.minutes * 60)
        far.tell(stop=True)
        soak.drain()
        far.hear()
        return soak.finish()


class Soak:
    """The receiver, and what it sees."""

    def __init__(
        self,
        rt: Runtime,
        view: RegionView,
        listener: Listener,
        options: SoakOptions,
        progress: Progress,
    ) -> None:
        self._rt = rt
        self._view = view
        self._listener = listener
        self._progress = progress
        self._phases: dict[int, int] = {}
        self._start = time.monotonic()
        self._interval = options.minutes * 60 / options.samples()
        self._report = SoakReport(
            mode=rt.mode,
            mtu=options.mtu,
            region_size=options.region_size,
            resident_allowed=2 * options.region_size + FIXED_BYTES,
        )

    def receive(self, seconds: float) -> None:
        """Take what comes, and a sample now and then, for so long."""
        end, due = self._start + seconds, self._start
        while (now := time.monotonic()) < end:
            if now >= due:
                self._take_sample()
                due += self._interval
            self._turn()

    def drain(self) -> None:
        """Take what comes until all connections have ended."""
        while self._turn() or self._phases:
            pass

    def _turn(self) -> int:
        """One batch of each connection that has something; returns how many things were ready."""
        ready = self._rt.poll(POLL_SECONDS)
        for each in ready:
            if isinstance(each, Connection):
                self._take(each)
            else:
                self._phases[self._listener.accept(timeout=0).id] = 0
        return len(ready)

    def _take(self, conn: Connection) -> None:
        batch = conn.recv_frags(timeout=0)
        report = self._report
        if not batch:
            del self._phases[conn.id]
            conn.close()
            report.connections += 1
            return
        wrong, self._phases[conn.id] = batch.check_pattern(
            self._view, DEFAULT_PERIOD, self._phases[conn.id]
        )
        report.wrong_bytes += wrong
        report.bytes_received += batch.nbytes
        conn.dontneed(batch)

    def _take_sample(self) -> None:
        sample = self._look()
        self._report.samples.append(sample)
        self._report.resident_peak = max(self._report.resident_peak, sample.resident)
        self._progress.turn(
            f"soak: {sample.resident >> 20} MiB resident, {sample.descriptors} descriptors, "
            f"{sample.flows} flows, {self._report.connections} connections ended"
        )

    def _look(self) -> Sample:
        stack = self._rt.stats().stack
        pids = {os.getpid(), self._rt.pid}
        total = self._view.size // PAGE_SIZE
        return Sample(
            seconds=time.monotonic() - self._start,
            resident=sum(resident(pid) for pid in pids),
            descriptors=sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
            buffers_away=total - stack["niovs_free"] - stack["niovs_fill"],
            tokens=stack["tokens_outstanding"],
            flows=stack["flows_now"],
        )

    def finish(self) -> SoakReport:
        """The verdict, when all connections are gone."""
        report = self._report
        report.seconds = time.monotonic() - self._start
        report.at_end = self._look()
        fitted = report.samples[len(report.samples) // 4 :]
        report.growth = {name: _growth(fitted, name) for name in GROWTH}
        report.failures = _failures(report, report.at_end)
        report.ok = not report.failures
        return report


def _growth(samples: Sequence[Sample], name: str) -> float:
    """What `name` became more by the fitted line, from the first to the last of the samples."""
    if len(samples) < 3:
        return 0.0
    import statistics  # only at the end: what it brings along would be resident all the time

    at = [sample.seconds for sample in samples]
    values: list[Any] = [getattr(sample, name) for sample in samples]
    return statistics.linear_regression(at, values).slope * (at[-1] - at[0])


def amount(name: str, grown: float) -> str:
    """Growth with its unit."""
    return f"{grown / (1 << 20):.1f} MiB" if name == "resident" else f"{grown:.1f}"


def _failures(report: SoakReport, end: Sample) -> list[str]:
    found = [
        f"{name} grew by {amount(name, grown)}"
        for name, grown in report.growth.items()
        if grown > GROWTH[name] and report.seconds >= JUDGED_SECONDS
    ]
    if report.resident_peak > report.resident_allowed:
        found.append(f"{report.resident_peak} bytes resident, more than {report.resident_allowed}")
    if report.wrong_bytes:
        found.append(f"{report.wrong_bytes} bytes are not the pattern's")
    if end.tokens or end.buffers_away:
        found.append(f"{end.tokens} tokens and {end.buffers_away} buffers did not come back")
    if not report.connections:
        found.append("no connection was received to its end")
    return found
