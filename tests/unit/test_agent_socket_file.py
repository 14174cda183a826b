# SPDX-License-Identifier: Apache-2.0
"""The path where applications connect: taken, taken over, and given back."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from devmemtcp.agent.daemon.socket_file import SocketFile
from devmemtcp.agent.errors import ConfigError


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(str(path))
    return sock


def test_it_is_there_with_its_mode_and_gone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "run" / "agent.sock"
    with SocketFile(path, mode=0o640) as file:
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
        connect(path).close()
        file.listener.accept()[0].close()
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(
    ("directory", "mode", "warned"),
    [
        (0o700, 0o600, False),
        (0o700, 0o666, True),
        (0o750, 0o666, True),
        (0o750, 0o660, False),
        (0o700, 0o660, True),
        (0o755, 0o666, False),
    ],
)
def test_a_directory_that_shuts_others_out_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, directory: int, mode: int, warned: bool
) -> None:
    shut = tmp_path / "run"
    shut.mkdir()
    shut.chmod(directory)
    SocketFile(shut / "agent.sock", mode=mode).close()
    assert (f"its directory {shut} has mode {directory:04o}" in caplog.text) == warned
    assert shut.stat().st_mode & 0o777 == directory


def test_a_live_agent_is_not_disturbed(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with SocketFile(path):
        with pytest.raises(ConfigError, match=rf"process {os.getpid()}\) serves .* already"):
            SocketFile(path)
        connect(path).close()
    SocketFile(path).close()


def test_a_killed_agent_s_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    code = f"""
import os, signal
from pathlib import Path
from devmemtcp.agent.daemon.socket_file import SocketFile
file = SocketFile(Path({str(path)!r}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert path.exists()
    with pytest.raises(ConnectionRefusedError):
        connect(path)
    with SocketFile(path):
        connect(path).close()


def test_another_program_s_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    for kind in (socket.SOCK_SEQPACKET, socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind) as other:
            other.bind(str(path))
            other.listen()
            with pytest.raises(ConfigError, match="another program listens"):
                SocketFile(path)
            assert path.exists()
        path.unlink()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="exists and is not a socket"):
        SocketFile(path)
    assert path.read_text() == "precious"


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no directory .*/a; make it first"):
        SocketFile(tmp_path / "a" / "b" / "agent.sock")
