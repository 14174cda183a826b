# SPDX-License-Identifier: Apache-2.0
"""What is said on stderr while it is measured: a bar with the time left, or lines of log.

The bar is in bar.py.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def shown() -> Iterator[Progress]:
    """On stderr, as suits what that is."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console

    from devmemtcp.agent.bench.bar import Bar  # megabytes that a soak's log need not have resident

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
