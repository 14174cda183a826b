# SPDX-License-Identifier: Apache-2.0
"""`bench tcp-rx`."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from devmemtcp.agent.bench.verbs.finish import measure
from devmemtcp.agent.bench.verbs.options import Plot, Quick, Seed, given, seed_or_new
from devmemtcp.agent.options import CsumChoice, Debug, Json, ModeChoice

if TYPE_CHECKING:
    from devmemtcp.agent.bench.plan import CpuPlan

T = TypeVar("T")


class CheckChoice(StrEnum):
    """Forms of the check "page or net_iov?"."""

    OFF = "off"
    PLAIN = "plain"
    STATIC = "static"


Mtus = Annotated[
    list[int] | None,
    typer.Option(
        "--mtu", help="Bytes of an IP packet. Repeatable; the first is the base of what is varied."
    ),
]
Plans = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PLAN",
        help="Cores, e.g. sender=0,app=1,loop=0,rps=1,napi=1; `none` pins nothing. "
        "Repeatable: the best one is found out, and taken.",
    ),
]


def tcp_rx(
    mtu: Mtus = None,
    connections: Annotated[
        list[int] | None, typer.Option(help="That send at a time. Repeatable, as --mtu.")
    ] = None,
    mode: Annotated[
        list[ModeChoice] | None,
        typer.Option(help="How to attach the XDP programs. Repeatable; default: auto and native."),
    ] = None,
    check: Annotated[
        list[CheckChoice] | None,
        typer.Option(help="Ours: also with this form of the check. Repeatable."),
    ] = None,
    ack: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="Ours: also with an ACK every N segments. Repeatable."),
    ] = None,
    spin_us: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Ours: also polling so long before sleeping. Repeatable."),
    ] = None,
    busy_poll: Annotated[
        bool | None, typer.Option(help="Ours: also with a stack that never sleeps.")
    ] = None,
    copy: Annotated[
        bool | None,
        typer.Option(help="Ours: also copying every byte out of the region, as recv() does."),
    ] = None,
    slots: Annotated[
        bool | None,
        typer.Option(help="Ours: also with headers that come by slots, as on kernels before 6.8."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Turns of each variant.")] = None,
    duration: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Of a turn's window.")
    ] = None,
    ask: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Of requests and responses in a turn; 0: none."),
    ] = None,
    quick: Quick = False,
    variant: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only these, `devmem-*` for example. Repeatable."),
    ] = None,
    cpu_plan: Plans = None,
    kernel_cpu_plan: Plans = None,
    region_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Ours: device memory; default: 64M.")
    ] = None,
    rx_csum: Annotated[CsumChoice | None, typer.Option(help="Ours: verify, or trust.")] = None,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Ours: largest receive window; default: 4M, on a native veth what its ring holds.",
        ),
    ] = None,
    seed: Seed = None,
    plot: Plot = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Receive TCP streams over a veth: ours and the kernel's recv(), turn by turn.

    Goodput, CPU of all cores for a byte, and latency of a small request. The sender is a
    blocking send() of the kernel, pinned to cubic. In the first setting (an MTU, a number of
    connections) each factor is varied alone; what is given replaces what would be varied.
    """
    from devmemtcp.agent.bench.tcp_options import TcpRxOptions
    from devmemtcp.agent.bench.tcp_rx import run_tcp_rx
    from devmemtcp.agent.sizes import parse_size

    options = given(
        TcpRxOptions.usual(quick=quick, seed=seed_or_new(seed)),
        mtus=_distinct(mtu),
        connections=_distinct(connections),
        modes=_distinct(each.value for each in mode) if mode else None,
        checks=_distinct(each.value for each in check) if check else None,
        acks=_distinct(ack),
        spins=_distinct(spin_us),
        busy_poll=busy_poll,
        copy=copy,
        slots=slots,
        rounds=rounds,
        duration=duration,
        ask_seconds=ask,
        variants=_distinct(variant),
        plans=_plans(cpu_plan),
        kernel_plans=_plans(kernel_cpu_plan),
        region_size=parse_size(region_size, what="--region-size") if region_size else None,
        rx_csum=rx_csum.value if rx_csum else None,
        window=parse_size(window, what="--window", minimum=1) if window else None,
    )
    measure(lambda progress: run_tcp_rx(options, progress), as_json=as_json, plot=plot)


def _distinct(values: Iterable[T] | None) -> tuple[T, ...] | None:
    """None: not given."""
    return None if values is None else tuple(dict.fromkeys(values))


def _plans(texts: list[str] | None) -> tuple[CpuPlan, ...] | None:
    from devmemtcp.agent.bench.plan import parse_plan

    return tuple(parse_plan(text) for text in dict.fromkeys(texts)) if texts else None
