# SPDX-License-Identifier: Apache-2.0
"""Ties between processes."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process (SIGKILL) when `parent`, which started it, is gone.

    prctl(2) binds to the thread that started us: it must be one that lives as long as its
    process, the main thread. Raises SystemExit when `parent` was gone already.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent:
        raise SystemExit(1)
