# SPDX-License-Identifier: Apache-2.0
"""`bench page-pool`."""

from __future__ import annotations

from typing import Annotated

import typer

from devmemtcp.agent.bench.verbs.finish import measure
from devmemtcp.agent.bench.verbs.options import Plot, Quick, Seed, given, seed_or_new
from devmemtcp.agent.options import Debug, Json


def page_pool(
    rounds: Annotated[
        int | None, typer.Option(help="Turns of each variant; default: 120, quick: 24.")
    ] = None,
    loops: Annotated[
        int | None, typer.Option(help="Of each of the runs that a turn takes; default: 100000.")
    ] = None,
    quick: Quick = False,
    cpu: Annotated[int | None, typer.Option(help="Core to run on; default: the first.")] = None,
    seed: Seed = None,
    plot: Plot = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Take buffers out of the page_pool and put them back: the kernel's benchmark, on ours.

    Cache, ring and slow path, host and device memory, and each form of the check whether a
    buffer is a page, with time, instructions, and a verdict on each form against none.
    """
    from devmemtcp.agent.bench.page_pool import PagePoolOptions, run_page_pool

    options = given(
        PagePoolOptions.usual(quick=quick, seed=seed_or_new(seed)),
        rounds=rounds,
        loops=loops,
        cpu=cpu,
    )
    measure(lambda progress: run_page_pool(options, progress), as_json=as_json, plot=plot)
