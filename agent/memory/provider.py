# SPDX-License-Identifier: Apache-2.0
"""What every kind of device memory can do: the operations, and the words for what is missing.

As with the kernel's `struct memory_provider_ops` a provider has no state of its own: `alloc()`
makes files, and whoever asked for them closes them. A piece of device memory has up to two:

    memfd     whose pages AF_XDP pins, and who receives (a runtime, an agent) is given
    dma-buf   whose pages a NIC's driver maps: what the kernel's own bind-rx is given, and what the
              application maps, as it would map a device's memory

Both show the same pages where there are both. A dma-buf alone cannot be received into here: its
mapping is of page frames (VM_PFNMAP), which pin_user_pages(), and so XDP_UMEM_REG, answers with
EFAULT.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from devmemtcp.agent.errors import ConfigError

NONE = -1
"""In place of a file descriptor."""


class Files(NamedTuple):
    """One piece of device memory; NONE where it has no such file."""

    memfd: int
    dmabuf: int


@dataclass(frozen=True)
class MemoryState:
    """What is to be had of one kind, for people and for programs."""

    name: str
    usable: bool
    """Whether a region of it can be made here and now, and received into."""
    found: str
    means: str
    mend: str | None = None
    """A shell command that would make it usable, or lift the limit that `means` speaks of."""


class MemoryProvider(ABC):
    """The operations of one kind of device memory."""

    name: ClassVar[str]
    page_size: ClassVar[int] = 4096
    """Bytes of the smallest piece that can be mapped by itself."""

    @abstractmethod
    def alloc(self, size: int) -> Files:
        """Memory of `size` bytes, a multiple of `page_size`, all zeros; the caller closes it.

        Raises ConfigError when this machine's limits are too low for so much, with what raises
        them; Unsupported when the kernel has no such memory; OSError.
        """

    @abstractmethod
    def state(self) -> MemoryState:
        """What is to be had. Opens and changes nothing."""


def check_free_memory(size: int) -> None:
    """Raise ConfigError when there is less memory free than is to be allocated at once.

    Kernel code that allocates page by page until it is done ends in the out-of-memory killer, or
    (a dma-heap's, whose pages are nobody's to kill) in a panic.
    """
    for line in Path("/proc/meminfo").read_text().splitlines():
        word, value = line.split(":")
        if word == "MemAvailable" and size > (free := int(value.split()[0]) << 10):
            raise ConfigError(
                f"a region of {size} bytes is allocated at once, and there are {free} bytes of "
                "memory available; take less"
            )
