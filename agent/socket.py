# SPDX-License-Identifier: Apache-2.0
"""What an application holds: listeners, connections and batches of fragments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import NamedTuple, Self

from devmemtcp.agent.region import RegionView

Address = tuple[str, int]


class Frag(NamedTuple):
    """Where some received bytes are."""

    offset: int
    """Bytes from the start of the region."""
    size: int
    """Bytes."""
    token: int
    """To be given to `Connection.dontneed()`; at least 1."""


class FragBatch:
    """Fragments of one connection, in stream order. Empty (and false) at end of stream.

    `nbytes` is the sum of all sizes.
    """

    nbytes: int

    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Frag]:
        raise NotImplementedError

    def check_pattern(self, view: RegionView, period: int, phase: int = 0) -> tuple[int, int]:
        """Compare with bytes 1 ... period - 1, newline, repeating (what ncdevmem's -v expects).

        `phase` is the position of the first byte in the period. Returns (wrong bytes, phase
        after the last byte).
        """
        raise NotImplementedError

    def device_bytes(self, view: RegionView) -> int:
        """Bytes of the fragments that lie wholly inside the mapping; all of them are meant to."""
        raise NotImplementedError

    def write_to(self, fd: int, view: RegionView) -> int:
        """Write all bytes to a file descriptor, straight from the mapping. Returns `nbytes`."""
        raise NotImplementedError

    def copy_to(self, buffer: bytearray | memoryview, view: RegionView) -> int:
        """Copy all bytes to the front of a writable buffer of at least `nbytes`."""
        raise NotImplementedError


class Connection:
    """One TCP connection whose received bytes are in device memory."""

    id: int
    """The stack's id of the connection, as in `Runtime.flows()`; never 0."""
    local: Address
    peer: Address
    listener: Listener

    def recv_frags(self, max_frags: int = 1024, timeout: float | None = None) -> FragBatch:
        """Wait for fragments: at least one, or none at the end of the stream.

        `timeout` in seconds: 0 polls, None waits for ever. Raises TimeoutError,
        ConnectionResetError (the peer reset the connection, or it was given up), OSError with
        the errno that ended the loop (ENETDOWN: the interface is gone).
        """
        raise NotImplementedError

    def dontneed(self, frags: FragBatch | Iterable[int]) -> int:
        """Give fragments back, by batch or by token. Returns how many tokens were given back.

        What SO_DEVMEM_DONTNEED does in the kernel, without its limit of 1024 a call.
        """
        raise NotImplementedError

    def send(self, data: bytes | bytearray | memoryview, timeout: float | None = None) -> int:
        """Send a reply from host memory. Waits until all of it is queued; returns its length.

        Raises TimeoutError (`args[1]` bytes were queued), BrokenPipeError after `shutdown()`,
        ConnectionResetError.
        """
        raise NotImplementedError

    def shutdown(self) -> None:
        """No more to send (FIN); receiving goes on."""
        raise NotImplementedError

    def abort(self) -> None:
        """Reset the connection (RST) and close."""
        raise NotImplementedError

    def close(self) -> None:
        """Done with it: FIN, or RST when there were unread bytes. Outstanding tokens go back.

        Idempotent. Fragments of this connection must not be read any more.
        """
        raise NotImplementedError

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raise NotImplementedError


class Listener:
    """An address on which connections are taken."""

    id: int
    address: Address
    close_first: bool

    def accept(self, timeout: float | None = None) -> Connection:
        """Wait for a connection. `timeout` in seconds: 0 polls. Raises TimeoutError."""
        raise NotImplementedError

    def close(self) -> None:
        """Refuse new connections, reset those not accepted yet, free the port; idempotent."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raise NotImplementedError
