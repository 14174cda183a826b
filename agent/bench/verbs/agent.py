# SPDX-License-Identifier: Apache-2.0
"""`bench agent`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from devmemtcp.agent.bench.verbs.judged import judged
from devmemtcp.agent.bench.verbs.options import Quick
from devmemtcp.agent.options import Debug, Json, Mode, ModeChoice, RegionSize

if TYPE_CHECKING:
    from devmemtcp.agent.bench.agent_rx import AgentRxReport


def agent_rx(
    size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Bytes of a turn; default: 1G, quick: 256M."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Turns of each way to receive; 0: none.")] = 5,
    kills: Annotated[int, typer.Option(help="Applications to kill under load.")] = 0,
    mtu: Annotated[int, typer.Option(help="Bytes of an IP packet.")] = 1500,
    mode: Mode = ModeChoice.AUTO,
    region_size: RegionSize = "64M",
    quick: Quick = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Receive through the agent as user nobody, and with a stack inside; kill applications.

    Exit code 1: less than 0.95 of the goodput inside, or a killed application left something
    for more than a second, or harmed another.
    """
    from devmemtcp.agent.bench.agent_rx import AgentRxOptions, run_agent_rx
    from devmemtcp.agent.sizes import parse_size

    options = AgentRxOptions(
        size=parse_size(size or ("256M" if quick else "1G"), what="--size"),
        rounds=rounds,
        kills=kills,
        mtu=mtu,
        mode=mode.value,
        region_size=parse_size(region_size, what="--region-size"),
    )
    judged(lambda progress: run_agent_rx(options, progress), as_json, _print_agent_rx)


def _print_agent_rx(report: AgentRxReport) -> None:
    from rich.console import Console

    console = Console()
    if report.inside_gbps and report.agent_gbps and report.goodput_ratio:
        ratio = report.goodput_ratio
        console.print(
            f"{report.rounds} rounds of {report.size:,} bytes: {report.agent_gbps.median:.1f} Gb/s "
            f"by the agent, {report.inside_gbps.median:.1f} inside; ratio {ratio.median:.3f} "
            f"({ratio.low:.3f} to {ratio.high:.3f})",
            highlight=False,
        )
    if report.settled_seconds:
        console.print(
            f"{report.kills} applications killed, gone after "
            f"{report.settled_seconds.median * 1000:.1f} ms, at most "
            f"{report.settled_seconds.high * 1000:.1f}; beside them {report.streams_beside} "
            f"streams of another, {report.wrong_bytes} bytes wrong",
            highlight=False,
        )
