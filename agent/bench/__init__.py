# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: each is a command of this app (`devmemtcp bench NAME`)."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from devmemtcp.agent.document import document
from devmemtcp.agent.options import CsumChoice, Debug, Json, Mode, ModeChoice, RegionSize

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from devmemtcp.agent.bench.agent_rx import AgentRxReport
    from devmemtcp.agent.bench.page_pool import PagePoolReport
    from devmemtcp.agent.bench.plan import CpuPlan
    from devmemtcp.agent.bench.soak import SoakReport
    from devmemtcp.agent.bench.tcp_rx import Setting, Spread, TcpRxReport
    from devmemtcp.agent.bench.xdp_drop import XdpDropReport

    Judged = TypeVar("Judged", SoakReport, AgentRxReport)

app = typer.Typer(
    help="Measure, interleaved with what a user would have instead.", invoke_without_command=True
)


Mtus = Annotated[list[int] | None, typer.Option("--mtu", help="Bytes of an IP packet. Repeatable.")]
Plans = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PLAN",
        help="Cores, e.g. sender=0,app=1,loop=0,rps=1,acks=0; `none` pins nothing. "
        "Repeatable: the best one counts.",
    ),
]


Quick = Annotated[bool, typer.Option("--quick", help="A fifth of the rounds: wider intervals.")]
Seed = Annotated[int | None, typer.Option(help="Of the order of turns; default: a new one.")]


@app.callback()
def _which(context: typer.Context) -> None:
    """Measure, interleaved with what a user would have instead."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit()


@app.command("tcp-rx")
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
        seed=int.from_bytes(os.urandom(4)) if seed is None else seed,
    )
    report = run_tcp_rx(options, lambda line: logging.info("%s", line))
    if as_json:
        print(document(report, 0))
    else:
        _print_tcp_rx(report)


@app.command("page-pool")
def page_pool(
    rounds: Annotated[int, typer.Option(help="Turns of each variant.")] = 120,
    loops: Annotated[int, typer.Option(help="Of each of the runs that a turn takes.")] = 100_000,
    quick: Quick = False,
    cpu: Annotated[int | None, typer.Option(help="Core to run on; default: the first.")] = None,
    seed: Seed = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Take buffers out of the page_pool and put them back: the kernel's benchmark, on ours.

    Cache, ring and slow path, host and device memory, and each form of the check whether a
    buffer is a page, with time, instructions, and a verdict on each form against none.
    """
    from devmemtcp.agent.bench.page_pool import PagePoolOptions, run_page_pool

    options = PagePoolOptions(
        rounds=max(1, rounds // 5) if quick else rounds,
        loops=loops,
        cpu=min(os.sched_getaffinity(0)) if cpu is None else cpu,
        seed=int.from_bytes(os.urandom(4)) if seed is None else seed,
    )
    report = run_page_pool(options, lambda line: logging.info("%s", line))
    if as_json:
        print(document(report, 0))
    else:
        _print_page_pool(report)


@app.command("xdp-drop")
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
        seed=int.from_bytes(os.urandom(4)) if seed is None else seed,
    )
    report = run_xdp_drop(options, lambda line: logging.info("%s", line))
    if as_json:
        print(document(report, 0))
    else:
        _print_xdp_drop(report)


@app.command()
def soak(
    minutes: Annotated[float, typer.Option(help="How long to receive.")] = 10.0,
    connections: Annotated[int, typer.Option(help="Open at the same time.")] = 16,
    mtu: Annotated[int, typer.Option(help="Bytes of an IP packet.")] = 1500,
    mode: Mode = ModeChoice.AUTO,
    region_size: RegionSize = "64M",
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
        minutes=minutes,
        connections=connections,
        mtu=mtu,
        mode=mode.value,
        region_size=parse_size(region_size, what="--region-size"),
    )
    report = run_soak(options, lambda line: logging.info("%s", line))
    _judged(report, as_json, _print_soak)


def _judged(report: Judged, as_json: bool, show: Callable[[Judged], None]) -> NoReturn:
    """Say what failed, print the report, and leave with its verdict."""
    for failure in report.failures:
        logging.error("%s", failure)
    exit_code = 0 if report.ok else 1
    if as_json:
        print(document(report, exit_code))
    else:
        show(report)
    raise typer.Exit(exit_code)


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


@app.command("agent")
def agent_rx(
    size: Annotated[str, typer.Option(metavar="SIZE", help="Bytes of a turn.")] = "1G",
    rounds: Annotated[int, typer.Option(help="Turns of each way to receive; 0: none.")] = 5,
    kills: Annotated[int, typer.Option(help="Applications to kill under load.")] = 0,
    mtu: Annotated[int, typer.Option(help="Bytes of an IP packet.")] = 1500,
    mode: Mode = ModeChoice.AUTO,
    region_size: RegionSize = "64M",
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
        size=parse_size(size, what="--size"),
        rounds=rounds,
        kills=kills,
        mtu=mtu,
        mode=mode.value,
        region_size=parse_size(region_size, what="--region-size"),
    )
    report = run_agent_rx(options, lambda line: logging.info("%s", line))
    _judged(report, as_json, _print_agent_rx)


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


def _print_page_pool(report: PagePoolReport) -> None:
    from rich.console import Console

    times = _table("variant", "ns: median (95 %)", "TSC ticks", "instructions")
    times.title = f"page_pool: one alloc and one put, core {report.cpu}"
    for row in report.rows:
        times.add_row(
            row.variant.name, str(row.ns), _number(row.ticks, 1), _number(row.instructions, 1)
        )
    pairs = _table("variant", "against", "time x (95 %)", "instructions", "verdict")
    for pair in report.comparisons:
        pairs.add_row(
            pair.variant,
            pair.against,
            str(pair.ratio),
            "" if pair.more_instructions is None else f"{pair.more_instructions:+.1f}",
            f"{pair.verdict} (margin {pair.margin:.0%})",
        )
    console = Console(width=max(120, Console().width))
    console.print(times, pairs)
    console.print(
        f"fast/host/static takes {report.floor_ratio} of the floor: the loop and two loads\n"
        f"{report.machine}; {report.rounds} rounds of {report.runs} runs of {report.loops} in "
        f"{report.seconds:.0f} s, seed {report.seed}; {report.noise}",
        highlight=False,
    )


def _print_xdp_drop(report: XdpDropReport) -> None:
    from rich.console import Console

    where = report.interface or f"veth, core {report.cpu}"
    rates = _table("variant", "Mpps: median (95 %)", "ns/frame")
    rates.title = f"{report.frame_bytes}-byte frames dropped, {report.mode} mode, {where}"
    for row in report.rows:
        rates.add_row(row.variant, str(row.mpps), f"{row.ns:.1f}")
    pairs = _table("variant", "against", "rate x: median (95 %)", "verdict")
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


def _table(*columns: str) -> Table:
    """One with names on the left and numbers on the right."""
    from rich.table import Table

    table = Table(title_justify="left")
    for column in columns:
        names = column in ("variant", "against", "verdict")
        table.add_column(column, justify="left" if names else "right")
    return table


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


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
