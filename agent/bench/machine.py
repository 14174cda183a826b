# SPDX-License-Identifier: Apache-2.0
"""What a result was measured on, and what disturbed it: recorded beside every figure."""

from __future__ import annotations

import hashlib
import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from devmemtcp import __version__
from devmemtcp.agent._loop import FORM
from devmemtcp.agent.bench import conditions

_MILLISECONDS = 1000 / os.sysconf("SC_CLK_TCK")
_RUNS = (".py", ".so", ".o")
"""Endings of the package's files that have a part in a measurement."""


@dataclass(frozen=True)
class Build:
    """What was measured."""

    version: str
    check: str
    """Form of the check "page or net_iov?" that this process's stack has."""
    digest: str
    """Of the package's files as they are installed, compiled ones included: 16 hex digits."""

    @classmethod
    def look(cls) -> Build:
        """At the installed package."""
        digest = hashlib.sha256()
        for name, file in _package_files(files("devmemtcp")):
            content = file.read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        return cls(__version__, FORM, digest.hexdigest()[:16])

    def __str__(self) -> str:
        return f"devmemtcp {self.version}, check {self.check}, build {self.digest}"


@dataclass(frozen=True)
class Machine:
    """What does not change while it is measured. None: this machine does not say."""

    kernel: str
    architecture: str
    cpu: str
    cores: tuple[int, ...]
    """That may be used."""
    virtual: bool
    """Below a hypervisor, as far as the CPU says so (x86 only)."""
    clock_source: str | None
    tsc_ghz: float | None
    governor: str | None
    """Of the first core. None in most virtual machines: the host decides."""
    bpf_jit: bool | None

    @classmethod
    def look(cls) -> Machine:
        """At the one we are on. Takes 50 ms, for the frequency of the time stamp counter."""
        cpuinfo = _cpuinfo()
        name = os.uname()
        jit = _read("/proc/sys/net/core/bpf_jit_enable")
        return cls(
            kernel=name.release,
            architecture=name.machine,
            cpu=cpuinfo.get("model name", name.machine),
            cores=tuple(sorted(os.sched_getaffinity(0))),
            virtual="hypervisor" in cpuinfo.get("flags", "").split(),
            clock_source=_read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            tsc_ghz=round(conditions.tsc_hz() / 1e9, 3) or None,
            governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            bpf_jit=None if jit is None else jit != "0",
        )

    def __str__(self) -> str:
        parts = [f"Linux {self.kernel}", f"{len(self.cores)} cores of {self.cpu}"]
        if self.tsc_ghz:
            parts.append(f"TSC {self.tsc_ghz:.2f} GHz")
        if self.virtual:
            parts.append("virtual")
        parts.append(f"clock source {self.clock_source or 'unknown'}")
        parts.append(f"governor {self.governor or 'not ours to see'}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Noise:
    """What disturbed a sample, or everything up to a moment."""

    steal_ms: float = 0.0
    """That the hypervisor gave to others, all cores together."""
    switched_out: int = 0
    """Times that this thread was made to wait for another (involuntary context switches)."""
    migrations: int | None = 0
    """Times that this thread changed cores; None: the kernel keeps no such account."""

    @classmethod
    def now(cls) -> Noise:
        """Since the machine, and the calling thread, started."""
        with open("/proc/stat") as stat:
            steal = int(stat.readline().split()[8])
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        return cls(steal * _MILLISECONDS, usage.ru_nivcsw, _migrations())

    def __str__(self) -> str:
        moved = "unknown" if self.migrations is None else self.migrations
        return (
            f"stolen {self.steal_ms:.0f} ms, switched out {self.switched_out} times, "
            f"migrations {moved}"
        )

    def __sub__(self, before: Noise) -> Noise:
        moved = (
            None
            if self.migrations is None or before.migrations is None
            else self.migrations - before.migrations
        )
        return Noise(
            self.steal_ms - before.steal_ms, self.switched_out - before.switched_out, moved
        )


def _package_files(folder: Traversable, above: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        name = f"{above}/{entry.name}"
        if entry.name.endswith(_RUNS):
            yield name, entry
        elif entry.name != "__pycache__" and entry.is_dir():
            yield from _package_files(entry, name)


def _migrations() -> int | None:
    text = _read("/proc/thread-self/sched")
    for line in (text or "").splitlines():
        if line.startswith("se.nr_migrations"):
            return int(line.rpartition(":")[2])
    return None


def _cpuinfo() -> dict[str, str]:
    found: dict[str, str] = {}
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except FileNotFoundError:
        return None
