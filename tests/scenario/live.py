# SPDX-License-Identifier: Apache-2.0
"""Targets `native` and `generic`: our own stack behind a veth, with a sink of its connections."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Literal

from devmemtcp.agent import Connection, Listener, Region, Runtime
from devmemtcp.stack.form import wanted

from ..net.traffic import assert_clean
from ..net.veth import VethEnd
from .lab import PORT
from .server import Accepted, Sink

_REGION = 64 << 20
_SMALL_REGION = 8 << 20
_WINDOW = 128 << 10  # small enough to be filled in no time


class _Connection(Accepted):
    def __init__(self, conn: Connection, runtime: Runtime) -> None:
        super().__init__()
        self._conn, self._runtime = conn, runtime
        self._buffer = bytearray(1 << 18)

    def take(self) -> None:
        while not (self.eof or self.reset or self.gone):
            try:
                count = self._conn.gather_into(self._buffer, timeout=0)
            except TimeoutError:
                return
            except ConnectionResetError:
                self.reset = True
                return
            self.received += self._buffer[:count]
            self.eof = not count

    def state(self) -> str | None:
        for flow in self._runtime.flows():
            if flow.id == self._conn.id:
                return str(flow.state)
        return "CLOSED"

    def send(self, data: bytes) -> None:
        self._conn.send(data, timeout=5)

    def shutdown(self) -> None:
        self._conn.shutdown()

    def close(self) -> None:
        self.take()
        self.gone = True
        self._conn.close()

    def abort(self) -> None:
        self.gone = True
        self._conn.abort()


class LiveSink(Sink):
    """Two listeners of a runtime, and whoever was accepted."""

    def __init__(self, runtime: Runtime, listeners: list[Listener], undo: ExitStack) -> None:
        super().__init__(runtime._datapath.config.announced_mtu(runtime.mtu))
        self._runtime, self._listeners, self._undo = runtime, listeners, undo
        self._by_id: dict[int, tuple[int, _Connection]] = {}

    def tighten(self) -> None:
        """A region that one connection fills in no time."""
        if wanted() != "off":
            region = self._undo.enter_context(Region(_SMALL_REGION))
            self._runtime.unbind(1)
            self._runtime.bind(region, range(self._runtime.queues))

    def poll(self) -> None:
        for ready in self._runtime.poll(0):
            if isinstance(ready, Listener):
                self._accept(ready)
            else:
                port, connection = self._by_id[ready.id]
                if port not in self.paused:
                    connection.take()

    def _accept(self, listener: Listener) -> None:
        with contextlib.suppress(TimeoutError):
            while True:
                conn = listener.accept(0)
                connection = _Connection(conn, self._runtime)
                self._by_id[conn.id] = (conn.peer[1], connection)
                self.add(conn.peer[1], connection)


@contextlib.contextmanager
def live_sink(end: VethEnd, mode: Literal["native", "generic"]) -> Iterator[LiveSink]:
    """A runtime at this end of a veth; it is left without a trace of a fragment."""
    with ExitStack() as undo:
        region = undo.enter_context(Region(_REGION)) if wanted() != "off" else None
        runtime = undo.enter_context(
            Runtime(end.ifname, region, netns=end.netns, mode=mode, rcv_wnd=_WINDOW)
        )
        listeners = [undo.enter_context(runtime.listen((ip, PORT))) for ip in (end.ip4, end.ip6)]
        yield LiveSink(runtime, listeners, undo)
        assert_clean(runtime)
