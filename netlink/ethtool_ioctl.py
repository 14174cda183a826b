# SPDX-License-Identifier: Apache-2.0
"""The older way to ask a driver, ioctl(SIOCETHTOOL), for what has no netlink message."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from typing import Self

from devmemtcp.netlink.target import NetNs, socket_in

SIOCETHTOOL = 0x8946
_IFNAMSIZ = 16
_IFREQ = struct.Struct(f"{_IFNAMSIZ}sP16x")


class EthtoolIoctl:
    """One interface, by its name. Raises OSError: EOPNOTSUPP where the driver has no such knob."""

    def __init__(self, ifname: str, netns: NetNs | None = None) -> None:
        """Open a socket in the interface's namespace; see :mod:`devmemtcp.netlink.target`."""
        if len(os.fsencode(ifname)) >= _IFNAMSIZ:
            raise ValueError(f"{ifname!r} is too long for an interface's name")
        self._ifname = ifname
        self._sock = socket_in(netns, socket.AF_INET, socket.SOCK_DGRAM)

    def close(self) -> None:
        """Close the socket; what was set stays."""
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def call(self, command: ctypes.Structure | ctypes.Array[ctypes.c_char], what: str) -> None:
        """Hand over a structure of ``linux/ethtool.h``, which the kernel fills or takes.

        `what` is the verb of errors: "eth0: cannot <what>: Operation not supported".
        """
        request = _IFREQ.pack(os.fsencode(self._ifname), ctypes.addressof(command))
        try:
            fcntl.ioctl(self._sock, SIOCETHTOOL, request)
        except OSError as error:
            reason = f"{self._ifname}: cannot {what}: {error.strerror}"
            raise OSError(error.errno, reason) from error
