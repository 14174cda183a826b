# SPDX-License-Identifier: Apache-2.0
"""`bench compare` and `bench plot`: what can be done with results that were kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from devmemtcp.agent.options import Debug, Json
from devmemtcp.agent.verb import finish

ResultFile = Annotated[Path, typer.Argument(help="What a benchmark printed with --json.")]


def compare(
    a: ResultFile,
    b: ResultFile,
    margin: Annotated[
        float, typer.Option(help="Within which two medians are the same; 0.02 is 2 %.")
    ] = 0.02,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Hold two results of one benchmark side by side: B divided by A, with intervals.

    The runs were not interleaved, so what changed between them is in the ratios of medians. Ratios
    that each run made within its own rounds are compared too: they are free of that.
    """
    from devmemtcp.agent.bench import saved, tables
    from devmemtcp.agent.bench.compare import compare as held

    contrast = held(saved.load(a), saved.load(b), margin=margin)
    finish(contrast, as_json, lambda held: tables.show_contrast(held, tables.console()))


def plot(
    result: ResultFile,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="A .png or .svg.")],
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only these. Repeatable.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Draw a result that was kept: each sample a dot, with median and interval, and the ratios."""
    from devmemtcp.agent.bench import plot as plots
    from devmemtcp.agent.bench import saved

    plots.check(output, "--output")
    plots.draw(saved.load(result), output, metric or ())
