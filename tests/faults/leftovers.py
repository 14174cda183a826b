# SPDX-License-Identifier: Apache-2.0
"""What is left behind: what the kernel has of ours that it had not before.

    with nothing_left(veth.right):
        ...  # start, receive, be killed

Looked at are, of the whole machine, BPF programs, maps and links, what is pinned, named network
namespaces, /dev/shm and huge pages; of the given ends' namespaces, links with what is set on them,
XDP programs, queueing disciplines and filters, threads of NAPI, and sockets; of this process,
descriptors, threads and mappings of memfds; the processes that it started, by descent and by a mark
in their environment; and a folder that they have for temporary files.

The kernel takes some things down by work queues, so what is found gets a while to go. On a machine
where others work too, a BPF object counts as theirs when one of their processes has a descriptor
of it, and a namespace when it bears the pid of one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from devmemtcp.netlink.constants import NapiThreaded
from devmemtcp.netlink.errors import NetlinkError
from devmemtcp.netlink.netdev import Netdev

from ..net.veth import VethEnd
from ..slowness import SLOWNESS

PATIENCE = 10.0 * SLOWNESS
"""Seconds that what is found gets to go: work queues of the kernel, on a busy machine."""
_MARK = "DEVMEMTCP_TEST_TREE"
_INTERVAL = 0.01
_PROC = Path("/proc")
_NETNS_DIR = Path("/var/run/netns")
_TCP_INODE = 9  # column of /proc/net/tcp
_FLAGS = {"up": 0x1, "promiscuous": 0x100, "allmulti": 0x200}  # net_device_flags
_libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)

Things = Counter[str]


class Leftovers:
    """A look at the world as it is now, to compare a later one with."""

    def __init__(self, *ends: VethEnd, inside: Sequence[int] = ()) -> None:
        """`ends`: whose namespaces are looked at; those of which the name is gone are not.

        `inside`: processes that go on, besides this one, and may have nothing more, either.
        """
        # What is started from now on bears it, so that orphans are known, too.
        os.environ.setdefault(_MARK, f"{os.getpid()}.{time.monotonic_ns()}")
        self._ends = ends
        self._inside = (os.getpid(), *inside)
        self._before = self._look()

    def found(self) -> list[str]:
        """What there is now and was not before, in words."""
        more = self._look() - self._before
        return sorted(f"{count} x {what}" if count > 1 else what for what, count in more.items())

    def settled(self, patience: float = PATIENCE) -> tuple[list[str], float]:
        """What is still there when nothing is, or `patience` is over; and seconds until then."""
        started = time.monotonic()
        while (found := self.found()) and time.monotonic() - started < patience:
            time.sleep(_INTERVAL)
        return found, time.monotonic() - started

    def _look(self) -> Things:
        ours = set(processes())
        looks: list[Callable[[], Things]] = [
            lambda: _bpf(ours),
            _pins,
            lambda: _namespaces(ours),
            lambda: Counter(f"process {_command(pid)}" for pid in ours - {os.getpid()}),
            *(lambda pid=pid: _inside(pid) for pid in self._inside),
            _shared_memory,
            *(lambda end=end: _of_end(end) for end in self._ends),
        ]
        return sum((look() for look in looks), Things())


@contextmanager
def nothing_left(*ends: VethEnd, patience: float = PATIENCE) -> Iterator[Leftovers]:
    """Raises AssertionError when the block has ended well, and something stays for `patience`.

    Meanwhile temporary files of this process, and of those it starts, are in a folder of their own.
    """
    with _temporary_folder() as folder:
        leftovers = Leftovers(*ends)
        yield leftovers
        found, _ = leftovers.settled(patience)
        found += [f"file {path}" for path in sorted(folder.rglob("*"))]
    assert not found, f"left behind: {'; '.join(found)}"


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="devmemtcp-leftovers-") as name:
        Path(name).chmod(0o711)
        os.environ["TMPDIR"] = name
        tempfile.tempdir = None  # to be asked for again
        try:
            yield Path(name)
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before
            tempfile.tempdir = None


# ---- processes ----


def processes() -> list[int]:
    """This process, all that descend from it, and all that bear its mark."""
    mark = f"{_MARK}={os.environ[_MARK]}".encode() if _MARK in os.environ else None
    parents: dict[int, int] = {}
    found = {os.getpid()}
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        try:
            parents[pid] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if mark and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.add(pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended meanwhile, or is a kernel thread
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found & parents.keys())


def _command(pid: int) -> str:
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return f"{pid} (ended)"
    return f"{pid} ({b' '.join(words).decode(errors='replace').strip()[:80] or 'ended'})"


def _inside(pid: int) -> Things:
    proc = _PROC / str(pid)
    found = Things({"thread": len(os.listdir(proc / "task"))})
    for descriptor in (proc / "fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except FileNotFoundError:  # of the listing itself
            continue
        found[f"descriptor of {target.partition(':[')[0]}"] += 1
    for line in (proc / "maps").read_text().splitlines():
        if "/memfd:devmemtcp" in line:
            found[f"mapping of {line.split(maxsplit=5)[5]}"] += 1
    return Things({f"{what} in process {pid}": count for what, count in found.items()})


# ---- the machine ----


def _bpf(ours: set[int]) -> Things:
    """Ids of programs, maps and links; without those that others have descriptors of."""
    found = Things()
    theirs: set[str] | None = None
    for kind in ("prog", "map", "link"):
        after = getattr(_libbpf, f"bpf_{kind}_get_next_id")
        number = ctypes.c_uint32(0)
        while after(number, ctypes.byref(number)) == 0:
            if theirs is None:
                theirs = _held_by_others(ours)
            if f"{kind}_id:{number.value}" not in theirs:
                found[f"BPF {kind} {number.value}"] = 1
        if ctypes.get_errno() != errno.ENOENT:
            raise OSError(ctypes.get_errno(), f"cannot list BPF {kind}s")
    return found


def _held_by_others(ours: set[int]) -> set[str]:
    found: set[str] = set()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) in ours:
            continue
        try:
            for info in (entry / "fdinfo").iterdir():
                text = info.read_text()
                found |= {kind + number for kind, number in _BPF_ID.findall(text)}
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


_BPF_ID = re.compile(r"^((?:prog|map|link)_id:)\s*(\d+)$", re.MULTILINE)


def _pins() -> Things:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    roots = [Path(words[1]) for words in mounts if words[2] == "bpf"]
    return Things({f"pin {path}": 1 for root in roots for path in root.rglob("*")})


def _namespaces(ours: set[int]) -> Things:
    if not _NETNS_DIR.exists():
        return Things()
    names = os.listdir(_NETNS_DIR)
    return Things({f"namespace {name}": 1 for name in names if not _of_another(name, ours)})


def _of_another(name: str, ours: set[int]) -> bool:
    pids = map(int, re.findall(r"\d+", name))
    return any(pid not in ours and (_PROC / str(pid)).exists() for pid in pids)


def _shared_memory() -> Things:
    found = Things({f"file /dev/shm/{name}": 1 for name in os.listdir("/dev/shm")})
    info = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    for name in ("HugePages_Total", "HugePages_Rsvd"):
        found[name] = int(info.get(name, "0"))
    found["huge page in use"] = found["HugePages_Total"] - int(info.get("HugePages_Free", "0"))
    return found


# ---- a namespace ----


def _of_end(end: VethEnd) -> Things:
    if not (_NETNS_DIR / end.netns).exists():
        return Things()
    found = Things()
    with end.enter():
        with IPRoute() as netlink:
            for link in netlink.get_links():
                found += _link(netlink, link)
        found += _sockets()
    return Things({f"{what} in {end.netns}": count for what, count in found.items()})


def _link(netlink: IPRoute, link: Any) -> Things:
    index, name = link["index"], link.get_attr("IFLA_IFNAME")
    found = Things({f"link {name}": 1, f"{name}: MTU {link.get_attr('IFLA_MTU')}": 1})
    found.update(f"{name} {what}" for what, bit in _FLAGS.items() if link["flags"] & bit)
    xdp = link.get_attr("IFLA_XDP")
    if xdp is not None and xdp.get_attr("IFLA_XDP_ATTACHED"):
        found[f"XDP program on {name}"] = 1
    for qdisc in netlink.get_qdiscs(index=index):
        found[f"qdisc {qdisc.get_attr('TCA_KIND')} on {name}"] += 1
    found[f"thread of NAPI of {name}"] = _napi_threads(index)
    return found


def _napi_threads(index: int) -> int:
    with Netdev() as netdev:
        try:
            found = netdev.napi_get(ifindex=index)
        except (
            NetlinkError
        ) as error:  # ENOENT: it is gone or has none; before Linux 6.8: no such command
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                raise
            return 0
    return sum(napi.threaded == NapiThreaded.ENABLED for napi in found)


def _sockets() -> Things:
    """By protocol. TCP's are those that somebody has: an inode of 0 is TIME-WAIT, or last words."""
    net = Path("/proc/thread-self/net")
    found = Things()
    for line in (net / "protocols").read_text().splitlines()[1:]:
        name, _, count = line.split()[:3]
        if not name.startswith("TCP"):
            found[f"{name} socket"] = int(count)
    for name in ("tcp", "tcp6"):
        if (net / name).exists():
            lines = (net / name).read_text().splitlines()[1:]
            found["TCP socket"] += sum(line.split()[_TCP_INODE] != "0" for line in lines)
    return found
