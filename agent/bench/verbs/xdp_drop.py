# SPDX-License-Identifier: Apache-2.0
"""`bench xdp-drop`."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Annotated

import typer

from devmemtcp.agent.bench.verbs.options import Quick, Seed, seed_or_new
from devmemtcp.agent.document import document
from devmemtcp.agent.options import Debug, Json

if TYPE_CHECKING:
    from devmemtcp.agent.bench.xdp_drop import XdpDropReport


def xdp_drop(
    interface: Annotated[
        str | None,
        typer.Option(
            "-i",
            "--interface",
            metavar="IF",
            help="Count what arrives here from outside, and drop it all; default: a veth pair.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Turns of each variant.")] = 60,
    duration: Annotated[float, typer.Option(metavar="SECONDS", help="Of a turn.")] = 0.03,
    quick: Quick = False,
    variant: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only these. Repeatable.")
    ] = None,
    cpu: Annotated[
        int | None, typer.Option(help="Core of the sender and of softirq; default: the first.")
    ] = None,
    app_cpu: Annotated[
        int | None, typer.Option(help="Core of an AF_XDP socket's owner; default: the second.")
    ] = None,
    seed: Seed = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Drop frames of 64 bytes: an empty XDP program, ours, and what its checks add.

    The frames are made by the kernel (BPF_PROG_TEST_RUN), on the core that drops them.
    Variants take turns; the verdict on a pair is computed from the interval of its ratio.
    """
    from devmemtcp.agent.bench.xdp_drop import VARIANTS, XdpDropOptions, run_xdp_drop

    usable = sorted(os.sched_getaffinity(0))
    first = usable[0] if cpu is None else cpu
    others = [each for each in usable if each != first] or [first]
    options = XdpDropOptions(
        rounds=max(1, rounds // 5) if quick else rounds,
        duration=duration,
        variants=tuple(variant or [each.name for each in VARIANTS]),
        interface=interface,
        cpu=first,
        app_cpu=others[0] if app_cpu is None else app_cpu,
        seed=seed_or_new(seed),
    )
    report = run_xdp_drop(options, lambda line: logging.info("%s", line))
    if as_json:
        print(document(report, 0))
    else:
        _print_xdp_drop(report)


def _print_xdp_drop(report: XdpDropReport) -> None:
    from rich.console import Console

    from devmemtcp.agent.bench.verbs.tables import table

    where = report.interface or f"veth, core {report.cpu}"
    rates = table("variant", "Mpps: median (95 %)", "ns/frame")
    rates.title = f"{report.frame_bytes}-byte frames dropped, {report.mode} mode, {where}"
    for row in report.rows:
        rates.add_row(row.variant, str(row.mpps), f"{row.ns:.1f}")
    pairs = table("variant", "against", "rate x: median (95 %)", "verdict")
    for pair in report.comparisons:
        verdict = f"{pair.verdict} (margin {pair.margin:.0%})"
        pairs.add_row(pair.variant, pair.against, str(pair.ratio), verdict)
    console = Console(width=max(120, Console().width))
    console.print(rates, pairs)
    console.print(
        f"{report.machine}; {report.rounds} rounds of {report.duration:g} s in "
        f"{report.seconds:.0f} s, seed {report.seed}; {report.noise}"
        + ("" if report.lost is None else f"; {report.lost:.2%} of the frames lost"),
        highlight=False,
    )
