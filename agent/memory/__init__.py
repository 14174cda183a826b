# SPDX-License-Identifier: Apache-2.0
"""Where device memory comes from: one provider for each kind, behind one set of operations.

* ``provider`` is those operations, and what is said of a kind that is not to be had here
* ``memfd`` (pages of 4 KiB, or of 2 MiB from the hugetlb pool), ``udmabuf`` (a dma-buf of a
  memfd's pages), ``dma_heap`` (a dma-buf of the kernel's own pages)
* ``dma_buf``: what can be done with any dma-buf

`agent.region.Region` is how the rest of the project uses them.
"""

from __future__ import annotations

from typing import Final, Literal

from devmemtcp.agent.memory.dma_heap import DmaHeap
from devmemtcp.agent.memory.memfd import Hugetlb, Memfd
from devmemtcp.agent.memory.provider import Files, MemoryProvider, MemoryState
from devmemtcp.agent.memory.udmabuf import Udmabuf

__all__ = ["PROVIDERS", "Files", "Memory", "MemoryProvider", "MemoryState", "survey"]

Memory = Literal["memfd", "hugetlb", "udmabuf", "dma-heap"]
"""A kind of device memory, by its provider's name."""

PROVIDERS: Final[dict[Memory, MemoryProvider]] = {
    "memfd": Memfd(),
    "hugetlb": Hugetlb(),
    "udmabuf": Udmabuf(),
    "dma-heap": DmaHeap(),
}


def survey() -> list[MemoryState]:
    """What of each kind is to be had on this machine, by this user. Changes nothing."""
    return [provider.state() for provider in PROVIDERS.values()]
