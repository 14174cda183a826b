# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N801 (pyroute2 names message classes like this)
"""The agent's own family: what an application asks of a stack that runs elsewhere.

Beside the kernel's families, which know nothing of channels and listeners. Numbers for both
ends, and messages for the client's in pyroute2's manner. The descriptors of a channel travel with
CHANNEL_OPEN's answer (SCM_RIGHTS), in the order of `ChannelFds`.
"""

from __future__ import annotations

from enum import IntEnum

from pyroute2.netlink import genlmsg, nla

from devmemtcp.netlink.constants import AgentCmd


class StackAttr(IntEnum):
    """Of STACK_GET: an interface that the agent serves."""

    IFINDEX = 1
    IFNAME = 2
    MODE = 3  # native or generic
    MTU = 4
    QUEUES = 5
    LINEAR_BYTES = 6
    MAX_CONNECTIONS = 7
    MEMORY = 8  # bytes, of all bindings
    FAILED = 9  # errno that ended the stack; left out while it runs
    ADDRESS = 10  # as often as the interface has some
    CHECK = 11  # form of the check "page or net_iov?"


class ChannelAttr(IntEnum):
    """Of CHANNEL_OPEN."""

    IFINDEX = 1
    APP = 2  # the stack's number of the application
    NR_EVENTS = 3
    NR_REQUESTS = 4
    NR_BLOCKS = 5  # a request may ask for fewer than the limit


class ListenerAttr(IntEnum):
    """Of LISTEN, STEER and UNLISTEN."""

    IFINDEX = 1
    ID = 2
    ADDRESS = 3
    PORT = 4  # 0: any that is free
    BACKLOG = 5
    PRESSURE = 6  # window or drop
    CLOSE_FIRST = 7


class StatsAttr(IntEnum):
    """Of STATS_GET: groups of counters."""

    IFINDEX = 1
    GROUP = 2


class StatsGroupAttr(IntEnum):
    """Of one group."""

    NAME = 1
    COUNTER = 2


class StatsCounterAttr(IntEnum):
    """Of one counter."""

    NAME = 1
    VALUE = 2


class AppAttr(IntEnum):
    """Of APP_GET: an application on one interface."""

    IFINDEX = 1
    APP = 2
    PID = 3
    UID = 4
    LISTENER = 5  # as often as there are: "ADDRESS:PORT"
    CONNECTIONS = 6
    TOKENS = 7  # outstanding


class agent_stack_msg(genlmsg):
    """STACK_GET."""

    __slots__ = ()

    prefix = "DEVMEMTCP_A_STACK_"
    nla_map = (
        ("DEVMEMTCP_A_STACK_UNSPEC", "none"),
        ("DEVMEMTCP_A_STACK_IFINDEX", "uint32"),
        ("DEVMEMTCP_A_STACK_IFNAME", "asciiz"),
        ("DEVMEMTCP_A_STACK_MODE", "asciiz"),
        ("DEVMEMTCP_A_STACK_MTU", "uint32"),
        ("DEVMEMTCP_A_STACK_QUEUES", "uint32"),
        ("DEVMEMTCP_A_STACK_LINEAR_BYTES", "uint32"),
        ("DEVMEMTCP_A_STACK_MAX_CONNECTIONS", "uint32"),
        ("DEVMEMTCP_A_STACK_MEMORY", "uint64"),
        ("DEVMEMTCP_A_STACK_FAILED", "uint32"),
        ("DEVMEMTCP_A_STACK_ADDRESS", "asciiz"),
        ("DEVMEMTCP_A_STACK_CHECK", "asciiz"),
    )


class agent_channel_msg(genlmsg):
    """CHANNEL_OPEN."""

    __slots__ = ()

    prefix = "DEVMEMTCP_A_CHANNEL_"
    nla_map = (
        ("DEVMEMTCP_A_CHANNEL_UNSPEC", "none"),
        ("DEVMEMTCP_A_CHANNEL_IFINDEX", "uint32"),
        ("DEVMEMTCP_A_CHANNEL_APP", "uint32"),
        ("DEVMEMTCP_A_CHANNEL_NR_EVENTS", "uint32"),
        ("DEVMEMTCP_A_CHANNEL_NR_REQUESTS", "uint32"),
        ("DEVMEMTCP_A_CHANNEL_NR_BLOCKS", "uint32"),
    )


class agent_listener_msg(genlmsg):
    """LISTEN, STEER and UNLISTEN."""

    __slots__ = ()

    prefix = "DEVMEMTCP_A_LISTENER_"
    nla_map = (
        ("DEVMEMTCP_A_LISTENER_UNSPEC", "none"),
        ("DEVMEMTCP_A_LISTENER_IFINDEX", "uint32"),
        ("DEVMEMTCP_A_LISTENER_ID", "uint32"),
        ("DEVMEMTCP_A_LISTENER_ADDRESS", "asciiz"),
        ("DEVMEMTCP_A_LISTENER_PORT", "uint16"),
        ("DEVMEMTCP_A_LISTENER_BACKLOG", "uint32"),
        ("DEVMEMTCP_A_LISTENER_PRESSURE", "asciiz"),
        ("DEVMEMTCP_A_LISTENER_CLOSE_FIRST", "uint8"),
    )


class agent_stats_msg(genlmsg):
    """STATS_GET."""

    __slots__ = ()

    prefix = "DEVMEMTCP_A_STATS_"
    nla_map = (
        ("DEVMEMTCP_A_STATS_UNSPEC", "none"),
        ("DEVMEMTCP_A_STATS_IFINDEX", "uint32"),
        ("DEVMEMTCP_A_STATS_GROUP", "stats_group"),
    )

    class stats_group(nla):
        """Counters of one part of the stack."""

        __slots__ = ()

        nla_map = (
            ("DEVMEMTCP_A_STATS_GROUP_UNSPEC", "none"),
            ("DEVMEMTCP_A_STATS_GROUP_NAME", "asciiz"),
            ("DEVMEMTCP_A_STATS_GROUP_COUNTER", "stats_counter"),
        )

        class stats_counter(nla):
            """One counter."""

            __slots__ = ()

            nla_map = (
                ("DEVMEMTCP_A_STATS_COUNTER_UNSPEC", "none"),
                ("DEVMEMTCP_A_STATS_COUNTER_NAME", "asciiz"),
                ("DEVMEMTCP_A_STATS_COUNTER_VALUE", "uint64"),
            )


class agent_app_msg(genlmsg):
    """APP_GET."""

    __slots__ = ()

    prefix = "DEVMEMTCP_A_APP_"
    nla_map = (
        ("DEVMEMTCP_A_APP_UNSPEC", "none"),
        ("DEVMEMTCP_A_APP_IFINDEX", "uint32"),
        ("DEVMEMTCP_A_APP_APP", "uint32"),
        ("DEVMEMTCP_A_APP_PID", "uint32"),
        ("DEVMEMTCP_A_APP_UID", "uint32"),
        ("DEVMEMTCP_A_APP_LISTENER", "asciiz"),
        ("DEVMEMTCP_A_APP_CONNECTIONS", "uint32"),
        ("DEVMEMTCP_A_APP_TOKENS", "uint32"),
    )


MESSAGES = {
    AgentCmd.STACK_GET: agent_stack_msg,
    AgentCmd.CHANNEL_OPEN: agent_channel_msg,
    AgentCmd.LISTEN: agent_listener_msg,
    AgentCmd.STEER: agent_listener_msg,
    AgentCmd.UNLISTEN: agent_listener_msg,
    AgentCmd.STATS_GET: agent_stats_msg,
    AgentCmd.APP_GET: agent_app_msg,
}
