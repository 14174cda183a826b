# SPDX-License-Identifier: Apache-2.0
"""What the processes do that are killed: receivers of three kinds, and the agent.

Each says which phase it enters, and at last how it ended: well, by an error that has a name, or by
one that nobody has foreseen.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from devmemtcp.agent import ConfigError, Region, RegionView, Runtime, Session, cli
from devmemtcp.agent.bench.receiver import become_nobody
from devmemtcp.agent.session import SessionStack

# Loaded on first use otherwise, which is the lives' beginning: each would spend a second on it.
from devmemtcp.agent.daemon import agentd, config  # isort: skip # noqa: F401
from ..slowness import SLOWNESS

PERIOD = 251
PATIENCE = 30.0 * SLOWNESS
REGION_BYTES = 4 << 20
RECEIVER_PHASES = ("connect", "bind", "listen", "traffic", "close")


class Say(Protocol):
    """A message to the parent."""

    def __call__(self, **message: Any) -> None: ...


def live(role: str, say: Say, options: dict[str, Any]) -> dict[str, Any]:
    """Play a role to its end; the last words."""
    try:
        more = _ROLES[role](say, **options)
    except (ConfigError, OSError) as error:
        return {
            "end": "error",
            "name": type(error).__name__,
            "errno": getattr(error, "errno", None),
            "text": str(error),
            "trace": traceback.format_exc(),
        }
    except Exception:  # noqa: BLE001 - the parent reports it
        return {"end": "crash", "text": traceback.format_exc()}
    return {"end": "well", **more}


def receiver(
    say: Say,
    *,
    ifname: str,
    netns: str,
    address: tuple[str, int],
    isolate: bool = False,
    agent: str | None = None,
) -> dict[str, Any]:
    """Receive one stream of the pattern, with a stack inside, isolated, or by an agent.

    At the end of the stream it says `close`, with the bytes that it had. A wrong one is a crash.
    """
    with _receiving(say, ifname, netns, isolate, agent) as (stack, view):
        say(phase="listen")
        with stack.listen((address[0], address[1])) as listener:
            say(phase="traffic")
            count, phase = 0, 0
            with listener.accept(PATIENCE) as conn:
                while batch := conn.recv_frags(timeout=PATIENCE):
                    wrong, phase = batch.check_pattern(view, PERIOD, phase)
                    assert not wrong, f"{wrong} wrong bytes after {count} right ones"
                    count += batch.nbytes
                    conn.dontneed(batch)
            say(phase="close", bytes=count)
    return {"bytes": count}


@contextmanager
def _receiving(
    say: Say, ifname: str, netns: str, isolate: bool, agent: str | None
) -> Iterator[tuple[Runtime | SessionStack, RegionView]]:
    with ExitStack() as undo:
        say(phase="connect")
        region = undo.enter_context(Region(REGION_BYTES))
        view = undo.enter_context(region.map())
        if agent is None:
            say(phase="bind")
            runtime = Runtime(ifname, region, netns=netns, isolate=isolate)
            yield undo.enter_context(runtime), view
            return
        become_nobody()
        session = undo.enter_context(Session(agent))
        stack = session.stack(ifname)
        say(phase="bind")
        undo.enter_context(session.bind_rx(ifname, range(stack.queues), region))
        yield stack, view


def agent(say: Say, *, file: str, log: str) -> dict[str, Any]:
    """`devmemtcp agent --config FILE`; it tells the service manager when it is ready."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 2)
    os.close(fd)
    sys.argv = ["devmemtcp", "agent", "--config", file]
    say(phase="start")
    try:
        cli.main()
    except SystemExit as end:
        code = end.code
    return {"code": code}


_ROLES: dict[str, Callable[..., dict[str, Any]]] = {"receiver": receiver, "agent": agent}
