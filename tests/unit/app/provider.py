# SPDX-License-Identifier: Apache-2.0
"""Interfaces whose stacks a test plays, for sockets to listen on."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from devmemtcp.agent import Region
from devmemtcp.agent._loop import lib
from devmemtcp.agent.devmem_socket import DevmemSocket
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.provider import Pressure
from devmemtcp.agent.socket import Address, AppHalf, Listener

from .fake_stack import BINDING, FLOW, LISTENER, FakeStack


@dataclass
class FakeInterface:
    """One interface: its stack, and what was asked of it."""

    stack: FakeStack
    app: AppHalf
    ifname: str = "eth1"
    hosts: tuple[str, ...] = ("192.0.2.1", "2001:db8::1")
    used: set[Address] = field(default_factory=set)
    asked: list[tuple[Address, int, Pressure | None]] = field(default_factory=list)
    unlistened: list[int] = field(default_factory=list)

    def has_address(self, host: str) -> bool:
        return host in ("0.0.0.0", "::", *self.hosts)

    def listen(
        self,
        address: Address,
        *,
        close_first: bool = False,
        backlog: int = 1024,
        pressure: Pressure | None = None,
    ) -> Listener:
        self.asked.append((address, backlog, pressure))
        host, port = address
        port = port or 49999 + len(self.asked)
        if (host, port) in self.used:
            raise ConfigError(f"port {port} is in use", errno.EADDRINUSE)
        number = LISTENER + len(self.asked)
        self.used.add((host, port))

        def unlisten(number: int) -> None:
            self.used.discard((host, port))
            self.unlistened.append(number)

        made = Listener(self.app, number, (host, port), close_first, unlisten)
        self.app.listeners[number] = made
        assert lib.app_listener(self.app.handle, number, 1) == 0
        return made


@dataclass
class FakeProvider:
    """Some interfaces."""

    interfaces: list[FakeInterface]

    def stacks(self) -> Sequence[FakeInterface]:
        return self.interfaces


@contextmanager
def fake_interface(region: Region, ifname: str = "eth1") -> Iterator[FakeInterface]:
    """An interface with one binding."""
    stack = FakeStack()
    app = stack.open()
    app.add_region(BINDING, region)
    try:
        yield FakeInterface(stack, app, ifname)
    finally:
        app.close()
        stack.close()


def fails(call: Callable[[], object]) -> int | None:
    """The errno of the OSError that a call raises."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what is compared
        call()
    return caught.value.errno


def connected(interface: FakeInterface, flow: int = FLOW, **options: object) -> DevmemSocket:
    """A socket that was accepted from a listener of its own."""
    with DevmemSocket(FakeProvider([interface]), **options) as listener:  # type: ignore[arg-type]
        listener.bind(("192.0.2.1", 0))
        listener.listen()
        interface.stack.accept(flow, listener._listeners[0].id)
        conn, _ = listener.accept()
    return conn
