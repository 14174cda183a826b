# SPDX-License-Identifier: Apache-2.0
"""`devmemtcp agent` before it touches anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from devmemtcp.agent.daemon.config import parse_config

from ..slowness import SLOWNESS


def agent(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "devmemtcp.agent.cli", "agent", *args]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60 * SLOWNESS, check=False
    )


def test_what_it_would_do_is_printed_as_a_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('[[interface]]\nname = "eth1"\nspin_us = 7\n[[interface]]\nname = "eth2"\n')
    done = agent("--config", str(file), "-i", "eth1", "--socket-group", "50", "--print-config")
    assert (done.returncode, done.stderr) == (0, "")
    config = parse_config(done.stdout, "printed")
    assert [(each.name, each.spin_us) for each in config.interfaces] == [("eth1", 7)]
    assert config.agent.group == 50


def test_a_mistake_is_one_line_and_code_2(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("[agent]\nlingr = 3\n")
    done = agent("--config", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"devmemtcp: error: {file}: [agent]: there is no key 'lingr'; did you mean 'linger'?\n"
    )
    for args, said in (
        (["--socket", "s"], "--socket must be an absolute path"),
        (["--user", "no-such-user", "-i", "x"], "there is no user 'no-such-user'"),
        (["--config", str(tmp_path / "none")], "cannot read"),
        (["--socket-mode", "9999"], "--socket-mode must be permissions in octal"),
        (["--socket-group", "99999999999"], "--socket-group must be a name or a number"),
    ):
        done = agent(*args)
        assert done.returncode == 2
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
