# SPDX-License-Identifier: Apache-2.0
"""The kernel: its release and how it was configured."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from devmemtcp.agent.doctor.look import looked, named
from devmemtcp.agent.doctor.matrix import Release
from devmemtcp.agent.doctor.record import Check, fail, note, ok, warn

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


def lacking() -> set[str]:
    """Which of the options that matter this kernel was built without; none where that is unknown.

    Raises OSError.
    """
    file = _config_file()
    if file is None:
        return set()
    text = file.read_bytes()
    options = parse_config(gzip.decompress(text) if file.suffix == ".gz" else text)
    return {name for name in (*_NEEDED, *_WANTED) if name not in options}


def _configuration() -> Iterator[Check]:
    name, file, lacks = "configuration", _config_file(), lacking()
    without = f"{file}: without " + ", ".join(f"CONFIG_{each}" for each in sorted(lacks))
    if file is None:
        yield note(
            name,
            "neither /proc/config.gz nor the config of this kernel in /boot or /lib/modules",
            "what the kernel was built with is not known; what can be tried is tried below",
        )
    elif needed := [_NEEDED[each] for each in _NEEDED if each in lacks]:
        means = f"this kernel has no {named(needed)}, which every mode needs; take another"
        yield fail(name, without, means)
    elif lacks:
        means = "; ".join(_WANTED[each] for each in _WANTED if each in lacks)
        yield note(name, without, means)
    else:
        yield ok(name, str(file), "all that can be used is built")


def _config_file() -> Path | None:
    version = os.uname().release
    places = ("/proc/config.gz", f"/boot/config-{version}", f"/lib/modules/{version}/config")
    return next((Path(place) for place in places if Path(place).is_file()), None)


def parse_config(text: bytes) -> Mapping[str, str]:
    """What a kernel's .config sets, as {"XDP_SOCKETS": "y"}; what it leaves out is not there."""
    return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", text.decode(), re.MULTILINE))


def _btf() -> Check:
    if _BTF.exists():
        return ok("BTF", str(_BTF), "programs can look into the kernel's structures")
    return warn("BTF", f"no {_BTF}", "zero-copy mode needs it; the others do not")
