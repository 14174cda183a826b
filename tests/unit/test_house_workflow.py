# SPDX-License-Identifier: Apache-2.0
"""The workflow for forks: it is what ./dev and tests/vm say, and has no rights it does not need."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..vm import cache
from ..vm.kernels import SUITES

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / ".github/workflows/ci.yml"
LOADED: dict[Any, Any] = yaml.safe_load(WORKFLOW.read_text())
JOBS: dict[str, dict[str, Any]] = LOADED["jobs"]

# What is the runner's business and not ./dev's.
OF_THE_RUNNER = {
    'echo "week=$(date +%G-%V)" >>"$GITHUB_OUTPUT"',
    "test ! -e /dev/kvm || sudo chmod o+rw /dev/kvm",
}


def steps(job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = JOBS[job]["steps"]
    return found


def commands(job: str) -> Iterator[str]:
    for step in steps(job):
        yield from (line for line in step.get("run", "").splitlines() if line not in OF_THE_RUNNER)


def help_text() -> str:
    return subprocess.run([ROOT / "dev", "help"], capture_output=True, text=True, check=True).stdout


def test_every_command_is_a_verb_that_help_lists() -> None:
    verbs = set(re.findall(r"^  (\w+)", help_text(), re.MULTILINE))
    for job in JOBS:
        for command in commands(job):
            words = command.split()
            assert words[0] == "./dev", command
            assert words[1] in verbs, command


def test_it_runs_what_ci_is_meant_to() -> None:
    assert [list(commands(job)) for job in ("lint", "test", "wheel")] == [
        ["./dev lint"],
        ["./dev test"],
        ["./dev wheel"],
    ]
    (command,) = commands("vm")
    assert command.startswith("./dev test --vm --kernel ${{ matrix.kernel }} ")
    assert "test --vm" in help_text()


def test_its_kernels_are_those_of_the_guests() -> None:
    assert JOBS["vm"]["strategy"]["matrix"]["kernel"] == list(SUITES)


def test_it_may_read_the_repository_and_nothing_else() -> None:
    assert LOADED["permissions"] == {"contents": "read"}
    assert "secrets." not in WORKFLOW.read_text()
    assert "pull_request_target" not in LOADED[True]  # YAML 1.1 reads `on` as true
    for job in JOBS:
        assert "permissions" not in JOBS[job]
        for step in steps(job):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_actions_are_pinned_by_commit_with_their_version_beside() -> None:
    lines = [line for line in WORKFLOW.read_text().splitlines() if "uses:" in line]
    for line in lines:
        assert re.search(r"uses: actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line
    pins = {line.split("uses:")[1].split("@")[0]: line.split("uses:")[1] for line in lines}
    assert {line.split("uses:")[1] for line in lines} == set(pins.values())  # one version of each


def test_every_job_ends_and_runs_on_a_named_release() -> None:
    for job in JOBS.values():
        assert job["runs-on"] == "ubuntu-24.04"
        assert 0 < job["timeout-minutes"] <= 120


def test_what_is_cached_is_where_guests_look(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (cache.VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", "/home/runner")
    paths = [step["with"]["path"] for step in steps("vm") if "cache@" in step.get("uses", "")]
    assert str(cache.folder()) in [path.replace("~", "/home/runner") for path in paths]
