# SPDX-License-Identifier: Apache-2.0
"""An application that writes anything into every word of its channel (stack/channel.h)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from mmap import mmap
from random import Random

_HEADER = 512
_EVENT, _REQUEST, _CONN, _BLOCK = 32, 16, 64, 4096
_REPLY_BYTES = 256 * 1024
_EVENT_HEAD, _EVENT_TAIL, _REQUEST_HEAD, _REQUEST_TAIL = 64, 128, 192, 256
_DONTNEED, _SEND, _ABORT, _RETURN_BLOCK = 1, 2, 5, 6
_EVENT_DATA = 7
_GENERATION = 20  # what is a slot, below, and what a generation, in the numbers of both

_U32 = struct.Struct("=I")
_EVENT_FIELDS = struct.Struct("=IIQIIII")
_REQUEST_FIELDS = struct.Struct("=IIII")


@dataclass(frozen=True)
class Layout:
    """Where things lie in a channel of these capacities."""

    nr_events: int
    nr_requests: int
    nr_conns: int
    nr_blocks: int

    @property
    def requests(self) -> int:
        """Byte offset of the requests."""
        return _HEADER + self.nr_events * _EVENT

    @property
    def size(self) -> int:
        """Bytes of the whole channel."""
        replies = self.requests + self.nr_requests * _REQUEST + self.nr_conns * _CONN
        end = replies + _REPLY_BYTES
        return -(-end // _BLOCK) * _BLOCK + self.nr_blocks * _BLOCK


class Scribbler:
    """Forges requests from what it was given and from guesses, and lies about indices.

    Other applications' flows and tokens are easily guessed: each is a low number and a
    generation. So many a request names what is another's.
    """

    def __init__(self, memory: mmap, layout: Layout, random: Random) -> None:
        assert len(memory) >= layout.size
        self._memory = memory
        self._layout = layout
        self._random = random

    def scribble(self) -> None:
        """Write one thing."""
        random, layout = self._random, self._layout
        match random.randrange(16):
            case 0:
                self._put(_REQUEST_HEAD, self._edge(self._get(_REQUEST_TAIL)))
            case 1:
                self._put(_EVENT_TAIL, self._edge(self._get(_EVENT_HEAD)))
            case 2:
                self._put(4 * random.randrange(_HEADER // 4), self._edge(0))
            case 3:
                self._put(4 * random.randrange(layout.size // 4), self._edge(0))
            case 4:  # behave for once, so that there are events
                self._put(_EVENT_TAIL, self._get(_EVENT_HEAD))
                self._put(_REQUEST_HEAD, self._get(_REQUEST_TAIL))
            case _:
                self._forge_request()

    def _get(self, at: int) -> int:
        return int(_U32.unpack_from(self._memory, at)[0])

    def _put(self, at: int, value: int) -> None:
        _U32.pack_into(self._memory, at, value & 0xFFFFFFFF)

    def _edge(self, near: int) -> int:
        random, layout = self._random, self._layout
        edges = (0, 1, layout.nr_events, layout.nr_requests, 1 << 20, 1 << 31, 0xFFFFFFFF)
        match random.randrange(4):
            case 0:
                return near + random.randrange(-2, 3)
            case 1:
                return near + random.choice(edges)
            case 2:
                return random.choice(edges)
            case _:
                return random.getrandbits(32)

    def _loot(self) -> tuple[int, int, int]:
        """Kind, flow and token of something that was delivered, to itself or to another."""
        random = self._random
        if random.random() < 0.3:
            flow = random.randrange(1, 17) | random.randrange(8) << _GENERATION
            return 0, flow, random.randrange(1, 8192) | random.randrange(8) << _GENERATION
        at = _HEADER + _EVENT * random.randrange(min(self._layout.nr_events, 512))
        kind, flow, _offset, _len, token, _arg, _reserved = _EVENT_FIELDS.unpack_from(
            self._memory, at
        )
        return kind, flow, token

    def _forge_request(self) -> None:
        random = self._random
        head = self._get(_REQUEST_HEAD)
        event, flow, token = self._loot()
        if random.random() < 0.3:
            token = self._loot()[2]
        kind = random.randrange(8) if random.random() < 0.9 else self._edge(0)
        # Of its own connections it must leave some, or there is nothing to be abused.
        if event and _SEND <= kind <= _ABORT and random.random() < 0.97:
            kind = _RETURN_BLOCK if event == _EVENT_DATA else _DONTNEED
        if random.random() < 0.1:
            flow = self._edge(flow)
        if random.random() < 0.2:
            token = self._edge(token)
        count = 1 if random.random() < 0.5 else self._edge(0)
        at = self._layout.requests + _REQUEST * (head & self._layout.nr_requests - 1)
        _REQUEST_FIELDS.pack_into(
            *(self._memory, at, kind & 0xFFFFFFFF, flow & 0xFFFFFFFF),
            *(token & 0xFFFFFFFF, count & 0xFFFFFFFF),
        )
        self._put(_REQUEST_HEAD, head + 1)
