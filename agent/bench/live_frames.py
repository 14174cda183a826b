# SPDX-License-Identifier: Apache-2.0
"""Frames at the rate that a core can make them, with nothing but the kernel.

BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES (Linux 5.18, xdp_test_run_batch() in
net/bpf/test_run.c) takes pages from a page_pool, puts the frame in front of a program, and does
what that says. XDP_TX sends it out of the interface that the context names as its ingress; on a
veth that is the ring of the other end, 256 frames long, and what finds no room in it is lost.
NAPI of that end runs in softirq on the core of the sender, after each batch, unless it is a
thread somewhere else.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
from types import TracebackType
from typing import Self

from devmemtcp.pyxdp import XdpError
from devmemtcp.pyxdp.program import LIVE_FRAMES, Program, XdpContext

FRAME_BYTES = 60
"""What is called a 64-byte frame: the last four, the FCS, are the NIC's."""

_FRAMES_A_CALL = 1 << 21
"""Some 0.4 s, which is how long it takes to stop. Each call ends in some 25 ms of sleep, in which
the kernel takes its page_pool down and waits for RCU: measure by the clock of the thread."""


def tcp_frame(source: bytes, target: bytes, source_ip: bytes, target_ip: bytes, port: int) -> bytes:
    """A TCP SYN over IPv4 in the smallest frame. Addresses are bytes, 6 and 4 of them."""
    header = bytearray(
        struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 1, 0x4000, 64, 6, 0, source_ip, target_ip)
    )
    header[10:12] = struct.pack("!H", _checksum(header))
    tcp = bytearray(struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 0x02, 0xFFFF, 0, 0))
    pseudo = source_ip + target_ip + struct.pack("!HH", 6, len(tcp))
    tcp[16:18] = struct.pack("!H", _checksum(pseudo + tcp))
    frame = target + source + b"\x08\x00" + header + tcp
    return frame.ljust(FRAME_BYTES, b"\0")


def _checksum(data: bytes | bytearray) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class LiveFrames:
    """A context manager: a thread sends inside the `with` block.

    It starts in the network namespace of the thread that enters the block.
    """

    def __init__(
        self, program: Program, frame: bytes, ifindex: int, *, cpu: int, batch: int = 64
    ) -> None:
        """`program` returns XDP_TX; `batch` frames are sent between two runs of softirq."""
        self.sent = 0
        """Frames given to the interface, lost ones included: counted when a call is over."""
        self._program = program
        self._frame = frame
        self._context = XdpContext(ingress_ifindex=ifindex)
        self._cpu = cpu
        self._batch = batch
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="live-frames")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop. Raises what stopped the thread before its time, unless the block failed itself."""
        self.stop()
        if kind is None:
            self.check()

    def stop(self) -> None:
        """Send no more: `sent` is final then. A second call does nothing."""
        self._stop.set()
        self._thread.join()

    def cpu_clock(self) -> int:
        """The clock of the sending thread's CPU time, for time.clock_gettime_ns()."""
        assert self._thread.ident is not None
        return time.pthread_getcpuclockid(self._thread.ident)

    def check(self) -> None:
        """Raise what stopped the thread, if anything did: without frames there is no result."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            os.sched_setaffinity(0, {self._cpu})  # 0: this thread, not its process
            self._send()
            while not self._stop.is_set():
                self._send()
        except (OSError, ValueError) as error:
            self._error = error

    def _send(self) -> None:
        try:
            self._program.test_run(
                self._frame,
                ctx=self._context,
                repeat=_FRAMES_A_CALL,
                flags=LIVE_FRAMES,
                batch_size=self._batch,
            )
        except XdpError as error:
            if error.errno != errno.EINTR:  # a signal, for which the kernel ends the run early
                raise
        else:
            self.sent += _FRAMES_A_CALL
