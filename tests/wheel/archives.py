# SPDX-License-Identifier: Apache-2.0
"""Making the two files by meson-python, as any installer would, but without a network.

The sdist has what is committed, nothing else; the wheel is made from the sdist, not the checkout.
"""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

from .broken import run

ROOT = Path(__file__).resolve().parents[2]
_CALL = "import mesonpy, sys; mesonpy.{}(sys.argv[1])"


def sdist(out: Path) -> Path:
    """The path of a new sdist of the checkout."""
    return _made(ROOT, "build_sdist", out, "*.tar.gz")


def wheel(sdist: Path, unpacked: Path, out: Path) -> Path:
    """The path of a new wheel of an sdist, which is unpacked into a new folder for that."""
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (source,) = unpacked.iterdir()
    return _made(source, "build_wheel", out, "*.whl")


def _made(source: Path, hook: str, out: Path, pattern: str) -> Path:
    for old in out.glob(pattern):
        old.unlink()
    run([sys.executable, "-P", "-c", _CALL.format(hook), out], cwd=source)
    (made,) = out.glob(pattern)
    return made
