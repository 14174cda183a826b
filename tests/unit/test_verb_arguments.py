# SPDX-License-Identifier: Apache-2.0
"""What the verbs of ./dev say to words that make no sense: one line, before anything runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..arguments import VARIABLE
from ..slowness import SLOWNESS

ROOT = Path(__file__).resolve().parents[2]


def ask(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        env=os.environ | {"PYTHONPATH": str(ROOT), VARIABLE: "1"},
        capture_output=True,
        text=True,
        timeout=60 * SLOWNESS,
        check=False,
    )


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        ("tests.unreadable", ["--frags", "0"], "--frags: at least 1, not 0"),
        ("tests.storm.storm", ["--frames", "0"], "--frames: at least 1, not 0"),
        ("tests.mutants", ["--sample", "-1"], "--sample: at least 1, not -1"),
        ("tests.conformance", ["x"], "unrecognized arguments: x"),
        ("tests.fuzz.run", ["--seconds", "0"], "--seconds: at least 1, not 0"),
        ("tests.fuzz.run", ["nothing"], "no target nothing; there are app, "),
        ("tests.kernels", ["--chekc"], "unrecognized arguments: --chekc"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(module: str, words: list[str], said: str) -> None:
    done = ask(module, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("tests.fuzz.run", ["stack", "--seconds", "100000"]),
        ("tests.kernels", []),
        ("tests.vm", ["--timeout", "100000", "--", "sleep", "100000"]),
        ("tests.vm.matrix", ["-k", "demo"]),
    ],
)
def test_good_words_do_nothing_when_they_are_only_asked_for(module: str, words: list[str]) -> None:
    done = ask(module, *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
