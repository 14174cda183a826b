# SPDX-License-Identifier: Apache-2.0
"""Fragments as objects: a `with` block gives the token back, and a lost one is warned of.

    for frag in conn.frags():
        with frag:
            consume(frag.data)

Each costs some microseconds of Python. Batches (`Connection.recv_frags()`) and
`Connection.gather_into()` cost them once for many.
"""

from __future__ import annotations

import sys
import tracemalloc
import warnings
from collections.abc import Generator, Iterator
from functools import partial
from types import FrameType
from typing import Any

from devmemtcp.agent._loop import ffi, lib
from devmemtcp.agent.closing import Closing
from devmemtcp.agent.devmem_abi import Kind, Reason
from devmemtcp.agent.socket import Connection, FragBatch

FRAGS_A_BATCH = 256


class ReceivedFrag(Closing):
    """Some received bytes, and the token that keeps them.

    One that is lost without `release()` gives its token back with a ResourceWarning. That says
    where the fragment was made if tracemalloc traces, or Python runs in development mode (-X dev).
    """

    size: int
    """Bytes."""
    token: int
    dmabuf_id: int
    """Of the binding; 0: not in device memory."""
    offset: int
    """Bytes from the start of the binding's region."""
    kind: Kind
    reason: Reason

    def __init__(self, conn: Connection, half: Any, frag: Any, made_at: str) -> None:
        """For `received_frags()`: a `struct app_frag`, and where the warning shall point."""
        self.released = False
        self._conn = conn
        self._half = half
        self._made_at = made_at
        self.size, self.token = frag.len, frag.token
        self.offset, self.dmabuf_id = frag.offset, frag.dmabuf_id
        self.kind, self.reason = Kind(frag.kind), Reason(frag.reason)

    def __repr__(self) -> str:
        state = ", released" if self.released else ""
        return (
            f"<ReceivedFrag {self.size} bytes at {self.offset:#x} of binding {self.dmabuf_id}, "
            f"token {self.token}{state}>"
        )

    @property
    def data(self) -> memoryview:
        """The bytes, read-only, where they are; they keep this object, and so the token.

        Raises LookupError when they are of a binding whose region this process does not have, or
        released: another packet's bytes may be there.
        """
        if self.released:
            raise LookupError(f"{self!r} has been given back")
        size = ffi.new("uint64_t *")
        if self.kind is Kind.DEVICE:
            base = lib.app_region_bytes(self._half, self.dmabuf_id, size)
        else:
            base = lib.app_data_blocks(self._half, size)
        if not base or self.offset + self.size > size[0]:
            raise LookupError(f"{self!r}: no mapping of that region")
        held = ffi.gc(base + self.offset, partial(_no_longer_read, self))
        return memoryview(ffi.buffer(held, self.size)).toreadonly()

    def release(self) -> None:
        """Give the token back; idempotent. `data` must not be read any more."""
        if self.released:
            return
        self.released = True
        if not self._conn.closed and self._conn.app.handle is not None:
            self._conn.give_back(self.token)

    close = release

    def __del__(self) -> None:
        if getattr(self, "released", True) or self._conn.closed:
            return
        made = f", made at {self._made_at}" if self._made_at else ""
        warnings.warn(
            f"token {self.token} of {self._conn!r} was never given back{made}",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )
        self.release()


def _no_longer_read(frag: ReceivedFrag, _: Any) -> None:
    """Called when no memoryview of the fragment is left. Until then it had a reference to it."""


def frags_of(conn: Connection, batch: FragBatch) -> Generator[ReceivedFrag, None, None]:
    """Iterate over a batch; what was not iterated over when the iterator is closed goes back."""
    half, frags, count = batch.native()
    index = 0
    try:
        while index < count:
            index += 1
            made_at = _caller(sys._getframe(1)) if _wants_origin() else ""
            yield ReceivedFrag(conn, half, frags[index - 1], made_at)
    finally:
        if index < count and not conn.closed:
            conn.dontneed(frags[i].token for i in range(index, count))


def received_frags(conn: Connection, timeout: float | None = None) -> Iterator[ReceivedFrag]:
    """Iterate over the fragments of a connection, of all kinds and in order, to its end.

    `timeout`: seconds for each wait. Raises as `Connection.recv_frags()`.
    """
    while batch := conn.recv_frags(FRAGS_A_BATCH, timeout):
        yield from frags_of(conn, batch)


def _wants_origin() -> bool:
    return sys.flags.dev_mode or tracemalloc.is_tracing()


def _caller(frame: FrameType | None) -> str:
    """Whoever asked for the fragment: the first frame outside of this package's folder."""
    while frame is not None and frame.f_globals.get("__name__", "").startswith("devmemtcp.agent."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""
