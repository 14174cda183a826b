# SPDX-License-Identifier: Apache-2.0
r"""What a NIC's settings were, written down before they are changed, so that they can be put back.

One file a NIC, made by the first `apply` and kept until `undo`, locked while either of them runs:

    /run/devmemtcp-nic/<namespace's cookie>-<ifindex>.journal
        {"version": 1, "ifname": "eth1", "perm": "52:54:00:12:34:56", "parent": "pci/0000:01:00.0"}
        {"was": "channels combined", "value": 2}     before it was first changed
        {"to": "channels combined", "value": 4}      on disk before the change is made

In /run, which a reboot empties: so it does the settings of a NIC, and what is written here would
be wrong after it. A later apply adds to the file; what a setting *was* stays as it was first.

A line that no run writes is skipped with a warning: then something is left as apply made it.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.journal_file import (
    append_line,
    create_locked,
    entries,
    open_directory,
    read_lines,
    remove_if_empty,
)
from devmemtcp.agent.netdev import is_ifname
from devmemtcp.agent.nic.device import Identity
from devmemtcp.agent.nic.setting import ChannelCount, Setting, Value, parse

RUN_DIRECTORY = Path("/run/devmemtcp-nic")
MAX_BYTES = 4 << 20

_VERSION = 1
_FILE = re.compile(r"([0-9]{1,20})-([0-9]{1,10})\.journal", re.ASCII)
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){0,31}", re.ASCII)

log = logging.getLogger(__name__)


@dataclass
class Entry:
    """One setting."""

    setting: Setting
    was: Value
    to: list[Value] = field(default_factory=list)
    """What we have set it to, the last at the end; empty: nothing yet."""


class Journal:
    """The record of one NIC, locked until it is closed."""

    def __init__(self, identity: Identity, ifname: str, directory: Path = RUN_DIRECTORY) -> None:
        """Open the NIC's, or begin one. `ifname`: what it is called now.

        Raises ConfigError when another process is at work on the NIC, when the directory is not
        this user's alone, or when the file is not a journal; OSError.
        """
        self.path = directory / f"{identity.netns}-{identity.ifindex}.journal"
        self._fd = _locked(self.path, ifname)
        try:
            self.entries: dict[str, Entry] = {}
            self._name(identity, ifname)
            lines = self._complete_lines()
            if lines:
                self._read_head(lines[0])
                for line in lines[1:]:
                    self._read_entry(line)
            else:
                self._begin()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Unlock it; one that says nothing goes."""
        if self._fd >= 0 and not self.entries:
            self.drop()
        self.close()

    def close(self) -> None:
        """Unlock it. Twice is once."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def drop(self) -> None:
        """Remove it: there is nothing left to put back."""
        self.path.unlink()
        remove_if_empty(self.path.parent)
        self.entries = {}
        self.close()

    def is_of(self, identity: Identity) -> bool:
        """Whether it is this NIC's, and not that of one that had the index before."""
        return self.hardware == (identity.perm_address, identity.parent)

    def refile(self, ifindex: int) -> bool:
        """Give it to the index that its NIC has come back with; False: that has a journal.

        Raises ConfigError when another process is at work on the NIC.
        """
        netns, _, _ = self.path.name.partition("-")
        path = self.path.with_name(f"{netns}-{ifindex}.journal")
        # Ours while we look: nobody begins one there meanwhile, only to have it written over.
        fd = _locked(path, self.ifname)
        try:
            if os.fstat(fd).st_size:
                return False
            self.path.rename(path)
        finally:
            os.close(fd)
        _sync_directory(path.parent)
        self.path = path
        return True

    def begin_anew(self, identity: Identity, ifname: str) -> None:
        """Forget a NIC that is gone, for one that has its index now."""
        os.ftruncate(self._fd, 0)
        self.entries = {}
        self._name(identity, ifname)
        self._begin()

    def note_was(self, setting: Setting, value: Value) -> None:
        """Write down what a setting is, unless that of an earlier time is known."""
        if setting.key not in self.entries:
            self._append({"was": setting.key, "value": value})
            self.entries[setting.key] = Entry(setting, value)

    def note_to(self, setting: Setting, value: Value) -> None:
        """Write down what a setting is about to become."""
        self._append({"to": setting.key, "value": value})
        self.entries[setting.key].to.append(value)

    def channels(self) -> list[Entry]:
        """Counts of channels that we have changed."""
        return [
            entry
            for entry in self.entries.values()
            if isinstance(entry.setting, ChannelCount) and entry.to
        ]

    def _name(self, identity: Identity, ifname: str) -> None:
        self.ifname, self.hardware = ifname, (identity.perm_address, identity.parent)

    def _begin(self) -> None:
        perm, parent = self.hardware
        head = {"version": _VERSION, "ifname": self.ifname, "perm": perm, "parent": parent}
        self._append(head)
        _sync_directory(self.path.parent)

    def _append(self, line: dict[str, object]) -> None:
        """A line is on disk, or at least out of this process's hands, before what it announces."""
        append_line(self._fd, json.dumps(line))
        os.fsync(self._fd)

    def _complete_lines(self) -> list[str]:
        """Lines of the file. What a kill has cut off goes, for the next line begins there."""
        lines = read_lines(self._fd, MAX_BYTES)
        if os.fstat(self._fd).st_size >= MAX_BYTES:
            raise ConfigError(f"{self.path} is too long for a journal")
        whole = sum(len(line.encode("utf-8", "surrogateescape")) + 1 for line in lines)
        os.ftruncate(self._fd, whole)
        return lines

    def _read_head(self, line: str) -> None:
        head = _object(line)
        name, perm, parent = (head.get(key) for key in ("ifname", "perm", "parent"))
        if (
            head.keys() != {"version", "ifname", "perm", "parent"}
            or head["version"] != _VERSION
            or not (isinstance(name, str) and is_ifname(name))
            or not (perm is None or (isinstance(perm, str) and _MAC.fullmatch(perm)))
            or not (parent is None or isinstance(parent, str))
        ):
            raise ConfigError(
                f"{self.path} is not a journal of this version; look at it, and remove it"
            )
        self.ifname, self.hardware = name, (perm, parent)

    def _read_entry(self, line: str) -> None:
        try:
            self._take(_object(line))
        except ValueError as error:
            log.warning("%s: a line that no run writes (%s); skipped", self.path, error)

    def _take(self, fields: dict[str, object]) -> None:
        kind = "was" if "was" in fields else "to"
        key = fields.get(kind)
        if fields.keys() != {kind, "value"} or not isinstance(key, str):
            raise ValueError("not of the form")
        setting = parse(key)
        value = setting.check(fields["value"])
        if kind == "to":
            if key not in self.entries:
                raise ValueError(f"{key} has no old value")
            self.entries[key].to.append(value)
        elif key in self.entries:
            raise ValueError(f"{key} has an old value already")
        else:
            self.entries[key] = Entry(setting, value)


def journals(netns: int, directory: Path = RUN_DIRECTORY) -> Iterator[int]:
    """Indices of the interfaces of a namespace that there are journals of. Raises ConfigError."""
    if not directory.exists():
        return
    open_directory(directory)
    for path in entries(directory):
        match = _FILE.fullmatch(path.name)
        if match is not None and int(match.group(1)) == netns:
            yield int(match.group(2))


def _locked(path: Path, ifname: str) -> int:
    try:
        return create_locked(path, exist_ok=True)
    except BlockingIOError as error:
        raise ConfigError(f"another `devmemtcp nic` is at work on {ifname}") from error


def _object(line: str) -> dict[str, object]:
    """A JSON object, or an empty one for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
