# SPDX-License-Identifier: Apache-2.0
"""A kernel's TCP that sends the pattern to somebody who may not live long."""

from __future__ import annotations

import socket
import threading
import time

from devmemtcp.agent.pattern import one_period

from ..net.veth import VethEnd
from .victims import PATIENCE, PERIOD

_BLOCK = one_period(PERIOD) * 256
_RETRY_SECONDS = 0.01


class Sender:
    """A context manager: sends from its start until `finish()`, or until there is an error."""

    sent: int = 0
    """Bytes that the kernel took."""
    error: OSError | None = None
    """What ended it before its time."""

    def __init__(self, end: VethEnd, address: tuple[str, int]) -> None:
        self._end = end
        self._address = address
        self._finishing = threading.Event()
        self._giving_up = threading.Event()
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.give_up()

    def give_up(self) -> None:
        """Close the connection, whatever is not sent yet."""
        self._giving_up.set()
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError as error:  # ENOTCONN: the other end was quicker
                self.error = self.error or error
        self._thread.join()

    def finish(self, wait: bool = True) -> None:
        """Send the FIN, and wait for the receiver's."""
        self._finishing.set()
        if wait:
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive(), f"no end of the stream within {PATIENCE} s"

    def wait_for_bytes(self) -> None:
        """Until something has been sent, or cannot be."""
        while not self.sent and self._thread.is_alive():
            time.sleep(0.001)

    def _connect(self) -> socket.socket:
        """As soon as somebody listens."""
        while True:
            sock = socket.socket(socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET)
            sock.settimeout(1.0)
            try:
                sock.connect(self._address)
            except OSError:
                sock.close()
                if self._giving_up.wait(_RETRY_SECONDS):
                    raise
                continue
            sock.settimeout(PATIENCE)
            return sock

    def _run(self) -> None:
        at = 0
        try:
            with self._end.enter(), self._connect() as sock:
                self._socket = sock
                while not self._giving_up.is_set():
                    count = sock.send(_BLOCK[at:])
                    at = (at + count) % len(_BLOCK)
                    self.sent += count
                    if self._finishing.is_set():
                        break
                sock.shutdown(socket.SHUT_WR)
                sock.recv(1)
        except OSError as error:
            self.error = error
