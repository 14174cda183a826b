# SPDX-License-Identifier: Apache-2.0
"""What both verbs of guests have in common: how they read words, and how they end."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ..slowness import EMULATED, VARIABLE
from . import qemu
from .failure import BadUsage, Failure

ROOT = Path(__file__).resolve().parents[2]
_LIVE = {"PYTHONUNBUFFERED": "1"}
"""Who waits for a slow guest wants to see what it is at, though its output is a pipe."""
_KEPT = ("LANG", "LC_ALL", "LOGNAME", "TERM", "TZ", "USER")


class Parser(argparse.ArgumentParser):
    """One whose complaints are a line of ours."""

    def error(self, message: str) -> NoReturn:
        raise BadUsage(message)


def say(text: str) -> None:
    """To whoever waits; the guest's own output is elsewhere."""
    print(f"vm: {text}", file=sys.stderr, flush=True)


def environment() -> dict[str, str]:
    """Of the guest's command: a shell's, in which this checkout is built and its tools come first.

    What is the host's business alone, such as sockets of agents, stays there.
    """
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    path = f"{ROOT / '.venv/bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    slow = {VARIABLE: str(EMULATED)} if qemu.accelerator() == "tcg" else {}
    return {
        **kept,
        "HOME": "/run/home",
        "PATH": path,
        "DEVMEMTCP_BUILD": "current",
        **slow,
        **_LIVE,
    }


def run_and_tell(call: Callable[[], int]) -> int:
    """Its status, or the one that a failure has, which is told in a line."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        return call()
    except Failure as failure:
        say(str(failure))
        return failure.status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
