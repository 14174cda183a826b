# SPDX-License-Identifier: Apache-2.0
"""Payload canaries, looked for in all of the memory of the process that runs the stack.

    python -m tests.unreadable [--frags N]        what ./dev unreadable does

The stream consists of records of 32 bytes, half of each the same 16 random bytes: the canary. So
every fragment of 47 bytes or more has a whole one. After N fragments of it, received and checked
by an application, it is looked for in the stack's process: in every mapping, in every memfd, in a
core dump that the kernel writes. A process that may have payload in its reach is the control, that
shows that a canary is found where there is one.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from devmemtcp.agent import Region, Runtime, Unreadable, Unsupported
from devmemtcp.agent.lab import Lab
from devmemtcp.agent.readability import Holder, holders
from devmemtcp.agent.session import Session
from devmemtcp.agent.socket import Listener

from .arguments import Arguments, positive
from .checked_stream import PATIENCE, Application, Stream
from .memory_image import Search, dump_core, search_core, search_files, search_memory
from .net.agent_process import running_agent

PORT = 5201
REGION = 16 << 20


@dataclass(frozen=True)
class Setting:
    """A way to receive, and whether it promises that the stack cannot read payload."""

    name: str
    promises: bool
    mode: str = "generic"
    isolate: bool = True
    region: bool = True
    linear_bytes: int = 0
    agent: bool = False


SETTINGS = (
    Setting("isolated, generic", True),
    Setting("isolated, native", True, mode="native"),
    Setting("agent", True, agent=True),
    Setting("inside the application", False, isolate=False),
    Setting("host memory", False, region=False),
    Setting("64 linear bytes", False, linear_bytes=64),
)


@dataclass
class Result:
    """What was found in the stack's process."""

    setting: Setting
    frags: int = 0
    bytes: int = 0
    says: Unreadable | None = None
    memory: Search = field(default_factory=Search)
    files: Search = field(default_factory=Search)
    core: Search | None = None
    """None: see `no_core`. An agent writes none, nor is one wanted of this process."""
    no_core: str = ""
    holders: list[Holder] = field(default_factory=list)
    """Of the region, but for the application."""
    application: int = 0
    """Canaries in the region, as the application sees it: the control."""

    @property
    def found(self) -> int:
        return self.memory.total + self.files.total + (self.core.total if self.core else 0)

    def broken(self) -> list[str]:
        """What is not as it must be."""
        says = bool(self.says)
        lines = []
        if self.setting.promises and self.found:
            lines.append(f"{self.found} canaries: {self.memory.found} {self.files.found}")
        if not self.setting.promises and not self.memory.total:
            lines.append("no canary where there must be some: the search finds nothing")
        if says != self.setting.promises:
            lines.append(f"it says {self.says}")
        if self.setting.region and not self.application:
            lines.append("no canary in the application's mapping: the search finds nothing")
        if self.holders:
            lines.append(f"others have the region: {self.holders}")
        return [f"{self.setting.name}: {line}" for line in lines]


class Sender:
    """Connects, and sends until the end of the `with` block, in a thread."""

    def __init__(self, stream: Stream, lab: Lab) -> None:
        self._stream = stream
        self._lab = lab
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.join()

    def join(self) -> None:
        """The connection is over, on both sides."""
        self.stop.set()
        self._thread.join()

    def _run(self) -> None:
        to = self._lab.near.ip4, PORT
        with self._lab.far.entered(), socket.create_connection(to, PATIENCE) as sock:
            sock.settimeout(PATIENCE)
            self._stream.send(sock, self.stop)


@dataclass
class _Stack:
    """A stack that runs: whatever it runs in."""

    pid: int
    listen: Callable[[], Listener]
    says: Callable[[], Unreadable]


@contextmanager
def _by_runtime(lab: Lab, setting: Setting, region: Region) -> Iterator[_Stack]:
    with Runtime(
        lab.near.ifname,
        region if setting.region else None,
        netns=lab.near.netns,
        mode="native" if setting.mode == "native" else "generic",
        isolate=setting.isolate,
        linear_bytes=setting.linear_bytes,
    ) as rt:
        yield _Stack(rt.pid, lambda: rt.listen((lab.near.ip4, PORT)), lambda: rt.unreadable)


@contextmanager
def _by_agent(lab: Lab, folder: Path, region: Region) -> Iterator[_Stack]:
    with (
        running_agent(folder, lab.near) as agent,
        Session(agent.path) as session,
        session.bind_rx(lab.near.ifname, [0], region),
    ):
        stack = session.stack(lab.near.ifname)
        yield _Stack(
            agent.process.pid,
            lambda: stack.listen((lab.near.ip4, PORT)),
            lambda: stack.unreadable,
        )


def look(setting: Setting, frags: int, *, region_size: int = REGION, core: bool = True) -> Result:
    """Receive so many fragments in this setting, then look. Raises what `Runtime` raises.

    The stack's process ends with the core dump, if there is one.
    """
    result, stream = Result(setting), Stream()
    with ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        undo.enter_context(_current(folder))
        lab = undo.enter_context(Lab())
        region = undo.enter_context(Region(region_size))
        view = undo.enter_context(region.map())
        make = _by_agent(lab, folder, region) if setting.agent else None
        stack = undo.enter_context(make or _by_runtime(lab, setting, region))
        listener = undo.enter_context(stack.listen())
        sender = undo.enter_context(Sender(stream, lab))
        conn = undo.enter_context(listener.accept(PATIENCE))
        application = Application(stream, conn, view)
        application.receive(frags)
        result.memory = search_memory(stack.pid, stream.canary)
        result.files = search_files(stack.pid, stream.canary)
        result.says = stack.says()
        result.holders = [h for h in holders(region.fd).holders if h.pid != os.getpid()]
        result.application = bytes(view.memory).count(stream.canary)
        sender.stop.set()
        application.receive()
        conn.close()
        sender.join()
        result.frags, result.bytes = application.frags, application.bytes
        if core and setting.isolate and not setting.agent:
            try:
                result.core = search_core(dump_core(stack.pid, folder), stream.canary)
            except Unsupported as why:
                result.no_core = str(why)
    return result


@contextmanager
def _current(folder: Path) -> Iterator[None]:
    """Where a core is written: the current directory of whoever is started meanwhile."""
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir(folder)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def _table(results: list[Result]) -> Table:
    table = Table(title="canaries in the process that runs the stack", title_justify="left")
    for name in ("setting", "fragments", "bytes", "searched", "in memory", "in memfds", "in core"):
        table.add_column(name, justify="left" if name == "setting" else "right")
    for name in ("application's", "unreadable"):
        table.add_column(name)
    for r in results:
        searched = r.memory.searched + r.files.searched + (r.core.searched if r.core else 0)
        table.add_row(
            r.setting.name,
            *(f"{n:,}" for n in (r.frags, r.bytes, searched, r.memory.total, r.files.total)),
            f"{r.core.total:,}" if r.core else "-",
            f"{r.application:,}",
            "yes" if r.says else "no",
        )
    return table


def main() -> int:
    """0, or 1 when a promise is broken."""
    parser = Arguments("unreadable", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frags", type=positive, default=1_000_000, help="default: %(default)s")
    frags = parser.given().frags
    results = []
    for setting in SETTINGS:
        with redirect_stdout(sys.stderr):  # the agent's log
            results.append(look(setting, frags if setting.promises else min(frags, 10_000)))
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(_table(results))
    for why in sorted({result.no_core for result in results if result.no_core}):
        print(why, file=sys.stderr)
    broken = [line for result in results for line in result.broken()]
    for line in broken:
        print(line, file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
