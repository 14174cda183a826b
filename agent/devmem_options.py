# SPDX-License-Identifier: Apache-2.0
"""The socket options of a `DevmemSocket` that are no more than a value, as the kernel takes them.

Sources: sk_setsockopt() and sk_getsockopt() of net/core/sock.c, do_tcp_setsockopt() of
net/ipv4/tcp.c, do_ipv6_setsockopt() of net/ipv6/ipv6_sockglue.c.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass, field

# Not all of them are known to every version of Python's socket module.
SO_RCVTIMEO = getattr(socket, "SO_RCVTIMEO", 20)
SO_SNDTIMEO = getattr(socket, "SO_SNDTIMEO", 21)

_INT = struct.Struct("=i")
_TIMEVAL = struct.Struct("@ll")
_LINGER = struct.Struct("=ii")
_SECOND_US = 1_000_000
_INT_MAX = 2**31 - 1

_FLAGS = frozenset(
    (
        (socket.SOL_SOCKET, socket.SO_REUSEADDR),
        (socket.SOL_SOCKET, socket.SO_REUSEPORT),
        (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    )
)
"""Taken, and given back as 0 or 1. None of them changes what the stack does: a port is held until
its last connection is gone, and replies are never delayed (RFC 896)."""


_IP_LEVELS = (socket.SOL_SOCKET, socket.IPPROTO_IP, socket.IPPROTO_TCP)


def refuse(number: int) -> OSError:
    """A kernel's error."""
    return OSError(number, os.strerror(number))


@dataclass
class Options:
    """Values; an accepted socket gets a copy of its listener's."""

    flags: dict[tuple[int, int], int] = field(default_factory=dict)
    rcvlowat: int = 1
    """Bytes."""
    rcvtimeo: float | None = None
    """Seconds; None: for ever."""
    sndtimeo: float | None = None
    linger: tuple[int, int] = (0, 0)
    """(on, seconds)."""
    v6only: int = 0

    def copy(self) -> Options:
        """For an accepted socket."""
        return Options(
            *(dict(self.flags), self.rcvlowat, self.rcvtimeo, self.sndtimeo, self.linger),
            self.v6only,
        )

    def set(self, family: int, level: int, name: int, value: bytes) -> None:
        """Raises OSError as the kernel does: ENOPROTOOPT for an option that there is not."""
        key = (level, name)
        if key in _FLAGS:
            self.flags[key] = int(_int(value) != 0)
        elif key == (socket.SOL_SOCKET, socket.SO_RCVLOWAT):
            number = _int(value)
            self.rcvlowat = _INT_MAX if number < 0 else number or 1
        elif key == (socket.SOL_SOCKET, SO_RCVTIMEO):
            self.rcvtimeo = _seconds(value)
        elif key == (socket.SOL_SOCKET, SO_SNDTIMEO):
            self.sndtimeo = _seconds(value)
        elif key == (socket.SOL_SOCKET, socket.SO_LINGER):
            if len(value) < _LINGER.size:
                raise refuse(errno.EINVAL)
            on, seconds = _LINGER.unpack_from(value)
            self.linger = int(on != 0), seconds
        elif key == (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) and family == socket.AF_INET6:
            self.v6only = int(_int(value) != 0)
        else:
            raise refuse(errno.ENOPROTOOPT)

    def get(self, family: int, level: int, name: int) -> bytes:
        """The value's bytes. Raises OSError (ENOPROTOOPT)."""
        key = (level, name)
        if key in _FLAGS:
            return _INT.pack(self.flags.get(key, 0))
        if key == (socket.SOL_SOCKET, socket.SO_RCVLOWAT):
            return _INT.pack(self.rcvlowat)
        if key == (socket.SOL_SOCKET, SO_RCVTIMEO):
            return _timeval(self.rcvtimeo)
        if key == (socket.SOL_SOCKET, SO_SNDTIMEO):
            return _timeval(self.sndtimeo)
        if key == (socket.SOL_SOCKET, socket.SO_LINGER):
            return _LINGER.pack(*self.linger)
        if key == (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) and family == socket.AF_INET6:
            return _INT.pack(self.v6only)
        if family == socket.AF_INET and level not in _IP_LEVELS:
            raise refuse(errno.EOPNOTSUPP)  # ip_getsockopt(), where ip_setsockopt() has ENOPROTOOPT
        raise refuse(errno.ENOPROTOOPT)


def pack_int(value: int) -> bytes:
    """An int option's bytes. Raises OverflowError."""
    try:
        return _INT.pack(value)
    except struct.error as error:
        raise OverflowError(f"{value} does not fit an int") from error


def _int(value: bytes) -> int:
    if len(value) < _INT.size:
        raise refuse(errno.EINVAL)
    number: int = _INT.unpack_from(value)[0]
    return number


def _seconds(value: bytes) -> float | None:
    """sock_set_timeout(): a negative time does not block, and none at all is for ever."""
    if len(value) < _TIMEVAL.size:
        raise refuse(errno.EINVAL)
    seconds, microseconds = _TIMEVAL.unpack_from(value)
    if not 0 <= microseconds < _SECOND_US:
        raise refuse(errno.EDOM)
    if seconds < 0:
        return 0.0
    if not seconds and not microseconds:
        return None
    return float(seconds + microseconds / _SECOND_US)


def _timeval(seconds: float | None) -> bytes:
    whole = int(seconds or 0)
    return _TIMEVAL.pack(whole, round(((seconds or 0) - whole) * _SECOND_US))
