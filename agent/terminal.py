# SPDX-License-Identifier: Apache-2.0
r"""What others have chosen, fit for a terminal: names of interfaces and of processes.

The kernel takes nearly any bytes for a name (dev_valid_name(), PR_SET_NAME), and a terminal obeys
some. Whatever cannot be printed, of a line or of a table's cell, is shown as `\x1b`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text


def printable(text: str) -> str:
    """One line of it: an end of a line is shown like the rest, as is a byte that is no UTF-8."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def cell(text: str, style: str = "") -> Text:
    """A table's, of any number of lines; nothing in it is rich's markup."""
    from rich.text import Text

    return Text("\n".join(map(printable, text.split("\n"))), style)


class Formatter(logging.Formatter):
    """Of lines on stderr. A traceback below one keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line."""
        return printable(super().formatMessage(record))
