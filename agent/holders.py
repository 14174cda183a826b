# SPDX-License-Identifier: Apache-2.0
"""Which processes have what holds an interface: a BPF link, or AF_XDP sockets. From /proc."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from devmemtcp.agent.readability import command_of
from devmemtcp.netlink.xdp_diag import AF_XDP

_SO_DOMAIN = 39
_SIOCGSKNS = 0x894C  # linux/sockios.h: a descriptor of a socket's network namespace
_SYS_PIDFD_GETFD = 438  # the same number everywhere
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Process:
    """Who it is."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})"


def holders_of_link(link_id: int) -> list[Process]:
    """Who has a descriptor of a BPF link, as far as this process may look (PTRACE_MODE_READ).

    Empty for one that is kept by a pin in a bpffs alone.
    """
    line = re.compile(rf"^link_id:\s*{link_id}$", re.MULTILINE)
    return [process for process, link in _links() if line.search(link)]


def who_has_link(link_id: int) -> str:
    """The same in words."""
    who = holders_of_link(link_id)
    return " and ".join(map(str, who)) if who else "a pinned link, or out of sight"


def holders_of_sockets(inodes: Collection[int]) -> list[Process]:
    """Who has one of these sockets, as far as this process may look."""
    names = {f"socket:[{inode}]" for inode in inodes}
    return [
        process
        for process in _processes()
        if any(target in names for _, target in _descriptors(process.pid))
    ]


def with_xdp_sockets() -> list[Process]:
    """Who has AF_XDP sockets of the calling thread's namespace; this process is left out.

    For kernels that do not list them. Each socket of a process that maps one is asked for its
    family, by way of a copy of the descriptor (pidfd_getfd(2), Linux 5.6). Raises OSError, EPERM:
    without CAP_NET_ADMIN nobody is told a socket's namespace.
    """
    here = os.stat("/proc/thread-self/ns/net").st_ino
    return [
        process
        for process in _processes()
        if process.pid != os.getpid()
        and _maps_sockets(process.pid)
        and any(_is_xdp(process.pid, fd, here) for fd, _ in _sockets(process.pid))
    ]


def _links() -> Iterator[tuple[Process, str]]:
    for process in _processes():
        for fd, target in _descriptors(process.pid):
            if target == "anon_inode:bpf_link":
                try:
                    yield process, Path(f"/proc/{process.pid}/fdinfo/{fd}").read_text()
                except OSError:
                    continue  # closed since, or not ours to see


def _processes() -> Iterator[Process]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield Process(int(entry.name), command_of(entry))
            except OSError:
                continue  # it has ended meanwhile


def _descriptors(pid: int) -> Iterator[tuple[int, str]]:
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            yield int(entry.name), os.readlink(entry.path)
    except OSError:
        return  # ended, or another user's


def _sockets(pid: int) -> Iterator[tuple[int, str]]:
    return (each for each in _descriptors(pid) if each[1].startswith("socket:["))


def _maps_sockets(pid: int) -> bool:
    try:
        return b"socket:[" in Path(f"/proc/{pid}/maps").read_bytes()
    except OSError:
        return False


def _is_xdp(pid: int, fd: int, netns: int) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        copy = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0)
    finally:
        os.close(pidfd)
    if copy < 0:
        return False
    # The family is named, or Python asks for an address, which AF_XDP sockets do not tell.
    with socket.socket(AF_XDP, socket.SOCK_RAW, 0, fileno=copy) as found:
        if found.getsockopt(socket.SOL_SOCKET, _SO_DOMAIN) != AF_XDP:
            return False
        namespace = fcntl.ioctl(found.fileno(), _SIOCGSKNS)
    try:
        return os.fstat(namespace).st_ino == netns
    finally:
        os.close(namespace)
