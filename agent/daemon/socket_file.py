# SPDX-License-Identifier: Apache-2.0
"""The path at which applications connect: one agent has it, and a killed one's is taken over.

A socket's file outlives the process that bound it, and does not say so. What does is a lock on
a file beside it (`<path>.lock`), which the kernel drops with the process. Whoever has the lock may
remove a socket that nobody answers on; one that somebody answers on without the lock is another
program's, and is left alone.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

from devmemtcp.agent.closing import Closing
from devmemtcp.agent.errors import ConfigError

_BACKLOG = 128

log = logging.getLogger(__name__)


class SocketFile(Closing):
    """A listening SOCK_SEQPACKET socket and its file, both ours until closed."""

    listener: socket.socket

    def __init__(self, path: Path, *, uid: int = -1, gid: int = -1, mode: int = 0o600) -> None:
        """Listen at `path`; its directory is made when it is missing. -1: the process's own.

        Raises ConfigError when another agent or another program has the path, OSError as the
        kernel does.
        """
        self.path = path
        with ExitStack() as undo:
            _make_directory(path.parent)
            self._lock(undo)
            _remove_stale(path)
            kind = socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self.listener = undo.enter_context(socket.socket(socket.AF_UNIX, kind))
            # Of the sender of each message; accepted sockets inherit it since Linux 6.16.
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            previous = os.umask(0o777)  # nobody connects before owner and mode are right
            try:
                self.listener.bind(str(path))
            finally:
                os.umask(previous)
            undo.callback(_remove, path)
            os.chown(path, uid, gid)
            os.chmod(path, mode)
            _warn_of_a_shut_directory(path.parent, mode)
            self.listener.listen(_BACKLOG)
            self._undo = undo.pop_all()

    def _lock(self, undo: ExitStack) -> None:
        lock = Path(f"{self.path}.lock")
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(lock, flags, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.pread(fd, 32, 0).decode(errors="replace").strip() or "?"
                os.close(fd)
                raise ConfigError(
                    f"an agent (process {pid}) serves {self.path} already; "
                    "give this one another --socket"
                ) from None
            if os.fstat(fd).st_nlink:
                break
            os.close(fd)  # its agent ended just now and took the file with it
        undo.callback(os.close, fd)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        undo.callback(_remove, lock)

    def close(self) -> None:
        """Remove the file, then let others have the path; idempotent."""
        self._undo.close()


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o755)
    except FileExistsError:
        return
    except FileNotFoundError:
        raise ConfigError(f"there is no directory {directory.parent}; make it first") from None
    os.chmod(directory, 0o755)  # whatever the umask: who may connect is the socket's mode


def _warn_of_a_shut_directory(directory: Path, mode: int) -> None:
    """An existing directory keeps its mode; say so when it shuts out whom the socket's lets in."""
    through = stat.S_IMODE(directory.stat().st_mode)
    if (mode & 0o006 and not through & 0o001) or (mode & 0o060 and not through & 0o011):
        log.warning(
            "mode %04o of the socket does not help: its directory %s has mode %04o; chmod it",
            *(mode, directory, through),
        )


def _remove_stale(path: Path) -> None:
    """Remove a socket that a killed agent left behind. Raises ConfigError for anything else."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError(f"{path} exists and is not a socket; remove it or give another --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as probe:
        error = probe.connect_ex(str(path))
    if error != errno.ECONNREFUSED:
        raise ConfigError(f"another program listens at {path}; give this agent another --socket")
    path.unlink()


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except PermissionError as error:
        # The agent has become a user who does not own the directory.
        log.warning("%s stays: %s; the next agent takes it over", path, error.strerror)
