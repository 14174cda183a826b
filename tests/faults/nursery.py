# SPDX-License-Identifier: Apache-2.0
"""Processes to be killed, forked from one that has imported everything already.

A process of its own makes them (`python -m tests.faults.nursery FD`), without threads and with
nothing open, so that a child begins as a new interpreter would, without the second that takes.
Each child says what it is at, by messages on a socket that ends with it, and dies with its maker.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from devmemtcp.agent.process import die_with_parent

from ..slowness import SLOWNESS
from . import victims

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0 * SLOWNESS
_MESSAGE_MAX = 1 << 16


class Ended(Exception):
    """The process has ended, and had nothing more to say."""


class Child:
    """A process of a role of victims.py, and what it says."""

    pid: int
    at: str = "fork"
    """The phase that it has entered last."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._socket.settimeout(PATIENCE)
        self.pid = self.hear()["pid"]

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self.last_words()

    def hear(self) -> dict[str, Any]:
        """The next message. Raises Ended, TimeoutError."""
        message = self._socket.recv(_MESSAGE_MAX)
        if not message:
            raise Ended
        said: dict[str, Any] = json.loads(message)
        self.at = said.get("phase", self.at)
        return said

    def reach(self, phase: str) -> dict[str, Any]:
        """Wait until it enters a phase, which it does in any case. Raises Ended, TimeoutError."""
        while (said := self.hear()).get("phase") != phase:
            if "end" in said:
                raise AssertionError(f"the end before {phase}: {said}")
        return said

    def last_words(self) -> dict[str, Any]:
        """Its last message, once it has ended; {} if there was none since the last one heard."""
        said: dict[str, Any] = {}
        if self._socket.fileno() < 0:
            return said  # they have been heard
        try:
            while True:
                said = self.hear()
        except (Ended, ConnectionResetError):
            self._socket.close()
            return said

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal, if it still lives."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return


class Nursery:
    """A context manager: its process, and with it all children, ends with the block."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.nursery", str(theirs.fileno())],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                pass_fds=[theirs.fileno()],
            )

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()
        self._process.wait()

    def fork(self, role: str, environ: Mapping[str, str] | None = None, **options: Any) -> Child:
        """Start a child that has a role: a function of victims.py, and its arguments."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            order = json.dumps([role, dict(environ or {}), options]).encode()
            socket.send_fds(self._socket, [order], [theirs.fileno()])
        return Child(ours)


def _live(sock: socket.socket, role: str, environ: dict[str, str], options: Any) -> NoReturn:
    """The whole life of a child."""

    def say(**message: Any) -> None:
        sock.send(json.dumps(message).encode())

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(environ)
    say(pid=os.getpid())
    say(**victims.live(role, say, options))
    os._exit(0)


def main() -> None:
    """Fork children until told to end."""
    orders = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    here = os.getpid()
    while True:
        order, fds, _, _ = socket.recv_fds(orders, _MESSAGE_MAX, 1)
        if not order:
            return
        role, environ, options = json.loads(order)
        with socket.socket(fileno=fds[0]) as sock:
            if os.fork():
                continue
            orders.close()
            die_with_parent(here)
            _live(sock, role, environ, options)


if __name__ == "__main__":
    main()
