# SPDX-License-Identifier: Apache-2.0
"""The kernel: its release and how it was configured."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from devmemtcp.agent.doctor.look import looked, named
from devmemtcp.agent.doctor.record import Check, fail, note, ok, warn

Release = tuple[int, int]

OLDEST: Release = (6, 1)
"""That the tests have ever run on."""

_NEEDED = {"BPF_SYSCALL": "BPF", "XDP_SOCKETS": "AF_XDP"}
_WANTED = {
    "BPF_JIT": "programs are interpreted",
    "DEBUG_INFO_BTF": "no zero-copy mode",
    "XDP_SOCKETS_DIAG": "nobody can say which queue an AF_XDP socket has",
    "NET_DEVMEM": "no devmem TCP of the kernel's own",
    "UDMABUF": "no udmabuf regions",
    "DMABUF_HEAPS": "no dma-heap regions",
    "HUGETLBFS": "no hugetlb regions",
    "VETH": "no demo",
}
_BTF = Path("/sys/kernel/btf/vmlinux")


def release() -> Release:
    """Of the running kernel: (6, 12)."""
    numbers = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def checks() -> Iterator[Check]:
    """Release, configuration, BTF."""
    yield _kernel()
    yield from looked("configuration", _configuration)
    yield _btf()


def _kernel() -> Check:
    uname = os.uname()
    found = f"{uname.sysname} {uname.release} on {uname.machine}"
    oldest = ".".join(map(str, OLDEST))
    if release() < OLDEST:
        return warn("kernel", found, f"the tests have never run on any older than {oldest}")
    return ok("kernel", found, f"the tests run on {oldest} and later")


def _configuration() -> Iterator[Check]:
    file = _config_file()
    if file is None:
        yield note(
            "configuration",
            "neither /proc/config.gz nor the config of this kernel in /boot or /lib/modules",
            "what the kernel was built with is not known; what can be tried is tried below",
        )
        return
    options = parse(gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else _plain(file))
    lacking = [name for name in _NEEDED if name not in options]
    if lacking:
        what = named(_NEEDED[name] for name in lacking)
        yield fail(
            "configuration",
            f"{file}: without CONFIG_{' and CONFIG_'.join(lacking)}",
            f"this kernel has no {what}, which every mode needs; another kernel is needed",
        )
        return
    missing = [name for name in _WANTED if name not in options]
    if not missing:
        yield ok("configuration", f"{file}", "all that can be used is built")
        return
    yield note(
        "configuration",
        f"{file}: without CONFIG_{', CONFIG_'.join(missing)}",
        "; ".join(_WANTED[name] for name in missing),
    )


def _config_file() -> Path | None:
    version = os.uname().release
    places = ("/proc/config.gz", f"/boot/config-{version}", f"/lib/modules/{version}/config")
    return next((Path(place) for place in places if Path(place).is_file()), None)


def _plain(file: Path) -> bytes:
    return file.read_bytes()


def parse(text: bytes) -> Mapping[str, str]:
    """What a kernel's .config sets: {"XDP_SOCKETS": "y"}."""
    return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", text.decode(), re.MULTILINE))


def _btf() -> Check:
    if _BTF.exists():
        return ok("BTF", str(_BTF), "programs can look into the kernel's structures")
    return warn("BTF", f"no {_BTF}", "zero-copy mode needs it; the others do not")
