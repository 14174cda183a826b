# SPDX-License-Identifier: Apache-2.0
"""`./dev soak` for its ten minutes, with --slow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MINUTES = 10


@pytest.mark.timeout(60 * MINUTES + 200)
@pytest.mark.usefixtures("slow", "_clean_slate")
def test_nothing_grows_in_ten_minutes_over_a_bad_road() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.soak", "--minutes", str(MINUTES), "--json"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    report = json.loads(done.stdout)
    assert (report["failures"], done.returncode) == ([], 0)
    assert set(report["verdicts"].values()) == {"flat"}
    assert report["connections"] > 1000
