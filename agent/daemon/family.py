# SPDX-License-Identifier: Apache-2.0
"""The server of the agent's own family: channels, listeners and counters of the stacks.

All of it happens in the agent's loop. An application is a control connection's channel on one
interface; when the connection ends, its channels, listeners and connections end with it. It names
its listeners by the numbers it was given, and nobody else's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import cast

from devmemtcp.agent.channel import Channel
from devmemtcp.agent.daemon.config import Limits
from devmemtcp.agent.daemon.family_messages import (
    AppAttr,
    ChannelAttr,
    ListenerAttr,
    StackAttr,
    StatsAttr,
    StatsCounterAttr,
    StatsGroupAttr,
)
from devmemtcp.agent.daemon.interface import Interface
from devmemtcp.agent.daemon.peers import AgentPeer
from devmemtcp.agent.endpoint import Endpoint
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.snapshot import flow_info, netmem_check
from devmemtcp.netlink import attribute, membership
from devmemtcp.netlink.constants import AGENT_FAMILY_NAME, AGENT_FAMILY_VERSION, AgentCmd
from devmemtcp.netlink.extack import Refused
from devmemtcp.netlink.family import Client, Family, Op, Reply, Request
from devmemtcp.netlink.policy import U8, U16, U32, Policy, nul_string
from devmemtcp.netlink.server import NetlinkServer

_IPV6_TEXT = 45  # INET6_ADDRSTRLEN - 1
_PRESSURES = ("window", "drop")

_STACK_POLICY = Policy({StackAttr.IFINDEX: U32})
_CHANNEL_POLICY = Policy(
    {ChannelAttr.IFINDEX: U32, ChannelAttr.NR_BLOCKS: U32}, maxtype=ChannelAttr.NR_BLOCKS
)
_LISTEN_POLICY = Policy(
    {
        ListenerAttr.IFINDEX: U32,
        ListenerAttr.ADDRESS: nul_string(_IPV6_TEXT),
        ListenerAttr.PORT: U16,
        ListenerAttr.BACKLOG: U32,
        ListenerAttr.PRESSURE: nul_string(max(map(len, _PRESSURES))),
        ListenerAttr.CLOSE_FIRST: U8,
    }
)
_LISTENER_POLICY = Policy({ListenerAttr.IFINDEX: U32, ListenerAttr.ID: U32})
_STATS_POLICY = Policy({StatsAttr.IFINDEX: U32})


@dataclass(eq=False)
class Application:
    """A channel, and what was opened by it."""

    number: int
    """The stack's."""
    interface: Interface
    peer: AgentPeer
    listeners: dict[int, Endpoint] = field(default_factory=dict)


class StackFamily:
    """Answers for the family "devmemtcp"."""

    def __init__(
        self,
        server: NetlinkServer,
        interfaces: Mapping[int, Interface],
        limits: Callable[[], Limits],
    ) -> None:
        """`interfaces` by ifindex; `limits`: those in force when asked. It registers itself."""
        self._interfaces = interfaces
        self._limits = limits
        self._apps: dict[tuple[Client, int], Application] = {}
        """By control connection and ifindex."""
        self._closing = False
        server.register(
            Family(
                name=AGENT_FAMILY_NAME,
                version=AGENT_FAMILY_VERSION,
                ops=membership.ops(server) | self._ops(),
                disconnect=self._disconnect,
            )
        )

    def _ops(self) -> dict[int, Op]:
        listener = _LISTENER_POLICY
        return {
            AgentCmd.STACK_GET: Op(
                do=self._stack, do_policy=_STACK_POLICY, dump=lambda _: self._stacks()
            ),
            AgentCmd.CHANNEL_OPEN: Op(do=self._open_channel, do_policy=_CHANNEL_POLICY),
            AgentCmd.LISTEN: Op(do=self._listen, do_policy=_LISTEN_POLICY),
            AgentCmd.STEER: Op(do=self._steer, do_policy=listener),
            AgentCmd.UNLISTEN: Op(do=self._unlisten, do_policy=listener),
            AgentCmd.STATS_GET: Op(do=self._stats, do_policy=_STATS_POLICY),
            AgentCmd.APP_GET: Op(dump=lambda _: self._dump_apps()),
        }

    @property
    def applications(self) -> int:
        """How many there are."""
        return len(self._apps)

    def has_connections(self) -> bool:
        """Whether any application has one that is not over."""
        return any(
            flow_info(*fields).state != "TIME-WAIT"
            for interface in self._interfaces.values()
            for fields in interface.datapath.flows()
        )

    def stop(self) -> None:
        """From now on nothing new, connections included: the agent is about to end."""
        self._closing = True
        for app in self._apps.values():
            for number in app.listeners:
                app.interface.datapath.unlisten(number)

    # ---- interfaces ----

    def _interface(self, request: Request) -> Interface:
        """The one that a request names by IFINDEX, attribute 1 of every set."""
        request.require(StackAttr.IFINDEX)
        attr = request.attrs[StackAttr.IFINDEX]
        interface = self._interfaces.get(attr.u32())
        if interface is None:
            raise Refused(
                errno.ENODEV, "the agent does not serve this interface", bad_attr=attr.offset
            )
        return interface

    def _stack(self, request: Request) -> bytes:
        return _stack_attrs(self._interface(request))

    def _stacks(self) -> Iterator[bytes]:
        return map(_stack_attrs, list(self._interfaces.values()))

    # ---- channels ----

    def _open_channel(self, request: Request) -> Reply:
        interface, client, limits = self._interface(request), request.client, self._limits()
        peer = _peer(request)
        if not peer.may_use(interface.name):
            raise Refused(errno.EPERM, f"no rule lets user {peer.uid} use {interface.name}")
        self._refuse_when_closing()
        if (client, interface.ifindex) in self._apps:
            raise Refused(errno.EEXIST, "this connection has a channel to the interface already")
        users = [app.peer.uid for app in self._apps.values() if app.interface is interface]
        if peer.uid and users.count(peer.uid) >= limits.channels:
            raise Refused(errno.EDQUOT, f"user {peer.uid} has {limits.channels} channels already")
        blocks = limits.blocks
        if asked := request.attrs.get(ChannelAttr.NR_BLOCKS):
            blocks = max(1, min(blocks, asked.u32()))
        with Channel(interface.config, blocks) as channel:
            geometry = channel.geometry
            number = interface.datapath.open_app(channel.stack, geometry)
            self._apps[client, interface.ifindex] = Application(number, interface, peer)
            attrs = [
                attribute.put_u32(ChannelAttr.IFINDEX, interface.ifindex),
                attribute.put_u32(ChannelAttr.APP, number),
                attribute.put_u32(ChannelAttr.NR_EVENTS, geometry.nr_events),
                attribute.put_u32(ChannelAttr.NR_REQUESTS, geometry.nr_requests),
                attribute.put_u32(ChannelAttr.NR_BLOCKS, geometry.nr_blocks),
            ]
            return Reply(b"".join(attrs), tuple(map(os.dup, channel.app)))

    def _app(self, request: Request) -> Application:
        app = self._apps.get((request.client, self._interface(request).ifindex))
        if app is None:
            raise Refused(errno.ENOTCONN, "this connection has no channel to the interface")
        return app

    def _disconnect(self, client: Client) -> None:
        for key in [key for key in self._apps if key[0] is client]:
            app = self._apps.pop(key)
            app.interface.datapath.close_app(app.number)

    def _refuse_when_closing(self) -> None:
        if self._closing:
            raise Refused(errno.ESHUTDOWN, "the agent is ending")

    # ---- listeners ----

    def _listen(self, request: Request) -> bytes:
        app, attrs = self._app(request), request.attrs
        request.require(ListenerAttr.ADDRESS, ListenerAttr.PORT)
        self._refuse_when_closing()
        host = attrs[ListenerAttr.ADDRESS].string().decode(errors="replace")
        port = attrs[ListenerAttr.PORT].u16()
        address = self._address(request, app.interface, host)
        if not _peer(request).may_listen(app.interface.name, port):
            raise Refused(
                errno.EACCES,
                f"no rule lets user {app.peer.uid} listen on port {port}",
                bad_attr=attrs[ListenerAttr.PORT].offset,
            )
        limits, user = self._limits(), app.peer.uid
        if user and self._listeners_of(user, app.interface) >= limits.listeners:
            raise Refused(errno.EDQUOT, f"user {user} has {limits.listeners} listeners already")
        pressure, backlog = _PRESSURES[0], limits.backlog
        if given := attrs.get(ListenerAttr.PRESSURE):
            pressure = given.string().decode(errors="replace")
            if pressure not in _PRESSURES:
                raise Refused(errno.EINVAL, "pressure: window or drop", bad_attr=given.offset)
            # Its hoard is charged to nobody, and could be all there is of others' memory.
            if pressure == "drop" and not _peer(request).may_administer(app.interface.name):
                raise Refused(
                    errno.EPERM,
                    "pressure: drop needs the admin permission",
                    bad_attr=given.offset,
                )
        if asked := attrs.get(ListenerAttr.BACKLOG):
            backlog = max(1, min(backlog, asked.u32()))
        close_first = attrs.get(ListenerAttr.CLOSE_FIRST)
        try:
            number, port = app.interface.datapath.listen(
                *(app.number, address, port),
                close_first=close_first is not None and bool(close_first.u8()),
                backlog=backlog,
                pressure=pressure,
            )
        except ConfigError as error:
            raise Refused(error.errno, str(error)) from error
        except PermissionError as error:  # bind(2): no CAP_NET_BIND_SERVICE was kept
            text = "the agent keeps privileged ports only if a rule names one when it starts"
            raise Refused(errno.EACCES, text) from error
        except OSError as error:
            raise Refused(error.errno or errno.EIO, error.strerror) from error
        app.listeners[number] = Endpoint(address, port)
        return attribute.put_u32(ListenerAttr.ID, number) + attribute.put_u16(
            ListenerAttr.PORT, port
        )

    def _listeners_of(self, user: int, interface: Interface) -> int:
        """There are so many an interface: counted by application, one user could have them all."""
        apps = self._apps.values()
        return sum(len(a.listeners) for a in apps if (a.peer.uid, a.interface) == (user, interface))

    @staticmethod
    def _address(request: Request, interface: Interface, host: str) -> str:
        offset = request.attrs[ListenerAttr.ADDRESS].offset
        try:
            address = ip_address(host)
        except ValueError:
            raise Refused(errno.EINVAL, "not an IP address", bad_attr=offset) from None
        if "%" in host:
            raise Refused(errno.EINVAL, "an address without a scope is needed", bad_attr=offset)
        if not address.is_unspecified and not interface.has_address(address):
            raise Refused(
                errno.EADDRNOTAVAIL,
                f"{address} is not an address of {interface.name}; "
                f"`ip addr show {interface.name}` lists those it has",
                bad_attr=offset,
            )
        return str(address)

    def _listener(self, request: Request) -> tuple[Application, int]:
        app = self._app(request)
        request.require(ListenerAttr.ID)
        attr = request.attrs[ListenerAttr.ID]
        if attr.u32() not in app.listeners:
            raise Refused(
                errno.ENOENT, "the application has no such listener", bad_attr=attr.offset
            )
        return app, attr.u32()

    def _steer(self, request: Request) -> None:
        app, number = self._listener(request)
        app.interface.datapath.steer(number)

    def _unlisten(self, request: Request) -> None:
        app, number = self._listener(request)
        del app.listeners[number]
        app.interface.datapath.unlisten(number)

    # ---- looking inside ----

    def _stats(self, request: Request) -> bytes:
        interface = self._interface(request)
        groups = interface.counters()
        app = self._apps.get((request.client, interface.ifindex))
        if app is not None:
            groups["application"] = _totals(interface).get(app.number, _NOTHING)
        return attribute.put_u32(StatsAttr.IFINDEX, interface.ifindex) + b"".join(
            attribute.nest(StatsAttr.GROUP, _group(name, counters))
            for name, counters in groups.items()
        )

    def _dump_apps(self) -> Iterator[bytes]:
        totals = {ifindex: _totals(each) for ifindex, each in self._interfaces.items()}
        for app in list(self._apps.values()):
            ifindex = app.interface.ifindex
            sums = totals[ifindex].get(app.number, _NOTHING)
            yield b"".join(
                (
                    attribute.put_u32(AppAttr.IFINDEX, ifindex),
                    attribute.put_u32(AppAttr.APP, app.number),
                    attribute.put_u32(AppAttr.PID, app.peer.pid),
                    attribute.put_u32(AppAttr.UID, app.peer.uid),
                    *(
                        attribute.put_string(AppAttr.LISTENER, str(at))
                        for at in app.listeners.values()
                    ),
                    attribute.put_u32(AppAttr.CONNECTIONS, sums["connections"]),
                    attribute.put_u32(AppAttr.TOKENS, sums["tokens"]),
                )
            )


_NOTHING = {"connections": 0, "tokens": 0}


def _totals(interface: Interface) -> dict[int, dict[str, int]]:
    """Connections and outstanding tokens of each application of an interface."""
    totals: dict[int, dict[str, int]] = {}
    for flow in (flow_info(*fields) for fields in interface.datapath.flows()):
        sums = totals.setdefault(flow.app, dict(_NOTHING))
        sums["connections"] += 1
        sums["tokens"] += flow.tokens
    return totals


def _peer(request: Request) -> AgentPeer:
    return cast(AgentPeer, request.client.peer)


def _stack_attrs(interface: Interface) -> bytes:
    attrs = [
        attribute.put_u32(StackAttr.IFINDEX, interface.ifindex),
        attribute.put_string(StackAttr.IFNAME, interface.name),
        attribute.put_string(StackAttr.MODE, interface.datapath.mode),
        attribute.put_u32(StackAttr.MTU, interface.config.mtu),
        attribute.put_u32(StackAttr.QUEUES, interface.config.queues),
        attribute.put_u32(StackAttr.LINEAR_BYTES, interface.config.linear_bytes),
        attribute.put_u32(StackAttr.MAX_CONNECTIONS, interface.config.max_flows),
        attribute.put_u64(StackAttr.MEMORY, interface.options.memory),
        attribute.put_string(StackAttr.CHECK, netmem_check()),
    ]
    attrs += [attribute.put_string(StackAttr.ADDRESS, str(a)) for a in interface.addresses()]
    if interface.failed:
        attrs.append(attribute.put_u32(StackAttr.FAILED, interface.failed))
    return b"".join(attrs)


def _group(name: str, counters: Mapping[str, int]) -> bytes:
    return attribute.put_string(StatsGroupAttr.NAME, name) + b"".join(
        attribute.nest(
            StatsGroupAttr.COUNTER,
            attribute.put_string(StatsCounterAttr.NAME, counter)
            + attribute.put_u64(StatsCounterAttr.VALUE, value),
        )
        for counter, value in counters.items()
    )
