# SPDX-License-Identifier: Apache-2.0
"""An interpreter with sanitised extensions: ./dev builds them into a folder to import from."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field

from devmemtcp.agent.errors import Unsupported


@dataclass(frozen=True)
class Build:
    """How to start a process with the package in it."""

    python: tuple[str, ...] = (sys.executable,)
    environ: Mapping[str, str] = field(default_factory=dict)


def _library(name: str) -> str:
    """The path of a sanitizer's runtime, for LD_PRELOAD."""
    command = ["gcc", f"-print-file-name={name}"]
    path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(path):
        raise Unsupported(f"gcc has no {name}")
    return path


def sanitised(path: str = "", options: str = "") -> Build:
    """`path`: what else to import from; `options`: more of ASAN_OPTIONS and UBSAN_OPTIONS.

    AddressSanitizer must be there before Python. An editable install would take the other build:
    not that interpreter. Raises Unsupported when there is no such build, or no sanitizer.
    """
    site = os.environ.get("DEVMEMTCP_SANITISED")
    if not site:
        raise Unsupported("needs a sanitised build of the package: ./dev hostile makes it")
    return Build(
        python=(os.path.realpath(sys.executable),),
        environ={
            "LD_PRELOAD": f"{_library('libasan.so')} {_library('libubsan.so')}",
            "PYTHONPATH": ":".join(filter(None, (site, sysconfig.get_path("purelib"), path))),
            # The interpreter leaks at its end; what is freed shall not look like a leak, either.
            "ASAN_OPTIONS": f"detect_leaks=0:quarantine_size_mb=4{options}",
            "UBSAN_OPTIONS": f"print_stacktrace=1:halt_on_error=1{options}",
        },
    )
