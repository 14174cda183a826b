# SPDX-License-Identifier: Apache-2.0
"""The numbers and records of devmem TCP, as include/uapi of Linux 6.18 has them.

Python's `socket` module and C libraries do not know them yet. The numbers of socket options and
control messages depend on the architecture: sparc and parisc have their own
(arch/*/include/uapi/asm/socket.h).
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple, Self

MSG_SOCK_DEVMEM: Final = 0x2000000
"""recvmsg(2) flag: deliver what is in device memory too, as control messages."""
ETOOSMALL: Final = 525
"""errno of recvmsg(2) when not one control message fits; no header for programs names it."""
DONTNEED_RANGES: Final = 128
"""Ranges that one SO_DEVMEM_DONTNEED takes; more is EINVAL."""
DONTNEED_FRAGS: Final = 1024
"""Tokens that one SO_DEVMEM_DONTNEED tries, those included that do not exist."""

_GENERIC = (78, 79, 80)
_OF_MACHINE = {
    "parisc": (0x404E, 0x404F, 0x4050),
    "parisc64": (0x404E, 0x404F, 0x4050),
    "sparc": (0x57, 0x58, 0x59),
    "sparc64": (0x57, 0x58, 0x59),
}


def numbers(machine: str) -> tuple[int, int, int]:
    """Return SO_DEVMEM_LINEAR, SO_DEVMEM_DMABUF and SO_DEVMEM_DONTNEED of what uname -m says."""
    return _OF_MACHINE.get(machine, _GENERIC)


_LINEAR, _DMABUF, _DONTNEED = numbers(platform.machine())
SO_DEVMEM_LINEAR: Final = _LINEAR
SO_DEVMEM_DMABUF: Final = _DMABUF
SO_DEVMEM_DONTNEED: Final = _DONTNEED
"""setsockopt(2) option: an array of `struct dmabuf_token`; returns how many were given back."""
SCM_DEVMEM_LINEAR: Final = SO_DEVMEM_LINEAR
"""Control message: `frag_size` bytes of the stream are in the iovec."""
SCM_DEVMEM_DMABUF: Final = SO_DEVMEM_DMABUF
"""Control message: `frag_size` bytes of the stream are in device memory."""


class DmabufCmsg(NamedTuple):
    """`struct dmabuf_cmsg` (linux/uio.h), what both control messages carry."""

    frag_offset: int
    """Bytes from the start of the binding's memory; LINEAR: 0."""
    frag_size: int
    """Bytes."""
    frag_token: int
    """To be given to SO_DEVMEM_DONTNEED; at least 1. LINEAR: 0."""
    dmabuf_id: int
    """The binding's; at least 1. LINEAR: 0."""
    flags: int = 0
    """Always 0."""

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From a control message's data. Raises struct.error when it is not 24 bytes."""
        return cls(*_CMSG.unpack(data))

    def pack(self) -> bytes:
        """The 24 bytes."""
        return _CMSG.pack(*self)


class DmabufToken(NamedTuple):
    """`struct dmabuf_token` (linux/uio.h): a range of tokens."""

    token_start: int
    token_count: int = 1

    def pack(self) -> bytes:
        """The 8 bytes."""
        return _TOKEN.pack(*self)


_CMSG = struct.Struct("=QIIII")
_TOKEN = struct.Struct("=II")
CMSG_SIZE: Final = _CMSG.size
TOKEN_SIZE: Final = _TOKEN.size


def pack_tokens(tokens: Iterable[int]) -> list[bytes]:
    """The arguments of as few SO_DEVMEM_DONTNEED calls as these tokens need.

    Neighbours become one range; a call names at most 128 ranges and 1024 tokens.
    """
    calls: list[bytearray] = []
    room = ranges = 0
    for start, count in _ranges(tokens):
        left, first = count, start
        while left:
            if not room or not ranges:
                calls.append(bytearray())
                room, ranges = DONTNEED_FRAGS, DONTNEED_RANGES
            part = min(left, room)
            calls[-1] += _TOKEN.pack(first, part)
            first, left, room, ranges = first + part, left - part, room - part, ranges - 1
    return [bytes(call) for call in calls]


def _ranges(tokens: Iterable[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for token in tokens:
        if found and sum(found[-1]) == token:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((token, 1))
    return found


class Kind(IntEnum):
    """Where received bytes are (enum rx_kind of stack/channel.h)."""

    DEVICE = 0
    """In device memory."""
    LINEAR = 1
    """In host memory, of a packet that has bytes in device memory too."""
    DATA = 2
    """In host memory, and so is all of the packet."""


class Reason(IntEnum):
    """Why received bytes are where they are (enum rx_reason of stack/channel.h)."""

    DEVICE = 0
    """They are in device memory, as wanted."""
    UNBOUND = 1
    """They were received on a queue without a binding."""
    HEAD = 2
    """The split left them with the headers."""
