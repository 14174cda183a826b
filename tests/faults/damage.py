# SPDX-License-Identifier: Apache-2.0
"""Damage to a TCP segment in an Ethernet frame: what a wire does, and a checksum must notice.

The Internet checksum (RFC 1071) notices every inverted bit and every burst of up to 15 bits. What
it cannot notice, one damage in 65,536 of the other kinds, is not made: nobody could.
"""

from __future__ import annotations

import random
import struct

_ETH_LEN = 14
_IPV6 = 0x86DD
_LONGEST_BURST = 15
_MOST_LENGTHENED = 200


def damaged(frame: bytes, chance: random.Random) -> bytes:
    """The frame with damage of some kind, to headers, payload or length; its sums do not fit."""
    while True:
        result = chance.choice(_KINDS)(bytearray(frame), chance)
        if not fits(result):
            return bytes(result)


def fits(frame: bytes | bytearray) -> bool:
    """Whether it is a segment with right lengths and sums, of whatever addresses and content."""
    if len(frame) < _ETH_LEN + 40 or frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
        return False
    ip = frame[_ETH_LEN:]
    if frame[12] == _IPV6 >> 8:
        begin, end = 40, 40 + int.from_bytes(ip[4:6], "big")
        addresses, protocol, header_fits = ip[8:40], ip[6], ip[0] >> 4 == 6
    else:
        begin, end = (ip[0] & 0xF) * 4, int.from_bytes(ip[2:4], "big")
        addresses, protocol = ip[12:20], ip[9]
        header_fits = ip[0] >> 4 == 4 and begin >= 20 and _sums_up(ip[:begin])
    if not header_fits or protocol != 6 or not begin + 20 <= end <= len(ip):
        return False
    pseudo = addresses + struct.pack(">HI", protocol, end - begin)
    # The sum of the pseudo header alone is a local sender's unfinished one, and let pass.
    unfinished = ip[begin + 16 : begin + 18] == _folded(pseudo).to_bytes(2, "big")
    return unfinished or _sums_up(pseudo + ip[begin:end])


def _folded(data: bytes | bytearray) -> int:
    """The ones' complement sum of 16-bit words: what they are modulo 2^16 - 1."""
    padded = data + bytes(len(data) % 2)
    return int.from_bytes(padded, "big") % 0xFFFF


def _sums_up(data: bytes | bytearray) -> bool:
    return _folded(data) == 0


def _invert(frame: bytearray, bits: int, at: int, length: int) -> bytearray:
    """`bits` (of a number as long as `length` bits) are inverted from bit `at` on."""
    value = int.from_bytes(frame, "big")
    value ^= bits << (len(frame) * 8 - at - length)
    return bytearray(value.to_bytes(len(frame), "big"))


def _bit_anywhere(frame: bytearray, chance: random.Random) -> bytearray:
    return _invert(frame, 1, chance.randrange(len(frame) * 8), 1)


def _bit_of_a_header(frame: bytearray, chance: random.Random) -> bytearray:
    """Of IP's, TCP's or its options'."""
    end = min(len(frame), _ETH_LEN + (72 if frame[12] == _IPV6 >> 8 else 52))
    return _invert(frame, 1, chance.randrange(_ETH_LEN * 8, end * 8), 1)


def _burst(frame: bytearray, chance: random.Random) -> bytearray:
    length = chance.randint(2, _LONGEST_BURST)
    bits = chance.getrandbits(length) | 1 | 1 << (length - 1)
    return _invert(frame, bits, chance.randrange(_ETH_LEN * 8, len(frame) * 8 - length), length)


def _cut_off(frame: bytearray, chance: random.Random) -> bytearray:
    """The end is missing: IP says that there is more."""
    return frame[: chance.randrange(_ETH_LEN + 1, len(frame))]


def _wrong_length(frame: bytearray, chance: random.Random) -> bytearray:
    """IP says that there is more or less than there is, and IPv4's own sum is right."""
    at = _ETH_LEN + (4 if frame[12] == _IPV6 >> 8 else 2)
    length = int.from_bytes(frame[at : at + 2], "big")
    frame[at : at + 2] = chance.randrange(20, length + _MOST_LENGTHENED).to_bytes(2, "big")
    if frame[12] != _IPV6 >> 8:
        begin, end = _ETH_LEN, _ETH_LEN + (frame[_ETH_LEN] & 0xF) * 4
        frame[begin + 10 : begin + 12] = bytes(2)
        frame[begin + 10 : begin + 12] = (0xFFFF - _folded(frame[begin:end])).to_bytes(2, "big")
    return frame


_KINDS = (_bit_anywhere, _bit_of_a_header, _burst, _cut_off, _wrong_length)
