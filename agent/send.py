# SPDX-License-Identifier: Apache-2.0
"""A plain TCP sender: an ordinary kernel socket and blocking send().

It stands for whatever sends to a devmem receiver, so it uses nothing special.
The congestion control is pinned to cubic where the kernel has it: a BBR default
paces even a veth, and figures from two machines could not be compared.

The end is an acknowledged one: the sending side is shut down, the receiver's FIN
is awaited, and the socket has nothing unacknowledged left.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import termios
import time
from dataclasses import dataclass

from devmemtcp.agent.endpoint import Endpoint
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.pattern import one_period
from devmemtcp.agent.tcp_info import tcp_info

BUFFER_BYTES = 1 << 20
DEFAULT_CONGESTION = "cubic"
MAX_CONNECT_SECONDS = 24 * 60 * 60.0

_ACK_POLL_SECONDS = 0.001
_REPLY_BYTES = 1 << 16


@dataclass(frozen=True)
class SendResult:
    """What happened, with the conditions it happened under."""

    local: str
    peer: str
    bytes_sent: int
    """Bytes handed to the kernel and acknowledged by the receiver."""
    bytes_replied: int
    """Bytes that the receiver sent back."""
    pattern: int
    """Period of the pattern."""
    congestion: str
    """Congestion control in force, as the kernel names it."""
    mss: int
    """Bytes of the largest segment, at the end."""
    retransmits: int
    """Segments sent again."""
    seconds: float
    """From the established connection to the last acknowledgement."""
    goodput_gbps: float
    """10^9 bits of payload a second."""
    cpu_seconds: float
    """User and system time of this process meanwhile, as the kernel accounts it."""


def send(
    peer: Endpoint,
    size: int,
    *,
    pattern: int,
    congestion: str | None = None,
    connect_timeout: float = 10.0,
) -> SendResult:
    """Connect to `peer`, send `size` bytes of the pattern and wait for the acknowledged end.

    `congestion` None is cubic if the kernel has it, else the kernel's default.
    `connect_timeout` is in seconds, more than 0 and at most a day.
    Raises ConfigError for another one, for a name that does not resolve, or for a congestion
    control that the kernel does not have; OSError when the connection fails, before or in
    the middle.
    """
    if not 0 < connect_timeout <= MAX_CONNECT_SECONDS:
        raise ConfigError(f"--connect-timeout {connect_timeout:g}: more than 0, and at most a day")
    buffer = memoryview(one_period(pattern) * (BUFFER_BYTES // pattern))
    with _connect(peer, congestion, connect_timeout) as sock:
        start, cpu_start = time.monotonic(), time.process_time()
        try:
            _send_all(sock, buffer, size)
            sock.shutdown(socket.SHUT_WR)
            replied = _read_to_end(sock)
            _wait_acknowledged(sock)
        except OSError as error:
            raise _worded(error, f"connection to {peer} failed") from error
        seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu_start
        info = tcp_info(sock)
        return SendResult(
            local=str(Endpoint(*sock.getsockname()[:2])),
            peer=str(peer),
            bytes_sent=size,
            bytes_replied=replied,
            pattern=pattern,
            congestion=_congestion(sock),
            mss=info.snd_mss,
            retransmits=info.total_retrans,
            seconds=seconds,
            goodput_gbps=size * 8 / seconds / 1e9,
            cpu_seconds=cpu_seconds,
        )


def _connect(peer: Endpoint, congestion: str | None, timeout: float) -> socket.socket:
    """Return a blocking socket connected to the first address of `peer` that answers."""
    if not peer.host:
        raise ConfigError(f"{str(peer)!r} has no host; write HOST:PORT")
    try:
        found = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise ConfigError(f"cannot resolve {peer.host!r}: {error.strerror}") from error
    failure: OSError | None = None
    for family, kind, protocol, _, address in found:
        with contextlib.ExitStack() as undo:
            sock = undo.enter_context(socket.socket(family, kind, protocol))
            _pin_congestion(sock, congestion)
            sock.settimeout(timeout)
            try:
                sock.connect(address)
            except OSError as error:
                failure = error
                continue
            sock.settimeout(None)
            undo.pop_all()
            return sock
    assert failure is not None  # getaddrinfo() returns at least one address or raises
    raise _worded(failure, f"cannot connect to {peer}") from failure


def _worded(error: OSError, what: str) -> OSError:
    """The same error with a text that says what was being done."""
    number = error.errno or errno.ETIMEDOUT  # settimeout()'s TimeoutError carries none
    return OSError(number, f"{what}: {os.strerror(number)}")


def _pin_congestion(sock: socket.socket, name: str | None) -> None:
    wanted = name or DEFAULT_CONGESTION
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, wanted.encode())
    except OSError as error:
        if name is not None:
            raise ConfigError(
                f"congestion control {name!r} cannot be used ({error.strerror}); "
                "see sysctl net.ipv4.tcp_allowed_congestion_control"
            ) from error


def _congestion(sock: socket.socket) -> str:
    name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return name.rstrip(b"\0").decode()


def _send_all(sock: socket.socket, buffer: memoryview, size: int) -> None:
    """Send `size` bytes of the endless repetition of `buffer`."""
    sent = 0
    while sent < size:
        start = sent % len(buffer)
        sent += sock.send(buffer[start : start + size - sent])


def _read_to_end(sock: socket.socket) -> int:
    """Read until the receiver's FIN; returns the number of bytes it sent."""
    total = 0
    while data := sock.recv(_REPLY_BYTES):
        total += len(data)
    return total


def _wait_acknowledged(sock: socket.socket) -> None:
    """Wait until our FIN, and with it every byte, is acknowledged.

    The receiver's FIN alone does not say so: it may have come first (a receiver that
    half-closes). The kernel has no event for this, so the queue is looked at.
    """
    unacknowledged = array.array("i", [0])
    while True:
        fcntl.ioctl(sock, termios.TIOCOUTQ, unacknowledged)  # SIOCOUTQ of tcp(7)
        if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(number, os.strerror(number))
        if unacknowledged[0] == 0:
            return
        time.sleep(_ACK_POLL_SECONDS)
