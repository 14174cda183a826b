# SPDX-License-Identifier: Apache-2.0
"""Names and numbers of network interfaces, in the calling thread's network namespace."""

from __future__ import annotations

import errno
import socket

from devmemtcp.pyxdp.errors import XdpError


def resolve(interface: str | int) -> tuple[int, str]:
    """(index, name) of an interface given by either, or by an altname.

    Raises :class:`XdpError`, ENODEV, if there is none.
    """
    try:
        ifindex = interface if isinstance(interface, int) else socket.if_nametoindex(interface)
        return ifindex, socket.if_indextoname(ifindex)
    except (OSError, OverflowError) as error:
        raise XdpError(errno.ENODEV, f"there is no interface {interface!r} here") from error
