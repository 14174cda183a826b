# SPDX-License-Identifier: Apache-2.0
"""What came of the faults: a row a case, and the promises that were broken."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass
class Row:
    """One case."""

    case: str
    times: int = 0
    """How often it was brought about."""
    nbytes: int = 0
    """That were delivered, each compared with what was sent."""
    settle: float = 0.0
    """Seconds after which nothing was left, at most."""
    said: Counter[str] = field(default_factory=Counter)
    """The errors that were raised, by name and text, or what else there was to see."""
    broken: list[str] = field(default_factory=list)

    def heard(self, error: BaseException) -> None:
        """Somebody was told of the fault by this."""
        self.told(type(error).__name__, str(error))

    def told(self, name: str, text: str) -> None:
        """The same, of an error in another process."""
        self.said[f"{name}: {_A_FOLDER.sub('', text)}"] += 1


def has_a_name(words: dict[str, Any]) -> bool:
    """Whether an error in another process says what could not be done, in one line.

    What the kernel calls an errno says that of nothing.
    """
    text, number = words["text"], words["errno"]
    bare = number is not None and text in (f"[Errno {number}] {os.strerror(number)}", "")
    return "\n" not in text and not bare


_A_FOLDER = re.compile(r"/\S+/")
"""Each run has others."""


def table(rows: list[Row]) -> Table:
    """For people."""
    made = Table("case", "times", "bytes checked", "gone after", "seen", "outcome")
    for column in (1, 2, 3):
        made.columns[column].justify = "right"
    for row in rows:
        said = [f"{count} x {text}" for text, count in row.said.most_common()]
        made.add_row(
            row.case,
            str(row.times),
            f"{row.nbytes:,}",
            f"{row.settle * 1000:.0f} ms" if row.settle else "",
            "\n".join(said),
            "\n".join(row.broken) or "as promised",
        )
    return made


def finish(rows: list[Row]) -> int:
    """Print the table; returns the exit code."""
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table(rows))
    broken = sum(len(row.broken) for row in rows)
    times = sum(row.times for row in rows)
    nbytes = sum(row.nbytes for row in rows)
    console.print(f"{times} faults, {nbytes:,} bytes checked, {broken} promises broken")
    return 1 if broken else 0
