# SPDX-License-Identifier: Apache-2.0
"""Names and numbers of network interfaces, in the calling thread's network namespace."""

from __future__ import annotations

import errno
import socket

from devmemtcp.pyxdp.errors import XdpError


def resolve(interface: str | int) -> tuple[int, str]:
    """(index, name) of an interface given by either; :class:`XdpError` ENODEV if there is none."""
    try:
        if isinstance(interface, int):
            return interface, socket.if_indextoname(interface)
        return socket.if_nametoindex(interface), interface
    except (OSError, OverflowError) as error:
        raise XdpError(errno.ENODEV, f"there is no interface {interface!r} here") from error
