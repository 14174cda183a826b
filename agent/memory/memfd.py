# SPDX-License-Identifier: Apache-2.0
"""Anonymous files: pages of 4 KiB, or of 2 MiB from the pool that the administrator has filled."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from devmemtcp.agent.errors import ConfigError, Unsupported
from devmemtcp.agent.memory.provider import NONE, Files, MemoryProvider, MemoryState

_HUGE_PAGE_SIZE = 2 << 20


class Memfd(MemoryProvider):
    """Any size, any kernel; pages come when they are first used, or pinned."""

    name = "memfd"

    def alloc(self, size: int) -> Files:
        """A memfd that can neither shrink nor grow."""
        return Files(sealed_memfd(size), NONE)

    def state(self) -> MemoryState:
        """It is always there."""
        return MemoryState(self.name, True, "any kernel has it", "packets can be received into it")


class Hugetlb(MemoryProvider):
    """From the pool of 2 MiB pages, of which a mapping needs one entry where it had 512.

    No 4 KiB of it can be mapped by themselves, so header pages cannot lie between its pages: what
    receives into it must leave the headers elsewhere, as zero-copy mode does.
    """

    name = "hugetlb"
    page_size = _HUGE_PAGE_SIZE

    def __init__(self, pool: Path = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")) -> None:
        self._pool = pool

    def alloc(self, size: int) -> Files:
        """A memfd of huge pages (MFD_HUGETLB), all of which are taken from the pool now."""
        try:
            fd = sealed_memfd(size, os.MFD_HUGETLB | os.MFD_HUGE_2MB)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENODEV, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            raise Unsupported("this kernel has no huge pages of 2 MiB") from error
        try:
            os.posix_fallocate(fd, 0, size)  # a huge page that is missing later would be a SIGBUS
        except OSError as error:
            os.close(fd)
            missing = size // _HUGE_PAGE_SIZE
            raise ConfigError(
                f"there are not {missing} free huge pages of 2 MiB; `{self._raise_to(missing)}`"
            ) from error
        return Files(fd, NONE)

    def state(self) -> MemoryState:
        """How many pages the pool has left."""
        try:
            total, free, reserved = (
                int((self._pool / f"{word}_hugepages").read_text())
                for word in ("nr", "free", "resv")
            )
        except FileNotFoundError:
            return MemoryState(
                self.name, False, f"no {self._pool}", "this kernel has no huge pages of 2 MiB"
            )
        found = f"{free - reserved} free huge pages of 2 MiB, of {total}"
        means = "packets can be received into them in zero-copy mode"
        if free > reserved:
            return MemoryState(self.name, True, found, means)
        return MemoryState(self.name, False, found, f"with some, {means}", self._raise_to(32))

    def _raise_to(self, more: int) -> str:
        try:
            now = int((self._pool / "nr_hugepages").read_text())
        except FileNotFoundError:
            now = 0
        return f"sysctl vm.nr_hugepages={now + more}"


def sealed_memfd(size: int, flags: int = 0) -> int:
    """A memfd whose size stays what it is: a page that went away would be a SIGBUS for readers."""
    fd = os.memfd_create("devmemtcp-region", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    except BaseException:
        os.close(fd)
        raise
    return fd
