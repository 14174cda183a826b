# SPDX-License-Identifier: Apache-2.0
"""`bench idle`, too short for its share of a core to be judged: memory and wake-ups are."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ..slowness import SLOWNESS

IDLE = [sys.executable, "-P", "-m", "devmemtcp.agent.cli", "bench", "idle"]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*IDLE, *args], capture_output=True, text=True, timeout=100 * SLOWNESS)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and BPF")
def test_idle_connections_take_little_memory_and_wake_nobody() -> None:
    done = run("--connections", "1000", "--seconds", "1", "--region-size", "8M", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["ok"], report["judged"], report["connections"]) == (True, False, 1000)
    # Less would mean that memory was touched before, and is in nobody's account.
    assert 512 <= report["stack_bytes"] <= 1024
    assert report["channel_bytes"] > 0
    assert report["wake_ups"] <= 20
    assert report["cpu_share"] > 0  # the questions that it is asked, at least


@pytest.mark.parametrize(
    "wrong", [("--connections", "0"), ("--seconds", "0"), ("--seconds", "nan")]
)
def test_idleness_that_cannot_be_is_refused(wrong: tuple[str, str]) -> None:
    done = run(*wrong)
    assert done.returncode == 2
    assert wrong[0] in done.stderr
