# SPDX-License-Identifier: Apache-2.0
"""A guest that runs one command on the host's files, and is gone when it has ended.

Nothing outlives the runner, not even when that is killed: QEMU gets a signal then, and the
guest's mounts are its own. Of the host it sees all files and changes none, but for those below
the folder for results.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from . import initramfs, nics, qemu
from .failure import Failure, TimedOut
from .kernels import Kernel

_GUEST = Path(__file__).with_name("guest.sh").resolve()
_PR_SET_PDEATHSIG = 1
_CONSOLE_LINES = 15
_LEAVE_SECONDS = 10.0
"""What a guest that has told its status may need to power itself off."""

_KERNEL_ARGUMENTS = (
    "console=ttyS0 loglevel=5 panic=-1 net.ifnames=0 mitigations=off nokaslr "
    "random.trust_cpu=on nowatchdog rcupdate.rcu_cpu_stall_suppress=1"
)
"""Mitigations cost time, and the watchdogs' limits are those of a machine that is not emulated."""


@dataclass(frozen=True)
class Machine:
    """What is emulated."""

    kernel: Kernel
    nic: str = "veth"
    cpus: int = 2
    memory: int = 2048
    """MiB."""


@dataclass(frozen=True)
class Task:
    """What is run in it, and for how long."""

    command: list[str]
    folder: Path
    """Where: of the host's, like all files."""

    environment: dict[str, str]
    timeout: float
    """Seconds, with the time that booting takes."""

    results: Path | None = None
    """A folder of the host's that the guest may write to, under the same name."""

    console: Path | None = None
    """Gets all that the guest's kernel says, and QEMU."""


def run(machine: Machine, emulator: qemu.Qemu, task: Task) -> int:
    """Boot, hand output through, and give the command's exit status.

    Raises:
        TimedOut: the guest has been killed.
        Failure: it ended without a status: QEMU refused, or the kernel panicked.
    """
    with ExitStack() as stack:
        # Without a name in any folder nothing is left of them, however this ends.
        archive = stack.enter_context(os.fdopen(os.memfd_create("initramfs"), "wb"))
        archive.write(initramfs.build(machine.kernel, _words(machine, task)))
        archive.flush()
        console = stack.enter_context(_appended(task.console))
        ports = [_Port(stack), _Port(stack), _Port(stack)]
        command = [
            *emulator.command,
            *_arguments(machine, task.results),
            *("-initrd", f"/proc/self/fd/{archive.fileno()}"),
            *("-chardev", f"file,id=console,path=/proc/self/fd/{console.fileno()},append=on"),
            *(word for number, port in enumerate(ports, 1) for word in port.arguments(number)),
        ]
        guest = subprocess.Popen(
            command,
            env=os.environ | emulator.environment,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            pass_fds=[
                archive.fileno(),
                console.fileno(),
                *(port.theirs.fileno() for port in ports),
            ],
            preexec_fn=_end_with(os.getpid()),
            process_group=0,
        )
        stack.callback(_kill, guest)
        for port in ports:
            port.theirs.close()
        status = _hand_through(ports, time.monotonic() + task.timeout)
        if status is None:
            _kill(guest)
            raise TimedOut(f"the guest was still at work after {task.timeout:g} s")
        if not status:
            raise Failure(_last_words(console) + _hint(guest.wait()))
        with suppress(subprocess.TimeoutExpired):  # it is killed on the way out
            guest.wait(_LEAVE_SECONDS)
        return int(status)


def _words(machine: Machine, task: Task) -> dict[str, list[str]]:
    kernel = machine.kernel
    driver = nics.driver(machine.nic)
    pair = ["NETIF=eth0", "NETPEER=eth1"] if driver else []
    return {
        "guest": ["/bin/sh", str(_GUEST)],
        "modules": [
            str(kernel.root),
            kernel.release,
            *([driver] if driver else []),
        ],
        "environment": [
            str(task.folder),
            *(f"{name}={value}" for name, value in task.environment.items()),
            *pair,
        ],
        "command": task.command,
        **({"results": [str(task.results)]} if task.results else {}),
    }


def _arguments(machine: Machine, results: Path | None) -> list[str]:
    accelerator = qemu.accelerator()
    cpu = "host" if accelerator == "kvm" else "max,la57=off"  # the fifth level only costs time
    words = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-monitor", "none"]
    words += ["-machine", "q35", "-accel", accelerator, "-cpu", cpu]
    words += ["-smp", str(machine.cpus), "-m", str(machine.memory)]
    words += ["-kernel", str(machine.kernel.image), "-append", _KERNEL_ARGUMENTS]
    words += ["-serial", "chardev:console"]
    words += ["-virtfs", _share("host", Path("/")) + ",readonly=on"]
    if results:
        words += ["-virtfs", _share("results", results)]
    return [*words, *nics.arguments(machine.nic), "-device", "virtio-serial-pci"]


def _share(tag: str, path: Path) -> str:
    escaped = str(path).replace(",", ",,")
    return f"local,mount_tag={tag},path={escaped},security_model=none,multidevs=remap"


def _appended(path: Path | None) -> BinaryIO:
    """A new file to append to: by whoever has this descriptor, and whoever opens it again."""
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
    descriptor = os.open(path, flags, 0o644) if path else os.memfd_create("console")
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
    return os.fdopen(descriptor, "r+b")


class _Port:
    """One direction of bytes out of the guest."""

    def __init__(self, stack: ExitStack) -> None:
        self.ours, self.theirs = map(stack.enter_context, socket.socketpair())

    def arguments(self, number: int) -> list[str]:
        return [
            *("-chardev", f"socket,id=port{number},fd={self.theirs.fileno()}"),
            *("-device", f"virtserialport,chardev=port{number},nr={number},name=port{number}"),
        ]


def _hand_through(ports: list[_Port], until: float) -> bytes | None:
    """Copy output to ours until the guest's end of it closes: its status, None when it is late."""
    sinks = [sys.stdout.buffer, sys.stderr.buffer, None]
    status = b""
    with selectors.DefaultSelector() as selector:
        for port, sink in zip(ports, sinks, strict=True):
            selector.register(port.ours, selectors.EVENT_READ, sink)
        while selector.get_map() and not status.endswith(b"\n"):
            left = until - time.monotonic()
            ready = selector.select(max(left, 0))
            if not ready and left <= 0:
                return None
            for key, _ in ready:
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                data = _received(connection)
                if not data:
                    selector.unregister(connection)
                elif key.data is None:
                    status += data
                else:
                    key.data.write(data)
                    key.data.flush()
    return status.strip()


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except ConnectionResetError:  # QEMU has gone with something unread
        return b""


def _end_with(parent: int) -> Callable[[], None]:
    """What makes a child end with this process, however that ends: prctl(2)."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def between_fork_and_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it was too late for that
            os._exit(1)

    return between_fork_and_exec


def _kill(guest: subprocess.Popen[bytes]) -> None:
    guest.kill()
    guest.wait()


def _hint(status: int) -> str:
    """What a signal says, as of a failed assertion: no guest makes a sound QEMU end so."""
    if status >= 0:
        return ""
    return f"\n(QEMU died of {signal.Signals(-status).name}, which it rarely does: run it again)"


def _last_words(console: BinaryIO) -> str:
    console.seek(0)
    said = console.read().decode(errors="replace").splitlines()[-_CONSOLE_LINES:]
    return "\n".join(["the guest ended without a status; QEMU and its console said last:", *said])
