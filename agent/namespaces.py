# SPDX-License-Identifier: Apache-2.0
"""Named network namespaces: create, enter, remove.

All of it happens in the calling thread. pyroute2's own create() and NetNS fork a
helper, and a signal that unwinds the helper (Ctrl-C goes to the whole process
group) would run this process's clean-up a second time, in the wrong process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from pyroute2 import netns

DIRECTORY = Path(netns.NETNS_RUN_DIR)

_SO_NETNS_COOKIE = 71
_CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


def exists(name: str) -> bool:
    """Whether something has this name, be it a namespace or the remains of one."""
    return os.path.lexists(DIRECTORY / name)


def create(name: str) -> None:
    """Create a namespace as `ip netns add` does. The caller stays in its own.

    Raises FileExistsError, or OSError as unshare(2) and mount(2) do.
    """
    with _home() as home:
        if _libc.unshare(_CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"unshare: {os.strerror(number)}")
        try:
            netns.attach(name, threading.get_native_id())
        finally:
            netns.setns(home)


def remove(name: str) -> None:
    """Take the name away; the namespace ends with its last process. Raises FileNotFoundError."""
    netns.remove(name)


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """Put the calling thread, and the processes that it starts meanwhile, into a namespace."""
    with _home() as home:
        netns.setns(name, flags=0)
        try:
            yield
        finally:
            netns.setns(home)


def netns_cookie() -> int:
    """Of the calling thread's namespace (Linux 5.14): not given again until a reboot."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    return int.from_bytes(raw, sys.byteorder)


@contextlib.contextmanager
def _home() -> Iterator[int]:
    """A descriptor of the calling thread's namespace."""
    fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
