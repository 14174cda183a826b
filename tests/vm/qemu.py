# SPDX-License-Identifier: Apache-2.0
"""Which QEMU: the host's when it is new enough, and else the one of Debian trixie.

That one is unpacked into the cache with every library it needs, and started by its own ld.so:
no chroot, no root, nothing of it is seen by the host, and it sees all of the host's files.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import apt, cache

OLDEST = 10
"""igb came with 8; 7.2 has been seen to crash under emulation."""

_SUITE = "trixie"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True)
class Qemu:
    """How to start it: these words, with these variables."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def installed() -> Qemu | None:
    """The host's own, unless it is too old."""
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        return None
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"version (\d+)", said.stdout)
    return Qemu([program]) if version and int(version[1]) >= OLDEST else None


def unpacked(root: Path) -> Qemu:
    """One that lies in a tree of its own."""
    libraries = root / _LIBRARIES
    return Qemu(
        [
            str(libraries / "ld-linux-x86-64.so.2"),
            *("--library-path", str(libraries), str(root / "usr/bin/qemu-system-x86_64")),
            *("-L", str(root / "usr/share/qemu"), "-L", str(root / "usr/share/seabios")),
        ],
        {"QEMU_MODULE_DIR": str(libraries / "qemu")},
    )


def available() -> Qemu | None:
    """One that needs no download."""
    root = cache.folder() / "qemu"
    return installed() or (unpacked(root) if root.is_dir() else None)


def fetch(say: Callable[[str], None]) -> Qemu:
    """One to use; downloads it (40 MB) when there is none.

    Raises:
        Failure: no network, no such package.
    """
    if (found := available()) is not None:
        return found
    with cache.locked() as folder:
        root = folder / "qemu"
        if not root.is_dir():
            say(f"fetching QEMU of Debian {_SUITE}")
            suite = apt.Suite(_SUITE, folder / "apt" / _SUITE)
            with (
                cache.new(root) as unfinished,
                tempfile.TemporaryDirectory(dir=folder) as debs,
            ):
                suite.download_with_dependencies(["qemu-system-x86"], Path(debs))
                apt.unpack(Path(debs), unfinished)
    return unpacked(root)


def accelerator() -> str:
    """Of QEMU: KVM where it runs any kernel, and else TCG, which needs nothing.

    /dev/kvm alone does not say so: in a guest under PVM it opens, and runs only kernels that
    were built for that.
    """
    flags = re.search(r"^flags\s*:.*\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.M)
    if flags is None:
        return "tcg"
    try:
        with Path("/dev/kvm").open("r+b", buffering=0):
            return "kvm"
    except OSError:
        return "tcg"
