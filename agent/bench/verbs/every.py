# SPDX-License-Identifier: Apache-2.0
"""`bench all`: the three that measure, one after another."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from devmemtcp.agent.bench.verbs.options import Quick, Seed, seed_or_new
from devmemtcp.agent.options import Debug

if TYPE_CHECKING:
    from devmemtcp.agent.bench.progress import Progress
    from devmemtcp.agent.bench.result import Result


Bench = tuple[str, float, "Callable[[Progress], Result]"]
"""Name, seconds, what runs it."""


def every(
    quick: Quick = False,
    seed: Seed = None,
    json_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the documents here, each as NAME.json."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Run page-pool, xdp-drop and tcp-rx; verdicts and aims come together at the end.

    Exit code 1 when one of them could not be measured; an aim that is not met is said.
    """
    from devmemtcp.agent.bench import saved, tables
    from devmemtcp.agent.bench.progress import duration, shown
    from devmemtcp.agent.errors import ConfigError, Unsupported

    if json_dir and not json_dir.is_dir():
        raise ConfigError(f"--json-dir {json_dir}: there is no such folder")
    out = tables.console()
    benches = list(_benches(quick=quick, seed=seed_or_new(seed)))
    total = duration(sum(seconds for _, seconds, _ in benches))
    logging.info("%s: about %s in all", ", ".join(name for name, _, _ in benches), total)
    results: list[Result] = []
    for name, _, run in benches:
        try:
            with shown() as progress:
                results.append(run(progress))
        except (ConfigError, Unsupported, OSError) as error:
            logging.error("%s was not measured: %s", name, error)
            continue
        tables.show_estimates(results[-1], out)
        tables.show_conditions(results[-1], out)
        if json_dir:
            saved.write(results[-1], json_dir / f"{name}.json")
    tables.show_verdicts(results, out)
    tables.show_aims(results, out)
    if len(results) < len(benches):
        raise typer.Exit(1)


def _benches(*, quick: bool, seed: int) -> Iterator[Bench]:
    """Each with its usual options."""
    from devmemtcp.agent.bench.page_pool import PagePoolOptions, run_page_pool
    from devmemtcp.agent.bench.tcp_options import TcpRxOptions
    from devmemtcp.agent.bench.tcp_rx import run_tcp_rx
    from devmemtcp.agent.bench.xdp_drop import XdpDropOptions, run_xdp_drop

    pool = PagePoolOptions.usual(quick=quick, seed=seed)
    yield "page-pool", pool.seconds(), lambda progress: run_page_pool(pool, progress)
    drop = XdpDropOptions.usual(quick=quick, seed=seed)
    yield "xdp-drop", drop.seconds(), lambda progress: run_xdp_drop(drop, progress)
    rx = TcpRxOptions.usual(quick=quick, seed=seed)
    yield "tcp-rx", rx.seconds(), lambda progress: run_tcp_rx(rx, progress)
