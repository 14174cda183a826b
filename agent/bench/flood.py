# SPDX-License-Identifier: Apache-2.0
"""SYNs from strangers that do not exist, at a listener that others use.

Meanwhile one connection receives as fast as it can, and new clients come. Phases with and without
the flood take turns (rounds.py), so that what the machine does beside it hits both. Three things
are promised: the connection keeps most of its goodput, a new client is served soon, and no memory
is taken.

A client is served when it has connected, sent a few bytes, and seen the receiver's end of the
connection, which closes when it has them. Memory is what application and stack have resident,
against what they had after the first, uncounted round.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from devmemtcp.agent.bench._native import ffi, lib
from devmemtcp.agent.bench.progress import Progress
from devmemtcp.agent.bench.resident import let_go_of_setup, resident
from devmemtcp.agent.bench.rounds import take_turns
from devmemtcp.agent.bench.worker import ANSWER_SECONDS, PORT, Worker
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.lab import Lab, Side, check_mtu
from devmemtcp.agent.region import PAGE_SIZE, Region, check_size
from devmemtcp.agent.runtime import Mode, Runtime
from devmemtcp.agent.socket import Connection, Listener

CALM, FLOOD = "calm", "flood"

GOODPUT_KEPT = 0.8
CLIENT_SECONDS = 3.0
RESIDENT_GROWTH = 1 << 20
"""Bytes more at any time than after the first round: noise of the sampling."""
JUDGED_SECONDS = 20.0
"""Of flood. In a shorter run goodput, times and memory are reported, not judged."""
ANSWERED = 0.5
"""Of the SYNs: with fewer there was no flood, whoever lost them."""

BACKLOG = 1024
"""Embryos that are remembered: what comes beyond gets cookies."""
PHASE_SECONDS = 5.0
CLIENTS = 4
"""That come in a phase, one after another."""
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class FloodOptions:
    """What was asked for on the command line."""

    syns: int
    seconds: float
    """Of flood: as long again it is calm."""
    mtu: int
    mode: Mode
    region_size: int
    seed: int

    def check(self) -> None:
        """Raise ConfigError for what cannot work, as far as it shows in the numbers."""
        if not 1 <= self.syns <= 1 << 40:
            raise ConfigError(f"--syns {self.syns}: at least 1")
        if not 0 < self.seconds <= 24 * 3600:
            raise ConfigError(f"--seconds {self.seconds:g}: more than 0, and at most a day")
        check_mtu(self.mtu)
        check_size(self.region_size)

    @property
    def rounds(self) -> int:
        """Phases of each sort."""
        return max(1, round(self.seconds / PHASE_SECONDS))

    @property
    def phase(self) -> float:
        """Seconds."""
        return self.seconds / self.rounds


@dataclass(frozen=True)
class Phase:
    """What was seen in one."""

    flooded: bool
    round: int
    gbps: float
    clients: list[float | None]
    """Seconds until each was served; None: never."""
    resident: int
    descriptors: int
    flows: int


@dataclass
class FloodReport:
    """`asdict()` of it is the JSON document."""

    ok: bool = False
    failures: list[str] = field(default_factory=list)
    judged: bool = False
    """Goodput, times and memory, too."""
    mode: str = ""
    mtu: int = 0
    seconds: float = 0.0
    """Of flood."""
    syns: int = 0
    """That were sent."""
    answered: int = 0
    """By a SYN-ACK of an embryo, or by a cookie."""
    counters: dict[str, int] = field(default_factory=dict)
    goodput_calm: float = 0.0
    """Gb/s, the median of the phases."""
    goodput_flood: float = 0.0
    goodput_ratio: float = 0.0
    """The median of the rounds' ratios."""
    client_slowest: float | None = None
    """Seconds, in the flood; None: one was never served."""
    resident_before: int = 0
    resident_peak: int = 0
    phases: list[Phase] = field(default_factory=list)


COUNTED = ("syncookies_sent", "syncookies_recv", "syncookies_failed", "flows_opened", "tx_no_page")


def run_flood(options: FloodOptions, progress: Progress) -> FloodReport:
    """Flood and look; nothing is left behind. Raises as Runtime and Lab do."""
    options.check()
    turns = 2 * (options.rounds + 1)
    progress.expect("flood", turns, turns * options.phase)
    with ExitStack() as undo:
        region = undo.enter_context(Region(options.region_size))
        lab = undo.enter_context(Lab(mtu=options.mtu))
        far = undo.enter_context(Worker(lab.far))
        rt = undo.enter_context(
            Runtime(lab.near.ifname, region, mode=options.mode, isolate=True, netns=lab.near.netns)
        )
        listener = undo.enter_context(rt.listen((lab.near.ip4, PORT), backlog=BACKLOG))
        far.tell(do="send", address=[lab.near.ip4, PORT], connections=1, cpu=None)
        stream = listener.accept(timeout=ANSWER_SECONDS)
        far.hear()
        strangers = undo.enter_context(_strangers(lab, options))
        pool = undo.enter_context(ThreadPoolExecutor(2))
        let_go_of_setup()
        victim = Victim(rt, listener, stream, lab, strangers, pool, options, progress)
        victim.measure()
        stream.abort()
        far.hear()
        return victim.finish()


class Strangers:
    """Where the flood comes from: a packet socket at the far end."""

    def __init__(self, sock: socket.socket, flood: Any) -> None:
        self._sock = sock
        self._flood = flood

    def flood(self, syns: int, seconds: float) -> int:
        """Send so many SYNs in so long, from sources not drawn before; returns how many it were."""
        sent = int(lib.syn_flood(self._sock.fileno(), self._flood, syns, int(seconds * 1e9)))
        if sent < 0:
            raise OSError(-sent, f"flood: {os.strerror(-sent)}")
        self._flood.seed += sent
        return sent


@contextmanager
def _strangers(lab: Lab, options: FloodOptions) -> Iterator[Strangers]:
    with _packet_socket(lab.near) as near:
        to_mac = near.getsockname()[4]
    with _packet_socket(lab.far) as far:
        flood = ffi.new("struct syn_flood *", {"to_port": PORT, "seed": options.seed})
        flood.to_mac, flood.from_mac = to_mac, far.getsockname()[4]
        flood.to_ip = socket.inet_aton(lab.near.ip4)
        yield Strangers(far, flood)


def _packet_socket(side: Side) -> socket.socket:
    """One that receives nothing."""
    with side.entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            sock.bind((side.ifname, 0))
        except OSError:
            sock.close()
            raise
    return sock


def _be_served(side: Side, address: tuple[str, int]) -> float:
    """A client: seconds until it was served. Raises OSError when it was not."""
    with side.entered(), socket.socket() as sock:
        sock.settimeout(ANSWER_SECONDS)
        start = time.monotonic()
        sock.connect(address)
        sock.sendall(b"a client like any other")
        while sock.recv(1):
            pass
        return time.monotonic() - start


class Victim:
    """The receiver, and what it sees."""

    def __init__(
        self,
        rt: Runtime,
        listener: Listener,
        stream: Connection,
        lab: Lab,
        strangers: Strangers,
        pool: ThreadPoolExecutor,
        options: FloodOptions,
        progress: Progress,
    ) -> None:
        self._rt, self._listener, self._stream, self._lab = rt, listener, stream, lab
        self._strangers, self._pool, self._options = strangers, pool, options
        self._progress = progress
        self._received = 0
        self._report = FloodReport(
            judged=options.seconds >= JUDGED_SECONDS,
            mode=rt.mode,
            mtu=options.mtu,
            seconds=options.seconds,
        )

    def measure(self) -> None:
        """All rounds."""
        options, report = self._options, self._report
        syns = max(1, options.syns // options.rounds)
        self._phase(False, 0)
        first = self._phase(True, syns)
        report.resident_before = first.resident
        report.syns = 0
        before = self._counters()
        sorts = {CALM: partial(self._phase, False, 0), FLOOD: partial(self._phase, True, syns)}
        for turn in take_turns(sorts, options.rounds, seed=options.seed, warm_up=0):
            report.phases.append(turn.sample)
            self._progress.turn(
                f"flood, round {turn.round + 1}: {turn.variant} {turn.sample.gbps:.1f} Gb/s"
            )
        after = self._counters()
        report.counters = {name: after[name] - before[name] for name in COUNTED}
        report.answered = report.counters["syncookies_sent"] + report.counters["flows_opened"]

    def _counters(self) -> dict[str, int]:
        stack = self._rt.stats().stack
        return {name: stack[name] for name in COUNTED}

    def _phase(self, flooded: bool, syns: int) -> Phase:
        seconds = self._options.phase
        sending: Future[int] | None = None
        if flooded:
            sending = self._pool.submit(self._strangers.flood, syns, seconds)
        clients: list[Future[float]] = []
        start, before = time.monotonic(), self._received
        while (passed := time.monotonic() - start) < seconds:
            if passed >= len(clients) * seconds / CLIENTS and all(c.done() for c in clients):
                clients.append(self._pool.submit(_be_served, self._lab.far, self._address()))
            self._turn()
        gbps = (self._received - before) * 8e-9 / passed
        while not all(c.done() for c in clients):
            self._turn()
        if sending is not None:
            self._report.syns += sending.result()
        return self._seen(flooded, gbps, clients)

    def _address(self) -> tuple[str, int]:
        return self._lab.near.ip4, PORT

    def _seen(self, flooded: bool, gbps: float, clients: list[Future[float]]) -> Phase:
        pids = {os.getpid(), self._rt.pid}
        return Phase(
            flooded=flooded,
            round=len(self._report.phases) // 2,
            gbps=gbps,
            clients=[_seconds(client) for client in clients],
            resident=sum(resident(pid) for pid in pids),
            descriptors=sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
            flows=self._rt.stats().stack["flows_now"],
        )

    def _turn(self) -> None:
        """One batch of each connection that has something."""
        for each in self._rt.poll(POLL_SECONDS):
            if isinstance(each, Listener):
                each.accept(timeout=0)
                continue
            batch = each.recv_frags(timeout=0)
            each.dontneed(batch)
            if each is self._stream:
                self._received += batch.nbytes
            else:
                each.close()  # a client, which has been served now

    def finish(self) -> FloodReport:
        """The verdict, when the stream is gone."""
        report = self._report
        calm = [phase.gbps for phase in report.phases if not phase.flooded]
        flood = [phase.gbps for phase in report.phases if phase.flooded]
        report.goodput_calm, report.goodput_flood = map(statistics.median, (calm, flood))
        report.goodput_ratio = statistics.median(
            loud / quiet if quiet else 0.0 for loud, quiet in zip(flood, calm, strict=True)
        )
        waits = [wait for phase in report.phases if phase.flooded for wait in phase.clients]
        report.client_slowest = None if None in waits else max(w for w in waits if w is not None)
        report.resident_peak = max(phase.resident for phase in report.phases)
        report.failures = [*_failures(report), *self._left()]
        report.ok = not report.failures
        return report

    def _left(self) -> Iterator[str]:
        stack = self._rt.stats().stack
        away = self._options.region_size // PAGE_SIZE - stack["niovs_free"] - stack["niovs_fill"]
        if away or stack["tokens_outstanding"]:
            yield f"{stack['tokens_outstanding']} tokens and {away} buffers did not come back"


def _seconds(client: Future[float]) -> float | None:
    error = client.exception()
    if error is None:
        return client.result()
    if isinstance(error, OSError):
        return None
    raise error


def _failures(report: FloodReport) -> Iterator[str]:
    flows = max(phase.flows for phase in report.phases)
    if flows > BACKLOG + (len(report.phases) + 2) * CLIENTS + 1:  # which wait out their 2 MSL
        yield f"{flows} connections are remembered, with a backlog of {BACKLOG}"
    if len({phase.descriptors for phase in report.phases}) > 1:
        yield "descriptors were opened or closed"
    if report.answered < ANSWERED * report.syns:
        yield f"only {report.answered} of {report.syns} SYNs were answered: that was no flood"
    if report.client_slowest is None:
        yield f"a new client was not served within {ANSWER_SECONDS:.0f} s"
    if not report.judged:
        return
    if report.goodput_ratio < GOODPUT_KEPT:
        yield f"goodput fell to {report.goodput_ratio:.2f}, less than {GOODPUT_KEPT}"
    if report.client_slowest is not None and report.client_slowest > CLIENT_SECONDS:
        yield f"a new client was served after {report.client_slowest:.1f} s"
    if report.resident_peak > report.resident_before + RESIDENT_GROWTH:
        yield f"resident memory grew by {report.resident_peak - report.resident_before} bytes"
