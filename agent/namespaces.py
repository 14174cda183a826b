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
import re
import socket
import sys
import threading
from collections.abc import Iterator
from glob import glob
from pathlib import Path

from pyroute2 import netns

DIRECTORY = Path(netns.NETNS_RUN_DIR)

_SO_NETNS_COOKIE = 71
_PROC_PID_INIT_INO = 0xEFFFFFFC  # include/linux/proc_ns.h
_KTHREADD = 2
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


def is_gone(cookie: int) -> bool:
    """Whether nobody can enter the namespace of this cookie any more; False: that is not known.

    One lives while a process, a descriptor or a mount has it; all are looked at, but for those of
    the few processes that even root may not look at. (A socket alone keeps it, too, but leads
    nobody there.) Known is it to who sees the processes of all pid namespaces.
    """
    try:
        os.readlink(f"/proc/{_KTHREADD}/ns/net")
    except OSError:
        return False
    if os.stat("/proc/self/ns/pid").st_ino != _PROC_PID_INIT_INO:
        return False
    seen = set[int]()
    with _home() as home:
        return all(_cookie_of(path, home, seen) != cookie for path in _handles())


def _handles() -> Iterator[bytes]:
    """Files that stand for network namespaces, and a few for others."""
    nsfs = os.stat("/proc/self/ns/net").st_dev
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        root, where = line.split(b" ")[3:5]
        if root.startswith(b"net:["):
            yield re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), where)
    for process in glob(b"/proc/[0-9]*"):
        yield from glob(process + b"/task/*/ns/net")
        for descriptor in glob(process + b"/fd/*"):
            with contextlib.suppress(OSError):  # closed since, or not to be looked at
                # Its link is no help: that of one that was opened by a name is the name.
                if os.stat(descriptor).st_dev == nsfs:
                    yield descriptor


def _cookie_of(path: bytes, home: int, seen: set[int]) -> int | None:
    """By entering it for a moment. None: it is `seen` already, or cannot be entered."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        inode = os.fstat(fd).st_ino
        if inode in seen:
            return None
        seen.add(inode)
        try:
            netns.setns(fd)
        except OSError:
            return None
        try:
            return netns_cookie()
        finally:
            netns.setns(home)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _home() -> Iterator[int]:
    """A descriptor of the calling thread's namespace."""
    fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
