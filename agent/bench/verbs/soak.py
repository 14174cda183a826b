# SPDX-License-Identifier: Apache-2.0
"""`bench soak`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from devmemtcp.agent.bench.verbs.judged import judged
from devmemtcp.agent.bench.verbs.options import Quick
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
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Receive connections that come and go, for minutes, and look whether anything grows.

    Resident memory, descriptors, buffers and tokens; exit code 1 when one of them does, or
    when more than twice the region and 64 MiB are resident.
    """
    from devmemtcp.agent.bench.soak import SoakOptions, run_soak
    from devmemtcp.agent.sizes import parse_size

    options = SoakOptions(
        minutes=(1.0 if quick else 10.0) if minutes is None else minutes,
        connections=connections,
        mtu=mtu,
        mode=mode.value,
        region_size=parse_size(region_size, what="--region-size"),
    )
    judged(lambda progress: run_soak(options, progress), as_json, _print_soak)


def _print_soak(report: SoakReport) -> None:
    from rich.console import Console

    from devmemtcp.agent.bench.soak import JUDGED_SECONDS, amount

    growth = ", ".join(f"{name} {amount(name, grown)}" for name, grown in report.growth.items())
    if report.seconds < JUDGED_SECONDS:
        growth += f" (not judged in less than {JUDGED_SECONDS:.0f} s)"
    Console().print(
        f"{report.connections} connections, {report.bytes_received / 1e9:.1f} GB in "
        f"{report.seconds:.0f} s ({report.mode} mode, MTU {report.mtu}, "
        f"region {report.region_size >> 20} MiB), {report.wrong_bytes} bytes wrong\n"
        f"resident: at most {report.resident_peak >> 20} MiB, "
        f"{report.resident_allowed >> 20} allowed\n"
        f"growth: {growth}",
        highlight=False,
    )
