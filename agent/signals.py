# SPDX-License-Identifier: Apache-2.0
"""Signals as something to wait for, next to other descriptors.

A handler that does the work itself would run between any two instructions of the
loop. Here the interpreter's C handler writes the signal's number to a socket
(signal.set_wakeup_fd()), the loop polls that socket beside its own descriptors,
and acts on it when it comes to it: no signal is lost, none comes too early, and what
is being set up or taken down is never left half done.
"""

from __future__ import annotations

import select
import signal
import socket
from contextlib import ExitStack
from types import FrameType
from typing import Self

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
PAUSE_SIGNAL = signal.SIGUSR1
RESUME_SIGNAL = signal.SIGUSR2


class Stopped(Exception):
    """A stop signal came: undo what was made and end with 128 + `number`, as a shell says it."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.number = number


class Signals:
    """A context manager for the main thread; earlier handlers come back at its end.

    `paused`: SIGUSR1 came, and no SIGUSR2 since. `stop`: the first of SIGINT and
    SIGTERM that came, else None. Both change only in update(). A second stop signal
    raises KeyboardInterrupt wherever the program is: the way out of a stuck write.
    """

    def __init__(self) -> None:
        self.paused = False
        self.stop: signal.Signals | None = None
        self._stops_seen = 0
        self._undo = ExitStack()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def __enter__(self) -> Self:
        self._undo.callback(self._reader.close)
        self._undo.callback(self._writer.close)
        self._undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(self._writer.fileno()))
        for number in STOP_SIGNALS:
            self._undo.callback(signal.signal, number, signal.signal(number, self._on_stop))
        for number in (PAUSE_SIGNAL, RESUME_SIGNAL):
            # Without a Python-level handler the default action would end the process.
            self._undo.callback(signal.signal, number, signal.signal(number, _only_wake))
        return self

    def __exit__(self, *exc: object) -> None:
        self._undo.close()

    def fileno(self) -> int:
        """A descriptor that is readable when update() has something to take."""
        return self._reader.fileno()

    def holding(self) -> bool:
        """Whether nothing is to be consumed now."""
        return self.paused and self.stop is None

    def wait(self) -> None:
        """Block until a signal has come, then update()."""
        select.select([self], [], [])
        self.update()

    def update(self) -> None:
        """Take the signals that have come, in their order. Does not block."""
        try:
            numbers = self._reader.recv(4096)
        except BlockingIOError:
            return
        for number in numbers:
            if number in STOP_SIGNALS:
                self.stop = self.stop or signal.Signals(number)
            elif number == PAUSE_SIGNAL:
                self.paused = True
            elif number == RESUME_SIGNAL:
                self.paused = False

    def check(self) -> None:
        """Take the signals that have come. Raises Stopped when one of them stops the program."""
        self.update()
        if self.stop is not None:
            raise Stopped(self.stop)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self._stops_seen += 1
        if self._stops_seen > 1:
            raise KeyboardInterrupt


def _only_wake(number: int, frame: FrameType | None) -> None:
    """The work was done by the C handler, which wrote the number to the socket."""
