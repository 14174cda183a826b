# SPDX-License-Identifier: Apache-2.0
"""What a line of a scenario can say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .expression import Number, Range


@dataclass(frozen=True, slots=True)
class Option:
    """A TCP option by name, with its numbers; ``hex`` has bytes instead."""

    name: str
    numbers: tuple[Number, ...] = ()
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Patch:
    """``+N`` and ``-N`` add to a field, ``=N`` replaces it."""

    replace: bool
    amount: Number


Damage = Number | Patch | str | bytes | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """``<``: the peer sends a segment."""

    flags: str
    seq: Number | None
    end: Number | None
    length: Number | None
    ack: Number | None
    win: Number | None
    options: tuple[Option, ...] | None
    damage: Mapping[str, Damage]


@dataclass(frozen=True, slots=True)
class Icmp:
    """``< icmp``: an error about a segment that was sent to the peer."""

    what: str
    about: Number
    mtu: Number | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """An option of a segment that is waited for."""

    name: str
    present: bool
    ranges: tuple[tuple[str, Range], ...] = ()


@dataclass(frozen=True, slots=True)
class Pattern:
    """One form of a segment that is waited for; what is None is not compared."""

    flags: str
    seq: Range | None
    end: Range | None
    ack: Range | None
    win: Range | None
    options: tuple[Wanted, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Expect:
    """``>``: one of these comes; ``silence``: or nothing at all."""

    patterns: tuple[Pattern, ...]
    silence: bool
    after: int
    within: int | None
    at_once: bool
    times: Range | None


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing comes for so long, ns."""

    time: int


@dataclass(frozen=True, slots=True)
class Acked:
    """ACKs come, the last of which is of this."""

    ack: Range
    within: int
    at_once: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """``+40ms``: time passes, ns."""

    time: int


@dataclass(frozen=True, slots=True)
class App:
    """The application does something, or has seen something."""

    verb: str
    number: Number | None = None
    word: str = ""


@dataclass(frozen=True, slots=True)
class Fill:
    """The peer sends in order until the window is 0."""

    size: Number


@dataclass(frozen=True, slots=True)
class Again:
    """The peer forgets the connection; its new ISN is at this number of the old ones."""

    isn: Number


@dataclass(frozen=True, slots=True)
class Keep:
    """A number is remembered by a name of its own."""

    name: str
    number: Number


@dataclass(frozen=True, slots=True)
class Check:
    """A number lies in a range."""

    number: Number
    range: Range


@dataclass(frozen=True, slots=True)
class Repeat:
    """A block, so many times; ``counter`` counts from 0."""

    counter: str | None
    times: Number
    body: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Segments that arrive together."""

    body: tuple[Line, ...]


Step = (
    Send | Icmp | Expect | Silence | Acked | Wait | App | Fill | Again | Keep | Check | Repeat
    | Batch
)  # fmt: skip

Whose = Literal["ours", "linux"]


@dataclass(frozen=True, slots=True)
class Line:
    """A step, where it is written, for whose stack and of which peer."""

    where: str
    text: str
    only: Whose | None
    peer: str
    step: Step
