# SPDX-License-Identifier: Apache-2.0
"""How much memory processes have resident."""

from __future__ import annotations

import ctypes
import errno
import gc
from pathlib import Path


def resident(pid: int) -> int:
    """Bytes; of a page that n processes share, one n-th (PSS). Raises OSError, ENODATA for none."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0]) << 10
    raise OSError(errno.ENODATA, f"process {pid} has no resident memory")


def let_go_of_setup() -> None:
    """Give back what imports and setting up have left; see malloc_trim(3), which is glibc's."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
