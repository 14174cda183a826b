# SPDX-License-Identifier: Apache-2.0
"""What a confined process can still do, and what it cannot. Needs no privilege to give some up."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from ..slowness import SLOWNESS

pytest.importorskip("devmemtcp.agent.daemon._confine", reason="needs libseccomp")

_PRELUDE = """
import ctypes, mmap, os, socket, sys, threading
from devmemtcp.agent.daemon._confine import lib
libc = ctypes.CDLL(None, use_errno=True)
folder = sys.argv[1]

def confine():
    assert lib.confine_capabilities(0) == 0
    assert lib.confine_system_calls(0, 0) == 0

def attempt(call):
    try:
        call()
        print("done")
    except OSError as error:
        print(error.errno)

def syscall(number, *args):
    if libc.syscall(number, *args) < 0:
        raise OSError(ctypes.get_errno(), "syscall")
"""
BPF = 321


def run(
    folder: Path, code: str, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PRELUDE + code, str(folder)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60 * SLOWNESS,
        check=False,
    )


def outcomes(folder: Path, calls: str) -> list[str]:
    code = "confine()\n" + "".join(f"attempt(lambda: {call})\n" for call in calls.splitlines())
    done = run(folder, code)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_what_it_needs_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    calls = """open(folder + "/file").read()
os.listdir(folder)
os.eventfd(0)
os.pipe2(os.O_CLOEXEC)
os.ftruncate(os.memfd_create("x"), 4096)
mmap.mmap(-1, 4096)
threading.Thread(target=os.getpid).start()
socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
socket.create_server(("127.0.0.1", 0))
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).bind((0, 0))
socket.if_nametoindex("lo")
os.unlink(folder + "/file")"""
    assert outcomes(tmp_path, calls) == ["done"] * 12


def test_what_it_does_not_need_is_refused(tmp_path: Path) -> None:
    calls = """open(folder + "/new", "w")
os.open(folder, os.O_TMPFILE | os.O_RDWR)
os.truncate(folder, 0)
os.mkdir(folder + "/new")
os.chmod(folder, 0o777)
os.rename(folder, folder + "x")
os.symlink("a", folder + "/new")
os.fork()
os.posix_spawn("/bin/true", ["true"], {})
os.kill(1, 0)
socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
socket.socket(socket.AF_INET, socket.SOCK_STREAM).connect(("127.0.0.1", 1))
mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
os.setpriority(os.PRIO_PROCESS, 0, 5)
syscall(425, 1, ctypes.create_string_buffer(128))"""  # io_uring_setup(2)
    assert outcomes(tmp_path, calls) == [str(errno.EPERM)] * 16
    assert list(tmp_path.iterdir()) == []


def test_bpf_is_for_maps_alone(tmp_path: Path) -> None:
    """The numbers are of enum bpf_cmd; no command gets as far as to look at its arguments."""
    if os.uname().machine != "x86_64":
        pytest.skip("needs the number that bpf(2) has on x86-64")
    create, lookup, load, attach, by_id, token = 0, 1, 5, 8, 13, 36
    calls = "\n".join(
        f"syscall({BPF}, {command}, ctypes.create_string_buffer(128), 128)"
        for command in (create, load, attach, by_id, token, lookup)
    )
    *refused, allowed = outcomes(tmp_path, calls)
    assert refused == [str(errno.EPERM)] * 5
    assert allowed != str(errno.EPERM)  # EBADF, or what a kernel without bpf says


@pytest.mark.parametrize(
    "call",
    [
        'os.execv("/bin/true", ["true"])',
        "libc.ptrace(16, os.getppid(), None, None)",
        "libc.process_vm_readv(os.getppid(), None, 0, None, 0, 0)",
        "libc.unshare(0)",
        "libc.setns(0, 0)",
        "os.setuid(os.getuid())",
        'libc.mount(b"none", b"/", b"tmpfs", 0, None)',
    ],
)
def test_what_only_an_intruder_would_do_ends_it(tmp_path: Path, call: str) -> None:
    done = run(tmp_path, f"confine()\nprint('still here', flush=True)\n{call}\nprint('and here')")
    assert done.stdout == "still here\n"
    assert done.returncode == -signal.SIGSYS


def test_a_key_s_code_and_no_other_can_be_written_for_a_moment(tmp_path: Path) -> None:
    """The static form of the check: just these pages, whole, with just these rights."""
    if os.uname().machine not in ("x86_64", "aarch64"):
        pytest.skip("elsewhere a static key is a word in memory")
    code = """
from devmemtcp.agent import _loop
info = _loop.ffi.new("struct netmem_info *")
_loop.lib.netmem_info(info)
R, W, X, PAGE = 1, 2, 4, 4096
def protect(start, size, rights):
    if libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(size), rights) < 0:
        raise OSError(ctypes.get_errno(), "mprotect")
anonymous = mmap.mmap(-1, PAGE)
data = ctypes.addressof(ctypes.c_char.from_buffer(anonymous))
assert lib.confine_capabilities(0) == 0
assert lib.confine_system_calls(info.code, info.code_size) == 0
for arguments in (
    (info.code - PAGE, info.code_size, R | W | X),
    (info.code, info.code_size + PAGE, R | W | X),
    (info.code, PAGE, R | W | X),
    (info.code + PAGE, info.code_size - PAGE, R | W | X),
    (info.code, info.code_size, W | X),
    (data, PAGE, R | X),
    (data, PAGE, R | W | X),
):
    attempt(lambda: protect(*arguments))
for change in (_loop.lib.netmem_key_raise, _loop.lib.netmem_key_lower) * 2:
    print(change())
print([line for line in open("/proc/self/maps") if " rwx" in line])
"""
    environ = os.environ | {"DEVMEMTCP_NETMEM_CHECK": "static"}
    assert run(tmp_path, code, environ).stdout.split() == [str(errno.EPERM)] * 7 + ["0"] * 4 + [
        "[]"
    ]


def test_without_leave_to_write_its_code_a_key_stays_as_it_is(tmp_path: Path) -> None:
    if os.uname().machine not in ("x86_64", "aarch64"):
        pytest.skip("elsewhere a static key is a word in memory")
    code = """
from devmemtcp.agent import _loop
confine()
info = _loop.ffi.new("struct netmem_info *")
for _ in range(2):
    print(_loop.lib.netmem_key_raise())
    _loop.lib.netmem_info(info)
    print(info.key)
"""
    environ = os.environ | {"DEVMEMTCP_NETMEM_CHECK": "static"}
    assert run(tmp_path, code, environ).stdout.split() == [str(-errno.EPERM), "0"] * 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to keep CAP_NET_RAW")
def test_cap_net_raw_is_for_af_xdp_alone(tmp_path: Path) -> None:
    code = """
assert lib.confine_capabilities(1 << 13) == 0
assert lib.confine_system_calls(0, 0) == 0
for family in (socket.AF_INET, socket.AF_INET6):
    attempt(lambda: socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMP))
attempt(lambda: socket.socket(44, socket.SOCK_RAW))
"""
    assert run(tmp_path, code).stdout.split() == [str(errno.EPERM)] * 2 + ["done"]


def test_threads_that_run_already_are_confined(tmp_path: Path) -> None:
    code = """
confined, done = threading.Event(), threading.Event()
def other():
    confined.wait()
    attempt(lambda: open(folder + "/new", "w"))
    done.set()
threading.Thread(target=other).start()
confine()
confined.set()
done.wait()
"""
    assert run(tmp_path, code).stdout == f"{errno.EPERM}\n"


def test_capabilities_do_not_come_back(tmp_path: Path) -> None:
    code = """
assert lib.confine_capabilities(0) == 0
with open("/proc/self/status") as file:
    status = dict(line.rstrip("\\n").split(":\\t", 1) for line in file if ":\\t" in line)
print(*(int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")))
print(status["NoNewPrivs"], lib.confine_capabilities(1 << 13) < 0)
"""
    assert run(tmp_path, code).stdout == "0 0 0 0\n1 True\n"


def test_files_can_be_read_and_the_socket_s_removed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for directory in (inside, outside):
        directory.mkdir()
        (directory / "file").touch()
    code = """
result = lib.confine_files(f"{folder}/inside".encode())
if result:
    print("no Landlock:", os.strerror(-result))
    sys.exit()
for call in (
    lambda: open(f"{folder}/outside/file").close(),
    lambda: os.unlink(f"{folder}/inside/file"),
    lambda: os.unlink(f"{folder}/outside/file"),
    lambda: open(f"{folder}/inside/new", "w"),
    lambda: open(f"{folder}/outside/file", "w"),
    lambda: os.mkdir(f"{folder}/outside/new"),
):
    attempt(call)
"""
    said = run(tmp_path, code).stdout
    if said.startswith("no Landlock"):
        pytest.skip(said.strip())
    assert said.split() == ["done", "done", *[str(errno.EACCES)] * 4]


def test_a_missing_libseccomp_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from devmemtcp.agent.daemon import confinement
    from devmemtcp.agent.errors import ConfigError

    monkeypatch.setitem(sys.modules, "devmemtcp.agent.daemon._confine", None)
    with pytest.raises(ConfigError, match=r"libseccomp is missing .* package libseccomp2"):
        confinement._native()
