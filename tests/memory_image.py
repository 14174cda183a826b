# SPDX-License-Identifier: Apache-2.0
"""All that a process's memory holds, to be searched: /proc/PID/mem, its memfds, a core dump.

Reading by /proc/PID/mem heeds no protection (FOLL_FORCE), so what is found nowhere there can be
found by no code of the process either. What the kernel refuses even so is named, not left out.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from devmemtcp.agent.errors import Unsupported

from .slowness import SLOWNESS

_PIECE = 4 << 20
_EVERYTHING = "0x1ff"  # core(5): bits of /proc/PID/coredump_filter
_DUMP_SECONDS = 60.0 * SLOWNESS
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \S+ *(.*)")


@dataclass(frozen=True)
class Mapping:
    """A line of /proc/PID/maps."""

    start: int
    end: int
    rights: str
    name: str

    @property
    def size(self) -> int:
        return self.end - self.start


@dataclass
class Search:
    """What was looked at, and how often the wanted bytes were there."""

    searched: int = 0
    """Bytes."""
    found: dict[str, int] = field(default_factory=dict)
    """By name of mapping or file; those with none are left out."""
    refused: list[Mapping] = field(default_factory=list)
    """Mappings that cannot be read from their first byte on."""

    @property
    def total(self) -> int:
        return sum(self.found.values())

    def note(self, name: str, searched: int, found: int) -> None:
        self.searched += searched
        if found:
            self.found[name] = self.found.get(name, 0) + found


def mappings(pid: int) -> Iterator[Mapping]:
    """All of a process. Raises FileNotFoundError when there is none."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = _MAPPING.fullmatch(line)
        assert fields, line
        start, end, rights, name = fields.groups()
        yield Mapping(int(start, 16), int(end, 16), rights, name)


def _count(source: BinaryIO, start: int, end: int, wanted: bytes) -> tuple[int, int]:
    """(bytes read, occurrences) between two positions; those across pieces count once.

    Ends at the first byte that cannot be read, and raises OSError when that is the first of all.
    """
    position, found, tail = start, 0, b""
    while position < end:
        source.seek(position)
        try:
            piece = source.read(min(_PIECE, end - position))
        except OSError:
            if position == start:
                raise
            break
        if not piece:
            break
        position += len(piece)
        found += (tail + piece).count(wanted)
        tail = piece[1 - len(wanted) :]
    return position - start, found


def search_memory(pid: int, wanted: bytes) -> Search:
    """Every mapping of a process, whatever its protection."""
    result = Search()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for mapping in mappings(pid):
            try:
                seen = _count(memory, mapping.start, mapping.end, wanted)
            except (OSError, OverflowError):  # overflow: vsyscall is beyond a file's offsets
                result.refused.append(mapping)
                continue
            result.note(mapping.name or "anonymous", *seen)
    return result


def search_files(pid: int, wanted: bytes) -> Search:
    """Every memfd that the process has open, mapped or not."""
    result = Search()
    seen = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name, inode = os.readlink(entry), entry.stat().st_ino
        except FileNotFoundError:  # closed since, as is the descriptor of the listing
            continue
        if name.startswith("/memfd:") and inode not in seen:
            seen.add(inode)
            with entry.open("rb", buffering=0) as file:
                result.note(name, *_count(file, 0, entry.stat().st_size, wanted))
    return result


def dump_core(pid: int, folder: Path) -> Path:
    """Have the kernel write a core of a process whose current directory is `folder`, and end it.

    Everything mapped is to be in it, files too. Raises Unsupported where cores go elsewhere:
    core_pattern is the machine's, and is left alone.
    """
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if "/" in pattern or pattern.startswith("|"):
        raise Unsupported(f"this machine's cores go elsewhere (core_pattern is {pattern!r})")
    assert Path(f"/proc/{pid}/cwd").samefile(folder)
    infinity = resource.RLIM_INFINITY
    resource.prlimit(pid, resource.RLIMIT_CORE, (infinity, infinity))
    Path(f"/proc/{pid}/coredump_filter").write_text(_EVERYTHING)
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGABRT)
    finally:
        os.close(pidfd)
    deadline = time.monotonic() + _DUMP_SECONDS
    while not (cores := list(folder.glob("*core*"))) or _is_written(pid):
        assert time.monotonic() < deadline, "no core was written"
        time.sleep(0.01)
    return cores[0]


def _is_written(pid: int) -> bool:
    """Whether a process that was told to end is at its core still."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    return "State:\tZ" not in status


def search_core(core: Path, wanted: bytes) -> Search:
    """A core dump, as any other file."""
    result = Search()
    with core.open("rb", buffering=0) as file:
        result.note(core.name, *_count(file, 0, core.stat().st_size, wanted))
    return result
