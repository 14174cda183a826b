# SPDX-License-Identifier: Apache-2.0
"""`bench flood`, too short for its times and goodput to be judged: who must be served is served."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from devmemtcp.agent.bench.flood import BACKLOG

from ..slowness import SLOWNESS

FLOOD = [sys.executable, "-P", "-m", "devmemtcp.agent.cli", "bench", "flood"]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FLOOD, *args], capture_output=True, text=True, timeout=100 * SLOWNESS)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and BPF")
def test_a_flood_is_answered_by_cookies_and_shuts_nobody_out() -> None:
    done = run("--syns", "4000", "--seconds", "0.6", "--region-size", "8M", "--json")
    assert done.returncode == 0, done.stderr
    assert "flood takes about 2 s" in done.stderr
    report = json.loads(done.stdout)
    assert (report["ok"], report["judged"]) == (True, False)
    assert 0 < report["syns"] <= 4000
    assert report["counters"]["syncookies_sent"] > 0
    assert sorted(phase["flooded"] for phase in report["phases"]) == [False, True]
    for phase in report["phases"]:
        assert phase["gbps"] > 0
        assert None not in phase["clients"]
        assert phase["flows"] <= 2 * BACKLOG


@pytest.mark.parametrize(
    "wrong", [("--syns", "0"), ("--seconds", "0"), ("--seconds", "nan"), ("--mtu", "1")]
)
def test_a_flood_that_cannot_be_is_refused(wrong: tuple[str, str]) -> None:
    done = run(*wrong)
    assert done.returncode == 2
    assert wrong[0].removeprefix("--").lower() in done.stderr.lower()
