# SPDX-License-Identifier: Apache-2.0
"""One TCP stream into device memory, on one machine: what `devmemtcp demo` does.

A lab of two namespaces (lab.py), the ordinary sender (send.py) in a process of its
own in the far one, the runtime in the near one with its stack in a second process,
and this process as the application: it reads the fragments through its own mapping
of the region, checks every byte and gives the tokens back.

Nothing is taken for granted: where each byte lies is computed from its fragment,
and whether the stack can read the region is tried.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

from devmemtcp.agent.endpoint import Endpoint
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.lab import Lab
from devmemtcp.agent.memory import PROVIDERS, Memory
from devmemtcp.agent.pattern import one_period
from devmemtcp.agent.region import Region, RegionView, check_page_size
from devmemtcp.agent.runtime import Mode, Runtime
from devmemtcp.agent.signals import Signals
from devmemtcp.agent.snapshot import Stats
from devmemtcp.agent.socket import Connection

PORT = 5201
STALL_SECONDS = 20.0
"""Longer than a lost segment can hold a stream up, RFC 6298's first back-offs included."""
START_SECONDS = 60.0
"""The sender is a Python of its own, which an emulated or busy CPU takes long to start."""
RETURN_SECONDS = 10.0
RETURN_POLL_SECONDS = 0.001
"""Returned tokens travel through a ring: so long, and how often, the stack's count is looked at."""

Progress = Callable[[int], None]
"""Called now and then with the number of bytes received so far."""


@dataclass
class DemoReport:
    """What was seen, and under which conditions; `asdict()` of it is the JSON document."""

    ok: bool = False
    failures: list[str] = field(default_factory=list)
    """What is not as it must be, one line each."""

    size: int = 0
    """Bytes sent."""
    bytes_received: int = 0
    bytes_device: int = 0
    """Received bytes in fragments that lie inside the device region."""
    bytes_linear: int = 0
    """Received bytes anywhere else."""
    frags: int = 0
    validated: bool = False
    """Whether every byte received was the pattern's."""
    wrong_bytes: int = 0
    tokens_outstanding: int = 0
    """Tokens not given back when the stream had ended."""
    unreadable: bool = False
    """Whether it was proved that the stack's process cannot read the device pages."""
    unreadable_reason: str = ""

    goodput_gbps: float = 0.0
    """10^9 bits of payload a second, from the first bytes to the end of the stream."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Sum of the three below, as the kernel accounts it. Softirq work that happens to run in
    somebody else's time is not in it; `bench` measures that, too."""
    cpu_seconds_stack: float = 0.0
    cpu_seconds_application: float = 0.0
    cpu_seconds_sender: float = 0.0

    interface: str = ""
    """That received."""
    mode: str = ""
    """As attached: native or generic."""
    mtu: int = 0
    region_size: int = 0
    memory: str = ""
    pattern: int = 0
    congestion: str = ""
    mss: int = 0
    retransmits: int = 0
    kernel: str = ""
    drops: dict[str, int] = field(default_factory=dict)
    """Segments that the stack did not accept, by reason; zeros left out."""
    steer: dict[str, int] = field(default_factory=dict)
    """The XDP program's counters; zeros left out."""


def run_demo(
    *,
    size: int,
    mtu: int,
    mode: Mode,
    region_size: int,
    memory: Memory,
    pattern: int,
    progress: Progress,
    nics: tuple[str, str] | None = None,
) -> DemoReport:
    """Send `size` bytes through a lab and report; sizes in bytes, `pattern` a period.

    `nics`: receive on the first and send on the second, see lab.py; None: a veth pair.

    Nothing is left behind, whatever happens: what SIGKILL prevents, the next lab undoes.
    Raises ConfigError for what cannot work; Stopped by SIGINT and SIGTERM; OSError when the
    kernel refuses, the sender fails or nothing moves for STALL_SECONDS.
    """
    if size < 1:
        raise ConfigError("the demo needs at least 1 byte to send")
    one_period(pattern)
    check_page_size(PROVIDERS[memory].page_size, mode)
    report = DemoReport(
        size=size,
        mtu=mtu,
        region_size=region_size,
        memory=memory,
        pattern=pattern,
        kernel=os.uname().release,
    )
    with (
        Signals() as signals,  # first: nothing is interrupted while it is made or undone
        Region(region_size, memory=memory) as region,
        region.map() as view,
        Lab(mtu=mtu, nics=nics) as lab,
        Runtime(lab.near.ifname, region, mode=mode, isolate=True, netns=lab.near.netns) as rt,
        rt.listen((lab.near.ip4, PORT)) as listener,
        _sender(lab, Endpoint(lab.near.ip4, PORT), size, pattern) as sender,
        _Waiter(rt, signals, sender) as waiter,
    ):
        report.mode, report.interface = rt.mode, lab.near.ifname
        waiter.wait(START_SECONDS)
        with listener.accept(timeout=0) as conn:
            _transfer(waiter, conn, view, report, progress)
            report.tokens_outstanding = _tokens_outstanding(rt)
        _add_sender(report, sender)
        _add_stats(report, rt.stats())
        probe = rt.unreadable
        report.unreadable, report.unreadable_reason = bool(probe), probe.reason
    report.failures = list(_failures(report))
    report.ok = not report.failures
    return report


@contextlib.contextmanager
def _sender(lab: Lab, peer: Endpoint, size: int, pattern: int) -> Iterator[subprocess.Popen[str]]:
    """The sender's process, in the far namespace; killed if it still runs at the end."""
    # -P: what lies in the current directory is no module of ours.
    command = [sys.executable, "-P", "-m", "devmemtcp.agent.cli", "send", str(peer), "--json"]
    command += ["--size", str(size), "--pattern", str(pattern)]
    command += ["--die-with-parent", str(os.getpid())]
    with contextlib.ExitStack() as undo:
        with lab.far.entered():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # a Ctrl-C in the terminal is ours to handle
            )
        undo.enter_context(process)
        undo.callback(process.kill)
        yield process


class _Waiter:
    """Waits for the stream, but neither past a stop signal, nor for a dead sender, nor for ever."""

    def __init__(self, rt: Runtime, signals: Signals, sender: subprocess.Popen[str]) -> None:
        self._rt = rt
        self._signals = signals
        self._sender = sender
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        pidfd = os.pidfd_open(self._sender.pid)  # readable when the process has ended
        self._undo.callback(os.close, pidfd)
        # One descriptor for poll() that stands for both.
        self._wake = self._undo.enter_context(select.epoll())
        self._wake.register(self._signals, select.EPOLLIN)
        self._wake.register(pidfd, select.EPOLLIN)
        return self

    def __exit__(self, *exc: object) -> None:
        self._undo.close()

    def wait(self, seconds: float = STALL_SECONDS) -> None:
        """Return when there is something to accept or to receive.

        Raises Stopped; OSError: ECHILD with the sender's own words when it failed, ETIMEDOUT
        after so many seconds of nothing.
        """
        ready = self._rt.poll(seconds, wake_fd=self._wake.fileno())
        self._signals.check()
        if ready:
            return
        if self._sender.poll() is not None:
            raise _sender_failed(self._sender, self._sender.communicate()[1])
        raise OSError(errno.ETIMEDOUT, f"nothing came from the sender for {seconds:.0f} s")


def _sender_failed(sender: subprocess.Popen[str], errors: str) -> OSError:
    """With the sender's own words, unless it was killed and had none."""
    why = errors.strip() or f"it ended with code {sender.returncode}"
    return OSError(errno.ECHILD, f"the sender failed: {why}")


def _transfer(
    waiter: _Waiter, conn: Connection, view: RegionView, report: DemoReport, progress: Progress
) -> None:
    """Receive to the end of the stream, check every byte, give every token back."""
    start, cpu_start = time.monotonic(), time.process_time()
    phase = 0
    while True:
        waiter.wait()
        batch = conn.recv_frags(timeout=0)
        if not batch:
            break
        report.frags += len(batch)
        report.bytes_received += batch.nbytes
        report.bytes_device += batch.device_bytes(view)
        wrong, phase = batch.check_pattern(view, report.pattern, phase)
        report.wrong_bytes += wrong
        conn.dontneed(batch)
        progress(report.bytes_received)
    report.seconds = time.monotonic() - start
    report.cpu_seconds_application = time.process_time() - cpu_start
    report.bytes_linear = report.bytes_received - report.bytes_device
    report.validated = report.wrong_bytes == 0 and report.bytes_received > 0
    report.goodput_gbps = report.bytes_received * 8 / report.seconds / 1e9


def _tokens_outstanding(rt: Runtime) -> int:
    """Tokens that the stack counts as lent, after it has had time to take the last ones back."""
    deadline = time.monotonic() + RETURN_SECONDS
    while (count := rt.stats().tokens_outstanding) and time.monotonic() < deadline:
        rt.poll(RETURN_POLL_SECONDS)
    return count


def _add_sender(report: DemoReport, sender: subprocess.Popen[str]) -> None:
    """Take over what the sender says about its side. Raises OSError when it failed."""
    output, errors = sender.communicate(timeout=STALL_SECONDS)
    if sender.returncode != 0:
        raise _sender_failed(sender, errors)
    result = json.loads(output)
    report.congestion = result["congestion"]
    report.mss = result["mss"]
    report.retransmits = result["retransmits"]
    report.cpu_seconds_sender = result["cpu_seconds"]


def _add_stats(report: DemoReport, stats: Stats) -> None:
    report.drops = {name: count for name, count in stats.drops.items() if count}
    report.steer = {name: count for name, count in stats.steer.items() if count}
    report.cpu_seconds_stack = stats.loop.cpu_ns / 1e9
    report.cpu_seconds = (
        report.cpu_seconds_stack + report.cpu_seconds_application + report.cpu_seconds_sender
    )


def _failures(report: DemoReport) -> Iterator[str]:
    if report.bytes_received != report.size:
        yield f"{report.bytes_received} of {report.size} bytes were received"
    if report.bytes_device != report.size:
        yield f"{report.bytes_device} of {report.size} bytes lie in the device region"
    if report.bytes_linear:
        yield f"{report.bytes_linear} bytes lie outside the device region"
    if not report.validated:
        yield f"{report.wrong_bytes} bytes are not the pattern's"
    if report.tokens_outstanding:
        yield f"{report.tokens_outstanding} tokens were not given back"
    if not report.unreadable:
        yield f"the stack can read the device pages: {report.unreadable_reason}"
