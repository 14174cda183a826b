# SPDX-License-Identifier: Apache-2.0
"""Joining and leaving multicast groups by messages.

A netlink socket does this with setsockopt(NETLINK_ADD_MEMBERSHIP); an AF_UNIX connection has no
such option, so the agent's own family has two commands for it. They need no permission, as none
of the groups here does.
"""

from __future__ import annotations

from devmemtcp.netlink.constants import AgentAttr, AgentCmd
from devmemtcp.netlink.family import Op, Request
from devmemtcp.netlink.policy import U32, Policy
from devmemtcp.netlink.server import NetlinkServer

_POLICY = Policy({AgentAttr.GROUP: U32})


def ops(server: NetlinkServer) -> dict[int, Op]:
    """Return SUBSCRIBE and UNSUBSCRIBE, for the ops of the agent's family.

    Both take GROUP, a group's id as CTRL_CMD_GETFAMILY tells it, and answer with the ACK alone.
    EINVAL with the missing type if it is missing, EINVAL if there is no such group.
    """

    def subscribe(request: Request) -> None:
        request.require(AgentAttr.GROUP)
        server.join(request.client, request.attrs[AgentAttr.GROUP].u32())

    def unsubscribe(request: Request) -> None:
        request.require(AgentAttr.GROUP)
        server.leave(request.client, request.attrs[AgentAttr.GROUP].u32())

    return {
        AgentCmd.SUBSCRIBE: Op(do=subscribe, do_policy=_POLICY),
        AgentCmd.UNSUBSCRIBE: Op(do=unsubscribe, do_policy=_POLICY),
    }
