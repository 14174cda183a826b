# SPDX-License-Identifier: Apache-2.0
"""What requirements.lock pins, as wheels for a machine that is not this one.

pip can download for another Python, but decides by the one it runs under which lines of the file
are meant at all. So the markers are evaluated here.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

_GLIBC_MINORS = range(17, 42)
"""From what manylinux2014 means to Debian 13's."""


def _environment(python: str) -> Mapping[str, str]:
    """What markers are asked about: this machine's, but for the version of Python."""
    here = {name: str(value) for name, value in default_environment().items()}
    return here | {"python_version": python, "python_full_version": f"{python}.0"}


def wanted(text: str, python: str) -> list[str]:
    """The requirements of a lock file that are meant for a version of Python, as `3.13`."""
    lines = [line.strip() for line in text.splitlines()]
    environment = _environment(python)
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return [
        f"{pin.name}{pin.specifier}"
        for pin in pins
        if pin.marker is None or pin.marker.evaluate(dict(environment))
    ]


def download(lock: Path, python: str, folder: Path) -> None:
    """By this machine's pip, its index and its configuration.

    Raises CalledProcessError, with pip's words on stderr.
    """
    machine = platform.machine()
    tags = ["manylinux2014", *(f"manylinux_2_{minor}" for minor in _GLIBC_MINORS)]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"),
            *("--no-deps", "--only-binary=:all:", f"--python-version={python}"),
            *(f"--platform={tag}_{machine}" for tag in tags),
            *(f"--dest={folder}", *wanted(lock.read_text(), python)),
        ],
        check=True,
    )
