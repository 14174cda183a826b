# SPDX-License-Identifier: Apache-2.0
"""Device memory: a sealed memfd whose pages the application reads and the stack cannot."""

from __future__ import annotations

from types import TracebackType
from typing import Self

PAGE_SIZE = 4096
MIN_PAGES = 256


class RegionView:
    """A read-only mapping of a whole region.

    `memory` is a read-only `memoryview` of `size` bytes; `address` is where it lies, for C.
    """

    memory: memoryview
    address: int
    size: int

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, key: slice) -> memoryview:
        """A slice of `memory`."""
        raise NotImplementedError

    def close(self) -> None:
        """Unmap; slices of `memory` still alive keep the mapping."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raise NotImplementedError


class Region:
    """`size` bytes of device memory, a memfd that can neither shrink nor grow.

    Raises ConfigError when `size` is not a multiple of the page (4096) or below the minimum
    (256 pages, 1 MiB).
    """

    fd: int
    size: int
    hugetlb: bool

    def __init__(self, size: int, *, hugetlb: bool = False) -> None:
        raise NotImplementedError

    def map(self) -> RegionView:
        """A new read-only mapping, independent of this object's life."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the fd; idempotent."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raise NotImplementedError
