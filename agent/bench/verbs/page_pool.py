# SPDX-License-Identifier: Apache-2.0
"""`bench page-pool`."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Annotated

import typer

from devmemtcp.agent.bench.verbs.options import Quick, Seed, seed_or_new
from devmemtcp.agent.document import document
from devmemtcp.agent.options import Debug, Json

if TYPE_CHECKING:
    from devmemtcp.agent.bench.page_pool import PagePoolReport


def page_pool(
    rounds: Annotated[int, typer.Option(help="Turns of each variant.")] = 120,
    loops: Annotated[int, typer.Option(help="Of each of the runs that a turn takes.")] = 100_000,
    quick: Quick = False,
    cpu: Annotated[int | None, typer.Option(help="Core to run on; default: the first.")] = None,
    seed: Seed = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Take buffers out of the page_pool and put them back: the kernel's benchmark, on ours.

    Cache, ring and slow path, host and device memory, and each form of the check whether a
    buffer is a page, with time, instructions, and a verdict on each form against none.
    """
    from devmemtcp.agent.bench.page_pool import PagePoolOptions, run_page_pool

    options = PagePoolOptions(
        rounds=max(1, rounds // 5) if quick else rounds,
        loops=loops,
        cpu=min(os.sched_getaffinity(0)) if cpu is None else cpu,
        seed=seed_or_new(seed),
    )
    report = run_page_pool(options, lambda line: logging.info("%s", line))
    if as_json:
        print(document(report, 0))
    else:
        _print_page_pool(report)


def _print_page_pool(report: PagePoolReport) -> None:
    from rich.console import Console

    from devmemtcp.agent.bench.verbs.tables import number, table

    times = table("variant", "ns: median (95 %)", "TSC ticks", "instructions")
    times.title = f"page_pool: one alloc and one put, core {report.cpu}"
    for row in report.rows:
        times.add_row(
            row.variant.name, str(row.ns), number(row.ticks, 1), number(row.instructions, 1)
        )
    pairs = table("variant", "against", "time x (95 %)", "instructions", "verdict")
    for pair in report.comparisons:
        pairs.add_row(
            pair.variant,
            pair.against,
            str(pair.ratio),
            "" if pair.more_instructions is None else f"{pair.more_instructions:+.1f}",
            f"{pair.verdict} (margin {pair.margin:.0%})",
        )
    console = Console(width=max(120, Console().width))
    console.print(times, pairs)
    console.print(
        f"fast/host/static takes {report.floor_ratio} of the floor: the loop and two loads\n"
        f"{report.machine}; {report.rounds} rounds of {report.runs} runs of {report.loops} in "
        f"{report.seconds:.0f} s, seed {report.seed}; {report.noise}",
        highlight=False,
    )
