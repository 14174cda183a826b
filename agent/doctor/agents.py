# SPDX-License-Identifier: Apache-2.0
"""Is an agent there, and what does it serve?"""

from __future__ import annotations

from dataclasses import dataclass

from devmemtcp.agent.doctor.look import named, one_line
from devmemtcp.agent.doctor.record import Check, note, ok
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.session import Session


@dataclass(frozen=True)
class Agent:
    """What it said, or why it said nothing."""

    serves: tuple[str, ...] = ()
    reason: str = ""

    @property
    def there(self) -> bool:
        """Whether it answered."""
        return not self.reason


def asked(path: str) -> Agent:
    """Ask for its interfaces."""
    try:
        with Session(path) as session:
            return Agent(tuple(stack.ifname for stack in session.stacks()))
    except (ConfigError, OSError) as error:
        return Agent(reason=one_line(error))


def check(agent: Agent) -> Check:
    """What it means."""
    if agent.there:
        serves = named(agent.serves) if agent.serves else "nothing"
        return ok("agent", f"serves {serves}", "applications need no privilege there")
    return note("agent", agent.reason, "receivers take the interface themselves")
