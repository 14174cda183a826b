# SPDX-License-Identifier: Apache-2.0
"""What every object that owns kernel state has in common."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Resource(ABC):
    """Something to be closed: a context manager whose ``close`` may be called twice.

    One that is dropped unclosed warns (``ResourceWarning``) and is closed then.
    """

    @property
    @abstractmethod
    def closed(self) -> bool:
        """True once there is nothing left to release."""

    @abstractmethod
    def close(self) -> None:
        """Release it. A second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close. An exception in flight is not replaced by one of closing, which becomes a note."""
        try:
            self.close()
        except OSError as failure:
            if error is None:
                raise
            error.add_note(f"{self!r} could not be closed: {failure}")

    def __del__(self) -> None:
        try:
            unclosed = not self.closed
        except AttributeError:  # the constructor raised: there is nothing to release
            return
        if unclosed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()
