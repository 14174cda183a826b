# SPDX-License-Identifier: Apache-2.0
"""Wait for the link that a driver drops when it is given an XDP program.

Some set their rings up anew for that, and reset the hardware with them: an igb is without a
carrier for two seconds. What is sent meanwhile is lost, and a peer on the same wire whose ARP
request was among it may take our host for unreachable.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import struct
import time
from collections.abc import Iterator

_RTM_NEWLINK = 16
_RTM_GETLINK = 18
_NLMSG_ERROR = 2
_NLM_F_REQUEST = 1
_RTMGRP_LINK = 0x1
_IFF_RUNNING = 0x40  # the kernel's link watch has seen the carrier: queues are on
_IFF_LOWER_UP = 0x10000  # there is one: netif_carrier_ok()
_READY = _IFF_RUNNING | _IFF_LOWER_UP

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_IFINFOMSG = struct.Struct("=BxHiII")
_BUFFER = 1 << 16

CARRIER_SECONDS = 10.0
"""Longer than negotiation on copper takes."""

log = logging.getLogger(__name__)


def await_carrier(ifname: str, seconds: float = CARRIER_SECONDS) -> bool:
    """Wait until the link is up; to be called in the interface's network namespace.

    Returns whether it is, and has told the log if it is not: a cable that is not plugged in is
    no reason to give up, for one may be later. Raises OSError when there is no such interface.
    """
    ifindex = socket.if_nametoindex(ifname)
    deadline = time.monotonic() + seconds
    with _link_messages() as route:
        _ask(route, ifindex)
        told = False
        while True:
            flags = _flags_told(route, ifindex)
            if flags is not None and flags & _READY == _READY:
                return True
            if flags is not None and not told:
                log.info("waiting for the link of %s", ifname)
                told = True
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([route], [], [], left)[0]:
                log.warning(
                    "%s has no carrier, so nothing can arrive; is its peer up, the cable in?",
                    ifname,
                )
                return False


@contextlib.contextmanager
def _link_messages() -> Iterator[socket.socket]:
    """A socket that hears of every change of a link, and of the answers to what it asks."""
    with socket.socket(
        socket.AF_NETLINK,
        socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
        socket.NETLINK_ROUTE,
    ) as route:
        route.bind((0, _RTMGRP_LINK))
        yield route


def _ask(route: socket.socket, ifindex: int) -> None:
    """Ask for the link as it is now; the answer looks like news of it."""
    length = _HEADER.size + _IFINFOMSG.size
    header = _HEADER.pack(length, _RTM_GETLINK, _NLM_F_REQUEST, 1, 0)
    route.sendto(header + _IFINFOMSG.pack(0, 0, ifindex, 0, 0), (0, 0))


def _flags_told(route: socket.socket, ifindex: int) -> int | None:
    """Flags of the link by the newest message that is there; None: there is none about it."""
    flags = None
    while True:
        try:
            data = route.recv(_BUFFER)
        except BlockingIOError:
            return flags
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            _ask(route, ifindex)  # more news than the socket could hold: some are lost
            continue
        while data:
            length, type_, _, _, _ = _HEADER.unpack_from(data)
            if type_ == _NLMSG_ERROR:
                number = -struct.unpack_from("=i", data, _HEADER.size)[0]
                raise OSError(number, f"rtnetlink: {os.strerror(number)}")
            if type_ == _RTM_NEWLINK:
                _, _, index, now, _ = _IFINFOMSG.unpack_from(data, _HEADER.size)
                flags = now if index == ifindex else flags
            data = data[(length + 3) & ~3 :]
