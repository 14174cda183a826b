# SPDX-License-Identifier: Apache-2.0
"""Which interfaces lead everywhere: those of the default routes, and what those are made of."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from devmemtcp.agent import rtnetlink
from devmemtcp.agent.rtnetlink import IFINFOMSG, RTM_GETLINK, RTM_GETROUTE, aligned

_RTN_UNICAST = 1
_RTA_OIF = 4
_RTA_MULTIPATH = 9
_IFLA_LINK = 5
_IFLA_MASTER = 10
_IFLA_LINKINFO = 18
_IFLA_LINK_NETNSID = 37
_IFLA_INFO_KIND = 1
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

_RTMSG = struct.Struct("=8BI")  # struct rtmsg
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
    links = [_link(message) for message in _dump(RTM_GETLINK, IFINFOMSG.pack(0, 0, 0, 0, 0))]
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
        for message in _dump(RTM_GETROUTE, _RTMSG.pack(family, *[0] * 8)):
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
        hops = hops[aligned(max(length, _NEXT_HOP.size)) :]


def _link(message: bytes) -> _Link:
    _, _, index, _, _ = IFINFOMSG.unpack_from(message)
    link = dict(_attributes(message[IFINFOMSG.size :]))
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
    with rtnetlink.open_socket() as route:
        rtnetlink.ask(route, type_, body, dump=True)
        while True:
            for answer, message in rtnetlink.messages(route.recv(_BUFFER)):
                if answer == rtnetlink.NLMSG_DONE:
                    return
                yield message


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, type_ = _ATTRIBUTE.unpack_from(data)
        yield type_ & _TYPE_MASK, data[_ATTRIBUTE.size : length]
        data = data[aligned(max(length, _ATTRIBUTE.size)) :]


def _u32(data: bytes) -> int:
    return int.from_bytes(data[:4], sys.byteorder)
