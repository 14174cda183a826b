# SPDX-License-Identifier: Apache-2.0
"""`devmemtcp agent` and `devmemtcp status`."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from devmemtcp.agent.options import Debug, Json
from devmemtcp.agent.verb import finish
from devmemtcp.netlink.constants import AGENT_SOCKET

if TYPE_CHECKING:
    from devmemtcp.agent.daemon.config import Config
    from devmemtcp.agent.session import Session


class LogLevel(StrEnum):
    """Least weight of a message."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Status:
    """What an agent serves: a table of each."""

    interfaces: list[dict[str, Any]]
    bindings: list[dict[str, Any]]
    applications: list[dict[str, Any]]


def agent(
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML; by default /etc/devmemtcp/agent.toml."),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print every option and its value, and end.")
    ] = False,
    interface: Annotated[
        list[str] | None,
        typer.Option("--interface", "-i", metavar="IF", help="Serve these alone. Repeatable."),
    ] = None,
    socket: Annotated[
        str | None, typer.Option(metavar="PATH", help="Where applications connect.")
    ] = None,
    socket_owner: Annotated[
        str | None, typer.Option(metavar="USER", help="Owner of the socket's file.")
    ] = None,
    socket_group: Annotated[
        str | None, typer.Option(metavar="GROUP", help="Group of the socket's file.")
    ] = None,
    socket_mode: Annotated[
        str | None, typer.Option(metavar="MODE", help="Of the socket's file, octal, e.g. 0660.")
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="USER", help="Become this user once all is set up.")
    ] = None,
    netns: Annotated[
        str | None, typer.Option(metavar="NAME", help="Network namespace of the interfaces.")
    ] = None,
    linger: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="What connections get to end when the agent does."),
    ] = None,
    log_level: Annotated[LogLevel | None, typer.Option(help="Least weight of a message.")] = None,
    debug: Debug = False,
) -> None:
    """Serve interfaces to applications that need no privilege, until SIGTERM.

    What is given here wins over the file. SIGHUP reads the rules and limits again.
    """
    from devmemtcp.agent.daemon.config import (
        DEFAULT_FILE,
        Config,
        format_config,
        load_config,
        override,
    )

    file = config or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    effective = override(
        Config() if file is None else load_config(file),
        interfaces=interface or (),
        socket=socket,
        owner=_principal(socket_owner),
        group=_principal(socket_group),
        mode=socket_mode,
        user=_principal(user),
        netns=netns,
        linger=linger,
        log_level=log_level,
    )
    if print_config:
        print(format_config(effective), end="")
        return
    _serve(effective, file)


def _serve(config: Config, file: Path | None) -> None:
    from devmemtcp.agent.daemon.agentd import Agent
    from devmemtcp.agent.errors import ConfigError

    logging.getLogger().setLevel(config.agent.log_level.upper())
    try:
        exit_code = Agent(config, file).run()
    except PermissionError as error:
        raise ConfigError(f"no permission to serve: {error.strerror}; run it as root") from error
    raise typer.Exit(exit_code)


def _principal(text: str | None) -> str | int | None:
    """A user or group as the file would have it: digits are a number."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else text


def status(
    socket: Annotated[str, typer.Option(metavar="PATH", help="The agent's.")] = AGENT_SOCKET,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what an agent serves: interfaces, bindings, applications."""
    from devmemtcp.agent.session import Session

    with Session(socket) as session:
        report = _report(session)
    finish(report, as_json, _show)


def _show(report: Status) -> None:
    from rich.console import Console

    from devmemtcp.agent.table import table

    console = Console()
    for title, rows in asdict(report).items():
        console.print(table(rows, title, console, _words_of) if rows else f"no {title}")


def _report(session: Session) -> Status:
    from devmemtcp.netlink.netdev import Netdev

    stacks = {stack.ifindex: stack for stack in session.stacks()}
    with Netdev(session.path) as netdev:
        queues = [queue for queue in netdev.queue_get() if queue.ifindex in stacks]
        pools = [pool for pool in netdev.page_pool_get() if pool.dmabuf is not None]
    bound: dict[int, list[int]] = {}
    for queue in queues:
        if queue.dmabuf is not None:
            bound.setdefault(queue.dmabuf, []).append(queue.id or 0)
    names = {ifindex: stack.ifname for ifindex, stack in stacks.items()}
    return Status(
        interfaces=[
            {"interface": s.ifname, "mode": s.mode, "mtu": s.mtu, "queues": s.queues}
            | {"check": s.netmem_check, "state": s.state, "addresses": sorted(s.addresses)}
            | {"unreadable": s.unreadable.reason if s.state == "serving" else ""}
            for s in stacks.values()
        ],
        bindings=[
            {"id": pool.dmabuf, "interface": names.get(pool.ifindex or 0, "gone")}
            | {"queues": bound.get(pool.dmabuf or 0, []), "inflight": pool.inflight}
            | {"state": "bound" if pool.detach_time is None else "draining"}
            for pool in pools
        ],
        applications=[
            {"interface": names.get(app.pop("ifindex"), "gone"), **app}
            for app in session.applications()
        ],
    )


def _words_of(value: object) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
