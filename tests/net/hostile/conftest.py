# SPDX-License-Identifier: Apache-2.0
"""Two interpreters for an agent under attack: this one, and one with sanitised extensions."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest


@dataclass(frozen=True)
class Build:
    """How to start an agent."""

    python: tuple[str, ...] = (sys.executable,)
    environ: Mapping[str, str] = field(default_factory=dict)
    options: str = ""


def _library(name: str) -> str:
    """The path of a sanitizer's runtime, for LD_PRELOAD."""
    command = ["gcc", f"-print-file-name={name}"]
    path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(path):
        pytest.skip(f"gcc has no {name}")
    return path


def _sanitised() -> Build:
    """AddressSanitizer must be there before Python, and its reports need more system calls than
    the agent allows itself. An editable install would take the other build: not that interpreter.
    """
    site = os.environ.get("DEVMEMTCP_SANITISED")
    if not site:
        pytest.skip("needs a sanitised build of the package: ./dev hostile makes it")
    return Build(
        python=(os.path.realpath(sys.executable),),
        environ={
            "LD_PRELOAD": f"{_library('libasan.so')} {_library('libubsan.so')}",
            "PYTHONPATH": f"{site}:{sysconfig.get_path('purelib')}",
            # The interpreter leaks at its end; what is freed shall not look like a leak, either.
            "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=4",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        },
        options="seccomp = false",
    )


@pytest.fixture(params=["as installed", "sanitised"])
def build(request: pytest.FixtureRequest) -> Build:
    """The build that an agent is started from."""
    return _sanitised() if request.param == "sanitised" else Build()
