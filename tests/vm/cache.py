# SPDX-License-Identifier: Apache-2.0
"""Where downloads stay: outside the repository, and used by one process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "DEVMEMTCP_VM_CACHE"
"""Names another folder than the user's cache."""


def folder() -> Path:
    """$DEVMEMTCP_VM_CACHE, or devmemtcp/vm in the XDG base directory for caches."""
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The specification: what is not absolute is to be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "devmemtcp/vm"


@contextmanager
def locked() -> Iterator[Path]:
    """The folder, for one process alone: two that miss the same thing fetch it once."""
    path = folder()
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield path
    finally:
        os.close(descriptor)


@contextmanager
def new(place: Path) -> Iterator[Path]:
    """A folder to fill, which takes the name ``place`` when the block ends without exception."""
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=place.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        shutil.rmtree(place, ignore_errors=True)
        unfinished.rename(place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
