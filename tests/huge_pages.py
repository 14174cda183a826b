# SPDX-License-Identifier: Apache-2.0
"""The kernel's pool of huge pages, larger for the time of a test."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_NR_HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")
_BYTES = 2 << 20
"""Of one, on the architectures that we run on."""
_SPARE = 8
"""For tests beside this one, which ask for a few without a turn to see whether there are any."""


@contextmanager
def huge_pages(size: int) -> Iterator[None]:
    """`size` more bytes of them, given back afterwards; skips the test if there cannot be."""
    with _NR_HUGEPAGES.open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # for what is read here is written later
        before = _NR_HUGEPAGES.read_text()
        wanted = int(before) + -(-size // _BYTES) + _SPARE
        try:
            _NR_HUGEPAGES.write_text(str(wanted))
        except OSError as error:  # not root, or a container
            pytest.skip(f"cannot write {_NR_HUGEPAGES}: {error.strerror}")
        try:
            if int(_NR_HUGEPAGES.read_text()) < wanted:
                pytest.skip(f"this machine has no {size >> 20} MiB free in huge pages")
            yield
        finally:
            _NR_HUGEPAGES.write_text(before)
