# SPDX-License-Identifier: Apache-2.0
"""An agent in a process of its own, as systemd would run it, and applications without privilege."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..slowness import SLOWNESS

NOBODY = 65534
READY_SECONDS = 30.0 * SLOWNESS
GRANTED = f"[[rule]]\nusers = [{NOBODY}]\nadmin = true\n"

# The checkout may be for root's eyes alone, so what an application imports it imports as root.
_AS_NOBODY = f"""
import os, sys, typer
import rich.console, rich.table
from devmemtcp.agent import Region, cli, document, endpoint, recv, session, sizes
from devmemtcp.agent.session import Session
from devmemtcp.netlink.netdev import Netdev
def drop():
    os.setgroups([])
    os.setresgid(*[{NOBODY}] * 3)
    os.setresuid(*[{NOBODY}] * 3)
def verb(*args):
    command = typer.main.get_command(cli.app)
    with command.make_context("devmemtcp", list(args)) as context:
        inner = command.get_command(context, args[0])
        inner.make_context(args[0], list(args[1:]), parent=context)
    drop()
    sys.argv = ["devmemtcp", *args]
    cli.main()
path = sys.argv[1]
"""


class AgentProcess:
    """A running agent; what it tells the service manager is how its readiness is known."""

    process: subprocess.Popen[str]
    path: Path
    """Of its socket."""

    def __init__(
        self,
        folder: Path,
        end: Any,
        rules: str,
        interface: str,
        agent: str,
        python: Sequence[str],
        environ: Mapping[str, str],
    ) -> None:
        self.path = folder / "agent.sock"
        self.config = folder / "agent.toml"
        self.end = end
        self.interface = interface
        self.options = agent
        command = ("-m", "devmemtcp.agent.cli", "agent", "--config", str(self.config))
        self._command = [*python, *command]
        self._environ = os.environ | dict(environ)
        self._log = folder / "agent.log"
        self._notify = folder / "notify.sock"
        self.write_config(rules)

    def write_config(self, rules: str) -> None:
        self.config.write_text(
            f'[agent]\nsocket = "{self.path}"\nmode = "0666"\nnetns = "{self.end.netns}"\n'
            f'log_level = "debug"\n{self.options}\n'
            f'[[interface]]\nname = "{self.end.ifname}"\nmemory = "64M"\n{self.interface}\n{rules}'
        )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> None:
        """Until it says that it is ready."""
        self._notify.unlink(missing_ok=True)
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(self._notify))
        self._notify.chmod(0o777)  # as systemd's
        self._manager.settimeout(READY_SECONDS)
        with self._log.open("a") as log:
            self.process = subprocess.Popen(
                self._command,
                env=self._environ | {"NOTIFY_SOCKET": str(self._notify)},
                stderr=log,
                text=True,
            )
        ended = os.pidfd_open(self.process.pid)
        try:
            either: list[Any] = [self._manager, ended]
            news, _, _ = select.select(either, [], [], READY_SECONDS)
        finally:
            os.close(ended)
        assert self._manager in news, f"the agent is not ready: {self.log}"
        told = self.told()
        assert told.startswith("READY=1"), told

    def told(self) -> str:
        """What the agent tells the service manager next."""
        return self._manager.recv(1000).decode()

    def close(self) -> None:
        """Kill it, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._manager.close()

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 20) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout)

    def nobody(self, code: str, *args: str, **kwargs: Any) -> subprocess.Popen[str]:
        """Start an application of user nobody: `code` calls drop(), or verb(...)."""
        return subprocess.Popen(
            [sys.executable, "-c", _AS_NOBODY + code, str(self.path), *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **kwargs,
        )


@contextmanager
def open_folder() -> Iterator[Path]:
    """One for `running_agent()`: each run of pytest shuts what is in its own to other users."""
    with tempfile.TemporaryDirectory(prefix="devmemtcp-test-") as name:
        yield Path(name)


@contextmanager
def running_agent(
    folder: Path,
    end: Any,
    *,
    rules: str = GRANTED,
    interface: str = "",
    agent: str = "",
    python: Sequence[str] = (sys.executable,),
    environ: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[AgentProcess]:
    """An agent on one end of a veth pair, killed at the end if it still runs.

    `folder`: see `open_folder()`. `rules`: TOML; `interface`,
    `agent`: more keys of these tables. `python`: what runs it, with `environ` beside what there is.
    """
    folder.chmod(0o755)
    made = AgentProcess(folder, end, rules, interface, agent, python, environ)
    made.start()
    try:
        yield made
    finally:
        made.close()
        print(made.log)  # which pytest shows when the test has failed
