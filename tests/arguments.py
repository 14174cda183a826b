# SPDX-License-Identifier: Apache-2.0
"""The words after a verb of ./dev, for verbs that are a program below tests/.

./dev asks a program about its words before it makes what the program needs (`VARIABLE`), so a
slip of the fingers costs no build.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any, NoReturn

VARIABLE = "DEVMEMTCP_ARGUMENTS_ONLY"
"""Set by ./dev: say what is wrong with the words, if anything is, and end."""


def end_if_only_asked() -> None:
    """To be called when all words have been looked at, and before anything is done."""
    if VARIABLE in os.environ:
        raise SystemExit(0)


def positive(word: str) -> int:
    """Of a number on the command line."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {number}")
    return number


class Arguments(argparse.ArgumentParser):
    """One whose complaints are a line, with exit code 2."""

    def __init__(self, verb: str, **more: Any) -> None:
        super().__init__(prog=f"./dev {verb}", allow_abbrev=False, **more)
        self._verb = verb

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self._verb}: {message}; {self.prog} --help says what there is\n")

    def given(self, words: Sequence[str] | None = None) -> argparse.Namespace:
        """Of `words`, or the command line; ends here where that was all that was asked."""
        options = self.parse_args(words)
        end_if_only_asked()
        return options
