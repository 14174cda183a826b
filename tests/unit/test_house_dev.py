# SPDX-License-Identifier: Apache-2.0
"""./dev, seen from outside: what it says and the code it exits with."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def dev(
    *args: str, cwd: Path = ROOT, script: Path = ROOT / "dev"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script, *args], cwd=cwd, capture_output=True, text=True, check=False, timeout=100
    )


def test_an_unknown_verb_is_one_line_and_exit_code_2() -> None:
    done = dev("lnit")
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"dev: unknown verb 'lnit'.*\n", done.stderr)


def test_help_lists_each_verb() -> None:
    done = dev("help")
    assert done.returncode == 0
    for verb in ("setup", "demo", "test", "lint", "bench", "run"):
        assert re.search(rf"^  {verb}\b", done.stdout, re.MULTILINE)


def test_works_by_symlink_and_from_another_directory(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(ROOT / "dev")
    done = dev("setup", cwd=tmp_path, script=tmp_path / "link")
    assert (done.returncode, done.stdout) == (0, "")
    assert list(tmp_path.iterdir()) == [tmp_path / "link"]
