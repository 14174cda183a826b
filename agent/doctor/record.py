# SPDX-License-Identifier: Apache-2.0
"""What the doctor says: lines, and the conclusion for each mode."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from devmemtcp.agent.refusal import Refusal


class State(StrEnum):
    """How much a line matters."""

    OK = "ok"
    NOTE = "note"
    """Good to know, or could not be looked at."""
    WARN = "warn"
    """It works, but not in each mode, or not as well as it could."""
    FAIL = "fail"
    """As long as this holds nothing can be received."""


@dataclass(frozen=True)
class Check:
    """One line."""

    name: str
    state: State
    found: str
    means: str
    mend: str | None = None
    """A shell command, after which the line is another."""

    @classmethod
    def of(cls, refusal: Refusal, state: State = State.FAIL) -> Check:
        """The line of a rule that does not hold."""
        return cls(refusal.check, state, refusal.found, refusal.means, refusal.mend)


def ok(name: str, found: str, means: str, mend: str | None = None) -> Check:
    """All is well."""
    return Check(name, State.OK, found, means, mend)


def note(name: str, found: str, means: str, mend: str | None = None) -> Check:
    """Nothing is wrong."""
    return Check(name, State.NOTE, found, means, mend)


def warn(name: str, found: str, means: str, mend: str | None = None) -> Check:
    """Something is less than it could be."""
    return Check(name, State.WARN, found, means, mend)


def fail(name: str, found: str, means: str, mend: str | None = None) -> Check:
    """Nothing can be received."""
    return Check(name, State.FAIL, found, means, mend)


@dataclass(frozen=True)
class Verdict:
    """Of one way to receive: a mode of the XDP program, or a place for the stack."""

    mode: str
    usable: bool
    promises: tuple[str, ...]
    why_not: str = ""
    chosen: bool = False
    """Whether `--mode auto` takes it."""


@dataclass(frozen=True)
class Report:
    """Everything that was found."""

    kernel: str
    interface: str | None
    checks: list[Check] = field(default_factory=list)
    modes: list[Verdict] = field(default_factory=list)
    """How packets come up: native, generic, zerocopy. None without an interface."""
    places: list[Verdict] = field(default_factory=list)
    """Where the stack runs: inside, isolated, agent."""

    @property
    def ok(self) -> bool:
        """Whether something can be received, somehow."""
        if self.interface is None:
            return not any(check.state is State.FAIL for check in self.checks)
        return any(mode.usable for mode in self.modes)
