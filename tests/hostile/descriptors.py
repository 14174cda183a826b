# SPDX-License-Identifier: Apache-2.0
"""Descriptors of every kind, for those who expect one of device memory.

Some are merely wrong. Others are made to hurt: the last close of a socket that lingers takes
seconds, a file may be cut off when it is mapped, and a control connection that is sent through
itself is closed by nobody but the kernel's garbage collection.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random

_LINGER_SECONDS = 2
_MFD_HUGETLB = 0x0004
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_IN_ONE_MESSAGE = 253  # SCM_MAX_FD


class Descriptors:
    """Makes them. ``sent()`` closes our copies, so that the receiver has the last ones."""

    def __init__(self, random: Random, size: int) -> None:
        """``size``: bytes of what shall look like proper device memory."""
        self._random = random
        self._size = size
        self._mine: list[int] = []
        self._lingering: list[socket.socket] = []
        self._not_sealed: int | None = None
        self._next_linger = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._kinds: list[Callable[[], int]] = [
            lambda: self._memory(size),
            self._memory_that_shrinks,
            lambda: self._memory(size, fcntl.F_SEAL_WRITE),
            lambda: self._memory(random.choice((0, 1, 4095, 4097, size - 1, 1 << 36, 1 << 46))),
            self._memory_in_huge_pages,
            self._file,
            self._lingering_socket,
            self._pipe,
            lambda: self._open("/", os.O_RDONLY),
            lambda: self._open("/dev/zero", os.O_RDWR),
            lambda: self._open("/dev/null", os.O_RDWR),
            lambda: self._open("/proc/self/mem", os.O_RDWR),
            lambda: self._open("/proc/self/ns/net", os.O_RDONLY),
            lambda: self._open("/etc/passwd", os.O_PATH),
            lambda: self._keep(os.eventfd(0)),
            self._epoll,
            lambda: self._keep(os.pidfd_open(os.getpid())),
            lambda: self._socket(socket.AF_INET, socket.SOCK_DGRAM),
            lambda: self._socket(socket.AF_NETLINK, socket.SOCK_RAW),
            lambda: self._socket(socket.AF_UNIX, socket.SOCK_SEQPACKET),
        ]

    def some(self, connection: socket.socket, several: bool) -> list[int]:
        """None, one or, if wanted, ``several``; the ``connection`` itself may be among them."""
        random = self._random
        number = random.choice((0, 1, 2, 8, _IN_ONE_MESSAGE) if several else (0, 1, 1))
        if number == _IN_ONE_MESSAGE:
            return [random.choice(self._kinds)()] * number
        chosen = [random.choice(self._kinds)() for _ in range(number)]
        if chosen and random.random() < 0.1:
            chosen[0] = connection.fileno()
        return chosen

    def sent(self) -> None:
        """Close our copies, and cut off the memory that is not sealed, mapped or not by now."""
        if self._not_sealed is not None:
            os.ftruncate(self._not_sealed, self._random.choice((0, 1, 4096)))
            self._not_sealed = None
        for fd in self._mine:
            os.close(fd)
        self._mine.clear()
        for sock in self._lingering:  # should ours be the last one: this thread will not wait
            threading.Thread(target=sock.close).start()
        self._lingering.clear()

    def close(self) -> None:
        """Close all that is left here."""
        self.sent()
        self._listener.close()

    def _keep(self, fd: int) -> int:
        self._mine.append(fd)
        return fd

    def _open(self, path: str, flags: int) -> int:
        with suppress(PermissionError):
            return self._keep(os.open(path, flags))
        return self._pipe()

    def _socket(self, family: int, kind: int) -> int:
        return self._keep(socket.socket(family, kind).detach())

    def _epoll(self) -> int:
        with select.epoll() as watcher:
            return self._keep(os.dup(watcher.fileno()))

    def _pipe(self) -> int:
        ends = [self._keep(end) for end in os.pipe()]
        return self._random.choice(ends)

    def _memory(self, size: int, more_seals: int = 0) -> int:
        fd = self._keep(os.memfd_create("memory", os.MFD_ALLOW_SEALING))
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS | more_seals)
        return fd

    def _memory_that_shrinks(self) -> int:
        self._not_sealed = self._keep(os.memfd_create("memory", os.MFD_ALLOW_SEALING))
        os.ftruncate(self._not_sealed, self._size)
        return self._not_sealed

    def _memory_in_huge_pages(self) -> int:
        with suppress(OSError):  # not every kernel has them
            fd = self._keep(os.memfd_create("huge", os.MFD_ALLOW_SEALING | _MFD_HUGETLB))
            os.ftruncate(fd, 2 << 20)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return fd
        return self._pipe()

    def _file(self) -> int:
        with tempfile.TemporaryFile() as file:
            file.truncate(self._size)
            return self._keep(os.dup(file.fileno()))

    def _lingering_socket(self) -> int:
        """Full, connected to one that does not read. One at a time: each holds megabytes."""
        if time.monotonic() < self._next_linger:
            return self._pipe()
        self._next_linger = time.monotonic() + _LINGER_SECONDS
        sender = socket.socket()
        sender.connect(self._listener.getsockname())
        receiver, _ = self._listener.accept()
        sender.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                sender.send(bytes(1 << 20))
        sender.setblocking(True)
        linger = struct.pack("ii", 1, _LINGER_SECONDS)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        threading.Timer(_LINGER_SECONDS + 1, receiver.close).start()
        self._lingering.append(sender)
        return sender.fileno()
