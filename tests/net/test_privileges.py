# SPDX-License-Identifier: Apache-2.0
"""Which privileges it takes, and which the process that runs the stack does not keep."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from devmemtcp.agent import Region, Runtime

SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_ADMIN, CHECKPOINT_RESTORE = 16, 17, 19, 21, 40
GIVEN_UP = (SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_ADMIN, CHECKPOINT_RESTORE)
NET_ADMIN, NET_RAW, PERFMON, BPF = 12, 13, 38, 39
DAC_OVERRIDE, DAC_READ_SEARCH, IPC_LOCK = 1, 2, 14  # to read its own files, and lock enough

# What an isolated stack would do to read the region after all: by the application's memory, its
# descriptors, its mappings. argv: pid of the application, address and size of its mapping.
_READER = """
import ctypes, os, sys
from devmemtcp.agent._loop import lib
pid, address, size = map(int, sys.argv[2:])
if sys.argv[1] == "confined":
    assert lib.privileges_give_up() == 0
libc = ctypes.CDLL(None, use_errno=True)

def memory():
    with open(f"/proc/{pid}/mem", "rb", 0) as f:
        f.seek(address)
        return f.read(8)

def another_process():
    pair = lambda at, n: (ctypes.c_void_p * 2)(at, n)
    buffer = ctypes.create_string_buffer(8)
    local, remote = pair(ctypes.addressof(buffer), 8), pair(address, 8)
    if libc.process_vm_readv(pid, local, 1, remote, 1, 0) < 0:
        raise OSError(ctypes.get_errno(), "process_vm_readv")
    return buffer.raw

def descriptor():
    for name in os.listdir(f"/proc/{pid}/fd"):
        if "devmemtcp-region" in os.readlink(f"/proc/{pid}/fd/{name}"):
            with open(f"/proc/{pid}/fd/{name}", "rb", 0) as f:
                return f.read(8)

def mapping():
    with open(f"/proc/{pid}/map_files/{address:x}-{address + size:x}", "rb", 0) as f:
        return f.read(8)

def attach():
    PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17
    if libc.ptrace(PTRACE_SEIZE, pid, None, None) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    return b"payload!"  # and could go on

def by_pidfd():
    import signal
    pidfd = os.pidfd_open(pid)
    SYS_pidfd_getfd = 438
    for number in range(64):
        fd = libc.syscall(SYS_pidfd_getfd, pidfd, number, 0)
        if fd < 0 and ctypes.get_errno() != 9:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        if fd >= 0 and "devmemtcp-region" in os.readlink(f"/proc/self/fd/{fd}"):
            return os.pread(fd, 8, 0)

for way in (memory, another_process, descriptor, mapping, by_pidfd, attach):
    try:
        print(way.__name__, way().decode())
    except OSError as error:
        print(way.__name__, type(error).__name__)
"""


@pytest.mark.parametrize(("who", "answer"), [("root", "payload!"), ("confined", "PermissionError")])
def test_what_is_given_up_is_what_reads_an_application(who: str, answer: str) -> None:
    """Root can, by each of these ways; without what the stack's process gives up, by none."""
    if SYS_PTRACE not in capabilities():
        pytest.skip("needs CAP_SYS_PTRACE to have it taken away")
    with Region(1 << 20) as region, region.map() as view:
        os.pwrite(region.fd, b"payload!", 0)
        args = [who, str(os.getpid()), str(view.address), str(view.size)]
        done = subprocess.run(
            [sys.executable, "-c", _READER, *args], capture_output=True, text=True, timeout=60
        )
    assert not done.stderr
    assert [line.split(" ")[1] for line in done.stdout.splitlines()] == [answer] * 6


def test_no_thread_of_the_isolated_stack_has_them(veth: Any) -> None:
    with (
        Region(4 << 20) as region,
        Runtime(veth.right.ifname, region, netns=veth.right.netns, isolate=True) as rt,
    ):
        rt.listen((veth.right.ip4, 80)).close()  # what is left is enough
        threads = list(Path(f"/proc/{rt.pid}/task").iterdir())
        assert len(threads) >= 2
        for thread in threads:
            sets = re.findall(r"Cap\w+:\s+([0-9a-f]+)", (thread / "status").read_text())
            assert len(sets) == 5
            for bits in sets:
                assert not [bit for bit in GIVEN_UP if int(bits, 16) >> bit & 1]


# Whoever is root when it executes a program gets what the bounding set allows.
_WITHOUT = """
import ctypes, os, sys
PR_CAPBSET_DROP = 24
for bit in map(int, sys.argv[1].split(",")):
    assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, bit, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, "-c", sys.argv[2]])
"""


@pytest.mark.parametrize("isolate", [False, True], ids=["inside", "isolated"])
def test_the_capabilities_that_are_asked_for_are_enough(veth: Any, isolate: bool) -> None:
    code = f"""
from devmemtcp.agent import Region, Runtime
with Region(4 << 20) as region, Runtime({veth.right.ifname!r}, region, isolate={isolate}) as rt:
    rt.listen(({veth.right.ip4!r}, 5201))
    print("listens")
"""
    enough = {NET_ADMIN, NET_RAW, PERFMON, BPF, DAC_OVERRIDE, DAC_READ_SEARCH, IPC_LOCK}
    drop = ",".join(map(str, capabilities() - enough))
    done = veth.right.run(
        [sys.executable, "-c", _WITHOUT, drop, code], capture_output=True, text=True, check=False
    )
    assert done.stdout == "listens\n", done.stderr


def capabilities() -> set[int]:
    """What this process has."""
    have = re.search(r"CapEff:\s+([0-9a-f]+)", Path("/proc/self/status").read_text())
    assert have
    return {bit for bit in range(64) if int(have[1], 16) >> bit & 1}
