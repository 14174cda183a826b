# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N801 (pyroute2 names message classes like this)
"""Messages of the agent's own family, in pyroute2's manner."""

from __future__ import annotations

from pyroute2.netlink import genlmsg


class agent_membership_msg(genlmsg):
    """SUBSCRIBE and UNSUBSCRIBE: the socket options of AF_NETLINK for a multicast group."""

    __slots__ = ()

    prefix = "DEVMEMTCP_A_MEMBERSHIP_"
    nla_map = (
        ("DEVMEMTCP_A_MEMBERSHIP_UNSPEC", "none"),
        ("DEVMEMTCP_A_MEMBERSHIP_GROUP", "uint32"),
    )
