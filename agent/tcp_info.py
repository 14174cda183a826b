# SPDX-License-Identifier: Apache-2.0
"""What the kernel tells of one of its own TCP connections (TCP_INFO, tcp(7))."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

_TCP_INFO = struct.Struct("=8B24I4Q2I")  # struct tcp_info up to tcpi_segs_in
_SND_MSS = 8 + 2
_TOTAL_RETRANS = 8 + 23
_SEGS_IN = 8 + 24 + 4 + 1


class TcpInfo(NamedTuple):
    """Of `struct tcp_info` (linux/tcp.h) what is reported here."""

    snd_mss: int
    """Bytes of the largest segment that is sent."""
    total_retrans: int
    """Segments sent again since the connection was opened."""
    segs_in: int
    """Segments received: for who only sends, acknowledgements."""


def tcp_info(sock: socket.socket) -> TcpInfo:
    """Ask the kernel. Raises OSError."""
    data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    values = _TCP_INFO.unpack(data)
    return TcpInfo(values[_SND_MSS], values[_TOTAL_RETRANS], values[_SEGS_IN])
