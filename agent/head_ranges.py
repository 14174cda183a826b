# SPDX-License-Identifier: Apache-2.0
"""Who has which entries of the map `heads`, where a packet's place there is its chunk's.

Each UMEM numbers its chunks from 0, so each that is in use has a range of entries of its own.
"""

from __future__ import annotations

import errno
from bisect import insort


class HeadRanges:
    """So many entries, handed out in ranges: the first gap that is large enough."""

    def __init__(self, entries: int) -> None:
        self._taken: list[tuple[int, int]] = []  # [first, end), in order
        self._end = entries

    def take(self, count: int) -> int:
        """The first of `count` entries in a row.

        Raises OSError, ENOSPC: there are not so many, or not in one piece.
        """
        first = 0
        for taken, end in self._taken:
            if taken - first >= count:
                break
            first = end
        if self._end - first < count:
            raise OSError(errno.ENOSPC, f"no room for the headers of {count} buffers in one piece")
        insort(self._taken, (first, first + count))
        return first

    def give_back(self, first: int) -> None:
        """The range that begins there. Raises ValueError when none does."""
        starts = [taken for taken, _ in self._taken]
        del self._taken[starts.index(first)]
