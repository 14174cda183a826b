# SPDX-License-Identifier: Apache-2.0
"""What the service manager is told."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from devmemtcp.agent.daemon.notify import ServiceManager


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@devmemtcp-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name[1:] if abstract else name)
        with ServiceManager() as manager:
            assert manager.watchdog == 1.5
            assert "NOTIFY_SOCKET" not in os.environ
            manager.ready("serving eth1")
            manager.alive()
            manager.stopping("SIGTERM")
        told = [systemd.recv(100) for _ in range(3)]
    assert told == [b"READY=1\nSTATUS=serving eth1", b"WATCHDOG=1", b"STOPPING=1\nSTATUS=SIGTERM"]


def test_without_systemd_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")  # another process's
    with ServiceManager() as manager:
        assert manager.watchdog is None
        manager.ready("serving eth1")


def test_a_manager_that_is_gone_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with ServiceManager() as manager:
        manager.ready("serving eth1")
