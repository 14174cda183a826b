# SPDX-License-Identifier: Apache-2.0
"""`bench agent` and `bench soak` with --quick: they say how long they take, and judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from devmemtcp.agent.bench.agent_rx import GOAL

from ..slowness import SLOWNESS

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and BPF")


def run(*args: str) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, "-P", "-m", "devmemtcp.agent.cli", "bench", *args, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100 * SLOWNESS)
    return done.returncode, json.loads(done.stdout), done.stderr


def test_the_agent_is_held_against_a_stack_inside_and_a_killed_application_leaves_nothing() -> None:
    options = ("--size", "16M", "--rounds", "1", "--kills", "1", "--region-size", "8M")
    code, report, said = run("agent", "--quick", *options)
    assert "agent takes about 4 s" in said
    assert (report["size"], report["rounds"], report["kills"]) == (16 << 20, 1, 1)
    assert report["wrong_bytes"] == 0
    assert report["settled_seconds"]["high"] < 1
    slow = report["goodput_ratio"]["median"] < GOAL  # of a few milliseconds: may well be
    assert [line.split()[0] for line in report["failures"]] == ["goodput"] * slow
    assert code == int(slow)


def test_a_soak_says_how_long_it_takes() -> None:
    code, report, said = run("soak", "--quick", "--minutes", "0.03", "--region-size", "4M")
    assert "soak takes about 2 s" in said
    assert (code, report["ok"], report["at_end"]["tokens"]) == (0, True, 0)
    assert 1.5 < report["seconds"] < 60
