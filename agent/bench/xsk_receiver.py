# SPDX-License-Identifier: Apache-2.0
"""An AF_XDP socket that receives and drops, with buffers of our page_pool: see xsk_recycle.c.

The socket stays; the pools take turns behind it, so that no turn pays for setting one up.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from devmemtcp.agent.bench.page_pool import Pool, module
from devmemtcp.pyxdp import BindFlags, Umem, XskSocket

_RING = 2048
_NICE = -20
_FILLED = 1024
"""Buffers for the kernel; the pool has as many."""


class XskReceiver:
    """A context manager: a socket on queue 0, which polls its rings on a core of its own."""

    def __init__(self, ifname: str, cpu: int) -> None:
        """Raises XdpError: EBUSY when the queue has a socket, EPERM."""
        self._cpu = cpu
        loaded = module("plain", 0)
        self._umem = Umem.allocate(loaded.lib.POOL_BUFFERS * 4096, fill_size=_RING)
        try:
            self.socket = XskSocket(ifname, 0, self._umem, rx_size=_RING, bind_flags=BindFlags.COPY)
        except BaseException:
            self._umem.close()
            raise
        self._state = loaded.ffi.new("struct xsk_recycle *")
        # The same struct for all modules, each of which has a type of its own for it.
        self._address = int(loaded.ffi.cast("uintptr_t", self._state))
        self._state.rx = loaded.ffi.cast("void *", self.socket.rx.address)
        self._state.fill = loaded.ffi.cast("void *", self.socket.fill.address)
        loaded.lib.xsk_recycle_fill(self._state, _FILLED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()
        self._umem.close()

    @property
    def received(self) -> int:
        """Frames so far."""
        return int(self._state.received)

    @property
    def away(self) -> int:
        """Buffers in the fill ring, when nothing is running."""
        return sum(self._state.away)

    @contextmanager
    def running(self, form: str | None, provider: str = "host") -> Iterator[None]:
        """Receive inside the block through a pool of this form; None: the same buffers again.

        Frames must have stopped coming when the block ends, for they are waited for.
        """
        if form is None:
            with self._thread(module("plain", 0), None):
                yield
        else:
            with (
                Pool(form, provider) as pool,
                self._thread(module(form.partition("-")[0], 0), pool.handle),
            ):
                yield

    @contextmanager
    def _thread(self, loaded: Any, pool: Any) -> Iterator[None]:
        state = loaded.ffi.cast("struct xsk_recycle *", self._address)
        state.stop = 0
        ready = threading.Event()

        def run() -> None:
            os.sched_setaffinity(0, {self._cpu})  # 0: this thread, not its process
            # While it waits for its core, frames are lost: nobody else's turn may be that long.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
            ready.set()
            loaded.lib.xsk_recycle_run(state, loaded.ffi.NULL if pool is None else pool)

        thread = threading.Thread(target=run, name="xsk-recycle")
        thread.start()
        ready.wait()
        try:
            yield
        finally:
            state.stop = 1
            thread.join()
