# SPDX-License-Identifier: Apache-2.0
"""The bar on a terminal while it is measured.

It has no thread: a bar that draws itself ten times a second would take turns with what is
measured. It is drawn anew between two turns, if the last time is long enough ago.
"""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from devmemtcp.agent.bench.progress import Progress, takes

DRAW_SECONDS = 0.25


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
