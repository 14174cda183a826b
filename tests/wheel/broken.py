# SPDX-License-Identifier: Apache-2.0
"""A promise about what is handed out that does not hold; and commands that must succeed."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class Broken(Exception):
    """Which promise, in one line."""


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    codes: Sequence[int] = (0,),
) -> str:
    """What it prints on stdout. Raises Broken, with its last words, for another exit code."""
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode not in codes:
        words = (done.stderr + done.stdout).strip().splitlines()[-12:]
        raise Broken(f"{Path(command[0]).name} ended with {done.returncode}: " + " | ".join(words))
    return done.stdout
