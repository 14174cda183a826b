# SPDX-License-Identifier: Apache-2.0
"""The conditions of a measurement: what is set before it, and what is seen beside it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from devmemtcp.agent.bench._native import lib

_SIOCETHTOOL = 0x8946  # include/uapi/linux/sockios.h
_IFNAMSIZ = 16
# ETHTOOL_G* and ETHTOOL_S* of include/uapi/linux/ethtool.h. In this order: a kernel that turns
# checksums off turns segmentation off with them, and has it refused until they are on again.
_FEATURES = {
    "tx-checksum": (0x16, 0x17),
    "tso": (0x1E, 0x1F),
    "gso": (0x23, 0x24),
    "gro": (0x2B, 0x2C),
}
SEGMENTATION = ("tso", "gso", "gro")

_CLONE_NEWNS = 0x20000
_MS_REC_PRIVATE = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE
_TICKS = os.sysconf("SC_CLK_TCK")


def offloads(ifname: str) -> dict[str, bool]:
    """What the interface (of the thread's namespace) leaves to later: checksums, segmentation."""
    return {name: bool(_ethtool(ifname, get, 0)) for name, (get, _) in _FEATURES.items()}


def set_offloads(ifname: str, wanted: dict[str, bool]) -> None:
    """Turn offloads on and off. Raises OSError when the driver refuses."""
    for name, (_, put) in _FEATURES.items():
        if name in wanted:
            _ethtool(ifname, put, int(wanted[name]))


def _ethtool(ifname: str, command: int, value: int) -> int:
    data = ctypes.create_string_buffer(struct.pack("=II", command, value), 8)
    ifreq = struct.pack(f"{_IFNAMSIZ}sP16x", ifname.encode(), ctypes.addressof(data))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _SIOCETHTOOL, ifreq)
    return int(struct.unpack("=II", data.raw)[1])


def mount_own_sysfs() -> None:
    """Give the calling process, alone, the /sys of its network namespace.

    The machine's /sys shows the devices of the namespace that mounted it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(_CLONE_NEWNS), "cannot have a mount namespace")
    _check(libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None), "cannot make mounts private")
    _check(libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None), "cannot mount /sys")


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def set_rps(ifname: str, cpu: int | None) -> None:
    """Steer the interface's received packets to a core (RPS); None: where they came up."""
    mask = 0 if cpu is None else 1 << cpu
    words = []
    while True:  # 32 bits a word, separated by commas (bitmap_parse())
        words.append(f"{mask & 0xFFFFFFFF:08x}")
        mask >>= 32
        if not mask:
            break
    for queue in Path("/sys/class/net", ifname, "queues").glob("rx-*"):
        (queue / "rps_cpus").write_text(",".join(reversed(words)))


def tsc_hz() -> float:
    """Frequency of the time stamp counter, by the clock; 0.0 where there is none."""
    if not lib.stream_tsc():
        return 0.0
    tsc, start = lib.stream_tsc(), time.monotonic_ns()
    time.sleep(0.05)
    return float(lib.stream_tsc() - tsc) * 1e9 / (time.monotonic_ns() - start)


@dataclass(frozen=True)
class CpuTimes:
    """Accounted CPU time, in seconds, at one moment."""

    at: float
    """time.monotonic()."""
    tasks: float
    """Of all tasks, kernel threads included (/proc/stat: user, nice, system)."""
    steal: float
    """That the hypervisor gave to others."""
    own: float
    """Of the processes that are part of the measurement, and the kernel's softirq threads."""

    @classmethod
    def now(cls, pids: Iterable[int]) -> CpuTimes:
        """Read them; `pids` are the processes of the measurement."""
        own = sum(_process_ticks(pid) for pid in {*pids, *_softirq_threads()})
        with open("/proc/stat") as stat:
            fields = [int(field) for field in stat.readline().split()[1:]]
        user, nice, system, steal = fields[0], fields[1], fields[2], fields[7]
        return cls(time.monotonic(), (user + nice + system) / _TICKS, steal / _TICKS, own / _TICKS)


def foreign_cores(before: CpuTimes, after: CpuTimes) -> float:
    """Cores that tasks outside the measurement had in between, by the kernel's (tick) accounts."""
    taken = (after.tasks - before.tasks) - (after.own - before.own)
    return max(0.0, taken / (after.at - before.at))


def stolen_cores(before: CpuTimes, after: CpuTimes) -> float:
    """Cores that the hypervisor gave to others in between."""
    return (after.steal - before.steal) / (after.at - before.at)


def _process_ticks(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])  # utime and stime, proc_pid_stat(5)


def _softirq_threads() -> list[int]:
    """ksoftirqd and threaded NAPI: they do the work that is measured."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name = (entry / "comm").read_text(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if name.startswith(("ksoftirqd/", "napi/")):
                found.append(int(entry.name))
    return found
