# SPDX-License-Identifier: Apache-2.0
"""Receive any number of TCP streams into device memory and do something with their bytes.

One thread, one loop: wait for listeners and connections, take a batch of fragments,
check or write it through the application's mapping of the region, give the tokens
back. Nothing is done per fragment in Python.

    accepted --> receiving --> end of stream --> file closed --> our FIN
                     |
                     +--> reset by the peer, a failed write (our RST), or a stop signal

A connection's file is complete and closed before our FIN goes out, so whoever sees
the end of the connection may read the file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from devmemtcp.agent.endpoint import ANY, Endpoint, overlap
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.memory import PROVIDERS, Memory
from devmemtcp.agent.pattern import one_period
from devmemtcp.agent.region import Region, RegionView, check_page_size
from devmemtcp.agent.runtime import Mode, Pressure, Runtime, RxCsum
from devmemtcp.agent.session import Session, SessionStack
from devmemtcp.agent.signals import Signals
from devmemtcp.agent.sizes import format_size
from devmemtcp.agent.snapshot import Stats
from devmemtcp.agent.socket import Connection, FragBatch, Listener

RETURN_SECONDS = 2.0
"""The stack takes returned tokens back when its turn comes: so long is waited for it at the end."""
RETURN_POLL_SECONDS = 0.01
RESULTS_KEPT = 10_000
"""Results of single connections in the report: the newest. The totals count them all."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecvOptions:
    """What was asked for on the command line."""

    interface: str
    listen: tuple[Endpoint, ...]
    close_first: tuple[Endpoint, ...] = ()
    """Addresses where the sending side is shut at the first bytes; may repeat some of `listen`."""
    output_dir: Path | None = None
    validate: int | None = None
    """Period of the expected pattern."""
    region_size: int = 64 << 20
    """Bytes of device memory."""
    memory: Memory = "memfd"
    mode: Mode = "auto"
    rx_csum: RxCsum = "verify"
    pressure: Pressure = "window"
    connections: int | None = None
    """End after so many connections; None: run until SIGINT or SIGTERM."""
    force: bool = False
    agent: str | None = None
    """Receive by the agent at this path, without privilege; mode, rx_csum and force are its."""


@dataclass
class ConnectionResult:
    """One connection, from its first to its last byte."""

    peer: str
    local: str
    bytes: int = 0
    frags: int = 0
    validated: bool | None = None
    """Whether all bytes were those of the pattern; None when that was not asked for."""
    wrong_bytes: int = 0
    file: str | None = None
    outcome: str = "open"
    """At the end `complete`, `reset`, `write failed`, `interrupted`."""


@dataclass
class RecvReport:
    """What a run did; `asdict()` of it is the JSON document."""

    ok: bool = False
    exit_code: int = 1
    interface: str = ""
    mode: str = ""
    region_size: int = 0
    memory: str = ""
    listen: list[str] = field(default_factory=list)
    accepted: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    frags: int = 0
    validated: bool | None = None
    wrong_bytes: int = 0
    tokens_outstanding: int = 0
    drops: dict[str, int] = field(default_factory=dict)
    """Segments that the stack did not accept, by reason; zeros left out."""
    steer: dict[str, int] = field(default_factory=dict)
    """The XDP program's counters; zeros left out."""
    rx_dropped: int = 0
    """Packets that the AF_XDP sockets had no room for."""
    unreadable: bool = False
    """Whether payload was out of the reach of the stack's process, at the end."""
    unreadable_reason: str = ""
    connections: list[ConnectionResult] = field(default_factory=list)
    connections_omitted: int = 0


class OutputDirectory:
    """Where the files go: `<peer port>`, and `<peer port>.1`, `.2`, ... when that exists already.

    A file that exists is never written to, whoever made it: another peer with the same
    port, or an earlier run.
    """

    def __init__(self, path: Path) -> None:
        """Raises ConfigError when `path` is no directory that this user can write to."""
        if not path.is_dir():
            what = "is not a directory" if path.exists() else "does not exist; make it first"
            raise ConfigError(f"output directory {path} {what}")
        if not os.access(path, os.W_OK | os.X_OK):
            raise ConfigError(f"output directory {path} is not writable by this user")
        try:  # permissions do not say it all: there are /proc and /sys
            tempfile.TemporaryFile(dir=path).close()
        except OSError as error:
            raise ConfigError(
                f"output directory {path} takes no files: {error.strerror}; choose another"
            ) from error
        self.path = path

    def create(self, port: int) -> tuple[int, Path]:
        """Return the descriptor and the path of a new file for a peer's port."""
        number = 0
        while True:
            path = self.path / (f"{port}.{number}" if number else f"{port}")
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                return os.open(path, flags, 0o666), path
            except FileExistsError:
                number += 1


def _result_of(conn: Connection, outcome: str) -> ConnectionResult:
    return ConnectionResult(
        peer=str(Endpoint(*conn.peer)), local=str(Endpoint(*conn.local)), outcome=outcome
    )


class Sink:
    """Takes one connection's fragments, in order, to where they were asked to go."""

    def __init__(
        self, conn: Connection, view: RegionView, period: int | None, output: OutputDirectory | None
    ) -> None:
        """`period`: check the pattern; `output`: write a file.

        Raises OSError when the file cannot be made.
        """
        self.result = _result_of(conn, "open")
        self._view = view
        self._period = period
        self._phase = 0
        self._fd = -1
        if output is not None:
            self._fd, path = output.create(conn.peer[1])
            self.result.file = str(path)

    def take(self, batch: FragBatch) -> None:
        """Check and write one batch. Raises OSError when the file takes no more."""
        self.result.bytes += batch.nbytes
        self.result.frags += len(batch)
        if self._period is not None:
            wrong, self._phase = batch.check_pattern(self._view, self._period, self._phase)
            self.result.wrong_bytes += wrong
        if self._fd >= 0:
            batch.write_to(self._fd, self._view)

    def close(self, outcome: str) -> ConnectionResult:
        """No more bytes will come. Raises OSError when the file system reports a late error."""
        self.result.outcome = outcome
        if self._period is not None:
            self.result.validated = self.result.wrong_bytes == 0
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        return self.result


class Receiver:
    """The loop. It owns the connections that are open and the report on those that are not."""

    def __init__(
        self, rt: Runtime | SessionStack, view: RegionView, options: RecvOptions, signals: Signals
    ) -> None:
        self.report = RecvReport(
            interface=rt.ifname, mode=rt.mode, region_size=view.size, memory=options.memory
        )
        self._rt = rt
        self._view = view
        self._options = options
        self._signals = signals
        self._output = OutputDirectory(options.output_dir) if options.output_dir else None
        self._listeners: list[Listener] = []
        self._sinks: dict[int, tuple[Connection, Sink]] = {}
        self._outcomes: Counter[str] = Counter()
        self._ended: deque[ConnectionResult] = deque(maxlen=RESULTS_KEPT)

    def listen(self) -> None:
        """Listen on all addresses that were asked for. Raises as Runtime.listen() does."""
        options = self._options
        for endpoint in dict.fromkeys(options.listen + options.close_first):
            close_first = endpoint in options.close_first
            for address in _addresses(endpoint):
                listener = self._rt.listen(
                    address, close_first=close_first, pressure=options.pressure
                )
                self._listeners.append(listener)
            self.report.listen.append(str(endpoint))
        log.info(
            "listening on %s (%s, %s, region %s)",
            ", ".join(self.report.listen),
            *(self._rt.ifname, self._rt.mode, format_size(self._view.size)),
        )

    def run(self) -> RecvReport:
        """Receive until the wanted number of connections have ended or a stop signal comes."""
        while not self._done():
            self._signals.update()
            if self._signals.stop is not None:
                break
            if self._signals.holding():
                self._hold()
                continue
            for ready in self._rt.poll(wake_fd=self._signals.fileno()):
                if isinstance(ready, Listener):
                    self._accept(ready)
                else:
                    self._receive(ready)
        if self._signals.stop is not None:
            self._cut_off()
        return self._finish_report()

    def _cut_off(self) -> None:
        """Reset what is open, and what is established but was not taken yet."""
        for conn, sink in list(self._sinks.values()):
            self._end(conn, sink, "interrupted")
        wake_fd = self._signals.fileno()
        while ready := self._rt.poll(0, wake_fd=wake_fd):
            for listener in ready:
                assert isinstance(listener, Listener)  # there are no connections any more
                conn = listener.accept(timeout=0)
                conn.abort()
                self.report.accepted += 1
                self._count(_result_of(conn, "interrupted"))

    def _hold(self) -> None:
        """Consume nothing until SIGUSR2 or a stop signal: the windows close as buffers fill."""
        log.info("paused; SIGUSR2 resumes")
        while self._signals.holding():
            self._signals.wait()
        log.info("resumed")

    def _done(self) -> bool:
        return self._outcomes.total() == self._options.connections

    def _accept(self, listener: Listener) -> None:
        """Take one waiting connection; with the last that was asked for, stop listening."""
        if self.report.accepted == self._options.connections:
            return  # became ready together with the one that took the last place
        conn = listener.accept(timeout=0)
        self.report.accepted += 1
        if self.report.accepted == self._options.connections:
            for each in self._listeners:
                each.close()
        try:
            sink = Sink(conn, self._view, self._options.validate, self._output)
        except OSError as error:
            log.error("%s: no file for it: %s", Endpoint(*conn.peer), error.strerror)
            conn.abort()
            self._count(_result_of(conn, "write failed"))
            return
        self._sinks[conn.id] = conn, sink

    def _receive(self, conn: Connection) -> None:
        """Take one batch of a connection that has something: more waits for its next turn."""
        sink = self._sinks[conn.id][1]
        try:
            batch = conn.recv_frags(timeout=0)
        except TimeoutError:
            return
        except ConnectionResetError:
            self._end(conn, sink, "reset")
            return
        if not batch:
            self._end(conn, sink, "complete")
            return
        try:
            sink.take(batch)
        except OSError as error:
            log.error("%s: %s: %s", sink.result.peer, sink.result.file, error.strerror)
            self._end(conn, sink, "write failed")
            return
        conn.dontneed(batch)

    def _end(self, conn: Connection, sink: Sink, outcome: str) -> None:
        """Close the file, then the connection: a FIN says that the file is complete."""
        del self._sinks[conn.id]
        try:
            result = sink.close(outcome)
        except OSError as error:
            log.error("%s: %s: %s", sink.result.peer, sink.result.file, error.strerror)
            result = sink.result
            result.outcome = "write failed"
        if result.outcome == "complete":
            conn.close()
        else:
            conn.abort()
        self._count(result)

    def _count(self, result: ConnectionResult) -> None:
        self._ended.append(result)
        self._outcomes[result.outcome] += 1
        self.report.bytes += result.bytes
        self.report.frags += result.frags
        self.report.wrong_bytes += result.wrong_bytes
        checked = "" if result.validated is None else f", {result.wrong_bytes} wrong"
        where = f", {result.file}" if result.file else ""
        log.info(
            "%s: %s, %d bytes in %d fragments%s%s",
            *(result.peer, result.outcome, result.bytes, result.frags, checked, where),
        )

    def _settled_stats(self) -> Stats:
        """The counters, after the stack has had time to take the last tokens back."""
        deadline = time.monotonic() + RETURN_SECONDS
        while (stats := self._rt.stats()).tokens_outstanding and time.monotonic() < deadline:
            time.sleep(RETURN_POLL_SECONDS)
        return stats

    def _finish_report(self) -> RecvReport:
        report, stats = self.report, self._settled_stats()
        report.outcomes = dict(self._outcomes)
        report.connections = list(self._ended)
        report.connections_omitted = self._outcomes.total() - len(self._ended)
        if self._options.validate is not None:
            report.validated = report.wrong_bytes == 0
        report.tokens_outstanding = stats.tokens_outstanding
        report.drops = {name: count for name, count in stats.drops.items() if count}
        report.steer = {name: count for name, count in stats.steer.items() if count}
        report.rx_dropped = sum(s.rx_dropped + s.rx_ring_full for s in stats.sockets)
        probe = self._rt.unreadable
        report.unreadable, report.unreadable_reason = bool(probe), probe.reason
        report.exit_code = self._exit_code()
        report.ok = report.exit_code == 0
        return report

    def _exit_code(self) -> int:
        """0: every connection ended cleanly, with the right bytes where that was checked.

        A signal is the normal end of a run without `connections`. It counts (128 + n, as in a
        shell) only when it cut something off.
        """
        if self.report.wrong_bytes or self._outcomes["reset"] or self._outcomes["write failed"]:
            return 1
        if self._signals.stop is not None and (
            self._outcomes["interrupted"] or self._options.connections
        ):
            return 128 + self._signals.stop
        return 0


def receive(options: RecvOptions) -> RecvReport:
    """Run `devmemtcp recv`: see RecvOptions and Receiver.

    Raises ConfigError before anything was changed when the options cannot work, and what
    Runtime raises.
    """
    _check(options)
    _raise_file_limit()
    # The signals come first: a stop while things are being set up must undo them, too.
    with (
        Signals() as signals,
        Region(options.region_size, memory=options.memory) as region,
        region.map() as view,
        _stack(options, region) as rt,
    ):
        receiver = Receiver(rt, view, options, signals)
        receiver.listen()
        return receiver.run()


def _check(options: RecvOptions) -> None:
    """What can be refused without touching the system."""
    if not options.listen and not options.close_first:
        raise ConfigError(
            "nothing to listen on; give --listen ADDR:PORT or --close-first ADDR:PORT"
        )
    for name in ("listen", "close_first"):
        endpoints: tuple[Endpoint, ...] = getattr(options, name)
        repeated = [str(e) for e, count in Counter(endpoints).items() if count > 1]
        if repeated:
            raise ConfigError(f"--{name.replace('_', '-')} {repeated[0]} is given twice")
    for one, other in combinations(dict.fromkeys(options.listen + options.close_first), 2):
        if overlap(one, other):
            raise ConfigError(
                f"{one} and {other} contradict each other: port {one.port} of an address has one "
                "listener; leave one out, or take another port"
            )
    if options.agent is None:
        check_page_size(PROVIDERS[options.memory].page_size, options.mode)
    else:
        for name, default in (("mode", "auto"), ("rx_csum", "verify"), ("force", False)):
            if getattr(options, name) != default:
                raise ConfigError(
                    f"--{name.replace('_', '-')} is the agent's to choose, in its configuration; "
                    "leave it out with --agent"
                )
    if options.connections is not None and options.connections < 1:
        raise ConfigError(f"--connections {options.connections}: at least 1 is needed")
    if options.validate is not None:
        one_period(options.validate)
    if options.output_dir is not None:
        OutputDirectory(options.output_dir)


@contextlib.contextmanager
def _stack(options: RecvOptions, region: Region) -> Iterator[Runtime | SessionStack]:
    """What receives into the region; what is forbidden is said in one line."""
    with contextlib.ExitStack() as undo:
        stack: Runtime | SessionStack
        try:
            if options.agent is not None:
                stack = _agents_stack(undo, options.agent, options.interface, region)
            else:
                stack = undo.enter_context(_runtime(options, region))
        except PermissionError as error:
            way = "run it as root" if options.agent is None else "see the agent's [[rule]]"
            raise ConfigError(
                f"no permission to receive on {options.interface} ({error.strerror}); {way}"
            ) from error
        yield stack


def _agents_stack(
    undo: contextlib.ExitStack, path: str, interface: str, region: Region
) -> SessionStack:
    """The agent's stack, with the region bound to all queues of the interface."""
    try:
        session = undo.enter_context(Session(path))
    except PermissionError as error:  # not a matter of rules
        raise ConfigError(error.strerror or str(error)) from error
    stack = session.stack(interface)
    undo.enter_context(session.bind_rx(interface, range(stack.queues), region))
    return stack


def _runtime(options: RecvOptions, region: Region) -> Runtime:
    return Runtime(
        options.interface,
        region,
        mode=options.mode,
        rx_csum=options.rx_csum,
        pressure=options.pressure,
        isolate=True,
        force=options.force,
        listen=[a for e in (*options.listen, *options.close_first) for a in _addresses(e)],
    )


def _addresses(endpoint: Endpoint) -> list[tuple[str, int]]:
    """What to listen on; without a host, every address of each family that this kernel has."""
    if endpoint.host:
        return [(endpoint.host, endpoint.port)]
    families = ANY if Path("/proc/net/if_inet6").exists() else ANY[:1]
    return [(host, endpoint.port) for host in families]


def _raise_file_limit() -> None:
    """A file a connection: take what the hard limit of open files gives."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
