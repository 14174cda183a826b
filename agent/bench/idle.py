# SPDX-License-Identifier: Apache-2.0
"""What connections cost that do nothing: memory each, and time.

Real connections of the kernel's TCP at the far end of a veth, opened and then left alone. The
first `WARM_UP` of them are not counted: with those, what any number of connections needs has been
touched.

Memory is what became resident from then on, divided by the connections: private memory of the
stack's process (flows, table, timers), and the channel's, which both processes map (addresses,
events). Buffers of the NIC are left out: they are as many as the region has, however many
connections there are. The application's own is reported beside it; most of that are objects of
Python.

Time is CPU time of the stack's process while nothing happens, and how often its loop woke up. No
timer is due on an idle connection, so that is a handful of times, whatever their number.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from devmemtcp.agent.bench.progress import Progress
from devmemtcp.agent.bench.resident import let_go_of_setup, resident_by_kind
from devmemtcp.agent.bench.worker import PORT, Worker
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.lab import Lab
from devmemtcp.agent.region import Region, check_size
from devmemtcp.agent.runtime import Mode, Runtime
from devmemtcp.agent.socket import Connection, Listener

MOST = 20_000
"""Connections: the ports that one address of the far end has by default are some more."""
WARM_UP = 256
BATCH = 256
"""That are opened, and then accepted: fewer than the backlog."""
SETTLE_SECONDS = 2.0
"""The handshakes' deadlines have passed by then, and the loop has looked at them once more."""

_CPUCLOCK_SCHED = 2

CPU_SHARE = 0.01
"""Of a core, for all of them."""
BYTES_EACH = 1024
JUDGED_SECONDS = 10.0
"""Of idleness. In a shorter time the share of a core is reported, not judged."""
WAKE_UPS = 20
"""That have nothing to do with connections: news of the link, questions for the counters."""


@dataclass(frozen=True)
class IdleOptions:
    """What was asked for on the command line."""

    connections: int
    seconds: float
    """Of idleness."""
    mode: Mode
    region_size: int

    def check(self) -> None:
        """Raise ConfigError for what cannot work, as far as it shows in the numbers."""
        if not 1 <= self.connections <= MOST:
            raise ConfigError(f"--connections {self.connections}: 1 to {MOST}")
        if not 0 < self.seconds <= 24 * 3600:
            raise ConfigError(f"--seconds {self.seconds:g}: more than 0, and at most a day")
        check_size(self.region_size)


@dataclass(frozen=True)
class Memory:
    """Resident bytes."""

    stack: int
    """Private to the stack's process."""
    channel: int
    """Shared by both."""
    application: int
    """Private to the application's process."""


@dataclass
class IdleReport:
    """`asdict()` of it is the JSON document."""

    ok: bool = False
    failures: list[str] = field(default_factory=list)
    judged: bool = False
    """The share of a core, too."""
    mode: str = ""
    connections: int = 0
    """That were open and idle, the warm-up's not counted."""
    open_seconds: float = 0.0
    """To open and accept them."""
    seconds: float = 0.0
    """Of idleness."""
    stack_bytes: float = 0.0
    """A connection."""
    channel_bytes: float = 0.0
    application_bytes: float = 0.0
    cpu_share: float = 0.0
    """Of a core, by the stack's process."""
    wake_ups: int = 0
    """Of the loop, while idle."""

    @property
    def bytes_each(self) -> float:
        """What is promised of."""
        return self.stack_bytes + self.channel_bytes


def run_idle(options: IdleOptions, progress: Progress) -> IdleReport:
    """Open, wait and look; nothing is left behind. Raises as Runtime and Lab do."""
    options.check()
    wanted = WARM_UP + options.connections
    progress.expect("idle", -(-wanted // BATCH) + 1, SETTLE_SECONDS + options.seconds)
    with ExitStack() as undo:
        region = undo.enter_context(Region(options.region_size))
        lab = undo.enter_context(Lab())
        far = undo.enter_context(Worker(lab.far))
        rt = undo.enter_context(
            Runtime(
                lab.near.ifname,
                region,
                mode=options.mode,
                isolate=True,
                netns=lab.near.netns,
                max_connections=wanted + BATCH,
            )
        )
        listener = undo.enter_context(rt.listen((lab.near.ip4, PORT), backlog=2 * BATCH))
        idle = Idle(rt, listener, far, (lab.near.ip4, PORT), progress)
        report = idle.measure(options)
        for conn in idle.connections:
            conn.abort()
        far.ask(do="let_go")
        return report


class Idle:
    """The receiver of connections on which nothing comes."""

    def __init__(
        self,
        rt: Runtime,
        listener: Listener,
        far: Worker,
        address: tuple[str, int],
        progress: Progress,
    ) -> None:
        self._rt, self._listener, self._far, self._address = rt, listener, far, address
        self._progress = progress
        self.connections: list[Connection] = []

    def measure(self, options: IdleOptions) -> IdleReport:
        """With the verdict."""
        self._open(WARM_UP)
        let_go_of_setup()
        before = self._memory()
        start = time.monotonic()
        self._open(options.connections)
        report = IdleReport(
            judged=options.seconds >= JUDGED_SECONDS,
            mode=self._rt.mode,
            connections=options.connections,
            open_seconds=time.monotonic() - start,
        )
        time.sleep(SETTLE_SECONDS)
        after = self._memory()
        report.stack_bytes = (after.stack - before.stack) / options.connections
        report.channel_bytes = (after.channel - before.channel) / options.connections
        report.application_bytes = (after.application - before.application) / options.connections
        self._be_idle(options.seconds, report)
        report.failures = _failures(report, self._rt.stats().stack["flows_now"])
        report.ok = not report.failures
        return report

    def _open(self, count: int) -> None:
        for done in range(0, count, BATCH):
            batch = min(BATCH, count - done)
            self._far.ask(do="open", address=list(self._address), connections=batch)
            self.connections += [self._listener.accept(timeout=10.0) for _ in range(batch)]
            self._progress.turn(f"idle: {len(self.connections)} connections are open")

    def _be_idle(self, seconds: float, report: IdleReport) -> None:
        before, cpu, start = self._rt.stats().loop, _cpu_seconds(self._rt.pid), time.monotonic()
        time.sleep(seconds)
        report.seconds = time.monotonic() - start
        report.wake_ups = self._rt.stats().loop.sleeps - before.sleeps
        report.cpu_share = (_cpu_seconds(self._rt.pid) - cpu) / report.seconds
        self._progress.turn("idle: the time is over")

    def _memory(self) -> Memory:
        own, stack = os.getpid(), self._rt.pid
        return Memory(
            stack=resident_by_kind(stack)["Pss_Anon"],
            channel=_channel(stack),
            application=resident_by_kind(own)["Pss_Anon"],
        )


def _channel(pid: int) -> int:
    """Resident bytes of the channel, as the stack's process has touched them."""
    found, ours = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first = line.split(None, 1)[0]
        if not first.endswith(":"):
            ours = "memfd:devmemtcp-channel" in line
        elif ours and first == "Rss:":
            found += int(line.split()[1]) << 10
    return found


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process, to the ns: clock_getcpuclockid(3), which Python lacks."""
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


def _failures(report: IdleReport, flows: int) -> list[str]:
    found = []
    if flows != report.connections + WARM_UP:
        found.append(f"{flows} connections are open, {report.connections + WARM_UP} should be")
    if report.bytes_each > BYTES_EACH:
        found.append(f"{report.bytes_each:.0f} bytes a connection, more than {BYTES_EACH}")
    if report.wake_ups > WAKE_UPS:
        found.append(f"the loop woke up {report.wake_ups} times in {report.seconds:.0f} s")
    if report.judged and report.cpu_share >= CPU_SHARE:
        found.append(f"{report.cpu_share:.2%} of a core, not less than {CPU_SHARE:.0%}")
    return found
