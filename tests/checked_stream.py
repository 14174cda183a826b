# SPDX-License-Identifier: Apache-2.0
"""A stream of which every fragment can be recognised, and an application that checks each byte.

It consists of records of 32 bytes, half of each the same 16 random bytes: the canary. So every
fragment of 47 bytes or more has a whole one.
"""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Callable

from devmemtcp.agent.region import RegionView
from devmemtcp.agent.socket import Connection, Frag, HostFrag

from .slowness import SLOWNESS

CANARY = 16
RECORD = 32
RECORDS = 1 << 15
SMALL_SEGMENTS = 1000
"""Sent first, of 47 to 200 bytes each: short payloads take another way through the split."""
PATIENCE = 60.0 * SLOWNESS


class Stream:
    """What is sent: the same period again and again."""

    def __init__(self) -> None:
        self.canary = os.urandom(CANARY)
        fill = random.Random(0)
        self.period = b"".join(
            self.canary + fill.randbytes(RECORD - CANARY) for _ in range(RECORDS)
        )
        self._twice = memoryview(self.period * 2)

    def at(self, position: int, size: int) -> memoryview:
        start = position % len(self.period)
        return self._twice[start : start + size]

    def send(
        self,
        sock: socket.socket,
        stop: threading.Event,
        before: Callable[[int], object] = lambda end: None,
    ) -> None:
        """Until told to stop, and then the end of the stream.

        `before`: called with the position that the next bytes will reach, before they are sent.
        """
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sizes = random.Random(1)
        position = sent = 0
        while not stop.is_set():
            small = sent < SMALL_SEGMENTS
            size = sizes.randint(2 * RECORD - CANARY - 1, 200) if small else 1 << 18
            before(position + size)
            position += sock.send(self.at(position, size))
            sent += 1
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)


class Application:
    """Receives the stream in this process, and checks each byte."""

    def __init__(self, stream: Stream, conn: Connection, view: RegionView) -> None:
        self._stream = stream
        self._conn = conn
        self._view = view
        self.frags = 0
        self.bytes = 0

    def receive(self, frags: int | None = None) -> None:
        """So many fragments more, or all until the end."""
        wanted = None if frags is None else self.frags + frags
        while wanted is None or self.frags < wanted:
            batch = self._conn.recv_frags(timeout=PATIENCE)
            if not batch:
                assert wanted is None, "the stream has ended"
                return
            for piece in batch.pieces():
                size = piece.size if isinstance(piece, Frag) else len(piece.data)
                assert self._is_next(piece, size), f"wrong bytes from {self.bytes} on"
                self.bytes += size
                self.frags += 1
            self._conn.dontneed(batch)

    def _is_next(self, piece: Frag | HostFrag, size: int) -> bool:
        """In a frame of its own, that an error does not keep, and the region's memory with it."""
        if isinstance(piece, Frag):
            got = self._view[piece.offset : piece.offset + size]
        else:
            got = memoryview(piece.data)
        return got == self._stream.at(self.bytes, size)

    def close(self) -> None:
        """Our end of the stream."""
        self._conn.close()
