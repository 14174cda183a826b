# SPDX-License-Identifier: Apache-2.0
"""A dma-buf of the kernel's own pages: drivers/dma-buf/dma-heap.c, linux/dma-heap.h.

It cannot be received into here, see ``provider``. It can be mapped, and given to whoever takes a
dma-buf: a GPU's driver, or the bind-rx of a NIC that has it.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from devmemtcp.agent.errors import Unsupported
from devmemtcp.agent.memory.provider import (
    NONE,
    Files,
    MemoryProvider,
    MemoryState,
    check_free_memory,
)

_ALLOC = 0xC0184800
"""DMA_HEAP_IOCTL_ALLOC: _IOWR('H', 0, struct dma_heap_allocation_data)"""
_REQUEST = "=QIIQ"
"""len, fd (the answer), fd_flags, heap_flags"""


class DmaHeap(MemoryProvider):
    """The heap `system`: pages from anywhere, not moved, not swapped out."""

    name = "dma-heap"

    def __init__(self, heap: Path = Path("/dev/dma_heap/system")) -> None:
        self._heap = heap

    def alloc(self, size: int) -> Files:
        """A dma-buf alone.

        Raises Unsupported without the heap, PermissionError when it is not this user's,
        ConfigError when there is not so much memory free: the kernel would kill for it, or panic.
        """
        try:
            heap = os.open(self._heap, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Unsupported(f"{self._missing()}; take --memory memfd") from error
        try:
            check_free_memory(size)
            request = struct.pack(_REQUEST, size, 0, os.O_RDWR | os.O_CLOEXEC, 0)
            answer = fcntl.ioctl(heap, _ALLOC, request)
        finally:
            os.close(heap)
        return Files(NONE, struct.unpack(_REQUEST, answer)[1])

    def state(self) -> MemoryState:
        """Whether there is one. Never usable: packets cannot be received into it."""
        if not self._heap.exists():
            return MemoryState(self.name, False, f"no {self._heap}", self._missing())
        return MemoryState(
            self.name,
            False,
            str(self._heap),
            "AF_XDP cannot pin such memory: a region of it is for a NIC that takes a dma-buf, and "
            "`udmabuf` for receiving here",
        )

    def _missing(self) -> str:
        return f"there is no {self._heap}: this kernel is built without CONFIG_DMABUF_HEAPS_SYSTEM"
