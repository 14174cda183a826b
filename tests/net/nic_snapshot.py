# SPDX-License-Identifier: Apache-2.0
"""All settings of an interface as ethtool(8) and ip(8) print them, to be compared byte for byte.

And a process that applies or undoes a plan, and is killed at a moment of one's choice.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from devmemtcp.agent.nic import transaction
from devmemtcp.agent.nic.device import KernelNic
from devmemtcp.agent.nic.facts import Attachment, Facts
from devmemtcp.agent.nic.journal import Journal
from devmemtcp.agent.nic.plan import Plan
from devmemtcp.agent.nic.planner import Wishes, make_plan
from devmemtcp.agent.nic.transaction import Progress

_COMMANDS = (
    "ethtool -l",
    "ethtool -g",
    "ethtool --json -k",
    "ethtool -x",
    "ethtool -n",
    "ethtool -c",
    "ip -j -d link show dev",
)
_LIMIT = 60.0


def snapshot(ifname: str) -> dict[str, tuple[int, str]]:
    """Exit status and output by command, in the calling thread's namespace."""
    return {command: _output([*command.split(), ifname]) for command in _COMMANDS}


def _output(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
    return done.returncode, done.stdout + done.stderr


def planner(nic: KernelNic, attachment: Attachment, wishes: Wishes) -> Callable[[], Plan]:
    """What `devmemtcp nic` plans."""
    return lambda: make_plan(Facts.of(nic, attachment), wishes)


def apply(
    ifindex: int,
    run: Path,
    attachment: Attachment,
    wishes: Wishes,
    progress: Progress = transaction.silent,
) -> int:
    """As `devmemtcp nic apply`, with the journal below `run`; returns how many steps it took."""
    with KernelNic(ifindex) as nic, Journal(nic.identity, nic.link().ifname, run) as journal:
        made = planner(nic, attachment, wishes)
        return len(transaction.apply(nic, made, journal, progress))


def undo(ifindex: int, run: Path, progress: Progress = transaction.silent) -> None:
    """As `devmemtcp nic undo`."""
    with KernelNic(ifindex) as nic, Journal(nic.identity, nic.link().ifname, run) as journal:
        assert transaction.undo(nic, journal, progress=progress).left == []


def killed_at(moment: int, work: Callable[[Progress], object]) -> bool:
    """Do it in a process of its own, SIGKILL at the `moment`-th event. False: it ended before."""
    process = multiprocessing.get_context("fork").Process(target=_until, args=(moment, work))
    process.start()
    process.join(_LIMIT)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _until(moment: int, work: Callable[[Progress], object]) -> None:
    left = iter(range(moment, -1, -1))

    def live(event: str) -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    work(live)
