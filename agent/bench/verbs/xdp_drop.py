# SPDX-License-Identifier: Apache-2.0
"""`bench xdp-drop`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from devmemtcp.agent.bench.verbs.finish import measure
from devmemtcp.agent.bench.verbs.options import Plot, Quick, Seed, given, seed_or_new
from devmemtcp.agent.options import Debug, Json, Mode, ModeChoice


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
    force: Annotated[
        bool, typer.Option("--force", help="Allow the interface of the default route.")
    ] = False,
    mode: Mode = ModeChoice.AUTO,
    rounds: Annotated[
        int | None, typer.Option(help="Turns of each variant; default: 60, quick: 24.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Of a turn; default: 0.03.")
    ] = None,
    quick: Quick = False,
    variant: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only these. Repeatable.")
    ] = None,
    cpu: Annotated[
        int | None,
        typer.Option(help="Core of the sender, softirq and sockets' owner; default: the first."),
    ] = None,
    app_cpu: Annotated[
        int | None, typer.Option(help="Core that xsk-apart polls on; default: the second.")
    ] = None,
    seed: Seed = None,
    plot: Plot = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Drop frames of 64 bytes: an empty XDP program, ours, and what its checks add.

    The frames are made by the kernel (BPF_PROG_TEST_RUN), on the core that drops them.
    Variants take turns; the verdict on a pair is computed from the interval of its ratio.
    """
    from devmemtcp.agent.bench.xdp_drop import XdpDropOptions, run_xdp_drop

    options = given(
        XdpDropOptions.usual(quick=quick, seed=seed_or_new(seed)),
        rounds=rounds,
        duration=duration,
        variants=tuple(variant) if variant else None,
        interface=interface,
        force=force,
        mode=mode.value,
        **_cores(cpu, app_cpu),
    )
    measure(lambda progress: run_xdp_drop(options, progress), as_json=as_json, plot=plot)


def _cores(cpu: int | None, app_cpu: int | None) -> dict[str, int]:
    """The second defaults to one that is not the first."""
    usable = sorted(os.sched_getaffinity(0))
    first = usable[0] if cpu is None else cpu
    others = [each for each in usable if each != first] or [first]
    return {"cpu": first, "app_cpu": others[0] if app_cpu is None else app_cpu}
