# SPDX-License-Identifier: Apache-2.0
"""An agent whose socket is not open to this user: each way to it says that, and whom to ask."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.recv import _agents_stack
from devmemtcp.agent.region import Region
from devmemtcp.agent.session import Session
from devmemtcp.netlink.netdev import Netdev

NOBODY = 65534


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """The path of a socket that listens and lets nobody in."""
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0)
        before = os.geteuid()
        if before == 0:
            os.seteuid(NOBODY)
        try:
            yield path
        finally:
            os.seteuid(before)


def test_a_session_says_who_decides(closed: Path) -> None:
    with pytest.raises(PermissionError, match=r"not open to this user; .* `mode` .*\[agent\]"):
        Session(closed)


def test_netdev_does_not_say_that_there_is_no_agent(closed: Path) -> None:
    with pytest.raises(PermissionError, match="the agent's socket is not open") as caught:
        Netdev(closed)
    assert caught.value.filename == str(closed)


def test_recv_does_not_blame_the_rules(closed: Path) -> None:
    with (
        Region(1 << 20) as region,
        ExitStack() as undo,
        pytest.raises(ConfigError, match="not open to this user") as caught,
    ):
        _agents_stack(undo, str(closed), "eth1", region)
    assert "rule" not in str(caught.value)
