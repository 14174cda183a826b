# SPDX-License-Identifier: Apache-2.0
"""Routes as rtnetlink shows them, by pyroute2's messages: which interfaces lead everywhere."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

from pyroute2.netlink.rtnl import RTM_GETROUTE
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from devmemtcp.netlink.connection import DEFAULT_TIMEOUT, Connection
from devmemtcp.netlink.constants import NETLINK_ROUTE
from devmemtcp.netlink.genl import decode
from devmemtcp.netlink.target import NetNs

_RTN_UNICAST = 1
_WIDEST = 1
"""Bits of a destination: two routes of half the addresses each are a default route, too."""


def default_routes(
    netns: NetNs | None = None, *, timeout: float | None = DEFAULT_TIMEOUT
) -> set[int]:
    """Indices of the interfaces that default routes leave by: of IPv4 and IPv6, of all tables.

    A pair of routes to 0/1 and 128/1, as VPNs make them, counts. Raises NetlinkError.
    """
    found: set[int] = set()
    with Connection.open("kernel", protocol=NETLINK_ROUTE, netns=netns, timeout=timeout) as routes:
        for family in (socket.AF_INET, socket.AF_INET6):
            request = rtmsg()
            request["header"]["type"] = RTM_GETROUTE
            request["family"] = family
            for route in decode(routes.request(request, "getroute", dump=True), rtmsg):
                if route["type"] == _RTN_UNICAST and route["dst_len"] <= _WIDEST:
                    found.update(_interfaces(route))
    return found


def _interfaces(route: Any) -> Iterator[int]:
    if (index := route.get_attr("RTA_OIF")) is not None:
        yield index
    for hop in route.get_attr("RTA_MULTIPATH") or ():
        yield hop["oif"]
