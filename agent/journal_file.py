# SPDX-License-Identifier: Apache-2.0
"""Files by which a run tells a later one what it has done, should it be killed.

They lie in a directory that nobody else can write to, and a run keeps its own locked (flock)
while it lives: the kernel drops the lock with the process, so it tells the living from the dead.
Who reads one takes it for an enemy's all the same: only a plain file of this user's is opened.
What is in it is the affair of its readers: `journal`, `nic.journal`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from devmemtcp.agent.errors import ConfigError

# O_NONBLOCK: a FIFO under a journal's name must not stop us.
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

log = logging.getLogger(__name__)


def open_directory(directory: Path) -> None:
    """Make sure that `directory` exists and that nobody but this user can put files into it.

    Raises ConfigError when it is not this user's alone. Who is not root is told to be, and
    not to remove root's, which would cost what undoes runs that were killed.
    """
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    try:
        status = directory.lstat()
    except FileNotFoundError:
        return  # removed since: who needs it makes it again
    if status.st_uid == 0 != os.geteuid():
        raise ConfigError(f"{directory} is root's alone: run it as root")
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ConfigError(
            f"{directory} must be a directory of this user with mode 0700; look before you remove "
            "it, for what lies there undoes runs that were killed"
        )


def entries(directory: Path) -> list[Path]:
    """What lies in the directory, by name; nothing if there is none."""
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def remove_if_empty(directory: Path) -> None:
    """Take the directory away with its last file."""
    try:
        directory.rmdir()
    except OSError as error:
        # ENOENT: another run was quicker.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise


def create_locked(path: Path, *, exist_ok: bool = False) -> int:
    """Create `path`, and its directory when it is missing, and lock it; returns the descriptor.

    `exist_ok`: or open the one that is there. Raises FileExistsError; BlockingIOError when a run
    that lives has it; ConfigError when what is there is not a plain file of this user's.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | _OPEN | (0 if exist_ok else os.O_EXCL)
    while True:
        open_directory(path.parent)
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            continue  # a run that ended just now took the empty directory with it
        try:
            if not _is_plain(fd):
                raise ConfigError(f"{path} is not a plain file of this user; remove it")
            # One that is new may have been met by a sweep before the lock, and be removed as an
            # empty journal of a dead run: only a locked file that still has its name counts.
            fcntl.flock(fd, fcntl.LOCK_EX | (fcntl.LOCK_NB if exist_ok else 0))
        except BaseException:
            os.close(fd)
            raise
        if os.fstat(fd).st_nlink == 1:
            return fd
        os.close(fd)


@contextlib.contextmanager
def locked_if_dead(path: Path) -> Iterator[int | None]:
    """Yield the locked descriptor of a dead run's journal, or None when it must be left alone."""
    try:
        fd = os.open(path, os.O_RDONLY | _OPEN)
    except OSError as error:
        if error.errno != errno.ENOENT:  # ENOENT: its run ended just now
            log.warning("%s cannot be read (%s); left alone", path, error.strerror)
        yield None
        return
    try:
        yield fd if _is_dead(fd, path) else None
    finally:
        os.close(fd)


def _is_dead(fd: int, path: Path) -> bool:
    if not _is_plain(fd):
        log.warning("%s is not a plain file of this user; left alone", path)
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(fd).st_nlink == 1


def _is_plain(fd: int) -> bool:
    status = os.fstat(fd)
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def append_line(fd: int, line: str) -> None:
    """Write a line at the end, whole or not at all. Raises OSError, ENOSPC: there is no room.

    write(2) does as much as there is room for and calls that a success; but who makes a thing
    relies on its line.
    """
    data = f"{line}\n".encode("utf-8", "surrogateescape")
    size = os.fstat(fd).st_size
    written = os.write(fd, data)
    if written < len(data):
        os.ftruncate(fd, size)
        raise OSError(errno.ENOSPC, f"cannot write the journal: {os.strerror(errno.ENOSPC)}")


def read_lines(fd: int, max_bytes: int) -> list[str]:
    """Lines from the file's beginning. What a kill has cut off in the last one is left out.

    Encoded with "surrogateescape" they are the file's bytes again, whatever those are.
    """
    text = os.pread(fd, max_bytes, 0).decode("utf-8", "surrogateescape")
    return text.split("\n")[:-1]
