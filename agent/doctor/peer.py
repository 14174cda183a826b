# SPDX-License-Identifier: Apache-2.0
"""The other end of a veth, if it can be seen from here: its offloads are what we receive."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from pyroute2 import IPRoute, NetlinkError

from devmemtcp.agent.netdev import NetNs
from devmemtcp.netlink.link import Link, Links

_NAMES = Path("/run/netns")


@dataclass(frozen=True)
class Peer:
    """Where it is."""

    link: Link
    netns: str | None
    """A name below /run/netns; None: the interface's own namespace."""

    @property
    def prefix(self) -> str:
        """What a command begins with that is to be run there."""
        return f"ip netns exec {quote(self.netns)} " if self.netns else ""

    def entered(self) -> AbstractContextManager[None]:
        """The calling thread is there meanwhile. Raises OSError."""
        return nullcontext() if self.netns is None else _entered(self.netns)


def find_peer(link: Link) -> Peer | None:
    """Of an interface of the calling thread's namespace. None: it has none, or not in sight."""
    if link.kind != "veth" or link.lower is None:
        return None
    if link.lower_netns is None:
        with Links() as links:
            return Peer(links.get(link.lower), None)
    for name in _namespaces(link.lower_netns):
        with _entered(name), Links() as links:
            return Peer(links.get(link.lower), name)
    return None


def _namespaces(number: int) -> Iterator[str]:
    """Names of the namespace that this one knows by a number (RTM_GETNSID)."""
    if not _NAMES.is_dir():
        return
    with IPRoute() as route:
        for path in sorted(_NAMES.iterdir()):
            # Not open to this user, gone, or a file that no namespace is mounted on (any more).
            with contextlib.suppress(OSError, NetlinkError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    known = route.get_netnsid(fd=fd)["nsid"]
                finally:
                    os.close(fd)
                if known == number:
                    yield path.name


@contextlib.contextmanager
def _entered(name: str) -> Iterator[None]:
    where = NetNs(name)
    try:
        with where.entered():
            yield
    finally:
        where.close()
