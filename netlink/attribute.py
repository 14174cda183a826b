# SPDX-License-Identifier: Apache-2.0
"""The netlink attribute: header, payload, padding to four bytes; how to write and to walk them.

An attribute of a request remembers where it stood in the message: extended ACKs name the
offending attribute by that offset. Lengths are checked by :mod:`devmemtcp.netlink.policy` before
a value is read; reading a value of the wrong length raises ``struct.error``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from devmemtcp.netlink.constants import NLA_TYPE_MASK, NlaFlag

NLA_HDRLEN = 4

_HEADER = struct.Struct("=HH")
_U8 = struct.Struct("=B")
_U16 = struct.Struct("=H")
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")


def align(length: int) -> int:
    """Return NLA_ALIGN(length), which is NLMSG_ALIGN(length) too."""
    return (length + 3) & ~3


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a received message. ``offset``: of its header, from the nlmsghdr."""

    type: int
    nested: bool
    offset: int
    data: bytes

    def u8(self) -> int:
        """Return a u8 (nla_get_u8)."""
        return int(_U8.unpack(self.data)[0])

    def u16(self) -> int:
        """Return a u16."""
        return int(_U16.unpack(self.data)[0])

    def u32(self) -> int:
        """Return a u32."""
        return int(_U32.unpack(self.data)[0])

    def uint(self) -> int:
        """Return a "uint" of the specifications: four bytes, or eight (nla_get_uint)."""
        return int((_U32 if len(self.data) == _U32.size else _U64).unpack(self.data)[0])

    def string(self) -> bytes:
        """Return the bytes up to the first NUL, as a C string is read."""
        return self.data.split(b"\0", 1)[0]

    def children(self) -> Walk:
        """Return what is in a nest (nla_for_each_nested)."""
        return Walk(self.data, self.offset + NLA_HDRLEN)


class Walk:
    """nla_for_each_attr(): the attributes of a stream, and what is left behind the last one.

    A header that claims less than itself or more than there is ends the walk (nla_ok()).
    ``leftover`` is valid after the iteration: bytes that belong to no attribute.
    """

    def __init__(self, stream: bytes, offset: int) -> None:
        self._stream = stream
        self._offset = offset
        self.leftover = 0

    def __iter__(self) -> Iterator[Attribute]:
        stream, at = self._stream, 0
        while len(stream) - at >= NLA_HDRLEN:
            length, kind = _HEADER.unpack_from(stream, at)
            if length < NLA_HDRLEN or length > len(stream) - at:
                break
            yield Attribute(
                kind & NLA_TYPE_MASK,
                bool(kind & NlaFlag.NESTED),
                self._offset + at,
                stream[at + NLA_HDRLEN : at + length],
            )
            at += align(length)
        self.leftover = max(len(stream) - at, 0)


def put(kind: int, data: bytes = b"") -> bytes:
    """Return an attribute (nla_put)."""
    length = NLA_HDRLEN + len(data)
    return _HEADER.pack(length, kind) + data + bytes(align(length) - length)


def put_u8(kind: int, value: int) -> bytes:
    """Return a u8 attribute."""
    return put(kind, _U8.pack(value))


def put_u16(kind: int, value: int) -> bytes:
    """Return a u16 attribute."""
    return put(kind, _U16.pack(value))


def put_u32(kind: int, value: int) -> bytes:
    """Return a u32 attribute."""
    return put(kind, _U32.pack(value))


def put_u64(kind: int, value: int) -> bytes:
    """Return nla_put_u64_64bit() of a machine that needs no padding for an aligned value."""
    return put(kind, _U64.pack(value))


def put_uint(kind: int, value: int) -> bytes:
    """Return nla_put_uint(): four bytes where the value fits, eight where it does not."""
    return put_u32(kind, value) if value <= 0xFFFFFFFF else put_u64(kind, value)


def put_string(kind: int, value: str) -> bytes:
    """Return a string with its NUL."""
    return put(kind, value.encode() + b"\0")


def nest(kind: int, content: bytes = b"") -> bytes:
    """Return nla_nest_start() ... nla_nest_end()."""
    return put(kind | NlaFlag.NESTED, content)


def nest_noflag(kind: int, content: bytes = b"") -> bytes:
    """Return nla_nest_start_noflag(): the controller's nests are older than NLA_F_NESTED."""
    return put(kind, content)
