# SPDX-License-Identifier: Apache-2.0
"""Device memory: a sealed memfd whose pages the application reads and the stack cannot."""

from __future__ import annotations

import fcntl
import mmap
import os

from devmemtcp.agent._loop import ffi
from devmemtcp.agent.closing import Closing
from devmemtcp.agent.errors import ConfigError

PAGE_SIZE = 4096
"""Bytes of one net_iov, whatever the machine's page size."""
MIN_SIZE = 1 << 20
"""Bytes: a window of one 64 KiB packet and the buffers that are filled meanwhile."""
HUGE_PAGE_SIZE = 2 << 20
_SEALED_AGAINST_WRITING = fcntl.F_SEAL_WRITE | 0x10  # F_SEAL_FUTURE_WRITE


class RegionView(Closing):
    """A read-only mapping of a whole region.

    `memory` is a read-only `memoryview` of `size` bytes; `address` is where it lies, for C.
    It is left out of core dumps.
    """

    memory: memoryview
    address: int
    size: int

    def __init__(self, fd: int, size: int) -> None:
        """For `Region.map()`."""
        self._map = mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        self._map.madvise(mmap.MADV_DONTDUMP)  # as a mapping of a device's memory would be
        self.memory = memoryview(self._map)
        self.address = int(ffi.cast("uintptr_t", ffi.from_buffer(self._map)))
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: slice) -> memoryview:
        """A slice of `memory`."""
        return self.memory[key]

    def close(self) -> None:
        """Unmap; idempotent. Raises BufferError while a slice of `memory` is alive."""
        self.memory.release()
        self._map.close()
        self.address = self.size = 0  # what reads through the view now finds nothing inside it


class Region(Closing):
    """`size` bytes of device memory, a memfd that can neither shrink nor grow.

    `hugetlb` takes it from the pool of 2 MiB pages (MFD_HUGETLB, /proc/sys/vm/nr_hugepages):
    for a consumer that wants large pages. A runtime cannot receive into such a region, see
    `Runtime`.

    Raises ConfigError when `size` is not a multiple of the page, below 1 MiB, or more than the
    machine's memory (a runtime pins all of it), or when there are not enough huge pages.
    """

    fd: int
    size: int
    hugetlb: bool

    def __init__(self, size: int, *, hugetlb: bool = False) -> None:
        check_size(size, hugetlb=hugetlb)
        self.size = size
        self.hugetlb = hugetlb
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        if hugetlb:
            flags |= os.MFD_HUGETLB | os.MFD_HUGE_2MB
        self.fd = os.memfd_create("devmemtcp-region", flags)
        try:
            os.ftruncate(self.fd, size)
            if hugetlb:
                _reserve_huge_pages(self.fd, size)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        except BaseException:
            self.close()
            raise

    def map(self) -> RegionView:
        """A new read-only mapping, independent of this object's life."""
        return RegionView(self.fd, self.size)

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def is_writable(fd: int) -> bool:
    """Whether a memfd can still be mapped to be written to, by its descriptor and its seals."""
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
        return False
    return not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALED_AGAINST_WRITING


def check_size(size: int, *, hugetlb: bool = False) -> None:
    """Raise ConfigError for a size that `Region` refuses."""
    page = HUGE_PAGE_SIZE if hugetlb else PAGE_SIZE
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


def _reserve_huge_pages(fd: int, size: int) -> None:
    """Allocate now: a huge page that is missing later would be a SIGBUS."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        raise ConfigError(
            f"there are not {size // HUGE_PAGE_SIZE} free huge pages of 2 MiB; "
            "raise /proc/sys/vm/nr_hugepages"
        ) from error
