# SPDX-License-Identifier: Apache-2.0
"""An agent whose socket is not open to this user, or that ends while it is called.

Each way to it says that and, of the first, whom to ask.
"""

import errno
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest

from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.recv import _agents_stack
from devmemtcp.agent.region import Region
from devmemtcp.agent.session import Binding, Session, SessionStack
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


@pytest.fixture
def dying(tmp_path: Path) -> Iterator[Path]:
    """The path of an agent that is killed when the first request has come."""
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1)

        thread = threading.Thread(target=answer)
        thread.start()
        yield path
        thread.join()


def test_an_agent_that_dies_during_the_first_question_has_ended(dying: Path) -> None:
    with pytest.raises(BrokenPipeError, match=r"the agent at .*agent.sock has ended") as caught:
        Session(dying)
    assert caught.value.errno == errno.EPIPE


def test_an_agent_that_ends_before_a_binding_has_ended(tmp_path: Path) -> None:
    stack = SessionStack(cast(Session, None), "eth1", 1)
    with (
        Region(1 << 20) as region,
        pytest.raises(BrokenPipeError, match=r"the agent at .*agent.sock has ended"),
    ):
        Binding(str(tmp_path / "agent.sock"), 1.0, stack, [0], region)
