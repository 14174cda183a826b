# SPDX-License-Identifier: Apache-2.0
"""Wait for the link that a driver drops when it is given an XDP program.

Some set their rings up anew for that, and reset the hardware with them: an igb is without a
carrier for two seconds. What is sent meanwhile is lost, and a peer on the same wire whose ARP
request was among it may take our host for unreachable.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
import time

from devmemtcp.agent import rtnetlink
from devmemtcp.agent.rtnetlink import IFINFOMSG

_IFF_RUNNING = 0x40  # the kernel's link watch has seen the carrier: queues are on
_IFF_LOWER_UP = 0x10000  # there is one: netif_carrier_ok()
_READY = _IFF_RUNNING | _IFF_LOWER_UP

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
    with rtnetlink.open_socket(rtnetlink.RTMGRP_LINK) as route:
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


def _ask(route: socket.socket, ifindex: int) -> None:
    """Ask for the link as it is now; the answer looks like news of it."""
    rtnetlink.ask(route, rtnetlink.RTM_GETLINK, IFINFOMSG.pack(0, 0, ifindex, 0, 0))


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
        for type_, body in rtnetlink.messages(data):
            if type_ == rtnetlink.RTM_NEWLINK:
                _, _, index, now, _ = IFINFOMSG.unpack_from(body)
                flags = now if index == ifindex else flags
