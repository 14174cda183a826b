# SPDX-License-Identifier: Apache-2.0
"""Two network namespaces joined by a veth pair.

Namespaces are named ``dmt-<pid>-<n>``: the pid tells a later run whose they were,
so the leavings of a killed run are removed before the first test.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, NetNS, netns

from ..slowness import SLOWNESS

_PREFIX = "dmt-"
_RUN_SECONDS = 60.0 * SLOWNESS
_NETNS_DIR = Path("/var/run/netns")
_CLONE_NEWNET = 0x40000000
_IFA_F_NODAD = 0x02
_serial = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


def setns(path: str | Path) -> None:
    """Move the calling thread (only it) into the network namespace at ``path``."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, _CLONE_NEWNET):
            errno = ctypes.get_errno()
            raise OSError(errno, os.strerror(errno), str(path))
    finally:
        os.close(fd)


@dataclass(frozen=True)
class VethEnd:
    """One end of a veth pair, in a namespace of its own."""

    netns: str  # name below /var/run/netns
    ifname: str
    ifindex: int
    ip4: str
    ip6: str
    mac: str

    def set_link(self, **what: Any) -> None:
        """Change the interface, as `ip link set` would: ``mtu=9000``, ``state="down"``."""
        with self.netlink() as handle:
            handle.link("set", index=self.ifindex, **what)

    @contextmanager
    def netlink(self) -> Iterator[IPRoute]:
        """A route netlink socket of this end's namespace; the calling thread is there, too.

        Unlike `NetNS` it needs no helper process, which may not be forked among threads.
        """
        with self.enter(), IPRoute() as handle:
            yield handle

    @contextmanager
    def enter(self) -> Iterator[None]:
        """The calling thread is in this end's namespace for the length of the block.

        Unlike ``ip netns exec`` this leaves the mounts alone: /sys stays the caller's.
        """
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(_NETNS_DIR / self.netns)
            try:
                yield
            finally:
                setns(f"/proc/self/fd/{home}")
        finally:
            os.close(home)

    def popen(self, args: Sequence[str], **kwargs: Any) -> subprocess.Popen[Any]:
        """Start a command in this end's namespace. It is killed when the pair goes."""
        with self.enter():
            return subprocess.Popen(args, **kwargs)

    def run(
        self,
        args: Sequence[str],
        *,
        check: bool = True,
        timeout: float = _RUN_SECONDS,
        **kwargs: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a command in this end's namespace, to its end."""
        with self.enter():
            return subprocess.run(args, check=check, timeout=timeout, **kwargs)


@dataclass(frozen=True)
class Veth:
    """A veth pair between two namespaces: what ``left`` sends, ``right`` receives."""

    left: VethEnd
    right: VethEnd


def _kill_inhabitants(name: str) -> None:
    """SIGKILL every process left in the namespace: only ours can have entered it."""
    inode = os.stat(_NETNS_DIR / name).st_ino
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if os.stat(entry / "ns/net").st_ino == inode:
                os.kill(int(entry.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # gone since the listing, or too privileged to be a test's child


def _remove_netns(name: str) -> None:
    if not (_NETNS_DIR / name).exists():
        return  # a test has taken it away
    _kill_inhabitants(name)
    netns.remove(name)


def remove_leavings() -> None:
    """Namespaces whose maker (the pid in the name) is no longer alive."""
    for path in _NETNS_DIR.glob(f"{_PREFIX}*"):
        maker = path.name.removeprefix(_PREFIX).split("-")[0]
        if maker.isdigit() and not Path("/proc", maker).exists():
            _remove_netns(path.name)


def _configure(end: NetNS, ifname: str, ip4: str, ip6: str) -> tuple[int, str]:
    """Addresses and links up; returns (ifindex, MAC address)."""
    end.link("set", index=end.link_lookup(ifname="lo")[0], state="up")
    ifindex: int = end.link_lookup(ifname=ifname)[0]
    end.addr("add", index=ifindex, address=ip4, prefixlen=24)
    end.addr("add", index=ifindex, address=ip6, prefixlen=64, flags=_IFA_F_NODAD)
    end.link("set", index=ifindex, state="up")
    mac: str = end.link("get", index=ifindex)[0].get_attr("IFLA_ADDRESS")
    return ifindex, mac


def await_carrier(handle: NetNS | IPRoute, ifindex: int) -> None:
    """The kernel drops what is sent before its link watch has seen the carrier."""
    deadline = time.monotonic() + 30 * SLOWNESS
    while handle.link("get", index=ifindex)[0].get_attr("IFLA_OPERSTATE") != "UP":
        assert time.monotonic() < deadline, "the pair has no carrier"
        time.sleep(0.002)


@contextmanager
def two_namespaces() -> Iterator[tuple[str, str]]:
    """Their names, of the left and of the right one; removed again in reverse order."""
    number = next(_serial)
    left, right = (f"{_PREFIX}{os.getpid()}-{number}{side}" for side in "lr")
    with ExitStack() as undo:
        for name in (left, right):
            netns.create(name)
            undo.callback(_remove_netns, name)
        yield left, right


def join(names: Sequence[str], ifnames: Sequence[str]) -> Veth:
    """Set up the interfaces, one in each namespace, whose ends are connected.

    Afterwards nothing of this process is in the namespaces: a test may look who keeps them.
    """
    with NetNS(names[0]) as left, NetNS(names[1]) as right:
        ends = []
        for index, handle in enumerate((left, right)):
            ip4, ip6 = f"10.77.0.{index + 1}", f"fd00:77::{index + 1}"
            ifindex, mac = _configure(handle, ifnames[index], ip4, ip6)
            ends.append(VethEnd(names[index], ifnames[index], ifindex, ip4, ip6, mac))
        for handle, end in zip((left, right), ends, strict=True):
            await_carrier(handle, end.ifindex)
        return Veth(*ends)


@contextmanager
def veth_pair(*, mtu: int = 1500, queues: int = 1) -> Iterator[Veth]:
    """Two namespaces and a veth pair between them."""
    with two_namespaces() as names:
        with NetNS(names[0]) as left:
            size = {"num_tx_queues": queues, "num_rx_queues": queues, "mtu": mtu}
            peer = {"ifname": "veth1", "net_ns_fd": names[1], **size}
            left.link("add", ifname="veth0", kind="veth", peer=peer, **size)
        yield join(names, ("veth0", "veth1"))
