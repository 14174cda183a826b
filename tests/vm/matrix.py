# SPDX-License-Identifier: Apache-2.0
"""`./dev test --vm`: the net tier under each kernel and with each NIC, a guest for each pair."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from ..arguments import end_if_only_asked, positive
from . import kernels, machine, nics, outcome, qemu, tier
from .command_line import ROOT, Parser, environment, run_and_tell, say
from .failure import BadUsage, Failure

_DEFAULT_NICS = ("veth", "virtio", "igb")
"""And vmxnet3 on request: to XDP it is what igb is on kernels without zero-copy."""

_MEMORY = 3072
"""MiB; what tests write is kept there, too."""

_STOPPED = 124
"""What timeout(1) says then: a pytest that is interrupted still reports what it has seen."""

_LEAVE_SECONDS = 100.0
"""To boot, and for that report."""


def parse(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our options, and the words that are pytest's.

    Raises:
        BadUsage: what is wrong with it.
    """
    parser = Parser(
        prog="./dev test --vm",
        usage="%(prog)s [--kernel K ...] [--nic N ...] [--limit S] [--results DIR] [PYTEST ...]",
        description="Runs the net tier in a guest for each kernel and NIC, one after another.",
        epilog="All else is pytest's; tests that are named are run in place of the tier.",
        allow_abbrev=False,
    )
    parser.add_argument("--kernel", action="append", metavar="|".join(kernels.SUITES))
    parser.add_argument("--nic", action="append", metavar="|".join(nics.NAMES))
    parser.add_argument(
        "--limit", type=positive, default=5400, metavar="S", help="seconds a guest (%(default)s)"
    )
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="keep reports and kernel messages there"
    )
    options, given = parser.parse_known_args(words)
    options.kernel = options.kernel or list(kernels.SUITES)
    options.nic = options.nic or list(_DEFAULT_NICS)
    for series in options.kernel:
        kernels.check(series)
    for nic in options.nic:
        nics.check(nic)
    end_if_only_asked()
    return options, given


def _test(
    pair: tuple[kernels.Kernel, str], emulator: qemu.Qemu, limit: int, given: list[str], to: Path
) -> outcome.Outcome:
    """Boot one guest for the tests; what goes wrong with it is an outcome, too."""
    kernel, nic = pair
    made = outcome.Outcome(kernel.release, nic)
    report, console = (to / f"{kernel.series}-{nic}.{kind}" for kind in ("xml", "console"))
    report.unlink(missing_ok=True)
    command = ["timeout", "--signal=INT", str(limit), "python", "-m", "pytest"]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}"]
    task = machine.Task(
        [*command, "-qq", *tier.arguments(nic, given)],
        ROOT,
        environment(),
        limit + _LEAVE_SECONDS,
        results=to,
        console=console,
    )
    began = time.monotonic()
    try:
        status = machine.run(machine.Machine(kernel, nic, memory=_MEMORY), emulator, task)
        made.read(report)
        if status == _STOPPED:
            made.failed.append(f"pytest was stopped after {limit} s")
        elif status and not made.failed:
            made.failed.append(f"pytest ended with status {status}")
    except Failure as failure:
        made.failed.append(str(failure))
    made.seconds = time.monotonic() - began
    made.listen(console)
    return made


def _collect(nics_wanted: list[str], given: list[str]) -> None:
    """What pytest cannot make sense of is told before anything is booted.

    And this leaves the tests compiled, which a guest would need a minute for, each time.
    """
    for nic in nics_wanted:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "-qq",
            "-p",
            "no:cacheprovider",
        ]
        done = subprocess.run(
            [*command, "-qq", *tier.arguments(nic, given)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            told = (done.stderr.strip() or done.stdout.strip() or "no tests").splitlines()
            raise BadUsage(f"pytest finds no tests for {nic}: {told[-1]}")


def run_all(words: list[str]) -> int:
    """All guests, and a table; 0 when no test has failed in any."""
    options, given = parse(words)
    _collect(options.nic, given)
    booted = [kernels.fetch(series, say) for series in options.kernel]
    emulator = qemu.fetch(say)
    with ExitStack() as stack:
        to = options.results or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        to.mkdir(parents=True, exist_ok=True)
        outcomes = []
        for pair in ((kernel, nic) for kernel in booted for nic in options.nic):
            say(f"Linux {pair[0].release}, {pair[1]}")
            outcomes.append(_test(pair, emulator, options.limit, given, to.resolve()))
        return outcome.finish(outcomes, tier.left_out(options.nic, given))


if __name__ == "__main__":
    sys.exit(run_and_tell(lambda: run_all(sys.argv[1:])))
