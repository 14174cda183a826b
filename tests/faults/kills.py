# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random points of a life: starting, binding, listening, receiving, closing, ending.

A first life, not disturbed, tells how long each phase is; then a phase is chosen and, within its
length, a moment. After each kill nothing may be left, and a whole life must come next, with each
byte right. Who was not killed, but depended on who was, must say so by an error with a name.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from devmemtcp.agent.session import Session

from ..net.agent_process import AgentProcess
from ..net.traffic import until
from ..net.veth import Veth, VethEnd
from .leftovers import Leftovers
from .nursery import Child, Nursery
from .report import Row
from .sender import Sender
from .victims import PATIENCE, RECEIVER_PHASES

PORT = 5201
TRAFFIC_SECONDS = 0.1
"""Of a stream that nobody disturbs, at least."""
_STAYS = {"agent.toml", "agent.log", "agent.sock", "agent.sock.lock"}
"""Of a killed agent: names without anybody behind them, which the next one takes over."""
_NAMED = re.compile(
    r"the stack's process has died: SIGKILL|.*the agent at \S+ has ended, or closed the .*"
    r"|no agent answers at \S+; .*"
)
_HOME = ("niovs_lent", "niovs_queued", "niovs_ooo", "tokens_outstanding")


class Lives:
    """Receivers of one kind on the near end, and who sends to them."""

    def __init__(self, nursery: Nursery, near: VethEnd, far: VethEnd, **role: Any) -> None:
        """`role`: `isolate` and `agent` of `victims.receiver()`."""
        self._nursery = nursery
        self._far = far
        self._address = near.ip4, PORT
        self._role = {"ifname": near.ifname, "netns": near.netns, "address": self._address, **role}

    def fork(self) -> Child:
        """A receiver's life begins."""
        return self._nursery.fork("receiver", **self._role)

    def sender(self) -> Sender:
        """To whom it listens."""
        return Sender(self._far, self._address)

    def whole(self, row: Row) -> dict[str, float]:
        """One that is not disturbed; the seconds of its phases."""
        entered: dict[str, float] = {}
        with self.fork() as child:
            for phase in RECEIVER_PHASES[:-1]:
                child.reach(phase)
                entered[phase] = time.monotonic()
            with self.sender() as sender:
                sender.wait_for_bytes()
                time.sleep(TRAFFIC_SECONDS)
                sender.finish()
                received = child.reach("close")["bytes"]
                entered["close"] = time.monotonic()
            words = child.last_words()
            ended = time.monotonic()
        row.nbytes += received
        if words.get("end") != "well" or received != sender.sent:
            row.broken.append(f"the next life: {received} bytes of {sender.sent}, {words}")
        times = [*entered.values(), ended]
        return {
            phase: after - before
            for phase, before, after in zip(entered, times, times[1:], strict=False)
        }

    def reach(self, undo: ExitStack, phase: str) -> tuple[Child, Sender | None]:
        """One that has just entered a phase; somebody sends to it as soon as it listens."""
        child, sender = undo.enter_context(self.fork()), None
        if phase in ("traffic", "close"):
            child.reach("traffic")
            sender = undo.enter_context(self.sender())
        if sender and phase == "close":
            sender.wait_for_bytes()
            sender.finish(wait=False)
        if phase != "traffic":
            child.reach(phase)
        return child, sender

    @contextmanager
    def at(self, phase: str) -> Iterator[Child]:
        """The same, for the length of a block."""
        with ExitStack() as undo:
            yield self.reach(undo, phase)[0]


def kill_receivers(
    row: Row,
    lives: Lives,
    near: VethEnd,
    times: int,
    chance: random.Random,
    *,
    stack: bool = False,
) -> None:
    """Kill an application with a stack inside or in a process of its own; or that (`stack`)."""
    lengths = lives.whole(row)
    leftovers = Leftovers(near)
    phases = RECEIVER_PHASES[1:] if stack else RECEIVER_PHASES
    for phase in spread(phases, times, chance):
        with lives.at(phase) as child:
            pid = _stack_of(child) if stack else child.pid
            time.sleep(chance.uniform(0, lengths[phase]))
            _kill(pid)
            words = child.last_words()
        if stack:
            _judge(row, words, may_end=child.at == "close")
        elif words.get("end") == "crash":
            row.broken.append(f"before the kill at {phase}: {words['text']}")
        _after(row, leftovers, phase)
        lives.whole(row)


def kill_clients(
    row: Row, nursery: Nursery, near: VethEnd, far: VethEnd, times: int, chance: random.Random
) -> None:
    """Kill applications of an agent, which must not notice for long."""
    with ForkedAgent.folder() as folder:
        agent = ForkedAgent(nursery, near, folder)
        agent.start()
        lives = Lives(nursery, near, far, agent=str(agent.path))
        lengths = lives.whole(row)
        with Session(agent.path) as session:
            leftovers = Leftovers(near, inside=[agent.pid])
            for phase in spread(RECEIVER_PHASES, times, chance):
                with lives.at(phase) as child:
                    time.sleep(chance.uniform(0, lengths[phase]))
                    child.kill()
                    words = child.last_words()
                if words.get("end") == "crash":
                    row.broken.append(f"before the kill at {phase}: {words['text']}")
                _after(row, leftovers, phase)
                _look_at_agent(row, session, near, child, phase)
                lives.whole(row)
        agent.end()


def _look_at_agent(row: Row, session: Session, near: VethEnd, dead: Child, phase: str) -> None:
    """What it still has of an application that was killed."""

    def gone() -> bool:
        stats = session.stack(near.ifname).stats().stack
        return not any(stats[name] for name in _HOME) and all(
            app["pid"] != dead.pid for app in session.applications()
        )

    if not until(gone, PATIENCE):
        stats = session.stack(near.ifname).stats().stack
        out = {name: stats[name] for name in _HOME if stats[name]}
        row.broken.append(f"{phase}: the agent still has {out or 'the application'}")


def kill_agents(
    row: Row, nursery: Nursery, near: VethEnd, far: VethEnd, times: int, chance: random.Random
) -> None:
    """Kill agents: while they start, while an application is at any phase, while they end."""
    with ForkedAgent.folder() as folder:
        leftovers = Leftovers(near)
        agent = ForkedAgent(nursery, near, folder)
        lives = Lives(nursery, near, far, agent=str(agent.path))
        began = time.monotonic()
        agent.start()
        starting = time.monotonic() - began
        lengths = lives.whole(row)
        ending = agent.end()
        for phase in spread(("start", *RECEIVER_PHASES, "end"), times, chance):
            if phase == "start":
                agent.fork()
                time.sleep(chance.uniform(0, starting))
                agent.kill()
            else:
                agent.start()
                at = "traffic" if phase == "end" else phase
                with lives.at(at) as child:
                    if phase == "end":
                        agent.kill(signal.SIGTERM)
                    time.sleep(chance.uniform(0, ending if phase == "end" else lengths[phase]))
                    agent.kill()
                    _judge(row, child.last_words(), may_end=child.at == "close")
            _after(row, leftovers, phase)
            if (
                strange := agent.files()
                - {"agent.toml", "agent.log", "agent.sock"}
                - {"agent.sock.lock"}
            ):
                row.broken.append(f"{phase}: the agent left {', '.join(strange)}")
            agent.start()
            lives.whole(row)
            agent.end()


class ForkedAgent:
    """An agent of the nursery: one after the other, in one folder."""

    def __init__(self, nursery: Nursery, end: VethEnd, folder: Path, interface: str = "") -> None:
        self._nursery = nursery
        self._files = AgentProcess(folder, end, _RULES, interface, "linger = 0.3", (), {})
        self._notify = folder / "notify.sock"
        self._child: Child | None = None
        self._ended = True
        self.path = self._files.path

    @staticmethod
    @contextmanager
    def folder() -> Iterator[Path]:
        """Where socket, configuration and log are; others may pass."""
        with tempfile.TemporaryDirectory(prefix="devmemtcp-faults-") as name:
            Path(name).chmod(0o755)
            yield Path(name)

    @property
    def pid(self) -> int:
        """Of the one that was forked last."""
        assert self._child is not None
        return self._child.pid

    @property
    def log(self) -> str:
        """Of all that there were."""
        return self._files.log

    def files(self) -> set[str]:
        """The names of the files in its folder."""
        return set(os.listdir(self._notify.parent))

    def fork(self) -> None:
        """Let one begin."""
        environ = {"NOTIFY_SOCKET": str(self._notify)}
        log = str(self._notify.with_name("agent.log"))
        self._ended = False
        self._child = self._nursery.fork("agent", environ, file=str(self._files.config), log=log)

    def start(self) -> None:
        """Let one begin, and wait until it says that it is ready."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(self._notify))
            self._notify.chmod(0o777)  # as systemd's
            manager.settimeout(PATIENCE)
            try:
                self.fork()
                told = manager.recv(1000)
                assert told.startswith(b"READY=1"), told
            finally:
                self._notify.unlink()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; by SIGKILL it has ended when this returns."""
        assert self._child is not None
        self._child.kill(number)
        if number == signal.SIGKILL:
            self._child.last_words()

    def end(self) -> float:
        """End it as an administrator would; the seconds that took."""
        began = time.monotonic()
        self.kill(signal.SIGTERM)
        self.await_end(0)
        return time.monotonic() - began

    def code(self) -> int:
        """Wait for its end; its exit code."""
        assert self._child is not None
        words = self._child.last_words()
        assert words.get("end") == "well", f"{words}: {self.log}"
        return int(words["code"])

    def await_end(self, code: int) -> None:
        """Until it has ended, which must be with this exit code."""
        if not self._ended:
            assert self.code() == code, self.log
            self._ended = True
        assert not self.path.exists()


_RULES = "[[rule]]\nusers = [65534]\nadmin = true\n"


def spread(phases: Sequence[str], times: int, chance: random.Random) -> list[str]:
    """So many of the phases, each about as often as the others, in any order."""
    chosen = [phases[number % len(phases)] for number in range(times)]
    chance.shuffle(chosen)
    return chosen


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended by itself: the end of a life is one of the points


def _stack_of(child: Child) -> int:
    """The process of an isolated stack, as soon as it is what it will be."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for task in Path("/proc", str(child.pid), "task").iterdir():
            for pid in (task / "children").read_text().split():
                if b"devmemtcp.agent.stackd" in Path("/proc", pid, "cmdline").read_bytes():
                    return int(pid)
    raise AssertionError("there is no isolated stack")


def _judge(row: Row, words: dict[str, Any], *, may_end: bool) -> None:
    """What somebody says whose stack or agent was killed."""
    if words.get("end") == "error" and _NAMED.fullmatch(words["text"]):
        row.told(words["name"], words["text"])
    elif not (may_end and words.get("end") == "well"):
        row.broken.append(f"no error with a name: {words}")


def _after(row: Row, leftovers: Leftovers, phase: str) -> None:
    row.times += 1
    row.said[f"killed at {phase}"] += 1
    found, seconds = leftovers.settled()
    row.settle = max(row.settle, seconds)
    if found:
        row.broken.append(f"killed at {phase}, left behind: {'; '.join(found)}")


@dataclass(frozen=True)
class Case:
    """One kind of victim: `run()` fills the row in."""

    row: Row
    run: Callable[[], None]


def cases(nursery: Nursery, veth: Veth, times: int, chance: random.Random) -> list[Case]:
    """All kinds, `times` kills together."""
    near, far = veth.right, veth.left
    shares = iter(_shares(times))
    made = []
    for name, role, stack in (
        ("application, stack inside", {}, False),
        ("application, stack isolated", {"isolate": True}, False),
        ("isolated stack", {"isolate": True}, True),
    ):
        row, lives = Row(f"SIGKILL: {name}"), Lives(nursery, near, far, **role)
        run = partial(kill_receivers, row, lives, near, next(shares), chance, stack=stack)
        made.append(Case(row, run))
    for name, kill in (("application of the agent", kill_clients), ("agent", kill_agents)):
        row = Row(f"SIGKILL: {name}")
        made.append(Case(row, partial(kill, row, nursery, near, far, next(shares), chance)))
    return made


def _shares(times: int) -> list[int]:
    """Of the five cases."""
    parts = [times * share // 100 for share in (20, 15, 15, 25)]
    return [*parts, times - sum(parts)]
