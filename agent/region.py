# SPDX-License-Identifier: Apache-2.0
"""Device memory: files whose pages the application reads and the stack cannot."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

from devmemtcp.agent._loop import ffi
from devmemtcp.agent.closing import Closing
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.memory import PROVIDERS, Memory
from devmemtcp.agent.memory.dma_buf import begin_cpu_access, end_cpu_access

PAGE_SIZE = 4096
"""Bytes of one net_iov, whatever the machine's page size."""
MIN_SIZE = 1 << 20
"""Bytes: a window of one 64 KiB packet and the buffers that are filled meanwhile."""
_SEALED_AGAINST_WRITING = fcntl.F_SEAL_WRITE | 0x10  # F_SEAL_FUTURE_WRITE


class RegionView(Closing):
    """A read-only mapping of a whole region, of its dma-buf where it has one.

    `memory` is a read-only `memoryview` of `size` bytes; `address` is where it lies, for C.
    It is left out of core dumps.
    """

    memory: memoryview
    address: int
    size: int

    def __init__(self, region: Region) -> None:
        """For `Region.map()`."""
        dmabuf = region.dmabuf_fd
        fd = region.fd if dmabuf < 0 else dmabuf
        self._map = mmap.mmap(fd, region.size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        self._map.madvise(mmap.MADV_DONTDUMP)  # as a mapping of a device's memory would be
        self._dmabuf = dmabuf if dmabuf < 0 else os.dup(dmabuf)
        self.memory = memoryview(self._map)
        self.address = int(ffi.cast("uintptr_t", ffi.from_buffer(self._map)))
        self.size = region.size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: slice) -> memoryview:
        """A slice of `memory`."""
        return self.memory[key]

    @contextmanager
    def cpu_access(self) -> Iterator[None]:
        """Read inside of it what a device has written (DMA_BUF_IOCTL_SYNC).

        A dma-buf wants that, wherever caches are not coherent with devices; for a memfd it is
        nothing. A batch's own methods do it themselves. Raises OSError.
        """
        if self._dmabuf < 0:
            yield
            return
        begin_cpu_access(self._dmabuf)
        try:
            yield
        finally:
            end_cpu_access(self._dmabuf)

    def close(self) -> None:
        """Unmap; idempotent. Raises BufferError while a slice of `memory` is alive."""
        self.memory.release()
        self._map.close()
        self.address = self.size = 0  # what reads through the view now finds nothing inside it
        if self._dmabuf >= 0:
            os.close(self._dmabuf)
            self._dmabuf = -1


class Region(Closing):
    """`size` bytes of device memory that can neither shrink nor grow.

    `memory` is the kind: `memfd`; `hugetlb`, of 2 MiB pages, for zero-copy mode; `udmabuf`, a
    memfd that is a dma-buf, too; `dma-heap`, a dma-buf alone, which nothing here can receive into.

    Raises ConfigError when `size` is not a multiple of the page, below 1 MiB, more than the
    machine's memory (a runtime pins all of it), or more than there is of this kind; Unsupported
    when the kernel does not have it; OSError.
    """

    memory: Memory
    fd: int
    """The memfd: what is received into, and what is given to our bind-rx. -1: there is none."""
    dmabuf_fd: int
    """The dma-buf: what the kernel's own bind-rx takes. -1: there is none."""
    size: int
    page_size: int
    """Bytes of the smallest piece that can be mapped by itself: 4096, or 2 MiB."""

    def __init__(self, size: int, *, memory: Memory = "memfd") -> None:
        provider = PROVIDERS[memory]
        check_size(size, provider.page_size)
        self.memory = memory
        self.size = size
        self.page_size = provider.page_size
        self.fd, self.dmabuf_fd = provider.alloc(size)

    def map(self) -> RegionView:
        """A new read-only mapping, independent of this object's life."""
        return RegionView(self)

    def check_receivable(self) -> None:
        """Raise ConfigError when nothing can be received into it: closed, or a dma-buf alone."""
        if self.fd >= 0:
            return
        if self.dmabuf_fd < 0:
            raise ConfigError("the region is closed")
        raise ConfigError(
            f"{self.memory} memory cannot be received into: AF_XDP cannot pin the pages of a "
            "dma-buf; take udmabuf, which has a memfd for that"
        )

    def close(self) -> None:
        """Close the descriptors; idempotent."""
        for fd in (self.fd, self.dmabuf_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.dmabuf_fd = -1


def is_writable(fd: int) -> bool:
    """Whether a memfd can still be mapped to be written to, by its descriptor and its seals."""
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
        return False
    return not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALED_AGAINST_WRITING


def check_page_size(page_size: int, mode: str) -> None:
    """Raise ConfigError for pages that a mode cannot receive into."""
    if page_size != PAGE_SIZE and mode != "zerocopy":
        raise ConfigError(
            "a hugetlb region cannot lie between header pages: its file can only be mapped in "
            "pieces of 2 MiB; take memfd or udmabuf, or zero-copy mode"
        )


def check_size(size: int, page: int = PAGE_SIZE) -> None:
    """Raise ConfigError for a size that `Region` refuses."""
    if size < MIN_SIZE:
        raise ConfigError(f"a region of {size} bytes is too small; take at least {MIN_SIZE}")
    if size % page:
        raise ConfigError(
            f"the region's size must be a multiple of the page ({page} bytes), not {size}; "
            f"take {size // page * page + page}"
        )
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory:
        raise ConfigError(
            f"a region of {size} bytes is more than this machine's memory, {memory}; take less"
        )
