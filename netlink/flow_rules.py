# SPDX-License-Identifier: Apache-2.0
"""Flow steering, the part of ethtool that has no netlink message: an ioctl (``ethtool -N``).

Source: ``include/uapi/linux/ethtool.h``, struct ethtool_rxnfc and what it holds.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self

from devmemtcp.netlink.ethtool_ioctl import EthtoolIoctl

_GRXCLSRLCNT = 0x2E
_GRXCLSRULE = 0x2F
_GRXCLSRLALL = 0x30
_SRXCLSRLDEL = 0x31
_SRXCLSRLINS = 0x32

_TCP_V4_FLOW = 0x01
_TCP_V6_FLOW = 0x05
_LOC_ANY = 0xFFFFFFFF  # the driver chooses
_LOC_SPECIAL = 0x80000000  # in the answer to _GRXCLSRLCNT: it can choose

# struct ethtool_tcpip4_spec and ethtool_tcpip6_spec: addresses, ports, type of service.
_SPEC = {4: struct.Struct(">4s4sHHB"), 6: struct.Struct(">16s16sHHB")}
_SPEC_SIZE = 52

Address = IPv4Address | IPv6Address


class _FlowSpec(ctypes.Structure):
    """struct ethtool_rx_flow_spec. The extension (VLAN, destination MAC) stays empty."""

    _fields_ = (
        ("flow_type", ctypes.c_uint32),
        ("h_u", ctypes.c_uint8 * _SPEC_SIZE),
        ("h_ext", ctypes.c_uint8 * 20),
        ("m_u", ctypes.c_uint8 * _SPEC_SIZE),
        ("m_ext", ctypes.c_uint8 * 20),
        ("ring_cookie", ctypes.c_uint64),
        ("location", ctypes.c_uint32),
    )


class _RxNfc(ctypes.Structure):
    """struct ethtool_rxnfc; rule_locs follows."""

    _fields_ = (
        ("cmd", ctypes.c_uint32),
        ("flow_type", ctypes.c_uint32),
        ("data", ctypes.c_uint64),
        ("fs", _FlowSpec),
        ("rule_cnt", ctypes.c_uint32),
    )


_RULE_LOCS = _RxNfc.rule_cnt.offset + 4


@dataclass(frozen=True)
class FlowRule:
    """TCP packets that match go to an RX queue; what is None matches everything."""

    version: int
    """Of IP: 4 or 6."""
    queue: int
    src: Address | None = None
    dst: Address | None = None
    src_port: int | None = None
    dst_port: int | None = None

    def __post_init__(self) -> None:
        addresses = [address for address in (self.src, self.dst) if address is not None]
        if self.version not in _SPEC or any(a.version != self.version for a in addresses):
            raise ValueError("a flow rule is about IPv4 or IPv6, and so are its addresses")

    def _packed(self) -> tuple[bytes, bytes]:
        """Return what to compare with, and the mask of what to compare."""
        width = 4 if self.version == 4 else 16
        nothing, ones = bytes(width), b"\xff" * width
        addresses = ((a.packed, ones) if a else (nothing, nothing) for a in (self.src, self.dst))
        ports = ((0, 0) if p is None else (p, 0xFFFF) for p in (self.src_port, self.dst_port))
        values, masks = zip(*addresses, *ports, strict=True)
        return _SPEC[self.version].pack(*values, 0), _SPEC[self.version].pack(*masks, 0)

    @classmethod
    def _unpacked(cls, fs: _FlowSpec) -> Self | None:
        version = {_TCP_V4_FLOW: 4, _TCP_V6_FLOW: 6}.get(fs.flow_type)
        if version is None:
            return None
        src, dst, src_port, dst_port, _ = _SPEC[version].unpack_from(bytes(fs.h_u))
        mask = _SPEC[version].unpack_from(bytes(fs.m_u))
        rule = cls(
            version,
            fs.ring_cookie,
            src=ip_address(src) if any(mask[0]) else None,
            dst=ip_address(dst) if any(mask[1]) else None,
            src_port=src_port if mask[2] else None,
            dst_port=dst_port if mask[3] else None,
        )
        # A mask that lets some bits be anything is more than a rule of ours can say.
        return rule if rule._packed()[1] == _SPEC[version].pack(*mask) else None


class FlowRules(EthtoolIoctl):
    """The rules of one interface. Raises OSError: EOPNOTSUPP where the driver has none."""

    def insert(self, rule: FlowRule, location: int | None = None) -> int:
        """Insert a rule at a place of the table, or at a free one; returns the place.

        A driver that can chooses the free one itself; else it is the last, as ethtool(8) has it,
        for earlier rules win. What is at the place is replaced. EPERM without CAP_NET_ADMIN,
        ENOSPC for a full table.
        """
        nfc = _RxNfc(cmd=_SRXCLSRLINS)
        nfc.fs.flow_type = _TCP_V4_FLOW if rule.version == 4 else _TCP_V6_FLOW
        value, mask = rule._packed()
        ctypes.memmove(nfc.fs.h_u, value, len(value))
        ctypes.memmove(nfc.fs.m_u, mask, len(mask))
        nfc.fs.ring_cookie = rule.queue
        nfc.fs.location = self._free_place() if location is None else location
        self.call(nfc, "insert a flow rule")
        return int(nfc.fs.location)

    def delete(self, location: int) -> None:
        """Delete the rule at a place. ENOENT where there is none."""
        nfc = _RxNfc(cmd=_SRXCLSRLDEL)
        nfc.fs.location = location
        self.call(nfc, f"delete flow rule {location}")

    def dump(self) -> dict[int, FlowRule | None]:
        """Return the rules by place; None stands for one that a FlowRule cannot say.

        Such is one that is not about TCP, has a mask of single bits, or minds VLANs.
        """
        places, _ = self._places(self._count().rule_cnt)
        return {place: self._rule(place) for place in places}

    def _count(self) -> _RxNfc:
        count = _RxNfc(cmd=_GRXCLSRLCNT)
        self.call(count, "count flow rules")
        return count

    def _places(self, count: int) -> tuple[list[int], int]:
        """Places of the rules, and how many the table has."""
        size = max(_RULE_LOCS + 4 * count, ctypes.sizeof(_RxNfc))
        room = ctypes.create_string_buffer(size)
        every = _RxNfc.from_buffer(room)
        every.cmd, every.rule_cnt = _GRXCLSRLALL, count
        self.call(room, "list flow rules")
        return list(struct.unpack_from(f"={every.rule_cnt}I", room, _RULE_LOCS)), every.data

    def _free_place(self) -> int:
        count = self._count()
        if count.data & _LOC_SPECIAL:
            return _LOC_ANY
        taken, size = self._places(count.rule_cnt)
        free = set(range(size)) - set(taken)
        if not free:
            raise OSError(
                errno.ENOSPC, f"{self._ifname}: all {size} places for flow rules are taken"
            )
        return max(free)

    def _rule(self, location: int) -> FlowRule | None:
        nfc = _RxNfc(cmd=_GRXCLSRULE)
        nfc.fs.location = location
        self.call(nfc, f"read flow rule {location}")
        return FlowRule._unpacked(nfc.fs)
