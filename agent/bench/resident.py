# SPDX-License-Identifier: Apache-2.0
"""How much memory processes have resident."""

from __future__ import annotations

import ctypes
import errno
import gc
from pathlib import Path


def resident(pid: int) -> int:
    """Bytes; of a page that n processes share, one n-th (PSS). Raises OSError, ENODATA for none."""
    return resident_by_kind(pid)["Pss"]


def resident_by_kind(pid: int) -> dict[str, int]:
    """Bytes by field of /proc/PID/smaps_rollup: `Pss`, of which `Pss_Anon` are no file's."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    fields = (line.split() for line in lines[1:])
    found = {name.rstrip(":"): int(size) << 10 for name, size, *_ in fields}
    if "Pss" not in found:
        raise OSError(errno.ENODATA, f"process {pid} has no resident memory")
    return found


def let_go_of_setup() -> None:
    """Give back what imports and setting up have left; see malloc_trim(3), which is glibc's."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
