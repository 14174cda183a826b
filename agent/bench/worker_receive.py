# SPDX-License-Identifier: Apache-2.0
"""The receivers that are measured: the kernel's recv(), and ours.

with Kernel(request) as receiver:
    receiver.answer()             # a first connection: what comes is sent back, to its end
    receiver.accept(1)
    receiver.receive(until)       # CLOCK_MONOTONIC, ns; again and again
    receiver.counters()
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from devmemtcp import xdp_prog
from devmemtcp.agent.bench._native import ffi, lib
from devmemtcp.agent.closing import Closing
from devmemtcp.agent.napi import NapiThreads
from devmemtcp.agent.region import PAGE_SIZE, Region, RegionView
from devmemtcp.agent.runtime import Runtime
from devmemtcp.agent.socket import Connection, FragBatch
from devmemtcp.pyxdp import BpfObject, Mode, attach

ACCEPT_SECONDS = 10.0
MESSAGE_BYTES = 64
"""Of a request and of its response: the smallest packet there is."""
_RECV_BYTES = 1 << 20
_BATCH = 1024
_RESET = struct.pack("ii", 1, 0)  # struct linger: close() resets

Request = dict[str, Any]
Counters = dict[str, int]


class Receiver(Protocol):
    """What both can do. Entered and left by whoever measures."""

    pid: int
    """The process that does the work of the kernel; the own one where that is the kernel."""

    def answer(self) -> None:
        """Accept one connection, and send back what comes, until it ends."""

    def accept(self, connections: int) -> None:
        """Accept those that will send."""

    def receive(self, until: int) -> None:
        """From all of them, until CLOCK_MONOTONIC is `until`, in ns."""

    def counters(self) -> Counters:
        """Since the start; `bytes` among them."""


class _Held(Closing):
    """What must be undone at the end."""

    def __init__(self) -> None:
        self._undo = ExitStack()

    def close(self) -> None:
        """Undo it."""
        self._undo.close()


class Kernel(_Held):
    """recv(), behind an XDP program that passes everything or behind none."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self.pid = os.getpid()
        self._counters = {"bytes": 0, "calls": 0}
        with ExitStack() as undo:
            if request["mode"] is not None:
                undo.enter_context(
                    _xdp_pass(request["ifname"], request["mode"], request["napi_cpu"])
                )
            self._listener = undo.enter_context(
                socket.create_server(tuple(request["address"]), reuse_port=True)
            )
            self._listener.settimeout(ACCEPT_SECONDS)
            self._undo = undo.pop_all()
        self._buffer = ffi.new("uint8_t[]", _RECV_BYTES)
        self._sink = ffi.new(
            "struct stream_sink *", [self._buffer, _RECV_BYTES, request["discard"]]
        )

    def answer(self) -> None:
        """See Receiver."""
        buffer = bytearray(MESSAGE_BYTES)
        with self._take() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while count := sock.recv_into(buffer, flags=socket.MSG_WAITALL):
                sock.send(buffer[:count])

    def accept(self, connections: int) -> None:
        """See Receiver."""
        socks = [self._undo.enter_context(self._take()) for _ in range(connections)]
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._fds = ffi.new("int[]", [sock.fileno() for sock in socks])

    def _take(self) -> socket.socket:
        sock = self._listener.accept()[0]
        sock.settimeout(None)
        return sock

    def receive(self, until: int) -> None:
        """See Receiver."""
        counts = ffi.new("struct stream_counts *")
        result = lib.stream_recv(self._fds, len(self._fds), self._sink, until, counts)
        if result < 0:
            raise OSError(-result, f"recv: {os.strerror(-result)}")
        self._counters["bytes"] += counts.bytes
        self._counters["calls"] += counts.calls

    def counters(self) -> Counters:
        """See Receiver. `calls` are recv(), and epoll_wait() if there are several connections."""
        return dict(self._counters)


class Devmem(_Held):
    """Ours: fragments, whose tokens are given back; with `copy`, once their bytes were copied."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self._counters = {"bytes": 0, "batches": 0, "frags": 0}
        with ExitStack() as undo:
            self._rt = undo.enter_context(runtime(request))
            self._listener = undo.enter_context(self._rt.listen(tuple(request["address"])))
            self._undo = undo.pop_all()
        self.pid = self._rt.pid
        self._view: RegionView | None = None
        if request["copy"] and self._rt.region:
            self._view = self._undo.enter_context(self._rt.region.map())
        self._room = bytearray(_BATCH * PAGE_SIZE if self._view else 0)
        self._connections: list[Connection] = []

    def answer(self) -> None:
        """See Receiver."""
        buffer = bytearray(MESSAGE_BYTES)
        with self._listener.accept(timeout=ACCEPT_SECONDS) as conn:
            while count := conn.gather_into(buffer, flags=socket.MSG_WAITALL):
                conn.send(buffer[:count])

    def accept(self, connections: int) -> None:
        """See Receiver."""
        for _ in range(connections):
            conn = self._listener.accept(timeout=ACCEPT_SECONDS)
            self._undo.callback(conn.abort)
            self._connections.append(conn)

    def receive(self, until: int) -> None:
        """See Receiver."""
        if len(self._connections) == 1:
            (conn,) = self._connections
            while time.monotonic_ns() < until:
                self._take(conn, conn.recv_frags(_BATCH, timeout=ACCEPT_SECONDS))
        while time.monotonic_ns() < until:
            for ready in self._rt.poll(ACCEPT_SECONDS):
                if isinstance(ready, Connection):
                    self._take(ready, ready.recv_frags(_BATCH))

    def _take(self, conn: Connection, batch: FragBatch) -> None:
        if not batch:
            raise EOFError("the stream ended")
        if self._view is not None:
            batch.copy_to(self._room, self._view)
        conn.dontneed(batch)
        self._counters["bytes"] += batch.nbytes
        self._counters["frags"] += len(batch)
        self._counters["batches"] += 1

    def counters(self) -> Counters:
        """See Receiver. What loop, stack and sockets counted, in one."""
        seen = self._rt.stats()
        drops = sum(seen.drops.values())
        dropped = sum(each.rx_dropped + each.rx_ring_full for each in seen.sockets)
        loop = {name: getattr(seen.loop, name) for name in _LOOP_COUNTERS}
        stack = {name: seen.stack[name] for name in _STACK_COUNTERS}
        return self._counters | loop | stack | {"drops": drops, "xsk_dropped": dropped}


_LOOP_COUNTERS = (
    "turns",
    "sleeps",
    "rx_batches",
    "rx_packets",
    "rx_descs",
    "tx_frames",
    "tx_kicks",
    "tx_kick_retries",
    "wakeups_sent",
    "cpu_ns",
)
_STACK_COUNTERS = (
    "tx_acks_immediate",
    "tx_acks_delayed",
    "tx_window_updates",
    "bytes_device",
    "bytes_data",
)


@contextmanager
def runtime(request: Request) -> Iterator[Runtime]:
    """A runtime as the request describes it, in a region of its own, or in host memory."""
    with ExitStack() as undo:
        size = request["region_size"]
        region = None if request["host"] else undo.enter_context(Region(size))
        yield undo.enter_context(
            Runtime(
                request["ifname"],
                region,
                mode=request["mode"],
                rx_csum=request["rx_csum"],
                isolate=True,
                rcv_wnd=request["rcv_wnd"],
                ack_segments=request["ack_segments"],
                spin_us=request["spin_us"],
                busy_poll=request["busy_poll"],
                cpu=request["loop_cpu"],
                napi_cpu=request["napi_cpu"],
                linger=0.0,
            )
        )


@contextmanager
def _xdp_pass(ifname: str, mode: str, napi_cpu: int | None) -> Iterator[None]:
    """An XDP program that passes everything on, attached as ours is; NAPI where ours has it."""
    with BpfObject.open(str(xdp_prog.object_path("pass"))) as obj, NapiThreads(ifname) as napi:
        obj.load()
        with attach(obj.programs["pass"], ifname, mode=Mode(mode)):
            if napi_cpu is not None:
                napi.move(napi_cpu)
            yield
