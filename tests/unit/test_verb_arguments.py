# SPDX-License-Identifier: Apache-2.0
"""What the verbs of ./dev say to figures that make no sense: one line, before anything runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..slowness import SLOWNESS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("tests.unreadable", ["--frags", "0"], "--frags 0: at least 1"),
        ("tests.storm.storm", ["--frames", "0"], "--frames 0: at least 1"),
        ("tests.mutants", ["--sample", "-1"], "--sample -1: at least 1"),
        ("tests.conformance", ["x"], "unrecognized arguments: x"),
        ("tests.fuzz.run", ["--seconds", "0"], "--seconds 0: at least 1"),
    ],
)
def test_a_figure_that_makes_no_sense_is_refused(
    module: str, arguments: list[str], said: str
) -> None:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60 * SLOWNESS,
    )
    assert done.returncode == 2
    assert done.stderr.rstrip().endswith(f"error: {said}")
