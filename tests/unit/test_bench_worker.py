# SPDX-License-Identifier: Apache-2.0
"""The benchmark's sender: what must be so before the first segment."""

import socket
from collections.abc import Callable
from typing import Any

import pytest

from devmemtcp.agent.bench import worker_process as process


class _Connected(Exception):
    """The sender has got as far as connecting."""


def test_the_sender_has_its_congestion_control_before_it_connects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # BBR, if that is the default, would otherwise have made the kernel pace the socket: for good.
    seen: list[tuple[Any, ...]] = []

    class Recorder(socket.socket):
        def setsockopt(self, *args: Any) -> None:
            seen.append(args)

        def connect(self, address: Any) -> None:
            raise _Connected

    monkeypatch.setattr(socket, "socket", Recorder)
    send: Callable[[dict[str, Any]], None] = process._End().do_send
    with pytest.raises(_Connected):
        send({"cpu": None, "address": ["192.0.2.1", 9], "connections": 1})
    assert (socket.IPPROTO_TCP, socket.TCP_CONGESTION, process.CONGESTION.encode()) in seen
