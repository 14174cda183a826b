# SPDX-License-Identifier: Apache-2.0
"""What `./dev wheel` says of its steps, and of a place where it may not write."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ..wheel import __main__ as wheel


def test_a_long_step_is_announced_and_then_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = wheel.Report()
    report.make("the sdist", lambda: tmp_path / "a.tar.gz")
    report.make("a fresh environment", lambda: tmp_path / "elsewhere0", "the wheel is in it")
    said = capsys.readouterr()
    assert said.err == "wheel: making the sdist\nwheel: making a fresh environment\n"
    first, second = said.out.splitlines()
    assert first.endswith("the sdist: a.tar.gz")
    assert second.endswith("a fresh environment: the wheel is in it")


def test_a_folder_that_cannot_be_made_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["wheel", "--out", str(tmp_path / "file/dist")])
    with pytest.raises(SystemExit) as raised:
        wheel.main()
    said = capsys.readouterr().err
    assert raised.value.code == 2
    assert said.startswith(f"wheel: --out {tmp_path}/file/dist: Not a directory")
    assert said.count("\n") == 1
