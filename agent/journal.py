# SPDX-License-Identifier: Apache-2.0
"""A record of what a run has made, so that a later run can remove it.

Namespaces with a name outlive the process that made them, also when it is
killed with SIGKILL. Each run therefore writes down every name *before* it makes
the thing, in one file of its own that it keeps locked (flock) while it lives:

    /run/devmemtcp-lab/<pid>.journal        "netns devmemtcp-<pid>-near\\n" ...

NICs that are lent to a namespace have a line each behind it (`lent_nic`); they are taken back
before the namespace is removed. (Without that the kernel would do it, but into its first
namespace, and down.)

The lock, not the pid, tells the living from the dead (`journal_file`). sweep()
undoes what unlocked journals list.

A journal is read as if an enemy had written it: only a plain file of our own in
a directory that nobody else can write to, only lines of exactly these forms, and
only names that carry that file's pid. So the worst a garbled journal can do is to
leave something behind, or an interface of ours with another MTU, up or down, or with another
link-local address or sysctl.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from pathlib import Path
from typing import Self

from devmemtcp.agent import namespaces
from devmemtcp.agent.journal_file import (
    append_line,
    create_locked,
    entries,
    locked_if_dead,
    open_directory,
    read_lines,
    remove_if_empty,
)
from devmemtcp.agent.lent_nic import LentNic

RUN_DIRECTORY = Path("/run/devmemtcp-lab")
MAX_BYTES = 64 * 1024

_FILE = re.compile(r"([1-9][0-9]{0,9})\.journal", re.ASCII)
_LINE = re.compile(r"netns (devmemtcp-([1-9][0-9]{0,9})-(?:near|far))", re.ASCII)

log = logging.getLogger(__name__)


class Journal:
    """The list of one run; a context manager that undoes what is still on it when it ends."""

    def __init__(self, directory: Path = RUN_DIRECTORY) -> None:
        """Open this process's journal in `directory`, which is made (0700) if it is missing.

        Raises ConfigError when the directory is not ours alone, FileExistsError when a
        live run has this pid's journal (another pid namespace that shares /run).
        """
        self.path = directory / f"{os.getpid()}.journal"
        self._fd = create_locked(self.path)
        self._names: list[str] = []
        self._lent: list[LentNic] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def make_netns(self, side: str) -> str:
        """Create the network namespace `devmemtcp-<pid>-<side>` and return its name.

        `side` is `near` or `far`. Raises OSError as netns creation does; what was there
        before under that name is then left alone.
        """
        name = _netns_name(os.getpid(), side)
        if _LINE.fullmatch(f"netns {name}") is None:
            raise ValueError(f"a namespace is near or far, not {side!r}")
        if namespaces.exists(name):
            raise FileExistsError(
                errno.EEXIST, "namespace exists already and is not of this run", name
            )
        append_line(self._fd, f"netns {name}")
        self._names.append(name)
        namespaces.create(name)
        return name

    def lend(self, nic: LentNic) -> None:
        """Move a NIC into the namespace of its side, which has been made. Raises OSError."""
        append_line(self._fd, nic.line())
        self._lent.append(nic)
        nic.lend(_netns_name(os.getpid(), nic.side))

    def close(self) -> None:
        """Remove what this run made, in reverse, then the journal itself. Idempotent.

        Raises OSError if something could not be removed; the journal then stays, for
        the next run's sweep().
        """
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            while self._lent:
                _take_back(self._lent[-1], os.getpid())
                self._lent.pop()
            while self._names:
                _remove_netns(self._names[-1])
                self._names.pop()
            self.path.unlink()
            remove_if_empty(self.path.parent)
        finally:
            os.close(fd)


def sweep(directory: Path = RUN_DIRECTORY) -> list[str]:
    """Undo what killed runs left behind and return the names that were removed.

    What a live run owns is not touched. A journal that makes no sense is reported to
    the log and left where it is. Raises ConfigError when the directory is not ours alone.
    """
    removed: list[str] = []
    open_directory(directory)
    for entry in entries(directory):
        match = _FILE.fullmatch(entry.name)
        if match is None:
            log.warning("%s is not a journal; left alone", entry)
            continue
        with locked_if_dead(entry) as fd:
            if fd is None:
                continue
            try:
                names, lent = _read(fd, pid=match.group(1), path=entry)
                for nic in _with_a_home(lent, path=entry):
                    _take_back(nic, int(match.group(1)))
                for name in names:
                    if _remove_netns(name):
                        removed.append(name)
                entry.unlink()
            except OSError as error:
                log.warning("%s: %s; will be tried again by the next run", entry, error)
    remove_if_empty(directory)
    return removed


def _netns_name(pid: int, side: str) -> str:
    return f"devmemtcp-{pid}-{side}"


def _read(fd: int, *, pid: str, path: Path) -> tuple[list[str], list[LentNic]]:
    """Return the names to remove and the NICs to take back, the last ones first."""
    names: list[str] = []
    lent: list[LentNic] = []
    for line in read_lines(fd, MAX_BYTES):
        match = _LINE.fullmatch(line)
        nic = LentNic.parse(line)
        if match is not None and match.group(2) == pid:
            names.insert(0, match.group(1))
        elif nic is not None:
            lent.insert(0, nic)
        elif line:
            log.warning("%s: a line that no run writes; skipped", path)
    return names, lent


def _with_a_home(lent: list[LentNic], *, path: Path) -> list[LentNic]:
    """Those that can still be put back, if not from here. Of others nothing is left to be done:
    the kernel has given, or gives, them to its first namespace."""
    homeless = [nic for nic in lent if namespaces.is_gone(nic.home)]
    if homeless:
        names = " and ".join(nic.ifname for nic in homeless)
        log.warning("%s: dropped; the network namespace that %s came from is gone", path, names)
    return [nic for nic in lent if nic not in homeless]


def _take_back(nic: LentNic, pid: int) -> None:
    nic.take_back(_netns_name(pid, nic.side))


def _remove_netns(name: str) -> bool:
    """Remove a named namespace; False when it is gone already.

    A veth pair needs no entry of its own: it is born inside the namespaces and goes
    with them.
    """
    try:
        namespaces.remove(name)
    except FileNotFoundError:
        return False
    return True
