# SPDX-License-Identifier: Apache-2.0
"""Numbers that are handed out in a circle, as xa_alloc_cyclic() does."""

from __future__ import annotations

import errno


class CyclicIds:
    """Ids from ``low`` to ``high``: each one above the last, beginning anew at the end.

    A number that was given back comes again only when the circle closes, so that an old
    number in a log or in a cmsg on its way is not taken for a new one's.
    """

    def __init__(self, low: int = 1, high: int = 0xFFFFFFFF) -> None:
        self._low = low
        self._high = high
        self._next = low
        self._used: set[int] = set()

    def alloc(self) -> int:
        """Return a free id.

        Raises:
            OSError: EBUSY, all of them are in use.
        """
        if len(self._used) > self._high - self._low:
            raise OSError(errno.EBUSY, "all ids are in use")
        while self._next in self._used:
            self._advance()
        taken = self._next
        self._used.add(taken)
        self._advance()
        return taken

    def free(self, number: int) -> None:
        """Give an id back. It must be in use."""
        self._used.remove(number)

    def _advance(self) -> None:
        self._next = self._low if self._next == self._high else self._next + 1
