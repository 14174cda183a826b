# SPDX-License-Identifier: Apache-2.0
"""rtnetlink(7) through the standard library alone: a socket, a request, what datagrams hold.

pyroute2 would do the same, but loading it takes more memory than all else of a receiving process.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

RTM_NEWLINK = 16
RTM_GETLINK = 18
RTM_GETROUTE = 26
RTMGRP_LINK = 0x1
RTMGRP_IPV4_IFADDR = 0x10
RTMGRP_IPV6_IFADDR = 0x100
NLMSG_DONE = 3
IFINFOMSG = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change

_IFLA_ALT_IFNAME = 53
_NLMSG_ERROR = 2
_NLM_F_REQUEST = 0x1
_NLM_F_DUMP = 0x300
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
_BUFFER = 1 << 16


def open_socket(groups: int = 0) -> socket.socket:
    """A socket of the calling thread's namespace. Raises OSError.

    With `groups` (RTMGRP_*) it also gets news of what has changed, and does not block.
    """
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | (socket.SOCK_NONBLOCK if groups else 0)
    route = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    try:
        route.bind((0, groups))
    except BaseException:
        route.close()
        raise
    return route


def ask(route: socket.socket, type_: int, body: bytes, *, dump: bool = False) -> None:
    """Send a request: about the one thing that `body` names, or (`dump`) about all such."""
    flags = _NLM_F_REQUEST | (_NLM_F_DUMP if dump else 0)
    route.sendto(_HEADER.pack(_HEADER.size + len(body), type_, flags, 1, 0) + body, (0, 0))


def messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message. Raises OSError, with the kernel's errno, for an error."""
    while datagram:
        length, type_, _, _, _ = _HEADER.unpack_from(datagram)
        body = datagram[_HEADER.size : length]
        if type_ == _NLMSG_ERROR:
            number = -struct.unpack_from("=i", body)[0]
            raise OSError(number, f"rtnetlink: {os.strerror(number)}")
        yield type_, body
        datagram = datagram[aligned(max(length, _HEADER.size)) :]


def index_of_altname(name: str) -> int:
    """Index of an interface by an altname, up to 127 bytes: rtnl_dev_get(), Linux 5.5.

    Raises OSError: ENODEV, there is none; ERANGE, EINVAL, nothing could be called so.
    """
    value = os.fsencode(name) + b"\0"
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), _IFLA_ALT_IFNAME) + value
    request = IFINFOMSG.pack(0, 0, 0, 0, 0) + attribute.ljust(aligned(len(attribute)), b"\0")
    with open_socket() as route:
        ask(route, RTM_GETLINK, request)
        ((_, link),) = messages(route.recv(_BUFFER))
    index: int = IFINFOMSG.unpack_from(link)[2]
    return index


def aligned(length: int) -> int:
    """Bytes that something of this length takes: NLMSG_ALIGN(), RTA_ALIGN()."""
    return (length + 3) & ~3
