# SPDX-License-Identifier: Apache-2.0
"""Whose fault it is.

* `ConfigError`: the caller's. One clear line: what is wrong and what to do about it.
* `OSError` and its subclasses: the kernel's, with errno.
* `NotInDeviceMemoryError`: an OSError of ours: bytes came otherwise than a strict receiver wants.
* `Unsupported`: the machine lacks a capability (a test may skip on this one, and on no other).
"""

import os
from errno import EINVAL, ENODEV

from devmemtcp.agent.devmem_abi import Reason
from devmemtcp.pyxdp import Unsupported, XdpError

__all__ = ["ConfigError", "NotInDeviceMemoryError", "Unsupported", "XdpError", "failed"]


class ConfigError(ValueError):
    """What was asked for cannot work, and nothing was changed.

    `errno` is what a system call would say to it.
    """

    errno: int

    def __init__(self, text: str, errno: int = EINVAL) -> None:
        super().__init__(text)
        self.errno = errno


class NotInDeviceMemoryError(OSError):
    """The next bytes are not in device memory, and the receiver is strict. errno is ENODEV.

    They stay where they are: a receiver that is no longer strict gets them.
    """

    reason: Reason
    """Why they are not."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(ENODEV, text)
        self.reason = reason


def failed(result: int, what: str) -> OSError:
    """The error of a native call that returned -errno: what could not be done, and why."""
    return OSError(-result, f"{what}: {os.strerror(-result)}")
