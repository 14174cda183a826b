# SPDX-License-Identifier: Apache-2.0
"""A stack that a test plays: it formats the channel, pushes events and pops requests.

The offsets and numbers below are channel.h's, written down a second time on purpose: what is
shared between processes may not change by accident.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from ipaddress import ip_address

from devmemtcp.agent.socket import AppHalf

HEADER, EVENT, REQUEST, CONN, REPLIES, BLOCK = 512, 32, 16, 64, 256 * 1024, 4096
MAGIC = 0x64766D32
EVENT_HEAD, EVENT_TAIL, REQUEST_HEAD, REQUEST_TAIL, APP_WAITS, STACK_WAITS = range(64, 448, 64)
ACCEPT, FRAG, EOF, RESET, SENT, CLOSED, DATA = range(1, 8)
DONTNEED, SEND, SHUTDOWN, CLOSE, ABORT, BLOCKS = range(1, 7)
LINEAR, WHOLE = 1, 2  # kinds of EVENT_DATA
UNBOUND, HEAD = 1, 2  # reasons
NR_EVENTS = NR_REQUESTS = 256
NR_CONNS = 32
NR_BLOCKS = 16
REGION = 1 << 20
GENERATION = 1 << 20
LISTENER_GENERATION = 1 << 16
REPLY_MAX = 64 * 1024
LISTENER = 5 * LISTENER_GENERATION + 3
BINDING = 7
FLOW = GENERATION + 1


class FakeStack:
    """Its channel, and what the application asks of it."""

    def __init__(
        self,
        nr_events: int = NR_EVENTS,
        nr_requests: int = NR_REQUESTS,
        nr_conns: int = NR_CONNS,
        nr_blocks: int = NR_BLOCKS,
    ) -> None:
        self.fd = os.memfd_create("channel")
        self.nr_events, self.nr_requests, self.nr_blocks = nr_events, nr_requests, nr_blocks
        self.requests_at = HEADER + nr_events * EVENT
        self.conns_at = self.requests_at + nr_requests * REQUEST
        self.replies_at = self.conns_at + nr_conns * CONN
        self.blocks_at = -(-(self.replies_at + REPLIES) // BLOCK) * BLOCK
        os.ftruncate(self.fd, self.blocks_at + nr_blocks * BLOCK)
        self.memory = mmap.mmap(self.fd, 0)
        struct.pack_into("=5I", self.memory, 0, MAGIC, nr_events, nr_requests, nr_conns, nr_blocks)
        self.events, self.event = os.pipe2(os.O_NONBLOCK)
        self.wake, self.wakes = os.pipe2(os.O_NONBLOCK)
        self.alive, self.life = os.pipe()
        self.free_blocks = list(range(nr_blocks))

    def close(self) -> None:
        for fd in (self.fd, self.event, self.events, self.wake, self.wakes, self.alive):
            os.close(fd)
        self.die()

    def die(self) -> None:
        if self.life >= 0:
            os.close(self.life)
            self.life = -1

    def get(self, at: int) -> int:
        value: int = struct.unpack_from("=I", self.memory, at)[0]
        return value

    def put(self, at: int, value: int) -> None:
        struct.pack_into("=I", self.memory, at, value & 0xFFFFFFFF)

    def push(
        self, kind: int, flow: int, offset: int = 0, size: int = 0, token: int = 0, arg: int = 0
    ) -> None:
        head = self.get(EVENT_HEAD)
        at = HEADER + (head % self.nr_events) * EVENT
        struct.pack_into("=IIQIIII", self.memory, at, kind, flow, offset, size, token, arg, 0)
        self.put(EVENT_HEAD, head + 1)

    def frag(self, size: int, token: int, offset: int = 0, flow: int = FLOW) -> None:
        """Device bytes of the binding."""
        self.push(FRAG, flow, offset, size, token, BINDING)

    def data(self, data: bytes, kind: int, reason: int = HEAD, flow: int = FLOW) -> int:
        """Host bytes, in a block of their own; returns its number."""
        block = self.free_blocks.pop(0)
        at = self.blocks_at + block * BLOCK
        self.memory[at : at + len(data)] = data
        self.push(DATA, flow, block * BLOCK, len(data), block + 1, kind | reason << 8)
        return block

    def wake_app(self) -> None:
        """What the loop does after pushing."""
        if self.get(APP_WAITS):
            self.put(APP_WAITS, 0)
            os.write(self.event, struct.pack("=Q", 1))

    def woken(self) -> int:
        """How often the application has woken us since the last call."""
        try:
            return len(os.read(self.wake, 4096)) // 8
        except BlockingIOError:
            return 0

    def accept(
        self, flow: int = FLOW, listener: int = LISTENER, peer: str = "192.0.2.9", port: int = 40000
    ) -> None:
        family = ip_address(peer).version
        theirs = ip_address(f"::ffff:{peer}" if family == 4 else peer).packed
        ours = ip_address("::ffff:192.0.2.1" if family == 4 else "2001:db8::1").packed
        at = self.conns_at + (flow % GENERATION) * CONN
        struct.pack_into(
            "=16s16sHHHHII",
            *(self.memory, at, ours, theirs, 5201, port, family, 0, listener, flow),
        )
        self.push(ACCEPT, flow, arg=listener)

    def requests(self) -> list[tuple[int, int, int, int]]:
        """Everything asked since the last call: (kind, flow, a, b)."""
        head, tail = self.get(REQUEST_HEAD), self.get(REQUEST_TAIL)
        found = []
        while tail != head:
            at = self.requests_at + (tail % self.nr_requests) * REQUEST
            found.append(struct.unpack_from("=4I", self.memory, at))
            if found[-1][0] == BLOCKS:
                self.free_blocks += range(found[-1][2] - 1, found[-1][2] - 1 + found[-1][3])
            tail = (tail + 1) & 0xFFFFFFFF
        self.put(REQUEST_TAIL, tail)
        return found

    def returned(self) -> list[int]:
        """Stack tokens that came back since the last call."""
        asked = self.requests()
        return [a + i for kind, _, a, b in asked if kind == DONTNEED for i in range(b)]

    def replies(self) -> bytes:
        """The ring of reply bytes as it is now, twice: what wraps is in one piece."""
        return 2 * bytes(self.memory[self.replies_at : self.replies_at + REPLIES])

    def reply(self, at: int, size: int) -> bytes:
        return self.replies()[at : at + size]

    def open(self) -> AppHalf:
        return AppHalf(
            *(self.fd, self.wakes, self.events, self.alive),
            ended=lambda: OSError(errno.ENXIO, "eth1 is gone"),
        )
