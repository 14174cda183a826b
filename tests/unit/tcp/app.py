# SPDX-License-Identifier: Apache-2.0
"""The virtual application: the far side of the channel, in Python.

Reads the events ring and writes the requests ring by the layout of stack/channel.h, and checks
while it reads: events in an order that makes sense, tokens and blocks unique, fragments inside a
device page that the NIC is not allowed to write to at the same time.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

MAGIC = 0x64766D32
HEADER_BYTES = 512
EVENT = struct.Struct("<IIQIIII")
REQUEST = struct.Struct("<IIII")
CONN = struct.Struct("<16s16sHHHxxII16x")
CONN_ACCEPTED = 48
U32 = struct.Struct("<I")
EVENT_HEAD, EVENT_TAIL, REQUEST_HEAD, REQUEST_TAIL = 64, 128, 192, 256
REPLY_BYTES = 256 * 1024
REPLY_MAX = 64 * 1024
BLOCK_BYTES = 4096
FLOW_SLOT_BITS = 20

ACCEPT, FRAG, EOF, RESET, SENT, CLOSED, DATA = range(1, 8)
DONTNEED, SEND, SHUTDOWN, CLOSE, ABORT, BLOCK = range(1, 7)
DEVICE, LINEAR, ORDINARY = range(3)  # enum rx_kind
IN_DEVICE, UNBOUND, HEAD = range(3)  # enum rx_reason

STACK_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Frag:
    """One fragment as the application sees it: region bytes [offset, offset + length)."""

    token: int
    offset: int
    length: int
    dmabuf_id: int = 1


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes of one FRAG or DATA event."""

    kind: int
    reason: int
    data: bytes


@dataclass(slots=True)
class Conn:
    """A connection as the application knows it."""

    flow: int
    listener: int
    local: tuple[bytes, int]
    peer: tuple[bytes, int]
    data: bytearray = field(default_factory=bytearray)
    frags: list[Frag] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    held: dict[int, Frag] = field(default_factory=dict)
    blocks: list[int] = field(default_factory=list)  # held, by number
    eof: bool = False
    reset: int | None = None
    closed: bool = False
    done: bool = False  # the application let go of it: CLOSE or ABORT was asked for
    sent: int = 0


class App:
    """Consumes events as they come and returns each token at once, unless told not to.

    ``paused``: events stay in the ring. ``hold``: tokens are kept until ``give_back()``.
    """

    def __init__(
        self,
        channel: mmap.mmap,
        region: Callable[[int], bytearray],
        writable_by_nic: Callable[[int, int], bool],
        number: int = 0,
    ) -> None:
        self._mem = channel
        self._region = region  # by dmabuf id
        self._writable_by_nic = writable_by_nic  # (page, dmabuf id)
        self.number = number
        magic, self.nr_events, self.nr_requests, self.nr_conns, self.nr_blocks = struct.unpack_from(
            "<IIIII", channel
        )
        assert magic == MAGIC, "stack_app_open() formats the channel"
        self._requests_off = HEADER_BYTES + self.nr_events * EVENT.size
        self._conns_off = self._requests_off + self.nr_requests * REQUEST.size
        self._reply_off = self._conns_off + self.nr_conns * CONN.size
        self._data_off = -(-(self._reply_off + REPLY_BYTES) // BLOCK_BYTES) * BLOCK_BYTES
        assert self._data_off + self.nr_blocks * BLOCK_BYTES <= len(channel), "channel geometry"
        self._reply_at = 0
        self.conns: dict[int, Conn] = {}
        self.past: list[Conn] = []
        self.paused = False
        self.hold = False
        self.accepts = True  # False: connections wait in its listener's queue
        self.lent_blocks: dict[int, int] = {}  # block -> flow

    def _index(self, at: int) -> int:
        value: int = U32.unpack_from(self._mem, at)[0]
        return value

    # ---- events ----

    def waiting(self) -> int:
        """Events in the ring that were not consumed yet."""
        return (self._index(EVENT_HEAD) - self._index(EVENT_TAIL)) & 0xFFFFFFFF

    def poll(self, limit: int | None = None) -> int:
        """Consume events (all of them, or at most ``limit``); returns how many."""
        taken = 0
        while self.waiting() and self.room() and (limit is None or taken < limit):
            assert self.waiting() <= self.nr_events, "events ring overrun"
            tail = self._index(EVENT_TAIL)
            at = HEADER_BYTES + (tail & (self.nr_events - 1)) * EVENT.size
            kind, flow, offset, length, token, arg, _ = EVENT.unpack_from(self._mem, at)
            U32.pack_into(self._mem, EVENT_TAIL, (tail + 1) & 0xFFFFFFFF)
            self._event(kind, flow, offset, length, token, arg)
            taken += 1
        return taken

    def _event(self, kind: int, flow: int, offset: int, length: int, token: int, arg: int) -> None:
        assert flow != 0, "flow id 0 is nobody's"
        if kind == ACCEPT:
            assert flow not in self.conns, f"flow {flow:#x} accepted twice"
            self.conns[flow] = self._accepted(flow, arg)
            return
        assert flow in self.conns, f"event {kind} of flow {flow:#x}, which is not open"
        conn = self.conns[flow]
        assert conn.reset is None or kind == CLOSED, f"event {kind} after a reset"
        if kind == FRAG:
            self._frag(conn, Frag(token, offset, length, arg))
        elif kind == DATA:
            self._block(conn, token, offset, length, arg)
        elif kind == EOF:
            assert not conn.eof, "EOF twice"
            conn.eof = True
        elif kind == RESET:
            assert arg != 0, "a reset carries an errno"
            conn.reset = arg
        elif kind == SENT:
            assert arg != 0, "nothing was acknowledged"
            conn.sent += arg
        else:
            assert kind == CLOSED, f"unknown event {kind}"
            conn.closed = True
            self.past.append(self.conns.pop(flow))
            self._forget_blocks(conn)

    def _accepted(self, flow: int, listener: int) -> Conn:
        slot = flow & ((1 << FLOW_SLOT_BITS) - 1)
        assert slot < self.nr_conns, "a slot that the table of connections does not have"
        local, peer, lport, pport, family, entry_listener, owner = CONN.unpack_from(
            self._mem, self._conns_off + slot * CONN.size
        )
        assert (owner, entry_listener) == (flow, listener), "ACCEPT and the table disagree"
        if self.accepts:
            self.accept(flow)
        if family == 4:
            assert local[:12] == peer[:12] == bytes(10) + b"\xff\xff"
            local, peer = local[12:], peer[12:]
        else:
            assert family == 6
        return Conn(flow, listener, (local, lport), (peer, pport))

    def accept(self, flow: int) -> None:
        """Take it from its listener's queue, as the table of connections has it."""
        slot = flow & ((1 << FLOW_SLOT_BITS) - 1)
        U32.pack_into(self._mem, self._conns_off + slot * CONN.size + CONN_ACCEPTED, flow)

    def _frag(self, conn: Conn, frag: Frag) -> None:
        assert not conn.eof, "bytes after EOF"
        assert frag.token >= 1
        assert frag.length >= 1
        if conn.done:
            return
        assert frag.token not in conn.held, "token handed out twice"
        page = frag.offset // STACK_CHUNK
        assert page == (frag.offset + frag.length - 1) // STACK_CHUNK, "a fragment crosses a page"
        assert not self._writable_by_nic(page, frag.dmabuf_id), (
            "a fragment in a page that the NIC may write to"
        )
        data = bytes(self._region(frag.dmabuf_id)[frag.offset : frag.offset + frag.length])
        conn.data += data
        conn.pieces.append(Piece(DEVICE, IN_DEVICE, data))
        conn.frags.append(frag)
        conn.held[frag.token] = frag
        if not self.hold:
            self.give_back(conn, frag.token)

    def _block(self, conn: Conn, block: int, offset: int, length: int, arg: int) -> None:
        assert not conn.eof, "bytes after EOF"
        assert 1 <= block <= self.nr_blocks
        assert offset == (block - 1) * BLOCK_BYTES
        assert 1 <= length <= BLOCK_BYTES
        kind, reason = arg & 0xFF, arg >> 8
        assert (kind, reason) in {(LINEAR, HEAD), (ORDINARY, HEAD), (ORDINARY, UNBOUND)}
        if conn.done:
            return
        assert block not in self.lent_blocks, "a block that is lent already"
        at = self._data_off + offset
        data = bytes(self._mem[at : at + length])
        conn.data += data
        conn.pieces.append(Piece(kind, reason, data))
        conn.blocks.append(block)
        self.lent_blocks[block] = conn.flow
        if not self.hold:
            self.give_back_blocks(conn)

    def _forget_blocks(self, conn: Conn) -> None:
        for block in conn.blocks:
            del self.lent_blocks[block]
        conn.blocks.clear()

    # ---- requests ----

    def room(self) -> int:
        used = (self._index(REQUEST_HEAD) - self._index(REQUEST_TAIL)) & 0xFFFFFFFF
        return int(self.nr_requests - used)

    def request(self, kind: int, flow: int, a: int = 0, b: int = 0) -> None:
        """Write a request as it is: nothing stops a test from asking for nonsense."""
        assert self.room() > 0, "requests ring full"
        head = self._index(REQUEST_HEAD)
        at = self._requests_off + (head & (self.nr_requests - 1)) * REQUEST.size
        REQUEST.pack_into(self._mem, at, kind, flow, a & 0xFFFFFFFF, b & 0xFFFFFFFF)
        U32.pack_into(self._mem, REQUEST_HEAD, (head + 1) & 0xFFFFFFFF)

    def scribble(self, data: bytes, head: int) -> None:
        """A hostile application: any bytes as requests, any head index."""
        size = self.nr_requests * REQUEST.size
        self._mem[self._requests_off : self._requests_off + size] = data.ljust(size, b"\xa5")[:size]
        U32.pack_into(self._mem, REQUEST_HEAD, head & 0xFFFFFFFF)

    def tails(self) -> tuple[int, int]:
        """event_tail and request_tail as they stand in the channel."""
        return self._index(EVENT_TAIL), self._index(REQUEST_TAIL)

    def set_event_tail(self, value: int) -> None:
        """Lie about what was consumed."""
        U32.pack_into(self._mem, EVENT_TAIL, value & 0xFFFFFFFF)

    def catch_up(self) -> None:
        """Be honest again about what was consumed: all of it."""
        self.set_event_tail(self._index(EVENT_HEAD))

    def give_back(self, conn: Conn, *tokens: int) -> None:
        """Return tokens (all that are held if none is named), runs of them in one request."""
        wanted = sorted(tokens or conn.held)
        while wanted:
            first = wanted.pop(0)
            count = 1
            while wanted and wanted[0] == first + count:
                wanted.pop(0)
                count += 1
            self.request(DONTNEED, conn.flow, first, count)
        for token in tokens or tuple(conn.held):
            del conn.held[token]

    def give_back_blocks(self, conn: Conn) -> None:
        """Return all data blocks that are held, each by a request of its own."""
        for block in conn.blocks:
            self.request(BLOCK, conn.flow, block, 1)
        self._forget_blocks(conn)

    def send(self, conn: Conn, data: bytes) -> None:
        """Ask for ``data`` to be sent; its bytes stay in the reply area until acknowledged."""
        if self._reply_at + len(data) > REPLY_BYTES:
            self._reply_at = 0
        self.place_reply(self._reply_at, data)
        self.request(SEND, conn.flow, self._reply_at, len(data))
        self._reply_at += len(data)

    def place_reply(self, position: int, data: bytes) -> None:
        at = self._reply_off + position
        self._mem[at : at + len(data)] = data

    def shutdown(self, conn: Conn) -> None:
        self.request(SHUTDOWN, conn.flow)

    def close(self, conn: Conn) -> None:
        self._let_go(conn)
        self.request(CLOSE, conn.flow)

    def abort(self, conn: Conn) -> None:
        self._let_go(conn)
        self.request(ABORT, conn.flow)

    def _let_go(self, conn: Conn) -> None:
        conn.held.clear()
        self._forget_blocks(conn)
        conn.done = True
