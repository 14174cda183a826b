# SPDX-License-Identifier: Apache-2.0
"""`bench tcp-rx`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from devmemtcp.agent.bench.verbs.options import Seed, seed_or_new
from devmemtcp.agent.document import document
from devmemtcp.agent.options import CsumChoice, Debug, Json, ModeChoice, RegionSize

if TYPE_CHECKING:
    from rich.table import Table

    from devmemtcp.agent.bench.plan import CpuPlan
    from devmemtcp.agent.bench.tcp_rx import Setting, Spread, TcpRxReport


Mtus = Annotated[list[int] | None, typer.Option("--mtu", help="Bytes of an IP packet. Repeatable.")]
Plans = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PLAN",
        help="Cores, e.g. sender=0,app=1,loop=0,rps=1,acks=0; `none` pins nothing. "
        "Repeatable: the best one counts.",
    ),
]


def tcp_rx(
    mtu: Mtus = None,
    mode: Annotated[
        list[ModeChoice] | None,
        typer.Option(help="How to attach the XDP programs. Repeatable; default: auto and native."),
    ] = None,
    duration: Annotated[
        float, typer.Option(metavar="SECONDS", help="Of each of a turn's two windows.")
    ] = 0.5,
    rounds: Annotated[int, typer.Option(help="Turns of each variant.")] = 5,
    variant: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only these. Repeatable.")
    ] = None,
    cpu_plan: Plans = None,
    kernel_cpu_plan: Plans = None,
    region_size: RegionSize = "64M",
    rx_csum: Annotated[CsumChoice, typer.Option(help="Ours: verify, or trust.")] = (
        CsumChoice.VERIFY
    ),
    window: Annotated[
        str, typer.Option(metavar="SIZE", help="Ours: largest receive window of the connection.")
    ] = "4M",
    spin_us: Annotated[
        int, typer.Option(min=0, help="Ours: poll the rings so long before sleeping.")
    ] = 0,
    busy_poll: Annotated[bool, typer.Option("--busy-poll", help="Ours: never sleep.")] = False,
    copy: Annotated[
        bool,
        typer.Option("--copy", help="Ours: copy every byte out of the region, as recv() does."),
    ] = False,
    seed: Seed = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Receive one TCP stream over a veth: ours and the kernel's recv(), turn by turn.

    The sender is a blocking send() of the kernel, pinned to cubic. Measured are goodput, and
    CPU per byte of all cores by what a thread of the lowest priority can no longer get.
    """
    from devmemtcp.agent.bench.plan import default_kernel_plans, default_plans
    from devmemtcp.agent.bench.tcp_rx import VARIANTS, TcpRxOptions, run_tcp_rx
    from devmemtcp.agent.sizes import parse_size

    options = TcpRxOptions(
        mtus=tuple(mtu or [1500]),
        modes=tuple(each.value for each in mode or [ModeChoice.AUTO, ModeChoice.NATIVE]),
        duration=duration,
        rounds=rounds,
        plans=_plans(cpu_plan) or default_plans(),
        kernel_plans=_plans(kernel_cpu_plan) or default_kernel_plans(),
        region_size=parse_size(region_size, what="--region-size"),
        rx_csum=rx_csum.value,
        window=parse_size(window, what="--window", minimum=1),
        spin_us=spin_us,
        busy_poll=busy_poll,
        copy=copy,
        variants=tuple(variant or [each.name for each in VARIANTS]),
        seed=seed_or_new(seed),
    )
    report = run_tcp_rx(options, lambda line: logging.info("%s", line))
    if as_json:
        print(document(report, 0))
    else:
        _print_tcp_rx(report)


def _plans(texts: list[str] | None) -> tuple[CpuPlan, ...]:
    from devmemtcp.agent.bench.plan import parse_plan

    return tuple(parse_plan(text) for text in dict.fromkeys(texts or ()))


def _print_tcp_rx(report: TcpRxReport) -> None:
    from rich.console import Console

    console = Console(width=max(160, Console().width))  # the tables need it
    for setting in report.settings:
        console.print(_tcp_rx_table(setting))
    console.print(
        f"Linux {report.kernel}, {report.cores} cores of {report.cpu}, "
        f"TSC {report.tsc_ghz:.2f} GHz; "
        f"sender {report.congestion}; region {report.region_size >> 20} MiB; "
        f"window {report.window >> 10} KiB; checksums: {report.rx_csum}; "
        f"spin {report.spin_us} us; busy poll: {report.busy_poll}; "
        f"application {'copies every byte' if report.copy else 'does not read payload'}; "
        f"{report.rounds} rounds of 2 x {report.duration:g} s, seed {report.seed}",
        highlight=False,
    )


def _tcp_rx_table(setting: Setting) -> Table:
    from rich.table import Table

    table = Table(
        title=f"MTU {setting.mtu}, {setting.mode} mode: median (lowest - highest)",
        title_justify="left",
    )
    for column in ("variant", "Gb/s", "CPU s/GB", "TSC cycles/B", "ours: Gb/s x", "ours: CPU x"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    table.add_column("foreign + stolen", justify="right")
    table.add_column("cores")
    for row in setting.rows:
        table.add_row(
            row.variant,
            _spread(row.goodput_gbps, 2),
            _spread(row.cpu_seconds_per_gb, 3),
            "" if row.cycles_per_byte is None else f"{row.cycles_per_byte:.2f}",
            "" if row.goodput_ratio is None else _spread(row.goodput_ratio, 2),
            "" if row.cpu_ratio is None else _spread(row.cpu_ratio, 2),
            f"{row.foreign_cores.median:.2f} + {row.stolen_cores.median:.2f}",
            row.plan.replace(",", " "),
        )
    return table


def _spread(spread: Spread, digits: int) -> str:
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f} - {spread.high:.{digits}f})"
