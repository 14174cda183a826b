# SPDX-License-Identifier: Apache-2.0
"""A real dma-buf of a memfd's pages: drivers/dma-buf/udmabuf.c, linux/udmabuf.h.

A NIC that can receive into device memory takes the dma-buf; AF_XDP, which wants pages that it can
pin, takes the memfd, and the bytes are seen in both. The kernel has two limits for one dma-buf:
`size_limit_mb` (64 in Linux 6.12, 2147483647 in 7.3) and, for UDMABUF_CREATE_LIST, `list_limit`
pieces (1024). A region is one piece of one memfd, UDMABUF_CREATE, so the second never bites.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from devmemtcp.agent.errors import ConfigError, Unsupported
from devmemtcp.agent.memory.memfd import sealed_memfd
from devmemtcp.agent.memory.provider import (
    Files,
    MemoryProvider,
    MemoryState,
    check_free_memory,
)

_CREATE = 0x40187542
"""UDMABUF_CREATE: _IOW('u', 0x42, struct udmabuf_create)"""
_FLAGS_CLOEXEC = 1
_MIB = 1 << 20
_UNLIMITED_MIB = 1 << 20
"""More than any machine can pin: then it is no limit."""


class Udmabuf(MemoryProvider):
    """Both files. All pages are allocated, and held, from the start."""

    name = "udmabuf"

    def __init__(
        self,
        device: Path = Path("/dev/udmabuf"),
        parameters: Path = Path("/sys/module/udmabuf/parameters"),
    ) -> None:
        self._device = device
        self._parameters = parameters

    def alloc(self, size: int) -> Files:
        """A sealed memfd, and the dma-buf of it.

        Raises Unsupported without /dev/udmabuf, PermissionError when it is not this user's,
        ConfigError when `size` is more than one dma-buf may have.
        """
        try:
            device = os.open(self._device, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Unsupported(f"{self._missing()}; take --memory memfd") from error
        except PermissionError as error:
            raise PermissionError(error.errno, f"{self._closed()}; {self._way_in()[0]}") from error
        try:
            self._check_limit(size)
            check_free_memory(size)
            memfd = sealed_memfd(size)
            try:
                request = bytearray(struct.pack("=IIQQ", memfd, _FLAGS_CLOEXEC, 0, size))
                return Files(memfd, fcntl.ioctl(device, _CREATE, request))
            except BaseException:
                os.close(memfd)
                raise
        finally:
            os.close(device)

    def state(self) -> MemoryState:
        """Whether there is such a device, open to this user, and what limits it has."""
        if not self._device.exists():
            return MemoryState(self.name, False, f"no {self._device}", self._missing())
        if not os.access(self._device, os.R_OK | os.W_OK):
            return MemoryState(self.name, False, self._closed(), *self._way_in())
        means = "packets can be received into a dma-buf"
        most, pieces = self._limit("size_limit_mb"), self._limit("list_limit")
        if most is None or pieces is None:
            return MemoryState(self.name, True, f"{self._device}; its limits are not told", means)
        found = f"{self._device}; up to {most} MiB a dma-buf, and {pieces} pieces (a region is one)"
        if most >= _UNLIMITED_MIB:
            return MemoryState(self.name, True, found, means)
        means += f"; a larger one than {most} MiB needs a higher limit"
        return MemoryState(self.name, True, found, means, self._raise_to(16 * most))

    def _check_limit(self, size: int) -> None:
        most = self._limit("size_limit_mb")
        if most is not None and size > most * _MIB:
            raise ConfigError(
                f"a udmabuf may have {most} MiB here, and the region {size} bytes; take less, or "
                f"raise the limit: `{self._raise_to(-(-size // _MIB))}`"
            )

    def _limit(self, word: str) -> int | None:
        try:
            return int((self._parameters / word).read_text())
        except OSError:  # a container's /sys need not show them: then the kernel says it, EINVAL
            return None

    def _raise_to(self, mib: int) -> str:
        return f"echo {mib} > {self._parameters}/size_limit_mb"

    def _missing(self) -> str:
        return f"there is no {self._device}: this kernel is built without CONFIG_UDMABUF"

    def _closed(self) -> str:
        return f"{self._device} is not open to this user"

    def _way_in(self) -> tuple[str, str | None]:
        try:
            group = self._device.group()
        except KeyError:  # without a name here, as in a container
            return f"its group, {self._device.stat().st_gid}, or root may open it", None
        if group == "root":
            return "run it as root", None
        return f"group {group} may open it", f"usermod --append --groups {group} USER"
