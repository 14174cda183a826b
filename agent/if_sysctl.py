# SPDX-License-Identifier: Apache-2.0
"""What has been set for one interface below /proc/sys/net, and how to set it again.

An interface that comes to a namespace gets that one's defaults, also where it has been before: with
disable_ipv6 at 1 it would have IPv6 again, and take what routers announce. The files are those of
the calling thread's namespace.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_ROOT = Path("/proc/sys/net")
_PARTS = ("ipv4/conf", "ipv6/conf", "ipv4/neigh", "ipv6/neigh")
_LEFT_OUT = {
    "addr_gen_mode",  # link_local sets it, by netlink
    "mc_forwarding",  # a multicast router's, and cannot be written
    "mtu",  # of IPv6, which follows the interface's
    # Others of the same, in coarser units.
    "base_reachable_time",
    "retrans_time",
    "unres_qlen",
}
_WORD = re.compile(rf"({'|'.join(_PARTS)})/([a-z0-9_]{{1,40}})=(-?[0-9]{{1,10}})", re.ASCII)


@dataclass(frozen=True)
class IfSysctl:
    """One value of an interface's."""

    part: str
    """``ipv6/conf``: protocol and kind."""
    name: str
    value: int

    @classmethod
    def parse(cls, word: str) -> Self | None:
        """What `word()` made; None for anything else."""
        match = _WORD.fullmatch(word)
        if match is None or match.group(2) in _LEFT_OUT:
            return None
        return cls(match.group(1), match.group(2), int(match.group(3)))

    def word(self) -> str:
        """For a journal: one word, without blanks."""
        return f"{self.part}/{self.name}={self.value}"

    def set(self, ifname: str) -> None:
        """Give an interface this value. Raises OSError; EROFS: a container's /proc/sys."""
        path = _ROOT / self.part / ifname / self.name
        if _value(path) != self.value:
            path.write_text(str(self.value))


def set_apart(ifname: str) -> tuple[IfSysctl, ...]:
    """Those in which an interface differs from what a new one would get."""
    return tuple(_set_apart(ifname))


def _set_apart(ifname: str) -> Iterator[IfSysctl]:
    for part in _PARTS:
        with contextlib.suppress(FileNotFoundError):  # there is no IPv6
            for path in sorted((_ROOT / part / ifname).iterdir()):
                value = None if path.name in _LEFT_OUT else _value(path)
                if value is not None and value != _value(_ROOT / part / "default" / path.name):
                    yield IfSysctl(part, path.name, value)


def _value(path: Path) -> int | None:
    """None: it is not a number, or has none, as stable_secret before there is one."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
