# SPDX-License-Identifier: Apache-2.0
"""Kernels as Debian packages them: where each series comes from, fetched once and unpacked.

Versions move from week to week, so none is named here: a suite's metapackage knows its kernel.
What has been unpacked is used for good, without any network, until it is asked to be fetched
again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import apt, cache
from .failure import BadUsage, Failure

SUITES = {"6.1": "bookworm", "6.12": "trixie", "7.3": "trixie-backports"}
"""A series of kernels, and the suite whose metapackage is of that series."""

METAPACKAGE = "linux-image-amd64"
_PARTS = re.compile(r"linux-(image|binary|modules|base)-")
"""Up to 6.12 one package holds everything; in 7.3 there is one for each."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel."""

    series: str
    """What was asked for; the release says what it is."""

    root: Path

    @property
    def modules(self) -> Path:
        """Where modules.dep is and the modules are; its name is the release."""
        found = [path for path in self.root.glob("lib/modules/*") if path.is_dir()]
        if len(found) != 1:
            raise Failure(f"{self.root} is no unpacked kernel: remove it")
        return found[0]

    @property
    def release(self) -> str:
        """What uname -r says there."""
        return self.modules.name

    @property
    def image(self) -> Path:
        """To boot from."""
        for path in (self.root / f"boot/vmlinuz-{self.release}", self.modules / "vmlinuz"):
            if path.exists():
                return path
        raise Failure(f"no vmlinuz in {self.root}: remove it")


def check(series: str) -> None:
    """Refuse what no suite is known for."""
    if series not in SUITES:
        raise BadUsage(f"no kernel '{series}'; there are {', '.join(SUITES)}")


def cached(series: str) -> Kernel | None:
    """The kernel, when it needs no download."""
    root = cache.folder() / "kernels" / series
    return Kernel(series, root) if root.is_dir() else None


def fetch(series: str, say: Callable[[str], None], *, again: bool = False) -> Kernel:
    """The kernel; downloads it when it is not in the cache, or is to be fetched again.

    Raises:
        Failure: no network, no such package.
    """
    check(series)
    with cache.locked() as folder:
        kernel = cached(series)
        if kernel is None or again:
            say(f"fetching Linux {series} of Debian {SUITES[series]}")
            _unpack(series, folder)
            kernel = Kernel(series, folder / "kernels" / series)
            if not kernel.release.startswith(f"{series}."):
                say(f"Debian {SUITES[series]} has moved on from {series} to {kernel.release}")
    return kernel


def _unpack(series: str, folder: Path) -> None:
    suite = apt.Suite(SUITES[series], folder / "apt" / SUITES[series])
    with (
        cache.new(folder / "kernels" / series) as root,
        tempfile.TemporaryDirectory(dir=folder) as debs,
    ):
        suite.download(_packages(suite), Path(debs))
        apt.unpack(Path(debs), root)
        # Where / and /usr are merged, as in trixie, the packages say usr/lib.
        if not (root / "lib").exists():
            (root / "lib").symlink_to("usr/lib")
        shutil.rmtree(root / "usr/share", ignore_errors=True)
        release = next((root / "lib/modules").iterdir()).name
        # Installing a package would do this; the command wants lib/, not usr/lib/.
        subprocess.run(["depmod", "-b", root, release], check=True, capture_output=True)


def _packages(suite: apt.Suite) -> list[str]:
    """Of the metapackage's dependencies those that are named after a version."""
    waiting, seen = [METAPACKAGE], set[str]()
    while waiting:
        package = waiting.pop()
        if package not in seen and _PARTS.match(package):
            seen.add(package)
            waiting += suite.depends(package)
    found = sorted(package for package in seen if re.search(r"-\d", package))
    if not found:
        raise Failure(f"{METAPACKAGE} of Debian {suite.name} depends on no kernel")
    return found
