# SPDX-License-Identifier: Apache-2.0
"""The interface goes, or goes down, at any moment of a life: also of one that has just begun.

Where kills.py ends a process, these take away what it is setting up, using or giving back. It must
not crash, nor wait for ever: it ends well, or says what it lacks.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from ..net.veth import Veth, VethEnd, veth_pair
from ..slowness import SLOWNESS
from .hosts import Where
from .kills import ForkedAgent, Lives, spread
from .leftovers import Leftovers
from .nursery import Nursery
from .report import Row, has_a_name
from .victims import RECEIVER_PHASES

_PHASES = RECEIVER_PHASES[1:]
_TOLD_SECONDS = 10.0 * SLOWNESS
"""Within these, whatever else the machine does, and the sender's time-outs are."""
_DOWN_SECONDS = 0.1


@dataclass(frozen=True)
class Disturbance:
    """Something that happens to the near end."""

    name: str
    happen: Callable[[VethEnd, random.Random], None]
    passes: bool
    """Whether a life can go on after it."""


def _remove(end: VethEnd, _: random.Random) -> None:
    with end.netlink() as handle:
        handle.link("del", index=end.ifindex)


def _down_and_up(end: VethEnd, chance: random.Random) -> None:
    end.set_link(state="down")
    time.sleep(chance.uniform(0, _DOWN_SECONDS))
    end.set_link(state="up")


DISTURBANCES = (
    Disturbance("removed", _remove, passes=False),
    Disturbance("down and up", _down_and_up, passes=True),
)


def disturb_receivers(
    row: Row,
    nursery: Nursery,
    where: Where,
    disturbance: Disturbance,
    times: int,
    chance: random.Random,
) -> None:
    """Receivers whose stack is in any of the three places."""
    with veth_pair() as veth, _lives(nursery, where, veth) as lives:
        lengths = lives.whole(row)
    for phase in spread(RECEIVER_PHASES if where == "agent" else _PHASES, times, chance):
        with veth_pair() as veth:
            leftovers = Leftovers(veth.right)
            with _lives(nursery, where, veth) as lives, ExitStack() as undo:
                child, sender = lives.reach(undo, phase)
                time.sleep(chance.uniform(0, lengths[phase]))
                disturbance.happen(veth.right, chance)
                began = time.monotonic()
                if disturbance.passes:
                    sender = sender or undo.enter_context(lives.sender())
                    sender.finish(wait=False)
                words = child.last_words()
                _judge(row, phase, words, time.monotonic() - began)
                if sender and disturbance.passes and words.get("end") == "well":
                    sender.finish()
                    row.nbytes += words["bytes"]
                    if words["bytes"] != sender.sent:
                        row.broken.append(f"{phase}: {words['bytes']} bytes of {sender.sent}")
            _nothing_left(row, leftovers, phase)


def disturb_agents(
    row: Row, nursery: Nursery, disturbance: Disturbance, times: int, chance: random.Random
) -> None:
    """Agents that are starting: one that has its interface no more ends, and says why."""
    with veth_pair() as veth, ForkedAgent.folder() as folder:
        agent = ForkedAgent(nursery, veth.right, folder)
        began = time.monotonic()
        agent.start()
        starting = time.monotonic() - began
        Lives(nursery, veth.right, veth.left, agent=str(agent.path)).whole(row)
        agent.end()
    for _ in range(times):
        with veth_pair() as veth, ForkedAgent.folder() as folder:
            leftovers = Leftovers(veth.right)
            agent = ForkedAgent(nursery, veth.right, folder)
            agent.fork()
            time.sleep(chance.uniform(0, starting))
            disturbance.happen(veth.right, chance)
            code = None if disturbance.passes else agent.code()
            agent.kill()
            row.times += 1
            if code == 0 or "--debug shows where" in agent.log:  # which is of unforeseen ones
                row.broken.append(f"exit code {code}: {agent.log}")
            elif code is not None:
                row.told(f"exit code {code}", agent.log.strip().splitlines()[-1])
            _nothing_left(row, leftovers, "start")


@contextmanager
def _lives(nursery: Nursery, where: Where, veth: Veth) -> Iterator[Lives]:
    near, far = veth.right, veth.left
    if where != "agent":
        yield Lives(nursery, near, far, isolate=where == "isolated")
        return
    with ForkedAgent.folder() as folder:
        agent = ForkedAgent(nursery, near, folder)
        agent.start()
        try:
            yield Lives(nursery, near, far, agent=str(agent.path))
            agent.kill(signal.SIGTERM)
            assert agent.code() in (0, 1), agent.log  # 1: its last interface had gone before
        finally:
            agent.kill()


def _judge(row: Row, phase: str, words: dict[str, Any], seconds: float) -> None:
    row.times += 1
    if words.get("end") == "crash":
        row.broken.append(f"{phase}: {words['text']}")
    elif words.get("end") == "error" and not has_a_name(words):
        row.broken.append(f"{phase}: no name: {words['trace']}")
    elif seconds > _TOLD_SECONDS:
        row.broken.append(f"{phase}: told after {seconds:.1f} s: {words}")
    elif words.get("end") == "error":
        row.told(words["name"], words["text"])


def _nothing_left(row: Row, leftovers: Leftovers, phase: str) -> None:
    found, seconds = leftovers.settled()
    row.settle = max(row.settle, seconds)
    if found:
        row.broken.append(f"{phase}, left behind: {'; '.join(found)}")
