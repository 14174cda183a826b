# SPDX-License-Identifier: Apache-2.0
"""The applications behind a veth: what has been accepted, by the peer's port."""

from __future__ import annotations

from abc import ABC, abstractmethod

from .end import End


class Accepted(ABC):
    """One accepted connection; what it has received is here even after it is gone."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.eof = self.reset = self.gone = False

    @abstractmethod
    def take(self) -> None:
        """Read all that there is, and note how it ends."""

    @abstractmethod
    def state(self) -> str | None:
        """In the RFC's words; None where nobody can tell."""

    @abstractmethod
    def send(self, data: bytes) -> None: ...

    @abstractmethod
    def shutdown(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def abort(self) -> None: ...


class Sink(ABC):
    """A server that reads whatever comes, unless it was told to pause."""

    def __init__(self, mtu: int) -> None:
        self.mtu = mtu
        self.accepted: dict[int, list[Accepted]] = {}
        self.paused: set[int] = set()

    @abstractmethod
    def poll(self) -> None:
        """Take what there is to take, without waiting."""

    @abstractmethod
    def tighten(self) -> None:
        """From now on there is little memory: the cases that want it all come."""

    def add(self, port: int, connection: Accepted) -> None:
        self.accepted.setdefault(port, []).append(connection)

    def application(self, end: End) -> Sight:
        return Sight(self, end.addr.port)


class Sight:
    """The connection that a peer is about to open, seen from the application's side."""

    def __init__(self, sink: Sink, port: int) -> None:
        self._sink, self._port = sink, port
        self._skip = len(sink.accepted.get(port, ()))

    @property
    def _connection(self) -> Accepted | None:
        found = self._sink.accepted.get(self._port, [])
        return found[self._skip] if len(found) > self._skip else None

    @property
    def accepted(self) -> bool:
        return self._connection is not None

    @property
    def data(self) -> bytes:
        return bytes(self._connection.received) if self._connection else b""

    @property
    def eof(self) -> bool:
        return self._connection is not None and self._connection.eof

    @property
    def reset(self) -> bool:
        return self._connection is not None and self._connection.reset

    @property
    def state(self) -> str | None:
        return self._connection.state() if self._connection else None

    def _open(self) -> Accepted:
        assert self._connection is not None, "the application has no such connection"
        return self._connection

    def send(self, data: bytes) -> None:
        self._open().send(data)

    def shutdown(self) -> None:
        self._open().shutdown()

    def close(self) -> None:
        self._open().close()

    def abort(self) -> None:
        self._open().abort()

    def pause(self) -> None:
        self._sink.paused.add(self._port)

    def resume(self) -> None:
        self._sink.paused.discard(self._port)
