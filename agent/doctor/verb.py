# SPDX-License-Identifier: Apache-2.0
"""`devmemtcp doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from devmemtcp.agent.options import Debug, Json, RegionSize
from devmemtcp.agent.verb import finish
from devmemtcp.netlink.constants import AGENT_SOCKET


def doctor(
    interface: Annotated[
        str | None,
        typer.Option("--interface", "-i", metavar="IF", help="Interface to receive on."),
    ] = None,
    region_size: RegionSize = "64M",
    try_zero_copy: Annotated[
        bool,
        typer.Option(
            "--try-zero-copy",
            help="Bind a zero-copy socket for a moment, too: that resets a queue of the NIC.",
        ),
    ] = False,
    agent_socket: Annotated[
        str, typer.Option(metavar="PATH", help="The agent's socket.")
    ] = AGENT_SOCKET,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what this machine and an interface can do, and what mends what they cannot.

    Changes nothing, and needs no privilege: what it may not look at it says. Without an interface
    it looks at the machine, and shortly at each interface. Exit code 1: nothing can be received.
    """
    from devmemtcp.agent.doctor.examine import examine, examine_host
    from devmemtcp.agent.doctor.render import show
    from devmemtcp.agent.errors import ConfigError
    from devmemtcp.agent.region import check_size
    from devmemtcp.agent.sizes import parse_size

    size = parse_size(region_size, what="--region-size")
    check_size(size)
    if interface is not None:
        report = examine(
            interface, region_size=size, try_zero_copy=try_zero_copy, agent_socket=agent_socket
        )
    elif try_zero_copy:
        raise ConfigError("--try-zero-copy is for one interface: -i IF")
    else:
        report = examine_host(region_size=size, agent_socket=agent_socket)
    finish(report, as_json, show, exit_code=0 if report.ok else 1)
