# SPDX-License-Identifier: Apache-2.0
"""A plan: which settings of a NIC become what, and why; in words, and as shell commands."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote

from devmemtcp.agent.nic.setting import Setting, Value


@dataclass(frozen=True)
class Step:
    """One setting that has to become another."""

    setting: Setting
    now: Value
    wanted: Value
    why: str


@dataclass(frozen=True)
class StepReport:
    """A step in words."""

    setting: str
    now: str
    wanted: str
    why: str
    command: str
    """What does the same by hand."""


@dataclass(frozen=True)
class Plan:
    """What there is to do, in this order, and what is to be known."""

    ifname: str
    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    """What is left, or cannot be done, and what happens instead."""
    risks: tuple[str, ...] = ()
    """What somebody else would lose by it, and how to avoid that."""

    def step_reports(self) -> list[StepReport]:
        """The steps in words."""
        return [
            StepReport(
                step.setting.key,
                step.setting.show(step.now),
                step.setting.show(step.wanted),
                step.why,
                step.setting.command(quote(self.ifname), step.wanted),
            )
            for step in self.steps
        ]
