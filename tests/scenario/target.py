# SPDX-License-Identifier: Apache-2.0
"""What a scenario can be run against: a clock, a wire, and an application."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .end import End
from .frame import Packet
from .scenario import Case, Offer


class Application(Protocol):
    """What holds one connection on the far side of the stack, and reads unless it pauses."""

    @property
    def accepted(self) -> bool: ...

    @property
    def data(self) -> bytes:
        """All that was received so far."""

    @property
    def eof(self) -> bool: ...

    @property
    def reset(self) -> bool: ...

    @property
    def state(self) -> str | None:
        """The connection's, in the RFC's words; None where nobody can tell."""

    def send(self, data: bytes) -> None: ...

    def shutdown(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How exactly times can be judged, ns."""

    at_once: int = 0
    early: int = 0
    late: int = 0
    lag: int = 0
    """Of the tester itself, before it is to blame for whatever diverges."""
    slowness: float = 1
    """Of the machine, for limits; where time is virtual no machine is slow."""


class Target(Protocol):
    """A stack with its application, seen from one case. Times are in ns."""

    tolerance: Tolerance

    def now(self) -> int: ...

    def end(self, offer: Offer, case: Case) -> End:
        """A new peer with an address of its own. Its segments go to ``End.deliver()``."""

    def again(self, end: End, offer: Offer) -> End:
        """A new peer in the place of an old one."""

    def transmit(self, end: End, packets: Sequence[Packet]) -> None:
        """Send them, in one batch where there are such."""

    def application(self, end: End) -> Application:
        """Of the connection that this peer opens, not of those that had its address before."""
