# SPDX-License-Identifier: Apache-2.0
"""What is said on stderr while it is measured: a bar with the time left, or lines of log.

Nothing here has a thread: a bar that draws itself ten times a second would take turns with what
is measured. It is drawn anew between two turns, if the last time is long enough ago.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

DRAW_SECONDS = 0.25
LINE_SECONDS = 5.0
"""Between two lines of a log."""


class Progress:
    """How far a benchmark is: this one says nothing, and is what tests want."""

    def expect(self, what: str, turns: int, seconds: float) -> None:
        """Before the first turn: so many, about so long."""

    def turn(self, text: str) -> None:
        """One turn is over; `text` says which, as `round 3 of 120`."""

    def say(self, line: str) -> None:
        """Something that is to be known whatever the display is."""


class Lines(Progress):
    """For a log: a line every LINE_SECONDS."""

    def __init__(self) -> None:
        self._turns = self._done = 0
        self._first = self._said = 0.0

    def expect(self, what: str, turns: int, seconds: float) -> None:
        """Say so."""
        self._turns, self._done = turns, 0
        self._said = time.monotonic()
        self.say(takes(what, seconds))

    def turn(self, text: str) -> None:
        """Say it, if the last line is long enough ago."""
        self._done += 1
        now = time.monotonic()
        if self._done == 1:  # set-up and warm-up were before it: time is counted from here
            self._first = now
        elif now - self._said >= LINE_SECONDS:
            self._said = now
            left = (now - self._first) / (self._done - 1) * max(0, self._turns - self._done)
            self.say(f"{text}; {duration(left)} left")

    def say(self, line: str) -> None:
        """Log it."""
        logging.info("%s", line)


class Bar(Progress):
    """For a terminal."""

    def __init__(self, console: Console) -> None:
        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            auto_refresh=False,
        )
        self._task: TaskID | None = None
        self._drawn = 0.0

    def __enter__(self) -> Bar:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def expect(self, what: str, turns: int, seconds: float) -> None:
        """Say so, and begin a bar."""
        self.say(takes(what, seconds))
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(what, total=turns)
        self._bar.refresh()

    def turn(self, text: str) -> None:
        """Move the bar, and draw it if that is long enough ago."""
        assert self._task is not None
        self._bar.update(self._task, advance=1, description=text)
        if time.monotonic() - self._drawn >= DRAW_SECONDS:
            self._bar.refresh()
            self._drawn = time.monotonic()

    def say(self, line: str) -> None:
        """Above the bar."""
        self._bar.console.print(f"devmemtcp: {line}", markup=False, highlight=False)


@contextmanager
def shown() -> Iterator[Progress]:
    """On stderr, as suits what that is."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    with Bar(Console(stderr=True)) as bar:
        yield bar


def takes(what: str, seconds: float) -> str:
    """The sentence at the start."""
    return f"{what} takes about {duration(seconds)}"


def duration(seconds: float) -> str:
    """As somebody who waits wants to know it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 600 else f"{seconds / 60:.0f} min"
