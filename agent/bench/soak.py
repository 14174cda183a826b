# SPDX-License-Identifier: Apache-2.0
"""Receive for minutes, and look whether anything grows.

Connections come and go all the time: each sender's thread connects, sends a random number of bytes
of the pattern at a random rate, and waits for the receiver's end of it; some are reset on the way.
Meanwhile what application and stack have is sampled: resident memory, descriptors, buffers and
tokens that are away, connections.

Whether a level is flat is told by the second half of its samples (trend.py), within a tolerance
that is a fraction of the load: in ten minutes a leak of a few bytes a connection shows. Memory that
both share with the NIC is touched bit by bit, until all of it has been: it is bounded, not judged.
At the end, with all connections gone, buffers and tokens must be back to the last.

The road between sender and receiver is a veth's. Whoever wants a worse one gives a context
manager that makes it so (tests/faults/soak.py does).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from devmemtcp.agent.bench.progress import Progress
from devmemtcp.agent.bench.resident import resident_by_kind
from devmemtcp.agent.bench.trend import Direction, Trend, trend
from devmemtcp.agent.bench.worker import PORT, Worker
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.lab import Lab, Side, check_mtu
from devmemtcp.agent.options import DEFAULT_PERIOD
from devmemtcp.agent.region import PAGE_SIZE, Region, RegionView, check_size
from devmemtcp.agent.runtime import Mode, Runtime
from devmemtcp.agent.socket import Connection, Listener

POLL_SECONDS = 0.2
SAMPLES = 480
"""In the whole run, but at most one every POLL_SECONDS."""
OWN_BYTES = 32 << 20
"""What the processes may have resident at most, besides what they had before the first connection
and what they share with the NIC: queues and tokens of the application, what Python has grown by."""
TOLERANCE = {"private": 1 << 20, "descriptors": 0.5}
"""How much more of each there may be by the trend at the end of the judged half."""
SHARE = {"buffers_away": 0.02, "tokens": 0.02}
"""The same, as a share of the region's buffers: these follow the load."""
JUDGED_SECONDS = 60.0
"""A shorter run is all warm-up: its trends are reported, not judged."""
PROVED_SECONDS = 600.0
"""In a run as long as this what is not judged flat has failed, also if no growth was found."""
RESET_SHARE = 0.03
"""Of connections, that the receiver resets on the way,"""
MEAN_BYTES = 300 << 10
"""which have so many bytes on average: from 1 to 4 Mi, their logarithms equally often."""
DRAIN_SECONDS = 60.0

Road = Callable[[Side], AbstractContextManager[object]]
"""Makes the sender's end of the veth worse, until the end of the block."""


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
    private: int
    """Of these, those that no file is behind: the heaps."""
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
    resets: int = 0
    """That the receiver reset."""
    bytes_received: int = 0
    wrong_bytes: int = 0
    mode: str = ""
    mtu: int = 0
    region_size: int = 0
    resident_peak: int = 0
    resident_allowed: int = 0
    trends: dict[str, Trend] = field(default_factory=dict)
    """Of the second half."""
    verdicts: dict[str, str] = field(default_factory=dict)
    at_end: Sample | None = None
    """With all connections gone."""
    samples: list[Sample] = field(default_factory=list)


def run_soak(options: SoakOptions, progress: Progress, road: Road | None = None) -> SoakReport:
    """Receive for `options.minutes`; nothing is left behind. Raises as Runtime and Lab do."""
    options.check()
    progress.expect("soak", options.samples(), options.minutes * 60)
    with ExitStack() as undo:
        region = undo.enter_context(Region(options.region_size))
        view = undo.enter_context(region.map())
        lab = undo.enter_context(Lab(mtu=options.mtu))
        undo.enter_context(nullcontext() if road is None else road(lab.far))
        far = undo.enter_context(Worker(lab.far))
        rt = undo.enter_context(
            Runtime(lab.near.ifname, region, mode=options.mode, isolate=True, netns=lab.near.netns)
        )
        listener = undo.enter_context(rt.listen((lab.near.ip4, PORT)))
        soak = Soak(rt, view, listener, options, progress)
        far.ask(do="churn", address=[lab.near.ip4, PORT], connections=options.connections)
        soak.receive(options.minutes * 60)
        far.tell(stop=True)
        soak.drain(lambda: far.answers_wait)
        return soak.finish(resets_seen=far.hear()["resets"])


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
        self._chance = Random(0)
        self._pids = {os.getpid(), rt.pid}
        self._start = time.monotonic()
        self._interval = options.minutes * 60 / options.samples()
        self._report = SoakReport(
            mode=rt.mode,
            mtu=options.mtu,
            region_size=options.region_size,
            resident_allowed=self._look().resident + _shared_files(self._pids) + OWN_BYTES,
        )

    def receive(self, seconds: float) -> None:
        """Take what comes, and a sample now and then, for so long."""
        end, due = self._start + seconds, self._start
        while (now := time.monotonic()) < end:
            if now >= due:
                self._take_sample()
                due += self._interval
            self._turn()

    def drain(self, stopped: Callable[[], bool]) -> None:
        """Take what comes until all connections have ended, and the senders have stopped.

        Raises TimeoutError when they do not.
        """
        end = time.monotonic() + DRAIN_SECONDS
        while self._turn() or self._phases or not stopped():
            if time.monotonic() > end:
                raise TimeoutError(f"{len(self._phases)} connections do not end")

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
        # By the bytes, not by the batch: one in so many connections, whatever the batches are.
        if self._chance.random() < RESET_SHARE * batch.nbytes / MEAN_BYTES:
            del self._phases[conn.id]
            conn.abort()
            report.resets += 1

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
        total = self._view.size // PAGE_SIZE
        memory = [resident_by_kind(pid) for pid in self._pids]
        return Sample(
            seconds=time.monotonic() - self._start,
            resident=sum(each["Pss"] for each in memory),
            private=sum(each["Pss_Anon"] for each in memory),
            descriptors=sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self._pids),
            buffers_away=total - stack["niovs_free"] - stack["niovs_fill"],
            tokens=stack["tokens_outstanding"],
            flows=stack["flows_now"],
        )

    def finish(self, resets_seen: int) -> SoakReport:
        """The verdict, when all connections are gone. `resets_seen`: by the senders."""
        report = self._report
        report.seconds = time.monotonic() - self._start
        report.at_end = self._look()
        judge(report)
        if resets_seen > report.resets:
            report.failures.append(
                f"{resets_seen} connections were reset for the senders, {report.resets} by us"
            )
        report.ok = not report.failures
        return report


def _shared_files(pids: Iterable[int]) -> int:
    """Bytes of all memfds that they have mapped: what may become resident of them."""
    ends: dict[str, int] = {}
    for pid in pids:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, _, offset, _, inode, *name = line.split(maxsplit=5)
            if name and name[0].startswith("/memfd:"):
                start, end = (int(each, 16) for each in span.split("-"))
                ends[inode] = max(ends.get(inode, 0), int(offset, 16) + end - start)
    return sum(ends.values())


def judge(report: SoakReport) -> None:
    """Fill in the trends, the verdicts, and what has failed."""
    half = report.samples[len(report.samples) // 2 :]
    at = [sample.seconds for sample in half]
    buffers = report.region_size // PAGE_SIZE
    tolerances = TOLERANCE | {name: share * buffers for name, share in SHARE.items()}
    for name, tolerance in tolerances.items():
        values = [float(getattr(sample, name)) for sample in half]
        found = report.trends[name] = trend(at, values, tolerance)
        report.verdicts[name] = found.direction.value
        must_be_flat = report.seconds >= PROVED_SECONDS
        if report.seconds >= JUDGED_SECONDS and (
            found.direction is Direction.GROWS
            or (must_be_flat and found.direction is not Direction.FLAT)
        ):
            report.failures.append(f"{name} {found.direction}: {amount(name, found)}")
    report.failures += _failures(report)


def amount(name: str, found: Trend) -> str:
    """Growth with its unit, and the interval."""
    unit, digits, suffix = (1 << 20, 2, " MiB") if name == "private" else (1, 1, "")
    text = f"{found.growth / unit:+.{digits}f}{suffix}"
    if found.low is None or found.high is None:
        return text
    return f"{text} ({found.low / unit:+.{digits}f} to {found.high / unit:+.{digits}f})"


def _failures(report: SoakReport) -> list[str]:
    found = []
    end = report.at_end
    if report.resident_peak > report.resident_allowed:
        found.append(f"{report.resident_peak} bytes resident, more than {report.resident_allowed}")
    if report.wrong_bytes:
        found.append(f"{report.wrong_bytes} bytes are not the pattern's")
    if end and (end.tokens or end.buffers_away):
        found.append(f"{end.tokens} tokens and {end.buffers_away} buffers did not come back")
    if not report.connections:
        found.append("no connection was received to its end")
    return found
