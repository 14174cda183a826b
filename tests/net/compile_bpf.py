# SPDX-License-Identifier: Apache-2.0
"""Compiling the BPF programs that are for tests only."""

from __future__ import annotations

import subprocess
from pathlib import Path


def compile_bpf(folder: Path, name: str) -> Path:
    """The object of ``tests/net/bpf/<name>.bpf.c``, made in ``folder`` unless it is there."""
    output = folder / f"{name}.bpf.o"
    if not output.exists():
        multiarch = subprocess.run(
            ["cc", "-print-multiarch"], check=True, capture_output=True, text=True
        ).stdout.strip()
        source = Path(__file__).parent / "bpf" / f"{name}.bpf.c"
        flags = ["-target", "bpf", "-O2", "-g", "-mcpu=v3", "-Wall", "-Werror"]
        include = f"-I/usr/include/{multiarch}"
        subprocess.run(["clang", *flags, include, "-c", source, "-o", output], check=True)
    return output
