# SPDX-License-Identifier: Apache-2.0
"""Is payload out of the reach of the process that runs the stack? The one place that judges.

What brings payload into that process's reach, by design and whatever else is right:

    one process with the application    it has the region mapped: `isolate` them
    a queue without a binding           its packets are received into host memory, and copied
    linear_bytes                        so many bytes of each packet stay with its headers

`Runtime.unreadable` and `SessionStack.unreadable` ask here, and `demo` and `recv` show the answer.
`holders()` looks from the other side: which processes of the machine have a region at all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from signal import SIGSEGV
from typing import Literal, NamedTuple

from devmemtcp.agent.terminal import printable


class Unreadable(NamedTuple):
    """Whether the process that runs the stack cannot read any payload. True only when proved.

    Proved means: a child of that process that reads a device page dies of SIGSEGV; the process has
    no mapping of the region, and no descriptor of it, which in one process with the application
    cannot be; and no payload goes elsewhere, see the module. An agent makes no child: there it
    is the rest, and the agent's word.
    """

    proved: bool
    signal: int
    """That killed the child which read a device page; SIGSEGV (11) when all is well, 0 where none
    is made."""
    mappings: int
    """Mappings of the region, or of any dma-buf, in the stack's process."""
    descriptors: int
    """Open file descriptors of the region, or of any dma-buf, in the stack's process."""
    reason: str
    """One line for people."""

    def __bool__(self) -> bool:
        return self.proved


Where = Literal["inside", "isolated", "agent"]
"""The stack's process: the application's own, one for it alone, or the agent."""


PROMISES: Mapping[Where, str] = {
    "inside": "the application's own process runs the stack, and can read the region",
    "isolated": "the stack's process has no mapping and no descriptor of the region, and at each "
    "start a child of it is seen to die of reading a device page",
    "agent": "the agent's process has no mapping and no descriptor of the region, as it says of "
    "itself; applications need no privilege",
}
"""What follows for payload from where the stack runs, if all else is right."""


def judge(seen: Mapping[str, int], where: Where) -> Unreadable:
    """What follows from the evidence of `Datapath.probe()`; `signal` is not asked of an agent."""
    pid, mappings, descriptors = seen["pid"], seen["mappings"], seen["descriptors"]
    proved = False
    if not seen["bindings"]:
        reason = "no region is bound"
    elif where != "agent" and seen["signal"] != SIGSEGV:
        reason = f"a child of process {pid} read a device page and was not stopped"
    elif where == "inside":
        reason = "stack and application share a process, which has the region; isolate them"
    elif mappings or descriptors:
        reason = f"process {pid} has {mappings} mappings, {descriptors} descriptors"
    elif seen["host_queues"]:
        reason = f"{seen['host_queues']} queues are on host memory, which process {pid} reads"
    elif seen["linear_bytes"]:
        reason = (
            f"the first {seen['linear_bytes']} bytes of each packet's payload stay with its "
            f"headers (linear_bytes), which process {pid} reads"
        )
    else:
        proved = True
        reason = f"process {pid} has no mapping and no descriptor of the region"
        reason += (
            ", as the agent says of itself"
            if where == "agent"
            else ", and its child that read a device page died of SIGSEGV"
        )
    return Unreadable(proved, seen["signal"], mappings, descriptors, reason)


class FileId(NamedTuple):
    """A file as /proc knows it."""

    device: int
    inode: int

    @classmethod
    def of(cls, fd: int) -> FileId:
        """Raises OSError."""
        stat = os.fstat(fd)
        return cls(stat.st_dev, stat.st_ino)


def mappings_of(file: FileId, proc: Path = Path("/proc/self")) -> int:
    """How many of a process's mappings are of that file; see proc(5), /proc/pid/maps."""
    wanted = [f"{os.major(file.device):02x}:{os.minor(file.device):02x}", str(file.inode)]
    lines = (proc / "maps").read_text(errors="backslashreplace").splitlines()
    return sum(line.split()[3:5] == wanted for line in lines)


def command_of(proc: Path) -> str:
    """What a process is called, as it can be printed. Raises OSError."""
    return printable((proc / "comm").read_bytes().strip().decode(errors="backslashreplace"))


def descriptors_of(file: FileId, proc: Path = Path("/proc/self")) -> int:
    """How many of a process's (or thread's) descriptors are of that file."""
    found = 0
    for entry in os.scandir(proc / "fd"):
        try:
            stat = entry.stat()
        except FileNotFoundError:  # closed since, as is the descriptor of the listing itself
            continue
        found += (stat.st_dev, stat.st_ino) == file
    return found


def dma_bufs_of(proc: Path = Path("/proc/self")) -> tuple[int, int]:
    """How many mappings and descriptors of dma-bufs a process has.

    A dma-buf can be of a region's pages (udmabuf), and nobody can be asked of which pages it is.
    """
    lines = (proc / "maps").read_text(errors="backslashreplace").splitlines()
    mapped = sum(line.partition("/")[2].startswith("dmabuf:") for line in lines)
    opened = 0
    for entry in os.scandir(proc / "fd"):
        with suppress(FileNotFoundError):  # closed since
            opened += os.readlink(entry).startswith("/dmabuf:")
    return mapped, opened


class Holder(NamedTuple):
    """A process that has a file open, or mapped."""

    pid: int
    command: str
    descriptors: int
    """Of the thread that has most: threads share them, unless they have taken care not to."""
    mappings: int


class Holders(NamedTuple):
    """Who has a file."""

    holders: tuple[Holder, ...]
    unseen: int
    """Processes that this one may not look at: others of other users, unless it is root."""


def holders(fd: int) -> Holders:
    """Which processes have the file of this descriptor: a region's, for instance.

    What only the kernel refers to is not seen: pages that it has pinned, as those of a UMEM or of
    io_uring's registered buffers, and descriptors on their way through a socket.
    """
    file = FileId.of(fd)
    found, unseen = [], 0
    for proc in Path("/proc").iterdir():
        if not proc.name.isdigit():
            continue
        try:
            descriptors = max(descriptors_of(file, task) for task in (proc / "task").iterdir())
            mappings = mappings_of(file, proc)
            command = command_of(proc)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            continue  # it has ended meanwhile
        except PermissionError:
            unseen += 1
            continue
        if descriptors or mappings:
            found.append(Holder(int(proc.name), command, descriptors, mappings))
    return Holders(tuple(found), unseen)
