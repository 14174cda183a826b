# SPDX-License-Identifier: Apache-2.0
"""`devmemtcp netdev`: look at the objects of the netdev family, the kernel's or the agent's.

The names are those of the kernel's specification, `netdev.yaml`, and so is the shape: what is
printed for one target can be compared with what is printed for the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from devmemtcp.agent.options import Debug, Json
from devmemtcp.agent.verb import finish, group

if TYPE_CHECKING:
    from devmemtcp.netlink.netdev import Netdev
    from devmemtcp.netlink.records import Record

_MAX_IFINDEX = (1 << 31) - 1  # an int of the kernel's

app = group("Ask the kernel's netdev netlink family, or the agent's.")


class TargetChoice(StrEnum):
    """Who is asked."""

    KERNEL = "kernel"
    AGENT = "agent"


class GetChoice(StrEnum):
    """What is asked for: a command of the family."""

    DEV = "dev-get"
    QUEUE = "queue-get"
    NAPI = "napi-get"
    PAGE_POOL = "page-pool-get"
    PAGE_POOL_STATS = "page-pool-stats-get"
    QSTATS = "qstats-get"


class ScopeChoice(StrEnum):
    """What qstats-get counts apart."""

    QUEUE = "queue"


Command = Annotated[GetChoice, typer.Argument(metavar="COMMAND", help="A command of the family.")]
Target = Annotated[TargetChoice, typer.Option(help="Who to ask.")]
Socket = Annotated[
    str | None,
    typer.Option("--socket", metavar="PATH", help="The agent's socket, if not the usual one."),
]
Interface = Annotated[
    str | None,
    typer.Option("--ifindex", "-i", metavar="IF", help="Of this interface only: name or index."),
]


@dataclass(frozen=True)
class Report:
    """What was asked, and the objects of the answer."""

    target: str
    command: str
    objects: list[dict[str, Any]]


@app.command()
def dump(
    command: Command,
    target: Target = TargetChoice.KERNEL,
    socket_path: Socket = None,
    interface: Interface = None,
    scope: Annotated[
        ScopeChoice | None, typer.Option(help="With qstats-get: counters of each queue.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Print all objects of a kind: devices, queues, NAPI instances, page pools, counters."""
    from devmemtcp.agent.errors import ConfigError

    if scope is not None and command is not GetChoice.QSTATS:
        raise ConfigError("--scope is for qstats-get")
    ifindex = _ifindex(interface)
    with _client(target, socket_path) as netdev:
        records = _dump(netdev, command, ifindex, per_queue=scope is ScopeChoice.QUEUE)
    objects = [record.document() for record in records]
    finish(Report(target.value, command.value, objects), as_json, _show)


def _ifindex(interface: str | None) -> int | None:
    from devmemtcp.agent.netdev import ifindex_of, no_interface

    if interface is None:
        return None
    if not re.fullmatch("[0-9]{1,10}", interface):
        return ifindex_of(interface)
    ifindex = int(interface)
    if not 0 < ifindex <= _MAX_IFINDEX:
        raise no_interface(interface)
    return ifindex


def _client(target: TargetChoice, socket_path: str | None) -> Netdev:
    from devmemtcp.agent.errors import ConfigError, Unsupported
    from devmemtcp.netlink import errors
    from devmemtcp.netlink.netdev import Netdev

    if socket_path is not None and target is TargetChoice.KERNEL:
        raise ConfigError("--socket is for --target agent")
    try:
        return Netdev(target.value if socket_path is None else Path(socket_path))
    except errors.Unsupported as error:
        raise Unsupported(str(error)) from error
    except (FileNotFoundError, ConnectionRefusedError) as error:
        from devmemtcp.agent.session import no_agent

        raise no_agent(str(error.filename), error) from error


def _dump(
    netdev: Netdev, command: GetChoice, ifindex: int | None, *, per_queue: bool
) -> Sequence[Record]:
    """Dump, by the kernel's filter of interfaces where a command has one, else by ours."""
    from devmemtcp.netlink.constants import QstatsScope

    match command:
        case GetChoice.QUEUE:
            return netdev.queue_get(ifindex)
        case GetChoice.NAPI:
            return netdev.napi_get(ifindex=ifindex)
        case GetChoice.QSTATS:
            return netdev.qstats_get(ifindex, QstatsScope.QUEUE if per_queue else None)
        case GetChoice.DEV:
            return [dev for dev in netdev.dev_get() if ifindex in (None, dev.ifindex)]
        case GetChoice.PAGE_POOL:
            return [pool for pool in netdev.page_pool_get() if ifindex in (None, pool.ifindex)]
        case GetChoice.PAGE_POOL_STATS:
            return [
                stats
                for stats in netdev.page_pool_stats_get()
                if ifindex is None or (stats.info and stats.info.ifindex == ifindex)
            ]


def _show(report: Report) -> None:
    from rich.console import Console

    from devmemtcp.agent.table import table

    title = f"{report.command} of the {report.target}"
    if report.objects:
        console = Console()
        console.print(table(report.objects, title, console, _words))
    else:
        print(f"{title}: none")


def _words(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {_words(inner)}" for name, inner in value.items()) or "yes"
    if isinstance(value, list):
        return "\n".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)
