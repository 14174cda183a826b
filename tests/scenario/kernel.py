# SPDX-License-Identifier: Apache-2.0
"""Target `kernel`: Linux's own TCP as the oracle, with a sink of plain sockets."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from ..net.veth import VethEnd
from .lab import PORT
from .server import Accepted, Sink

_BACKLOG = 4096
_LINGER_RESET = struct.pack("ii", 1, 0)
_STATES = {
    1: "ESTABLISHED", 3: "SYN-RECEIVED", 4: "FIN-WAIT-1", 5: "FIN-WAIT-2", 6: "TIME-WAIT",
    8: "CLOSE-WAIT", 9: "LAST-ACK", 11: "CLOSING",
}  # fmt: skip

#: Where a namespace of its own would remember from one connection what the next should not know.
_SYSCTLS = {"tcp_no_metrics_save": "1", "tcp_max_syn_backlog": str(_BACKLOG)}


class _Socket(Accepted):
    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self.sock = sock

    def take(self) -> None:
        while not (self.eof or self.reset or self.gone):
            try:
                data = self.sock.recv(1 << 20)
            except BlockingIOError:
                return
            except (ConnectionResetError, BrokenPipeError, TimeoutError):
                self.reset = True
                return
            self.received += data
            self.eof = not data

    def state(self) -> str | None:
        if self.gone:
            return None
        info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        return _STATES.get(
            info[0]
        )  # TCP_CLOSE: it is over, or in TIME-WAIT and no socket's any more

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def shutdown(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if not self.gone:
            self.take()
            self.gone = True
            self.sock.close()

    def abort(self) -> None:
        if not self.gone:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            self.gone = True
            self.sock.close()


class KernelSink(Sink):
    """Two listeners, and whoever was accepted."""

    def __init__(self, listeners: list[socket.socket]) -> None:
        super().__init__(mtu=1500)
        self._listeners = {sock.fileno(): sock for sock in listeners}
        self._ports: dict[int, tuple[int, _Socket]] = {}
        self._epoll = select.epoll()
        for descriptor in self._listeners:
            self._epoll.register(descriptor, select.EPOLLIN)

    def close(self) -> None:
        for _, connection in self._ports.values():
            connection.abort()
        self._epoll.close()

    def tighten(self) -> None:
        """A socket's receive buffer is small as it is."""

    def poll(self) -> None:
        for descriptor, _ in self._epoll.poll(0):
            if listener := self._listeners.get(descriptor):
                self._accept(listener)
                continue
            port, connection = self._ports[descriptor]
            if connection.gone or port in self.paused:
                continue
            connection.take()
            if connection.eof or connection.reset:
                self._epoll.modify(descriptor, 0)

    def _accept(self, listener: socket.socket) -> None:
        sock, peer = listener.accept()
        sock.setblocking(False)
        connection = _Socket(sock)
        self._ports[sock.fileno()] = (peer[1], connection)
        self._epoll.register(sock, select.EPOLLIN)
        self.add(peer[1], connection)


@contextlib.contextmanager
def kernel_sink(end: VethEnd) -> Iterator[KernelSink]:
    """Linux's TCP at this end of a veth."""
    with ExitStack() as undo:
        listeners = []
        with end.enter():
            for name, value in _SYSCTLS.items():
                Path("/proc/sys/net/ipv4", name).write_text(value)
            for family, ip in ((socket.AF_INET, end.ip4), (socket.AF_INET6, end.ip6)):
                sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
                sock.bind((ip, PORT))
                sock.listen(_BACKLOG)
                sock.setblocking(False)
                listeners.append(sock)
        sink = KernelSink(listeners)
        undo.callback(sink.close)
        yield sink
