# SPDX-License-Identifier: Apache-2.0
"""What the agent between costs an application, and what a killed one leaves behind.

Goodput: in one lab, turn by turn in an order drawn anew for each round, one TCP stream is received
by user nobody through the agent, and by root with a stack in its own process. The ratio is made
within rounds; what is reported is the median.

Kills: one application receives stream after stream by the agent and checks every byte. Beside it
others come, receive into the same region, and are killed (SIGKILL) at random moments. After each
it is taken how long the agent takes until nothing of it is left: its tokens, its connections.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devmemtcp.agent.bench.progress import Progress
from devmemtcp.agent.bench.receiver import NOBODY
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.lab import Lab, Side, check_mtu
from devmemtcp.agent.options import DEFAULT_PERIOD
from devmemtcp.agent.region import check_size
from devmemtcp.agent.runtime import Mode
from devmemtcp.agent.session import Session

PORT, VICTIM_PORT = 5203, 5204
GOAL = 0.95
"""Of the goodput with a stack inside."""
SETTLE_SECONDS = 1.0
"""In which nothing of a killed application may be left."""
ANSWER_SECONDS = 120.0
KEEPER_BYTES = 256 << 20
"""Of one of the checked streams beside the kills."""
START_SECONDS = 2.0
"""Of a turn: the processes that it starts."""
KILL_SECONDS = 0.25
"""At most, from the first byte."""


@dataclass(frozen=True)
class AgentRxOptions:
    """What was asked for on the command line."""

    size: int
    """Bytes of a turn."""
    rounds: int
    kills: int
    mtu: int
    mode: Mode
    region_size: int

    def check(self) -> None:
        """Raise ConfigError for what cannot work, as far as it shows in the numbers."""
        if self.size < 1 << 20:
            raise ConfigError(f"--size {self.size}: at least 1M is needed")
        if self.rounds < 0 or self.kills < 0 or not self.rounds + self.kills:
            raise ConfigError("--rounds and --kills: at least one of them must be more than 0")
        check_mtu(self.mtu)
        check_size(self.region_size)

    def seconds(self) -> float:
        """About how long it will take, at 20 Gb/s."""
        turn = START_SECONDS + self.size * 8 / 20e9
        return self.rounds * 2 * turn + self.kills * (KILL_SECONDS + 0.2)


@dataclass
class Spread:
    """Median and extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """At least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class AgentRxReport:
    """`asdict()` of it is the JSON document."""

    ok: bool = False
    failures: list[str] = field(default_factory=list)
    size: int = 0
    rounds: int = 0
    inside_gbps: Spread | None = None
    agent_gbps: Spread | None = None
    goodput_ratio: Spread | None = None
    kills: int = 0
    settled_seconds: Spread | None = None
    """From the SIGKILL until nothing of the application was left in the agent."""
    streams_beside: int = 0
    wrong_bytes: int = 0
    """In the streams of the application that was not killed."""


class _Process:
    """A child that answers with JSON lines."""

    def __init__(self, *args: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()

    def go_on(self) -> None:
        """One line on its stdin."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)

    def hear(self) -> dict[str, Any]:
        """Its next line. Raises OSError when there is none."""
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], ANSWER_SECONDS)[0]:
            raise TimeoutError(f"a benchmark process gave no answer for {ANSWER_SECONDS:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise OSError(f"a benchmark process ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def _agent(lab: Lab, options: AgentRxOptions) -> Iterator[str]:
    """A running agent on the near end, which lets nobody bind; gives the path of its socket."""
    with ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="devmemtcp-bench-")))
        folder.chmod(0o755)
        path, config = folder / "agent.sock", folder / "agent.toml"
        config.write_text(
            f'[agent]\nsocket = "{path}"\nmode = "0666"\nnetns = "{lab.near.netns}"\n'
            f'log_level = "error"\n[[interface]]\nname = "{lab.near.ifname}"\n'
            f'mode = "{options.mode}"\nmemory = {options.region_size}\n'
            f"[[rule]]\nusers = [{NOBODY}]\nadmin = true\n"
        )
        manager = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        manager.bind(str(folder / "notify"))
        manager.settimeout(ANSWER_SECONDS)
        command = [sys.executable, "-P", "-m", "devmemtcp.agent.cli", "agent", "--config"]
        process = subprocess.Popen(
            [*command, config], env=os.environ | {"NOTIFY_SOCKET": str(folder / "notify")}
        )
        undo.callback(process.wait)
        undo.callback(process.terminate)
        manager.recv(1000)
        yield str(path)


def _send(far: Side, host: str, port: int, size: int) -> None:
    """One stream of the pattern, by the ordinary sender."""
    command = [sys.executable, "-P", "-m", "devmemtcp.agent.cli", "send", f"{host}:{port}"]
    with far.entered():
        sender = subprocess.Popen(
            [*command, "--size", str(size), "--pattern", str(DEFAULT_PERIOD)],
            stdout=subprocess.DEVNULL,
        )
    if sender.wait():
        raise OSError(f"the sender ended with {sender.returncode}")


def _role(lab: Lab, options: AgentRxOptions, agent: str | None, **more: Any) -> str:
    return json.dumps(
        {
            "agent": agent,
            "ifname": lab.near.ifname,
            "netns": lab.near.netns,
            "host": lab.near.ip4,
            "port": PORT,
            "mode": options.mode,
            "region_size": options.region_size,
            "pattern": None,
            **more,
        }
    )


_RECEIVER = "devmemtcp.agent.bench.receiver"


def _turn(lab: Lab, options: AgentRxOptions, *, by_agent: bool) -> float:
    """Goodput of one stream, in Gb/s."""
    with ExitStack() as undo:
        agent = undo.enter_context(_agent(lab, options)) if by_agent else None
        receiver = undo.enter_context(_Process(_RECEIVER, "stream", _role(lab, options, agent)))
        receiver.hear()
        _send(lab.far, lab.near.ip4, PORT, options.size)
        result = receiver.hear()
    if result["bytes"] != options.size:
        raise OSError(f"{result['bytes']} bytes of {options.size} were received")
    return float(result["bytes"] * 8 / result["seconds"] / 1e9)


def _measure(lab: Lab, options: AgentRxOptions, report: AgentRxReport, progress: Progress) -> None:
    inside: list[float] = []
    agent: list[float] = []
    for number in range(options.rounds):
        order = [(inside, False), (agent, True)]
        random.shuffle(order)
        for figures, by_agent in order:
            figures.append(_turn(lab, options, by_agent=by_agent))
        progress.turn(
            f"agent, round {number + 1} of {options.rounds}: {inside[-1]:.1f} Gb/s inside, "
            f"{agent[-1]:.1f} by the agent"
        )
    report.inside_gbps, report.agent_gbps = Spread.of(inside), Spread.of(agent)
    report.goodput_ratio = Spread.of([a / i for a, i in zip(agent, inside, strict=True)])
    if report.goodput_ratio.median < GOAL:
        report.failures.append(f"goodput ratio {report.goodput_ratio.median:.3f}, not {GOAL}")


# ---- kills ----


class _Keeper:
    """The application that is not killed: stream after stream, each byte checked."""

    def __init__(self, lab: Lab, receiver: _Process) -> None:
        self.streams = self.wrong = self.missing = 0
        self.error: OSError | None = None
        self._lab, self._receiver = lab, receiver
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                _send(self._lab.far, self._lab.near.ip4, PORT, KEEPER_BYTES)
                result = self._receiver.hear()
                self.streams += 1
                self.wrong += result["wrong"]
                self.missing += KEEPER_BYTES - result["bytes"]
                self._receiver.go_on()
        except OSError as error:
            self.error = error

    def __enter__(self) -> _Keeper:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        self._thread.join()


def _flood(far: Side, host: str, began: threading.Event) -> None:
    """Send to a victim until it is gone."""
    with (
        far.entered(),
        contextlib.suppress(OSError),
        socket.create_connection((host, VICTIM_PORT), timeout=ANSWER_SECONDS) as sock,
    ):
        while True:
            sock.sendall(bytes(1 << 20))
            began.set()


def _kill_one(lab: Lab, victims: _Process, session: Session, chance: random.Random) -> float:
    """Seconds until nothing of a killed application was left."""
    victims.go_on()
    victim = victims.hear()["pid"]
    began = threading.Event()
    flooder = threading.Thread(target=_flood, args=(lab.far, lab.near.ip4, began))
    flooder.start()
    began.wait(ANSWER_SECONDS)
    time.sleep(chance.uniform(0, KILL_SECONDS))
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    while any(app["pid"] == victim for app in session.applications()):
        if time.monotonic() - killed > ANSWER_SECONDS:
            raise TimeoutError("a killed application stays")
    settled = time.monotonic() - killed
    flooder.join()
    victims.hear()
    return settled


def _all_home(session: Session, ifname: str) -> bool:
    """Whether every device buffer is in the pool or in a fill ring, soon."""
    deadline = time.monotonic() + SETTLE_SECONDS
    names = ("niovs_lent", "niovs_queued", "niovs_ooo", "tokens_outstanding")
    while any(session.stack(ifname).stats().stack[name] for name in names):
        if time.monotonic() > deadline:
            return False
    return True


def _kill(lab: Lab, options: AgentRxOptions, report: AgentRxReport, progress: Progress) -> None:
    chance = random.Random()
    settled: list[float] = []
    with ExitStack() as undo:
        agent = undo.enter_context(_agent(lab, options))
        role = _role(lab, options, agent, pattern=DEFAULT_PERIOD)
        receiver = undo.enter_context(_Process(_RECEIVER, "streams", role))
        receiver.hear()
        role = _role(lab, options, agent, port=VICTIM_PORT)
        victims = undo.enter_context(_Process(_RECEIVER, "victims", role))
        session = undo.enter_context(Session(agent))
        with _Keeper(lab, receiver) as keeper:
            for number in range(options.kills):
                settled.append(_kill_one(lab, victims, session, chance))
                progress.turn(
                    f"agent, kill {number + 1} of {options.kills}: all gone after at most "
                    f"{max(settled) * 1000:.0f} ms"
                )
        if keeper.error is not None:
            raise keeper.error
        if not _all_home(session, lab.near.ifname):
            report.failures.append("not all device buffers came back")
    report.kills, report.settled_seconds = len(settled), Spread.of(settled)
    report.streams_beside, report.wrong_bytes = keeper.streams, keeper.wrong
    if max(settled) > SETTLE_SECONDS:
        report.failures.append(f"a killed application was there for {max(settled):.2f} s")
    if keeper.wrong or keeper.missing:
        report.failures.append(
            f"another application's streams: {keeper.wrong} bytes wrong, {keeper.missing} missing"
        )


def run_agent_rx(options: AgentRxOptions, progress: Progress) -> AgentRxReport:
    """Measure. Raises ConfigError, OSError."""
    options.check()
    progress.expect("agent", options.rounds + options.kills, options.seconds())
    report = AgentRxReport(size=options.size, rounds=options.rounds)
    with Lab(mtu=options.mtu) as lab:
        if options.rounds:
            _measure(lab, options, report, progress)
        if options.kills:
            _kill(lab, options, report, progress)
    report.ok = not report.failures
    return report
