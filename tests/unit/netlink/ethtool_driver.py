# SPDX-License-Identifier: Apache-2.0
"""A driver with an RSS table and flow rules, behind SIOCETHTOOL.

It reads and writes the structures where the ioctl's argument points, by offsets of
``linux/ethtool.h`` that are written down here once more: what the code under test gets wrong
does not cancel out.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Any

_GRXCLSRLCNT, _GRXCLSRULE, _GRXCLSRLALL, _SRXCLSRLDEL, _SRXCLSRLINS = 0x2E, 0x2F, 0x30, 0x31, 0x32
_GRSSH, _SRSSH = 0x46, 0x47
_LOC_SPECIAL, _LOC_ANY = 0x80000000, 0xFFFFFFFF
_NO_CHANGE = 0xFFFFFFFF

# struct ethtool_rxnfc: cmd, flow_type, data, fs (168 bytes, its location at 160), rule_cnt.
_FS, _FS_SIZE, _LOCATION, _RULE_CNT, _RULE_LOCS = 16, 168, 176, 184, 188


class EthtoolDriver:
    """Stands in for `fcntl.ioctl`."""

    def __init__(self, *, buckets: int = 8, queues: int = 4, places: int = 4) -> None:
        self.queues = queues
        self.table = [bucket % queues for bucket in range(buckets)]
        self.configured = False
        """netif_is_rxfh_configured()."""
        self.xfrm = 0
        self.key = b"k" * 40
        self.places = places
        self.rules: dict[int, bytes] = {}
        self.chooses = False
        """Whether it takes RX_CLS_LOC_ANY."""

    def ioctl(self, sock: Any, request: int, ifreq: bytes) -> bytes:
        """As the driver of any interface."""
        assert request == 0x8946
        (address,) = struct.unpack_from("P", ifreq, 16)
        (command,) = struct.unpack("=I", ctypes.string_at(address, 4))
        if command in (_GRSSH, _SRSSH):
            (self._get_rss if command == _GRSSH else self._set_rss)(address)
        else:
            self._rule_command(command, address)
        return ifreq

    def _get_rss(self, address: int) -> None:
        size, key_size = struct.unpack("=II", ctypes.string_at(address + 8, 8))
        self._refuse_if(size not in (0, len(self.table)) or key_size not in (0, 40))
        head = struct.pack("=IIBB", len(self.table), len(self.key), 1, self.xfrm)
        _put(address + 8, head)
        if size:
            _put(address + 24, struct.pack(f"={size}I", *self.table))
        if key_size:
            _put(address + 24 + 4 * size, self.key)

    def _set_rss(self, address: int) -> None:
        size, key_size, hfunc, xfrm, *rest = struct.unpack(
            "=IIBB2BI", ctypes.string_at(address + 8, 16)
        )
        self._refuse_if(size not in (0, _NO_CHANGE, len(self.table)) or any(rest))
        self._refuse_if(key_size != 0 or hfunc != 0 or xfrm != self.xfrm)
        if size == 0:
            self.table = [bucket % self.queues for bucket in range(len(self.table))]
            self.configured = False
        elif size != _NO_CHANGE:
            table = struct.unpack(f"={size}I", ctypes.string_at(address + 24, 4 * size))
            self._refuse_if(max(table) >= self.queues)
            self.table, self.configured = list(table), True

    def _rule_command(self, command: int, address: int) -> None:
        (location,) = struct.unpack("=I", ctypes.string_at(address + _LOCATION, 4))
        if command == _GRXCLSRLCNT:
            _put(address + 8, struct.pack("=Q", _LOC_SPECIAL if self.chooses else 0))
            _put(address + _RULE_CNT, struct.pack("=I", len(self.rules)))
        elif command == _GRXCLSRLALL:
            (room,) = struct.unpack("=I", ctypes.string_at(address + _RULE_CNT, 4))
            self._refuse_if(room < len(self.rules), errno.EMSGSIZE)
            _put(address + 8, struct.pack("=Q", self.places))
            _put(address + _RULE_CNT, struct.pack("=I", len(self.rules)))
            _put(address + _RULE_LOCS, struct.pack(f"={len(self.rules)}I", *sorted(self.rules)))
        elif command == _GRXCLSRULE:
            self._refuse_if(location not in self.rules, errno.ENOENT)
            _put(address + _FS, self.rules[location])
        elif command == _SRXCLSRLDEL:
            self._refuse_if(location not in self.rules, errno.ENOENT)
            del self.rules[location]
        else:
            assert command == _SRXCLSRLINS
            if location == _LOC_ANY:
                self._refuse_if(not self.chooses)
                location = min(set(range(self.places)) - set(self.rules))
                _put(address + _LOCATION, struct.pack("=I", location))
            self._refuse_if(location >= self.places)
            self.rules[location] = ctypes.string_at(address + _FS, _FS_SIZE)

    @staticmethod
    def _refuse_if(wrong: bool, number: int = errno.EINVAL) -> None:
        if wrong:
            raise OSError(number, os.strerror(number))


def _put(address: int, data: bytes) -> None:
    ctypes.memmove(address, data, len(data))
