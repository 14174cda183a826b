# SPDX-License-Identifier: Apache-2.0
"""What an interface says of itself by ioctl: driver, queues, MTU.

The ioctls work in the calling thread's network namespace; /sys/class/net shows the one that
was current when /sys was mounted.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass

from devmemtcp.pyxdp._xdp import ffi
from devmemtcp.pyxdp.errors import Unsupported, XdpError

_SIOCGIFMTU = 0x8921
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 0x03
_ETHTOOL_GGRO = 0x2B
_ETHTOOL_GCHANNELS = 0x3C
_IFNAMSIZ = 16
_IFREQ_SIZE = 40
_VALUE = struct.Struct("=2I")  # struct ethtool_value: cmd, data
_DRVINFO_SIZE = 196  # struct ethtool_drvinfo: u32 cmd, char driver[32], ...
_CHANNELS = struct.Struct("=9I")  # struct ethtool_channels


@dataclass(frozen=True)
class Channels:
    """Queues of an interface (struct ethtool_channels)."""

    rx: int  # in use: receive-only and combined ones
    tx: int
    max_rx: int
    max_tx: int
    combined: bool  # whether a queue does both, which is what `ethtool -L` is to be told


def mtu(ifname: str) -> int:
    """MTU in bytes (netdevice(7), SIOCGIFMTU)."""
    request = _ioctl(ifname, _SIOCGIFMTU, b"")
    return int(struct.unpack_from("=i", request, _IFNAMSIZ)[0])


def driver(ifname: str) -> str:
    """Name of the driver. :class:`Unsupported` if it does not tell."""
    info = _ethtool(ifname, _ETHTOOL_GDRVINFO, _DRVINFO_SIZE)
    return info[4:36].split(b"\0")[0].decode()


def bus_info(ifname: str) -> str:
    """Where its device is on its bus, as ``0000:00:03.0``; "" where the driver does not tell.

    :class:`Unsupported` if it tells nothing at all.
    """
    info = _ethtool(ifname, _ETHTOOL_GDRVINFO, _DRVINFO_SIZE)
    return info[100:132].split(b"\0")[0].decode()


def channels(ifname: str) -> Channels:
    """How many queues. :class:`Unsupported` if the driver does not tell."""
    raw = _ethtool(ifname, _ETHTOOL_GCHANNELS, _CHANNELS.size)
    _, max_rx, max_tx, _, max_combined, rx, tx, _, combined = _CHANNELS.unpack(raw)
    return Channels(
        rx=rx + combined,
        tx=tx + combined,
        max_rx=max_rx + max_combined,
        max_tx=max_tx + max_combined,
        combined=bool(max_combined),
    )


def gro(ifname: str) -> bool:
    """Whether the kernel merges segments before a generic program sees them. XdpError."""
    return bool(_VALUE.unpack(_ethtool(ifname, _ETHTOOL_GGRO, _VALUE.size))[1])


def _ethtool(ifname: str, command: int, size: int) -> bytes:
    argument = ffi.new("char[]", struct.pack("=I", command).ljust(size, b"\0"))
    address = int(ffi.cast("uintptr_t", argument))
    _ioctl(ifname, _SIOCETHTOOL, struct.pack("=Q", address))
    return bytes(ffi.buffer(argument, size))


def _ioctl(ifname: str, request: int, argument: bytes) -> bytes:
    """One ioctl on a ``struct ifreq``; gives the struct back."""
    ifreq = os.fsencode(ifname).ljust(_IFNAMSIZ, b"\0") + argument
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        try:
            return fcntl.ioctl(control, request, ifreq.ljust(_IFREQ_SIZE, b"\0"))
        except OSError as error:
            code = error.errno or errno.EIO
            if code == errno.EOPNOTSUPP:
                raise Unsupported(f"{ifname}: its driver does not tell") from error
            raise XdpError(code, f"cannot ask {ifname}") from error
