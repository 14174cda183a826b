# SPDX-License-Identifier: Apache-2.0
"""Carries a plan out, and takes it back: each change journalled before it is made.

Whatever ends a process here, SIGKILL included, leaves a journal by which `undo()` puts everything
back. It looks before it writes, so it can be killed and started again as often as you like.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from devmemtcp.agent.nic.device import Nic, if_there
from devmemtcp.agent.nic.journal import Entry, Journal
from devmemtcp.agent.nic.plan import Plan, Step
from devmemtcp.agent.nic.setting import (
    ChannelCount,
    OffloadWanted,
    RssSpread,
    RxRing,
    Setting,
    Steering,
    Value,
)
from devmemtcp.netlink.ethtool import NTUPLE

Progress = Callable[[str], None]
"""Told what has just happened, after each write to the journal and to the NIC."""

_MOST_TIMES = 2  # a driver may write the RSS table anew when channels are changed after it


def silent(event: str) -> None:
    """Progress that nobody minds."""


def apply(
    nic: Nic, planner: Callable[[], Plan], journal: Journal, progress: Progress = silent
) -> list[Step]:
    """Do what the planner says, until it has nothing more to say; returns the steps.

    It is asked again after each step, for drivers change more than they are asked to. If a step
    fails, or something interrupts it, all of them are taken back. Raises OSError that says so.
    """
    is_new = not journal.entries
    done: list[Step] = []
    times = Counter[str]()
    before: dict[str, tuple[Setting, Value]] = {}
    try:
        while steps := planner().steps:
            step = steps[0]
            times[step.setting.key] += 1
            if times[step.setting.key] > _MOST_TIMES:
                raise OSError(errno.EIO, f"{step.setting.key} does not stay as it was set")
            for setting, value in _endangered(nic, step):
                before.setdefault(setting.key, (setting, value))
                journal.note_was(setting, value)
                progress(f"{setting.key} noted")
            journal.note_to(step.setting, step.wanted)
            progress(f"{step.setting.key} announced")
            _write(nic, step)
            progress(f"{step.setting.key} set")
            done.append(step)
    except BaseException as error:
        _take_back(nic, list(before.values()), error, progress)
        if is_new:
            journal.drop()
        if isinstance(error, OSError):
            reason = f"{error.strerror or error}; what had been changed is as it was before"
            raise OSError(error.errno, reason) from error
        raise
    return done


@dataclass(frozen=True)
class Undone:
    """What undo() has done."""

    restored: list[Entry]
    left: list[tuple[Entry, Value | None]]
    """What somebody else has changed since, and what it is now."""
    traces: list[str]
    """What is not as it was although ethtool(8) shows it so."""


def undo(nic: Nic, journal: Journal, *, force: bool = False, progress: Progress = silent) -> Undone:
    """Put everything back that the journal has; what is as it was is not written.

    What is neither as it was nor as we set it is somebody else's by now, and left unless `force`;
    then the journal stays, else it goes. Raises OSError when something cannot be put back: the
    rest is, and the journal stays.
    """
    restored: list[Entry] = []
    left: list[tuple[Entry, Value | None]] = []
    targets: list[tuple[Setting, Value]] = []
    problems: dict[str, OSError] = {}
    # With our number of channels a driver may have written any table of RSS, and may have changed
    # what was noted for that reason alone; with somebody else's number it is not our doing.
    channels = journal.channels()
    drivers = bool(channels) and all(_is_ours(nic, entry, problems) for entry in channels)
    for entry in journal.entries.values():
        follows = drivers and (not entry.to or isinstance(entry.setting, RssSpread))
        if not (entry.to or follows):
            continue  # noted, and killed before it was set
        try:
            now = entry.setting.read(nic)
            theirs = now != entry.was and _takes_rules_of_others(nic, journal, entry)
        except OSError as error:
            problems[entry.setting.key] = error
            continue
        if not (force or follows or (now in [entry.was, *entry.to] and not theirs)):
            left.append((entry, now))
            continue
        if now != entry.was:
            restored.append(entry)
        targets.append((entry.setting, entry.was))
    put_back(nic, targets, progress, problems)
    traces = [entry.setting.trace(nic, entry.was) for entry in restored if entry.to]
    if not left:
        journal.drop()
        progress("journal dropped")
    return Undone(restored, left, list(filter(None, traces)))


def put_back(
    nic: Nic,
    targets: Sequence[tuple[Setting, Value]],
    progress: Progress = silent,
    unread: Mapping[str, OSError] | None = None,
) -> None:
    """Give settings their values, the last first, and look. Raises OSError, when all are done.

    What a change of channels may change was noted before them, and is put back after them.
    `unread`: what else could not be put back, by the key of its setting, and why.
    """
    problems = dict(unread or {})
    wrong = list(problems)
    for setting, value in reversed(targets):
        try:
            if setting.read(nic) != value or setting.leaves_a_mark:
                setting.put_back(nic, value)
                progress(f"{setting.key} put back")
        except OSError as error:
            problems[setting.key] = error
    for setting, value in targets:
        try:
            is_back = setting.read(nic) == value
        except OSError as error:
            problems[setting.key], is_back = error, False
        if not is_back:
            wrong.append(setting.key)
    if not wrong:
        return
    reasons = {key: error.strerror or str(error) for key, error in problems.items()}
    words = [f"{key} ({reasons.get(key, 'it does not stay')})" for key in wrong]
    number = next((problems[key].errno for key in wrong if key in problems), errno.EIO)
    raise OSError(number, f"cannot put back {', '.join(words)}")


def _endangered(nic: Nic, step: Step) -> list[tuple[Setting, Value]]:
    """What a step changes, or may change, with its present value."""
    others = (RssSpread(), RxRing()) if isinstance(step.setting, ChannelCount) else ()
    values = [(setting, setting.read(nic)) for setting in others]
    found: list[tuple[Setting, Value]] = [(s, value) for s, value in values if value is not None]
    return [*found, (step.setting, step.now)]


def _write(nic: Nic, step: Step) -> None:
    """Set it and look. Raises OSError that names the setting."""
    what = f"cannot set {step.setting.key} to {step.setting.show(step.wanted)}"
    try:
        step.setting.write(nic, step.wanted)
        found = step.setting.read(nic)
    except OSError as error:
        raise OSError(error.errno, f"{what}: {error.strerror or error}") from error
    if found != step.wanted:
        raise OSError(errno.EIO, f"{what}: it is {step.setting.show(found)} all the same")


def _take_back(
    nic: Nic,
    before: Sequence[tuple[Setting, Value]],
    cause: BaseException,
    progress: Progress,
) -> None:
    """Raises OSError that names both errors when something cannot be put back."""
    try:
        put_back(nic, before, progress)
    except OSError as error:
        first = cause.strerror if isinstance(cause, OSError) else str(cause) or type(cause).__name__
        raise OSError(error.errno, f"{first}; and {error.strerror}: try `undo`") from cause


def _takes_rules_of_others(nic: Nic, journal: Journal, entry: Entry) -> bool:
    """Whether flow rules that are not ours would go with a feature that we have turned on."""
    if entry.setting != OffloadWanted(NTUPLE) or entry.was:
        return False
    settings = [each.setting for each in journal.entries.values()]
    ours = [setting.rule for setting in settings if isinstance(setting, Steering)]
    # There are none while it is off.
    return any(rule not in ours for rule in (if_there(nic.rules) or {}).values())


def _is_ours(nic: Nic, entry: Entry, problems: dict[str, OSError]) -> bool:
    """Whether it is as it was, or as we set it once; what cannot be read is a problem."""
    try:
        return entry.setting.read(nic) in [entry.was, *entry.to]
    except OSError as error:
        problems[entry.setting.key] = error
        return False
