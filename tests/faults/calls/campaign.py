# SPDX-License-Identifier: Apache-2.0
"""Let the calls of a receiver fail, one after the other, and judge what becomes of it.

    ./dev faults --only calls

Whatever call fails: either everything is received, every byte of it right, or there is an error
with a name, the same as an application gets; nothing is left behind, in its process or in the
kernel; it neither hangs nor dies; and the next start works, which the next attempt is.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...net.veth import Veth
from ...slowness import SLOWNESS
from ..leftovers import Leftovers
from ..report import Row

_FOLDER = Path(__file__).parent
_FOR_EVER = 1 << 60
SETTLE_SECONDS = 10.0 * SLOWNESS

MEMORY = ("ENOMEM",)
OF_MEMORY = {"malloc", "calloc", "realloc", "strdup", "mmap", "mmap64", "mprotect"}
DESCRIPTORS = ("EMFILE", "ENFILE", "ENOMEM")
REASONS: Mapping[str, tuple[str, ...]] = {
    "malloc": MEMORY,
    "calloc": MEMORY,
    "realloc": MEMORY,
    "strdup": MEMORY,
    "mmap": ("ENOMEM", "EAGAIN", "EPERM"),
    "mmap64": ("ENOMEM", "EAGAIN", "EPERM"),
    "mprotect": ("ENOMEM", "EACCES"),
    "memfd_create": DESCRIPTORS,
    "ftruncate": ("ENOSPC", "EPERM"),
    "ftruncate64": ("ENOSPC", "EPERM"),
    "socket": ("EMFILE", "EAFNOSUPPORT", "EPERM", "ENOBUFS"),
    "socketpair": DESCRIPTORS,
    "bind": ("EADDRINUSE", "EADDRNOTAVAIL", "ENOMEM", "ENODEV", "ENETDOWN", "EINVAL"),
    "listen": ("EADDRINUSE",),
    "getsockname": ("ENOBUFS",),
    "setsockopt": ("ENOMEM", "ENOBUFS", "EINVAL", "EPERM", "ENOPROTOOPT"),
    "getsockopt": ("ENOBUFS", "ENOPROTOOPT"),
    "eventfd": DESCRIPTORS,
    "epoll_create1": DESCRIPTORS,
    "epoll_ctl": ("ENOSPC", "ENOMEM"),
    "pipe2": DESCRIPTORS,
    "setns": ("EPERM", "ENOMEM"),
    "send": ("ENOBUFS", "ENOMEM"),
    "sendto": ("ENOBUFS", "ENOMEM"),
    "sendmsg": ("ENOBUFS", "ENOMEM"),
    "recv": ("ENOBUFS", "ENOMEM"),
    "recvfrom": ("ENOBUFS", "ENOMEM"),
    "recvmsg": ("ENOBUFS", "ENOMEM"),
    "read": ("EIO",),
    "poll": ("ENOMEM", "EINTR"),
    "fcntl": ("EMFILE", "EPERM"),
    "fcntl64": ("EMFILE", "EPERM"),
    "ioctl": ("EIO", "ENODEV", "EPERM"),
    "open": ("EMFILE", "EACCES"),
    "open64": ("EMFILE", "EACCES"),
    "openat": ("EMFILE", "EACCES"),
    "syscall": ("ENOMEM", "EPERM", "EINVAL", "E2BIG"),
    "pthread_create": ("EAGAIN",),
}
"""What a call may fail with; the first is what it fails with when there is time for one."""

# Calls of the loop's thread and of the application's data path: (name, errno, each how manieth).
PASSING = (
    ("sendto", "EAGAIN", 2),
    ("sendto", "EBUSY", 2),
    ("sendto", "ENOBUFS", 3),
    ("sendto", "EINTR", 2),
    ("sendto", "ENETDOWN", 3),
    ("ppoll", "EINTR", 2),
    ("ppoll", "ENOMEM", 2),
    ("epoll_wait", "EINTR", 2),
    ("eventfd_write", "ENOMEM", 2),
    ("read", "EAGAIN", 2),
    ("read", "EINTR", 2),
    ("poll", "EINTR", 2),
    ("realloc", "ENOMEM", 2),
    ("sched_setscheduler", "EPERM", 1),
)
"""They pass, or matter little: everything is received."""
LASTING = (
    ("sendto", "ENXIO", "veth1 is gone"),
    ("sendto", "EPERM", "the loop has ended: Operation not permitted"),
    ("sendto", "EMSGSIZE", "the loop has ended: Message too long"),
    ("ppoll", "EINVAL", "the loop has ended: Invalid argument"),
)
"""The loop ends, and says so."""

KNOWN: Mapping[tuple[str, int], str] = {
    ("mmap64", 2): "libxdp forgets a fill ring whose completion ring cannot be mapped "
    "(xsk_create_umem_rings()); the mapping goes with the process",
    ("getsockopt", 2): "libxdp does not unmap rings whose layout it cannot ask for a second time "
    "(XDP_MMAP_OFFSETS); the mapping goes with the process",
}
"""Faults of libraries below us, by the name of the call and whose it is: what may be left."""


class Rows:
    """What became of all attempts, a row for each name of a call."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._by_name: dict[str, Row] = {}

    def __getitem__(self, name: str) -> Row:
        return self._by_name.setdefault(name, Row(f"{name}() fails: {self._mode}"))

    def all(self) -> list[Row]:
        """In the order of their first attempts."""
        return list(self._by_name.values())


def build_shim(folder: Path) -> Path:
    """Compile refuse.c."""
    library = folder / "librefuse.so"
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["cc", *flags, str(_FOLDER / "refuse.c"), "-o", str(library)], check=True)
    return library


class Victim:
    """The process of victim.py, at the right end of a veth."""

    def __init__(self, shim: Path, veth: Veth, options: Mapping[str, Any]) -> None:
        near, far = veth.right, veth.left
        command = [sys.executable, "-m", "tests.faults.calls.victim", "--ifname", near.ifname]
        command += ["--address", near.ip4, "--far", far.netns, "--options", json.dumps(options)]
        self._process = near.popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"LD_PRELOAD": str(shim), "PYTHONPATH": str(_FOLDER.parents[2])},
        )
        self.answer()
        self._left = Leftovers(near, far)

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the victim ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        """One attempt; what it leaves in the kernel is added to what it says itself."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self.answer()
        found, answer["settle"] = self._left.settled(SETTLE_SECONDS)
        answer["kernel"] = found
        if found:
            self._left = Leftovers()  # the next one is not to blame for it
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextmanager
def victim(veth: Veth, options: Mapping[str, Any]) -> Iterator[Victim]:
    """One, with a shim that is compiled for it."""
    with tempfile.TemporaryDirectory() as folder:
        made = Victim(build_shim(Path(folder)), veth, options)
        try:
            yield made
        finally:
            made.close()


Call = tuple[str, int, int]
NEVER = {("ioctl", 0x5421), ("fcntl64", 3), ("fcntl64", 2), ("read", 1)}
"""They cannot fail on an open descriptor: FIONBIO, F_GETFL, F_SETFD, and reading a pipe."""


def recorded(of: Victim) -> dict[Call, int]:
    """The calls of an attempt that nothing troubles: which there are, and how often."""
    answer = of.ask(do="record")
    problems = _problems(answer, size=None)
    assert not problems, f"not even an untroubled attempt is well: {problems}"
    return Counter(
        (name, detail, whose)
        for name, detail, whose in answer["end"]["calls"]
        if name in REASONS and (name, detail) not in NEVER
    )


@dataclass(frozen=True)
class Attempt:
    """One call that is to fail."""

    call: Call
    before: int
    """How many like it come first."""
    reason: str

    def __str__(self) -> str:
        name, detail, whose = self.call
        return f"{name}({detail:#x}) of {whose}, number {self.before}, {self.reason}"


Choose = Callable[[Mapping[Call, int]], Iterator[Attempt]]
_TELLING = {"calloc", "eventfd", "getsockname", "pthread_create"}
_BELOW_OURS = 2  # enum whose: libbpf, libxdp, libelf


def few(calls: Mapping[Call, int]) -> Iterator[Attempt]:
    """The last of those alike, of some names, that no library below us makes."""
    for call, count in calls.items():
        if call[0] in _TELLING and call[2] != _BELOW_OURS:
            yield Attempt(call, count - 1, REASONS[call[0]][0])


def representatives(calls: Mapping[Call, int]) -> Iterator[Attempt]:
    """The first and the last of those alike, each with the first reason."""
    for call, count in calls.items():
        for before in sorted({0, count - 1}):
            yield Attempt(call, before, REASONS[call[0]][0])


def thorough(calls: Mapping[Call, int]) -> Iterator[Attempt]:
    """Each allocation and mapping; of others that are alike, the first three, the one in the
    middle and the last two. The latter, of all, for each reason there is.
    """
    for call, count in calls.items():
        reason, *others = REASONS[call[0]]
        some = {0, 1, 2, count // 2, count - 2, count - 1} & set(range(count))
        first = set(range(count)) if call[0] in OF_MEMORY else some
        yield from (Attempt(call, before, reason) for before in sorted(first))
        yield from (Attempt(call, before, other) for other in others for before in sorted(some))


def fail_each(of: Victim, attempts: Iterable[Attempt], rows: Rows) -> None:
    """Make them, and enter what became of them."""
    for attempt in attempts:
        name, _, whose = attempt.call
        answer = of.ask(
            do="one",
            call=attempt.call,
            before=attempt.before,
            errno=getattr(errno, attempt.reason),
        )
        _enter(rows[name], str(attempt), answer, known=KNOWN.get((name, whose)))


def fail_often(
    of: Victim,
    size: int,
    rows: Rows,
    passing: Iterable[tuple[str, str, int]] = PASSING,
    lasting: Iterable[tuple[str, str, str]] = LASTING,
) -> None:
    """The data path: what passes, and what does not."""
    for name, reason, every in passing:
        answer = _often(of, size, name, reason, every, _FOR_EVER)
        what = f"{name}, each {every}., {reason}"
        if answer.get("end", {}).get("error"):
            rows[name].broken.append(f"{what}: it did not pass")
        _enter(rows[name], what, answer, size=size)
    for name, reason, says in lasting:
        answer = _often(of, size, name, reason, 1, 1)
        what = f"{name}, {reason}"
        if says not in answer.get("end", {}).get("text", ""):
            rows[name].broken.append(f"{what}: not {says!r} but {answer}")
        _enter(rows[name], what, answer)


def _often(of: Victim, size: int, name: str, reason: str, every: int, most: int) -> dict[str, Any]:
    number = getattr(errno, reason)
    return of.ask(do="often", name=name, every=every, most=most, errno=number, size=size)


def _enter(
    row: Row,
    what: str,
    answer: Mapping[str, Any],
    *,
    size: int | None = None,
    known: str | None = None,
) -> None:
    """One attempt."""
    row.times += 1
    row.settle = max(row.settle, answer["settle"])
    problems = _problems(answer, size)
    if known and problems and all(problem.startswith("left in") for problem in problems):
        row.said[f"known: {known}"] += 1
        problems = []
    if problems:
        row.broken.append(f"{what}: {'; '.join(problems)}")
        return
    end = answer["end"]
    row.nbytes += end["received"]
    if not end["refused"]:
        row.said["not made this time"] += 1
    elif end["error"]:
        row.said[end["error"]] += 1
    else:
        row.said["everything was received"] += 1


def _problems(answer: Mapping[str, Any], size: int | None) -> list[str]:
    """Which promises an attempt has broken."""
    if "died" in answer:
        return [f"died of {answer['died']}"]
    end = answer["end"]
    found = []
    if end["error"] and not end["named"]:
        found.append(f"an error without a name, {end['error']}: {end['text']}\n{end['where']}")
    if end["wrong"] or (size and not end["error"] and end["received"] != size):
        found.append(f"{end['wrong']} of {end['received']} bytes wrong")
    if end["left"]:
        found.append(f"left in its process: {end['left']}")
    if answer["kernel"]:
        found.append(f"left in the kernel: {answer['kernel']}")
    found += end["said"]
    return found


MODES: Mapping[str, Mapping[str, Any]] = {
    "one process": {},
    "busy polling": {"busy_poll": True},
    "isolated stack": {"isolate": True},
    "agent": {"agent": True},
}
CHOICE: Mapping[str, Choose] = {
    "one process": thorough,
    "busy polling": representatives,
    "isolated stack": thorough,
    "agent": representatives,
}
"""Where much of what is made is what the first has made, some of each kind will do."""
ELSEWHERE = {"isolated stack", "agent"}
"""Modes in which the data path is in a process or a thread whose calls are not refused."""


def run(veth: Veth, mode: str, choose: Choose) -> Rows:
    """All that is chosen of the calls that a receiver in this mode makes."""
    rows = Rows(mode)
    with victim(veth, MODES[mode]) as of:
        fail_each(of, choose(recorded(of)), rows)
    return rows
