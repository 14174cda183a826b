# SPDX-License-Identifier: Apache-2.0
"""A running agent under attack by several processes at once, while a well-behaved application
receives a stream: that stays exact and does not stall, and afterwards nothing is left.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devmemtcp.agent.session import Session
from devmemtcp.netlink.constants import TcpDataSplit
from devmemtcp.netlink.ethtool import Ethtool
from devmemtcp.netlink.netdev import Netdev

from ...hostile.attacker import NOBODY
from ...hostile.victim import PERIOD, VICTIM, stream_at
from ...slowness import SLOWNESS
from ..agent_process import AgentProcess, running_agent

if TYPE_CHECKING:
    from ...sanitised import Build
    from ..veth import Veth

ROOT = Path(__file__).parents[3]
QUEUES = 2
VICTIMS_PORT = 6000
FIRST_PORT = 7001
RULES = f"""
[[rule]]
users = [{NOBODY}, {VICTIM}]
admin = true
"""
SMALL = 'host_memory = "1M"\nmax_connections = 256'
STALL = 10.0  # seconds without a byte, on a machine that has much else to do
ATTACKERS = (  # with the user each is: a flood uses up what its own user may have
    ("netlink", NOBODY),
    ("netlink", NOBODY),
    ("channel", NOBODY),
    ("channel", NOBODY),
    ("flood", NOBODY - 2),
)


@dataclass(frozen=True)
class Usage:
    """What an agent has of what it should not have more of."""

    descriptors: Counter[str]
    """By what they are of."""
    threads: int
    mappings: int
    resident: int
    """KiB."""

    @classmethod
    def of(cls, pid: int) -> Usage:
        proc = Path("/proc", str(pid))
        status = dict(
            line.split(":", 1) for line in (proc / "status").read_text().splitlines() if line
        )
        return cls(
            Counter(map(_kind_of, (proc / "fd").iterdir())),
            int(status["Threads"]),
            len((proc / "maps").read_text().splitlines()),
            int(status["VmRSS"].split()[0]),
        )


def _kind_of(descriptor: Path) -> str:
    try:
        return os.readlink(descriptor).partition(":[")[0]
    except FileNotFoundError:  # closed since it was listed
        return "closed"


def start(end: object, module: str, *arguments: object, **popen: object) -> subprocess.Popen[str]:
    """Start a module of tests/hostile at this end."""
    command = [sys.executable, "-m", f"tests.hostile.{module}", *map(str, arguments)]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    process: subprocess.Popen[str] = end.popen(command, env=environ, text=True, **popen)  # type: ignore[attr-defined]
    return process


class Victim:
    """The well-behaved application, and the peer that sends to it."""

    def __init__(self, veth: Veth, path: Path) -> None:
        self._end = veth.left
        self._to = (veth.right.ip4, VICTIMS_PORT)
        self._stop = threading.Event()
        self.sent = 0
        where = ("--socket", path, "--ifname", veth.right.ifname)
        self._process = start(
            *(veth.right, "victim", *where, "--port", VICTIMS_PORT, "--queues", QUEUES),
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self._peer = threading.Thread(target=self._send)
        self._peer.start()

    def _send(self) -> None:
        with self._end.enter(), socket.create_connection(self._to, timeout=60 * SLOWNESS) as sock:
            while not self._stop.is_set():
                self.sent += sock.send(stream_at(self.sent, PERIOD))
            sock.shutdown(socket.SHUT_WR)
            sock.recv(1)

    def end(self) -> tuple[int, float]:
        """Let the stream end. Returns (bytes received, longest wait)."""
        self._stop.set()
        out, _ = self._process.communicate(timeout=60 * SLOWNESS)
        self._peer.join(60 * SLOWNESS)
        assert self._process.returncode == 0, "the victim has noticed"
        count, longest = out.split()
        return int(count), float(longest)


@contextmanager
def peers_of_attackers(veth: Veth, ports: range) -> Iterator[None]:
    """Somebody connects to the ports that the attackers listen on, so that they get something."""
    stop = threading.Event()

    def connect() -> None:
        with veth.left.enter():
            while not stop.is_set():
                for port in ports:
                    with suppress(OSError), socket.socket() as sock:
                        sock.settimeout(0.2)
                        sock.connect((veth.right.ip4, port))
                        for _ in range(4):
                            sock.send(bytes(1 << 16))
                stop.wait(0.01)

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def eventually(what: Callable[[], object], wanted: object) -> None:
    """What an agent gives back takes a moment."""
    deadline = time.monotonic() + 20 * SLOWNESS
    while (seen := what()) != wanted:
        assert time.monotonic() < deadline, f"{seen}, not {wanted}"
        time.sleep(0.05)


def attack(veth: Veth, path: Path, seconds: float) -> None:
    """Let them all loose and wait for their end."""
    ports = range(FIRST_PORT, FIRST_PORT + len(ATTACKERS))
    with ExitStack() as undo:
        attackers = [
            start(
                *(veth.right, "attacker", role, "--socket", path, "--ifname", veth.right.ifname),
                *("--seconds", seconds, "--seed", port, "--port", port, "--uid", uid),
            )
            for (role, uid), port in zip(ATTACKERS, ports, strict=True)
        ]
        undo.enter_context(peers_of_attackers(veth, ports))
        for attacker in attackers:
            assert attacker.wait(seconds + 30) == 0, "an attacker gave up: see its traceback"


def check_pools(path: Path) -> None:
    """Only host memory is left, and all of it is where it was."""

    def bindings() -> list[int | None]:
        with Netdev(str(path)) as netdev:
            return [pool.dmabuf for pool in netdev.page_pool_get() if pool.dmabuf is not None]

    eventually(bindings, [])
    with Session(path) as session:
        eventually(session.applications, [])


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that other users reach, and that no other run of pytest shuts again."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def receive_undisturbed(veth: Veth, path: Path) -> None:
    """After the attack: the agent serves as before."""
    with Ethtool(str(path)) as ethtool:
        ethtool.rings_set(veth.right.ifname, tcp_data_split=TcpDataSplit.ENABLED, hds_thresh=0)
    victim = Victim(veth, path)
    eventually(lambda: victim.sent > 1 << 22, True)
    count, _ = victim.end()
    assert count == victim.sent


def test_attack(
    netns_pair: Callable[..., Veth], folder: Path, build: Build, hostile_seconds: float
) -> None:
    veth = netns_pair(queues=QUEUES)
    with running_agent(
        *(folder, veth.right),
        rules=RULES,
        interface=SMALL,
        # A sanitizer's reports need more system calls than the agent allows itself.
        agent="seccomp = false" if build.environ else "",
        python=build.python,
        environ=build.environ,
    ) as running:
        receive_undisturbed(veth, running.path)  # all that is loaded late is loaded now
        check_pools(running.path)
        before = settled(running.process.pid)
        victim = Victim(veth, running.path)
        attack(veth, running.path, hostile_seconds)
        assert running.process.poll() is None, "the agent has not lived through it"
        count, longest = victim.end()
        assert count == victim.sent
        assert longest < STALL
        check_pools(running.path)
        check_usage(running, before)
        receive_undisturbed(veth, running.path)
        check_pools(running.path)
        assert running.stop() == 0
    assert "Traceback" not in running.log
    assert "Sanitizer" not in running.log
    assert "runtime error" not in running.log


def settled(pid: int) -> Usage:
    """What an idle agent uses: those that were connected are gone."""
    now = Usage.of(pid)
    while True:
        time.sleep(0.3)
        before, now = now, Usage.of(pid)
        if (before.descriptors, before.threads) == (now.descriptors, now.threads):
            return now


def check_usage(running: AgentProcess, before: Usage) -> None:
    """All is as it was, but for what an allocator keeps."""
    after = settled(running.process.pid)
    # A port stays reserved as long as one of its connections waits in TIME-WAIT.
    reserved = Counter(socket=sum(role == "channel" for role, _ in ATTACKERS))
    assert after.descriptors <= before.descriptors + reserved
    assert after.threads <= before.threads
    assert after.mappings <= before.mappings + 64
    assert after.resident <= before.resident + (32 << 10)
