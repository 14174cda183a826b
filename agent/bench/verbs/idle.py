# SPDX-License-Identifier: Apache-2.0
"""`bench idle`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from devmemtcp.agent.bench.verbs.judged import judged
from devmemtcp.agent.bench.verbs.options import Quick
from devmemtcp.agent.options import Debug, Json, Mode, ModeChoice, RegionSize

if TYPE_CHECKING:
    from devmemtcp.agent.bench.idle import IdleReport


def idle(
    connections: Annotated[
        int | None, typer.Option(help="How many; default: 10000, quick: 1000.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="To leave them alone; default: 30, quick: 10.")
    ] = None,
    mode: Mode = ModeChoice.AUTO,
    region_size: RegionSize = "16M",
    quick: Quick = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Open connections, leave them alone, and look what they cost: memory, CPU time, wake-ups.

    Exit code 1: more than 1 KiB a connection, 1 % of a core or more for all of them, or a loop
    that does not sleep.
    """
    from devmemtcp.agent.bench.idle import IdleOptions, run_idle
    from devmemtcp.agent.sizes import parse_size

    options = IdleOptions(
        connections=(1000 if quick else 10_000) if connections is None else connections,
        seconds=(10.0 if quick else 30.0) if seconds is None else seconds,
        mode=mode.value,
        region_size=parse_size(region_size, what="--region-size"),
    )
    judged(lambda progress: run_idle(options, progress), as_json, _print_idle)


def _print_idle(report: IdleReport) -> None:
    from rich.console import Console

    judged = "" if report.judged else " (too short to be judged)"
    Console().print(
        f"{report.connections} connections, opened in {report.open_seconds:.1f} s, idle for "
        f"{report.seconds:.0f} s ({report.mode} mode)\n"
        f"memory: {report.bytes_each:.0f} bytes each, {report.stack_bytes:.0f} in the stack, "
        f"{report.channel_bytes:.0f} in the channel; the application's own "
        f"{report.application_bytes:.0f}\n"
        f"time: {report.cpu_share:.3%} of a core{judged}, {report.wake_ups} wake-ups of the loop",
        highlight=False,
    )
