# SPDX-License-Identifier: Apache-2.0
"""What a socket needs of whoever has the interfaces: a runtime, or a session with the agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from devmemtcp.agent.socket import Address, Listener

Pressure = Literal["window", "drop"]
"""What happens when an application keeps too many tokens: see `Runtime`."""


class Stack(Protocol):
    """One interface whose flows can be taken: a `Runtime` is one."""

    ifname: str

    def has_address(self, host: str) -> bool:
        """Is this IP address, or the unspecified one, an address of the interface?"""

    def listen(
        self,
        address: Address,
        *,
        close_first: bool = False,
        backlog: int = 1024,
        pressure: Pressure | None = None,
    ) -> Listener:
        """Take connections on (host, port). Raises ConfigError, OSError."""


class StackProvider(Protocol):
    """Where a socket gets its connections from: a `Runtime`, or a session with the agent."""

    def stacks(self) -> Sequence[Stack]:
        """The interfaces that may be listened on."""
