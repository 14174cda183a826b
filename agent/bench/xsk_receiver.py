# SPDX-License-Identifier: Apache-2.0
"""An AF_XDP socket that receives and drops, with buffers of our page_pool: see xsk_recycle.c.

The socket stays; the pools take turns behind it, so that no turn pays for setting one up.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from queue import Queue
from typing import Any, Self

from devmemtcp.agent.bench.page_pool import Pool, module
from devmemtcp.pyxdp import BindFlags, Umem, XskSocket

_RING = 4096
_FILLED = 4032
"""Buffers for the kernel, of POOL_BUFFERS: enough for all that comes while nobody looks."""
_SLEEP_SECONDS = 500e-6
_NICE = -20
_PRIORITY = 1
"""Of SCHED_FIFO: any, for the sender is of the ordinary class."""


class XskReceiver:
    """A context manager: a socket on queue 0, and a thread that looks into its rings.

    On the core where the frames are made it looks every _SLEEP_SECONDS, before anything else that
    wants the core, and is done in a fraction of that. On another core it looks all the time.
    """

    def __init__(self, ifname: str) -> None:
        """Raises XdpError: EBUSY when the queue has a socket, EPERM."""
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
    def running(
        self, form: str | None, provider: str = "host", *, cpu: int, polling: bool = False
    ) -> Iterator[int]:
        """Receive inside the block through a pool of this form; None: the same buffers again.

        Gives the clock of the thread's CPU time. Frames must have stopped coming when the block
        ends, for they are waited for. Raises OSError where the core or the priority is refused.
        """
        with ExitStack() as undo:
            pool = None if form is None else undo.enter_context(Pool(form, provider))
            loaded = module((form or "plain").partition("-")[0], 0)
            yield undo.enter_context(
                self._thread(loaded, loaded.ffi.NULL if pool is None else pool.handle, cpu, polling)
            )

    @contextmanager
    def _thread(self, loaded: Any, pool: Any, cpu: int, polling: bool) -> Iterator[int]:
        state = loaded.ffi.cast("struct xsk_recycle *", self._address)
        state.sleep_ns = 0 if polling else round(_SLEEP_SECONDS * 1e9)
        state.stop = 0
        ready: Queue[OSError | None] = Queue()

        def run() -> None:
            try:
                _settle(cpu, polling)
            except OSError as error:
                ready.put(error)
                return
            ready.put(None)
            loaded.lib.xsk_recycle_run(state, pool)

        thread = threading.Thread(target=run, name="xsk-recycle")
        thread.start()
        error = ready.get()
        if error is not None:
            thread.join()
            raise error
        assert thread.ident is not None
        try:
            yield time.pthread_getcpuclockid(thread.ident)
        finally:
            state.stop = 1
            thread.join()


def _settle(cpu: int, polling: bool) -> None:
    """Where the calling thread runs, and before whom. While it waits, frames are lost."""
    os.sched_setaffinity(0, {cpu})  # 0: this thread, not its process
    if polling:  # it never sleeps: SCHED_FIFO would leave nothing to others
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
    else:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
