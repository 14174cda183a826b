# SPDX-License-Identifier: Apache-2.0
"""Where a netlink socket leads: to the kernel of a network namespace, or to an agent."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from pathlib import Path

from devmemtcp.netlink.constants import AGENT_SOCKET, NETLINK_GENERIC, SOL_NETLINK, SocketOption

Target = str | os.PathLike[str] | socket.socket
"""``"kernel"``, ``"agent"`` (at its usual path), the path of an agent's socket, or a socket."""

NetNs = str | os.PathLike[str]
"""A network namespace: its name below /run/netns, or a path."""

_CLONE_NEWNET = 0x40000000


def open_socket(
    target: Target,
    *,
    protocol: int = NETLINK_GENERIC,
    netns: NetNs | None = None,
    timeout: float | None = None,
) -> socket.socket:
    """Open a socket to a target; one that is given is returned as it is.

    `protocol` and `netns` are about the kernel's alone; without `netns` it is the calling
    thread's namespace. Raises OSError: no such namespace, or nobody listens at the path.
    """
    if isinstance(target, str) and target == "kernel":
        return _kernel_socket(protocol, netns)
    if netns is not None:
        raise ValueError("netns is for the kernel; an agent serves the namespace it was given")
    if isinstance(target, socket.socket):
        return target
    path = AGENT_SOCKET if target == "agent" else os.fspath(target)
    return _agent_socket(path, timeout)


def _agent_socket(path: str, timeout: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except OSError as error:
        sock.close()
        if error.errno is None:  # TimeoutError of settimeout()
            raise
        text = f"no agent answers: {os.strerror(error.errno)}"
        if isinstance(error, PermissionError):
            text = "the agent's socket is not open to this user"
        # OSError() makes the subclass that belongs to the errno.
        raise OSError(error.errno, text, path) from error
    return sock


def _kernel_socket(protocol: int, netns: NetNs | None) -> socket.socket:
    sock = socket_in(netns, socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    try:
        # An old kernel that lacks one of these is none that has the netdev family.
        for option in SocketOption.CAP_ACK, SocketOption.EXT_ACK, SocketOption.GET_STRICT_CHK:
            sock.setsockopt(SOL_NETLINK, option, 1)
        sock.bind((0, 0))
    except OSError:
        sock.close()
        raise
    return sock


def socket_in(netns: NetNs | None, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """Make a socket; it belongs to the namespace that its thread is in just then.

    Raises OSError: no such namespace, or no permission to enter it.
    """
    if netns is None:
        return socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    path = Path("/run/netns", netns)  # which an absolute path replaces
    made: list[socket.socket | OSError] = []

    def visit() -> None:
        try:
            _enter(path)
            made.append(socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol))
        except OSError as error:
            made.append(error)

    # A thread of its own, so that the caller's never leaves its namespace.
    visitor = threading.Thread(target=visit)
    visitor.start()
    visitor.join()
    (result,) = made
    if isinstance(result, OSError):
        raise result
    return result


def _enter(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(fd)


_libc = ctypes.CDLL(None, use_errno=True)
