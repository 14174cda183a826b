# SPDX-License-Identifier: Apache-2.0
"""`bench soak`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from devmemtcp.agent.bench.verbs.judged import judged
from devmemtcp.agent.bench.verbs.options import Plot, Quick
from devmemtcp.agent.options import Debug, Json, Mode, ModeChoice, RegionSize

if TYPE_CHECKING:
    from devmemtcp.agent.bench.soak import SoakReport


def soak(
    minutes: Annotated[
        float | None, typer.Option(help="How long to receive; default: 10, quick: 1.")
    ] = None,
    connections: Annotated[int, typer.Option(help="Open at the same time.")] = 16,
    mtu: Annotated[int, typer.Option(help="Bytes of an IP packet.")] = 1500,
    mode: Mode = ModeChoice.AUTO,
    region_size: RegionSize = "64M",
    quick: Quick = False,
    plot: Plot = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Receive connections that come and go, for minutes, and look whether anything grows.

    Heaps, descriptors, buffers and tokens; exit code 1 when one of them does, when something has
    not come back at the end, or when more is resident than there is to be.
    """
    from devmemtcp.agent.bench import plot as pictures
    from devmemtcp.agent.bench.soak import SoakOptions, run_soak
    from devmemtcp.agent.sizes import parse_size

    if plot is not None:
        pictures.check(plot)

    options = SoakOptions(
        minutes=(1.0 if quick else 10.0) if minutes is None else minutes,
        connections=connections,
        mtu=mtu,
        mode=mode.value,
        region_size=parse_size(region_size, what="--region-size"),
    )
    judged(lambda progress: kept(run_soak(options, progress), plot), as_json, print_soak)


def kept(report: SoakReport, plot: Path | None) -> SoakReport:
    """The report, when it has been drawn."""
    from devmemtcp.agent.bench import soak_plot

    if plot is not None:
        soak_plot.draw(report, plot)
    return report


def print_soak(report: SoakReport) -> None:
    """For people."""
    from rich.console import Console

    from devmemtcp.agent.bench.soak import JUDGED_SECONDS, amount

    judged = (
        "" if report.seconds >= JUDGED_SECONDS else f" (not judged before {JUDGED_SECONDS:.0f} s)"
    )
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{report.connections} connections, {report.resets} reset, "
        f"{report.bytes_received / 1e9:.1f} GB in {report.seconds:.0f} s, "
        f"{report.wrong_bytes} bytes wrong\n"
        f"{report.mode} mode, MTU {report.mtu}, region {report.region_size >> 20} MiB\n"
        f"resident: at most {report.resident_peak >> 20} MiB, "
        f"{report.resident_allowed >> 20} allowed"
    )
    for name, found in report.trends.items():
        console.print(f"{name}: {report.verdicts[name]}, {amount(name, found)}{judged}")
