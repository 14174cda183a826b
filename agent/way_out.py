# SPDX-License-Identifier: Apache-2.0
"""Which interfaces lead everywhere: those of the default routes, and what those are made of.

Asked of rtnetlink(7) through the standard library alone. pyroute2 would say the same, but loading
it takes more memory than all else of a receiving process, for two questions at its start.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

_RTM_GETLINK = 18
_RTM_GETROUTE = 26
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_RTN_UNICAST = 1
_RTA_OIF = 4
_RTA_MULTIPATH = 9
_IFLA_LINK = 5
_IFLA_MASTER = 10
_IFLA_LINKINFO = 18
_IFLA_LINK_NETNSID = 37
_IFLA_INFO_KIND = 1
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_RTMSG = struct.Struct("=8BI")
_IFINFOMSG = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
_NEXT_HOP = struct.Struct("=HBBi")  # struct rtnexthop
_BUFFER = 1 << 17  # a dump's datagram has at most 32 KiB

_WIDEST = 1
"""Bits of a destination: two routes of half the addresses each are a default route, too."""


@dataclass(frozen=True)
class _Link:
    index: int
    master: int | None
    """The bridge or bond that it is a port of."""
    lower: int | None
    """What it is made on, as a VLAN is, if that is of the same namespace."""


def ways_out() -> set[int]:
    """Indices of the interfaces that default routes of the calling thread's namespace leave by.

    IPv4 and IPv6, all tables; a pair of routes to 0/1 and 128/1, as VPNs make them, counts. With
    each interface come the ports of a bridge or bond, and what a VLAN or macvlan is made on.
    Raises OSError.
    """
    links = [_link(message) for message in _dump(_RTM_GETLINK, _IFINFOMSG.pack(0, 0, 0, 0, 0))]
    found = set[int]()
    more = _default_routes()
    while more:
        found |= more
        parts = {link.index for link in links if link.master in found}
        below = {link.lower for link in links if link.index in found and link.lower}
        more = (parts | below) - found
    return found


def _default_routes() -> set[int]:
    found = set[int]()
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in _dump(_RTM_GETROUTE, _RTMSG.pack(family, *[0] * 8)):
            _, dst_len, *_, type_, _ = _RTMSG.unpack_from(message)
            if type_ == _RTN_UNICAST and dst_len <= _WIDEST:
                found.update(_interfaces(dict(_attributes(message[_RTMSG.size :]))))
    return found


def _interfaces(route: dict[int, bytes]) -> Iterator[int]:
    if _RTA_OIF in route:
        yield _u32(route[_RTA_OIF])
    hops = route.get(_RTA_MULTIPATH, b"")
    while len(hops) >= _NEXT_HOP.size:
        length, _, _, index = _NEXT_HOP.unpack_from(hops)
        yield index
        hops = hops[_aligned(max(length, _NEXT_HOP.size)) :]


def _link(message: bytes) -> _Link:
    _, _, index, _, _ = _IFINFOMSG.unpack_from(message)
    link = dict(_attributes(message[_IFINFOMSG.size :]))
    kind = dict(_attributes(link.get(_IFLA_LINKINFO, b""))).get(_IFLA_INFO_KIND, b"")
    # A veth's peer is not below it, and an index of another namespace is none of ours.
    apart = kind.rstrip(b"\0") == b"veth" or _IFLA_LINK_NETNSID in link
    return _Link(
        index=index,
        master=_u32(link[_IFLA_MASTER]) if _IFLA_MASTER in link else None,
        lower=_u32(link[_IFLA_LINK]) if _IFLA_LINK in link and not apart else None,
    )


def _dump(type_: int, body: bytes) -> Iterator[bytes]:
    """Bodies of all messages that answer a dump request."""
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as route:
        route.bind((0, 0))
        length = _HEADER.size + len(body)
        route.sendto(_HEADER.pack(length, type_, _NLM_F_REQUEST_DUMP, 1, 0) + body, (0, 0))
        while True:
            data = route.recv(_BUFFER)
            while data:
                length, answer, _, _, _ = _HEADER.unpack_from(data)
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    error = -struct.unpack_from("=i", data, _HEADER.size)[0]
                    raise OSError(error, f"rtnetlink: {os.strerror(error)}")
                yield data[_HEADER.size : length]
                data = data[_aligned(length) :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, type_ = _ATTRIBUTE.unpack_from(data)
        yield type_ & _TYPE_MASK, data[_ATTRIBUTE.size : length]
        data = data[_aligned(max(length, _ATTRIBUTE.size)) :]


def _u32(data: bytes) -> int:
    return int.from_bytes(data[:4], sys.byteorder)


def _aligned(length: int) -> int:
    return (length + 3) & ~3
