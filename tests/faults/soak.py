# SPDX-License-Identifier: Apache-2.0
"""`./dev soak`: connections come and go for minutes over a bad road, and nothing may grow.

    ./dev soak [--minutes N] [--connections N] [--plot FILE] [--json]

It is `devmemtcp bench soak` with the impairer in between. That is in a process of its own, which is
not measured.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from pyroute2 import NetNS

from devmemtcp.agent.bench import plot
from devmemtcp.agent.bench.progress import Lines, Progress
from devmemtcp.agent.bench.soak import SoakOptions, SoakReport, run_soak
from devmemtcp.agent.bench.soak_plot import draw
from devmemtcp.agent.bench.verbs.soak import print_soak
from devmemtcp.agent.document import document
from devmemtcp.agent.errors import ConfigError, Unsupported
from devmemtcp.agent.lab import Side
from devmemtcp.agent.process import die_with_parent

from ..arguments import Arguments
from ..net.compile_bpf import compile_bpf
from ..net.veth import VethEnd
from .road import Chances, bad_road

CHANCES = Chances(
    loss=0.01, duplication=0.01, corruption=0.01, delay=0.02, reordering=0.02, ack_loss=0.01
)
"""Of each packet, of 64 KB where the sender has offloads: connections still end within seconds."""
_ROOT = Path(__file__).parents[2]


@contextmanager
def road(side: Side) -> Iterator[None]:
    """The impairer at this end of the lab, in a process of its own."""
    command = [sys.executable, "-m", "tests.faults.soak", "--road", side.netns, side.ifname]
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(_ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise OSError("the impairer did not start")
        yield
    finally:
        process.stdin.close()
        process.wait()
        print(process.stdout.read(), end="", file=sys.stderr)
        process.stdout.close()


def _be_the_road(netns: str, ifname: str) -> None:
    """In that process: until the end of its input."""
    die_with_parent(os.getppid())
    with NetNS(netns) as handle:
        (index,) = handle.link_lookup(ifname=ifname)
        mac = handle.link("get", index=index)[0].get_attr("IFLA_ADDRESS")
    end = VethEnd(netns, ifname, index, "", "", mac)
    with (
        tempfile.TemporaryDirectory() as folder,
        bad_road(end, compile_bpf(Path(folder), "impair"), CHANCES) as worse,
    ):
        print("ready", flush=True)
        sys.stdin.read()
        happened = asdict(worse.counters())
    print(
        "the road:",
        ", ".join(f"{count} {what}" for what, count in happened.items() if count is not None),
    )


def soak(options: SoakOptions, progress: Progress) -> SoakReport:
    """One, over the bad road."""
    return run_soak(options, progress, road)


def main() -> int:
    """The command line; returns the exit code."""
    parser = Arguments("soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.given()
    options = SoakOptions(given.minutes, given.connections, 1500, "auto", 64 << 20)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if given.plot:
            plot.check(given.plot)
        report = soak(options, Lines())
    except (ConfigError, Unsupported) as error:
        parser.error(str(error))
    for failure in report.failures:
        logging.error("%s", failure)
    if given.plot:
        draw(report, given.plot)
    code = 0 if report.ok else 1
    if given.json:
        print(document(report, code))
    else:
        print_soak(report)
    return code


if __name__ == "__main__":
    if sys.argv[1:2] == ["--road"]:
        _be_the_road(*sys.argv[2:])
    else:
        sys.exit(main())
