# SPDX-License-Identifier: Apache-2.0
"""What user space can do with any dma-buf: linux/dma-buf.h, and dma-buf.rst of the kernel."""

from __future__ import annotations

import errno
import fcntl
import struct

_READ = 1 << 0
_START = 0 << 2
_END = 1 << 2
_SYNC = 0x40086200
"""DMA_BUF_IOCTL_SYNC: _IOW('b', 0, struct dma_buf_sync { __u64 flags; })"""


def begin_cpu_access(fd: int) -> None:
    """From here on the CPU may read what devices have written. Raises OSError."""
    _sync(fd, _START | _READ)


def end_cpu_access(fd: int) -> None:
    """The CPU has read what it wanted. Raises OSError."""
    _sync(fd, _END | _READ)


def _sync(fd: int, flags: int) -> None:
    while True:
        try:
            fcntl.ioctl(fd, _SYNC, struct.pack("=Q", flags))
            return
        except OSError as error:  # the documentation wants the call to be restarted
            if error.errno not in (errno.EINTR, errno.EAGAIN):
                raise
