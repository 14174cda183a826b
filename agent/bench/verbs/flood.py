# SPDX-License-Identifier: Apache-2.0
"""`bench flood`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from devmemtcp.agent.bench.verbs.judged import judged
from devmemtcp.agent.bench.verbs.options import Quick, Seed, seed_or_new
from devmemtcp.agent.options import Debug, Json, Mode, ModeChoice, RegionSize

if TYPE_CHECKING:
    from devmemtcp.agent.bench.flood import FloodReport


def flood(
    syns: Annotated[
        int | None, typer.Option(help="How many; default: 200000, quick: as many a second.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="How long; default: 60, quick: 20. As long again is calm.")
    ] = None,
    mtu: Annotated[int, typer.Option(help="Bytes of an IP packet.")] = 1500,
    mode: Mode = ModeChoice.AUTO,
    region_size: RegionSize = "64M",
    seed: Seed = None,
    quick: Quick = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Flood a listener with SYNs that nobody will ever acknowledge, and look who suffers.

    A connection that is open, clients that come, memory; exit code 1 when the connection keeps
    less than 80 % of its goodput, a client waits for more than 3 s, or memory grows.
    """
    from devmemtcp.agent.bench.flood import FloodOptions, run_flood
    from devmemtcp.agent.sizes import parse_size

    usual = 20.0 if quick else 60.0
    options = FloodOptions(
        syns=round(200_000 * usual / 60) if syns is None else syns,
        seconds=usual if seconds is None else seconds,
        mtu=mtu,
        mode=mode.value,
        region_size=parse_size(region_size, what="--region-size"),
        seed=seed_or_new(seed),
    )
    judged(lambda progress: run_flood(options, progress), as_json, _print_flood)


def _print_flood(report: FloodReport) -> None:
    from rich.console import Console

    slowest = report.client_slowest
    clients = sum(len(phase.clients) for phase in report.phases if phase.flooded)
    judged = "" if report.judged else " (too short to be judged)"
    counters = ", ".join(f"{name} {value}" for name, value in report.counters.items())
    Console().print(
        f"{report.syns} SYNs in {report.seconds:.0f} s, {report.answered} answered "
        f"({report.mode} mode, MTU {report.mtu})\n"
        f"goodput: {report.goodput_flood:.1f} Gb/s, {report.goodput_ratio:.3f} of the "
        f"{report.goodput_calm:.1f} Gb/s without{judged}\n"
        f"{clients} new clients, the slowest served after "
        f"{'never' if slowest is None else f'{slowest * 1000:.0f} ms'}\n"
        f"resident: {report.resident_before >> 10} KiB before, at most "
        f"{report.resident_peak >> 10} KiB\n"
        f"{counters}",
        highlight=False,
    )
