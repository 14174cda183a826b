# SPDX-License-Identifier: Apache-2.0
"""What lies in front of a device page: the record and the head, as xdp_prog/steer.h has them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

META_LEN = 160
INFO_LEN = 16
HEAD_MAX = META_LEN - INFO_LEN
MIN_LINEAR = 14
SLOT_SIZE, REF_SIZE = 192, 16
MAGIC = 0xD3E7
CSUM_VERIFIED, CSUM_PARTIAL, CSUM_TRUSTED = 1, 2, 3

_RX_INFO = struct.Struct("=HBBBBBBIHBB")
_SLOT_REF = struct.Struct("=IIQ")


class RxInfo(NamedTuple):
    """``struct rx_info``."""

    magic: int
    hdr_len: int
    l3_off: int
    l4_off: int
    family: int
    csum: int
    grown: int
    payload_len: int
    queue: int
    linear: int
    zero: int = 0

    def pack(self) -> bytes:
        return _RX_INFO.pack(*self)

    @classmethod
    def unpack(cls, raw: bytes) -> RxInfo:
        return cls(*_RX_INFO.unpack(raw))


@dataclass(frozen=True)
class Metadata:
    """``[record | unused | headers | linear]``, taken apart."""

    info: RxInfo
    unused: bytes
    headers: bytes
    linear: bytes

    @classmethod
    def unpack(cls, raw: bytes) -> Metadata:
        assert len(raw) == META_LEN
        info = RxInfo.unpack(raw[:INFO_LEN])
        headers_end = META_LEN - info.linear
        headers_start = headers_end - info.hdr_len
        unused, headers = raw[INFO_LEN:headers_start], raw[headers_start:headers_end]
        return cls(info, unused, headers, raw[headers_end:])

    def expected(self) -> bytes:
        """The bytes that this must have come from: nothing in between but zeros."""
        head = self.headers + self.linear
        return self.info.pack() + bytes(HEAD_MAX - len(head)) + head


def linear_len(wanted: int, hdr_len: int, payload_len: int) -> int:
    """How many payload bytes stay in the head of a packet that has one buffer."""
    return min(wanted, payload_len, HEAD_MAX - hdr_len)


class SlotRef(NamedTuple):
    """``struct rx_slot_ref``: the metadata of a packet whose head is in a slot."""

    magic: int
    zero: int
    seq: int

    def pack(self) -> bytes:
        return _SLOT_REF.pack(*self)

    @classmethod
    def unpack(cls, raw: bytes) -> SlotRef:
        return cls(*_SLOT_REF.unpack(raw))


class Slot(NamedTuple):
    """``struct rx_slot``."""

    seq: int
    info: RxInfo
    head: bytes

    def pack(self) -> bytes:
        head = self.head.ljust(SLOT_SIZE - 8 - INFO_LEN, b"\xff")
        return self.seq.to_bytes(8, "little") + self.info.pack() + head

    @classmethod
    def unpack(cls, raw: bytes) -> Slot:
        """Of ``head`` only what is this packet's."""
        info = RxInfo.unpack(raw[8 : 8 + INFO_LEN])
        head = raw[8 + INFO_LEN :][: info.hdr_len + info.linear]
        return cls(int.from_bytes(raw[:8], "little"), info, head)

    def as_metadata(self) -> bytes:
        """Where they would have been with more metadata: see Metadata."""
        return self.info.pack() + self.head.rjust(HEAD_MAX, b"\0")
