# SPDX-License-Identifier: Apache-2.0
"""A bench behind a real socket: what the agent's daemon does with the server, in a thread."""

from __future__ import annotations

import selectors
import socket
import threading
from pathlib import Path
from typing import Self

from devmemtcp.netlink.family import Client

from ...slowness import SLOWNESS
from .bench import Bench

MAX_FDS = 4


class Served:
    """A bench that listens at a path until the ``with`` block is left."""

    def __init__(self, bench: Bench, path: Path) -> None:
        self.bench = bench
        self.path = path
        self._clients: dict[socket.socket, Client] = {}
        self._gone = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._alarm, self._alarmed = socket.socketpair()
        self._selector.register(self._alarmed, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._alarm.close()
        self._thread.join()

    def await_disconnect(self) -> None:
        """Wait until the server has dealt with the end of a connection."""
        assert self._gone.wait(10 * SLOWNESS)
        self._gone.clear()

    def _run(self) -> None:
        while True:
            ready = [key.fileobj for key, _ in self._selector.select()]
            if self._alarmed in ready:
                break
            for sock in ready:
                assert isinstance(sock, socket.socket)
                if sock is self._listener:
                    self._accept()
                else:
                    self._serve(sock)
        for sock in [*self._clients]:
            self._end(sock)
        self._listener.close()
        self._alarmed.close()
        self._selector.close()

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.settimeout(10 * SLOWNESS)
        self._clients[sock] = self.bench.server.connect(
            self.bench.peer, lambda data: sock.sendall(data)
        )
        self._selector.register(sock, selectors.EVENT_READ)

    def _serve(self, sock: socket.socket) -> None:
        data, fds, _, _ = socket.recv_fds(sock, 65536, MAX_FDS)
        if not data:
            self._end(sock)
            return
        for datagram in self.bench.server.handle(data, self._clients[sock], fds):
            sock.sendall(datagram.data)

    def _end(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        sock.close()
        self.bench.server.disconnect(self._clients.pop(sock))
        self._gone.set()
