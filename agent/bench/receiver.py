# SPDX-License-Identifier: Apache-2.0
"""A receiving application in a process of its own, by the agent or with a stack inside.

`python -m devmemtcp.agent.bench.receiver ROLE JSON`, answers as JSON lines on stdout:

    stream    receive one stream on `port` -> {"listening"}, {"bytes", "seconds", "wrong"}
    streams   the same for one stream after the other, until stdin ends
    victims   for each line on stdin: fork a child that receives into memory that is bound
              already -> {"listening", "pid"}, and is killed; reaped before the next

With `agent`, the path of its socket, it is user nobody, without any capability, from before it
connects. Without, it has a runtime of its own on the interface, in the same process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from devmemtcp.agent.process import die_with_parent
from devmemtcp.agent.region import Region, RegionView
from devmemtcp.agent.runtime import Runtime
from devmemtcp.agent.session import Session, SessionStack
from devmemtcp.agent.socket import Connection

NOBODY = 65534
_BATCH = 1024


def _say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def become_nobody() -> None:
    """Without privilege for good: the last uid 0 takes the capabilities with it."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


@contextmanager
def _stack(options: dict[str, Any]) -> Iterator[tuple[Runtime | SessionStack, RegionView]]:
    with ExitStack() as undo:
        region = undo.enter_context(Region(options["region_size"]))
        view = undo.enter_context(region.map())
        if options["agent"] is None:
            runtime = Runtime(
                options["ifname"], region, netns=options["netns"], mode=options["mode"]
            )
            yield undo.enter_context(runtime), view
            return
        become_nobody()
        session = undo.enter_context(Session(options["agent"]))
        stack = session.stack(options["ifname"])
        undo.enter_context(session.bind_rx(stack.ifname, range(stack.queues), region))
        yield stack, view


def _receive(conn: Connection, view: RegionView, period: int | None) -> dict[str, Any]:
    """To the end of the stream; seconds from the first bytes to the last."""
    begin, count, wrong, phase = 0.0, 0, 0, 0
    while batch := conn.recv_frags(_BATCH):
        begin = begin or time.monotonic()
        count += batch.nbytes
        if period is not None:
            errors, phase = batch.check_pattern(view, period, phase)
            wrong += errors
        conn.dontneed(batch)
    return {"bytes": count, "seconds": time.monotonic() - begin, "wrong": wrong}


def _streams(options: dict[str, Any], *, once: bool) -> None:
    with _stack(options) as (stack, view):
        listener = stack.listen((options["host"], options["port"]))
        _say(listening=True)
        while True:
            with listener.accept() as conn:
                result = _receive(conn, view, options["pattern"])
            _say(**result)
            if once or not sys.stdin.readline():
                return


def _victims(options: dict[str, Any]) -> None:
    while sys.stdin.readline():
        child = os.fork()
        if child == 0:
            _be_killed(options)
        os.waitpid(child, 0)
        _say(reaped=child)


def _be_killed(options: dict[str, Any]) -> None:
    die_with_parent(os.getppid())
    become_nobody()
    with Session(options["agent"]) as session:
        listener = session.stack(options["ifname"]).listen((options["host"], options["port"]))
        _say(listening=True, pid=os.getpid())
        with listener.accept() as conn:
            while batch := conn.recv_frags(_BATCH):
                conn.dontneed(batch)
    raise SystemExit(1)  # nobody has killed it


def main() -> None:
    """See the module."""
    role, options = sys.argv[1], json.loads(sys.argv[2])
    if role == "victims":
        _victims(options)
    else:
        _streams(options, once=role == "stream")


if __name__ == "__main__":
    main()
