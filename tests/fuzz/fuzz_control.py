#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The control socket: datagrams from several clients to the netlink server with all its families.

The families are the agent's: `netdev` and `ethtool` on a model of a NIC, and the agent's own, whose
interface is a stand-in. An input is datagrams, each as it is or made of the families' policies.
Whatever they are, `handle()` returns, what it answers is netlink for that client, and when all
have gone no descriptor, binding, channel or listener is left.
"""

from __future__ import annotations

import itertools
import os
import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["devmemtcp.netlink", "devmemtcp.agent.daemon"]):
    from devmemtcp.agent.daemon.config import EVERYBODY, Limits, Rule
    from devmemtcp.agent.daemon.family import StackFamily
    from devmemtcp.agent.daemon.interface import Interface
    from devmemtcp.agent.daemon.peers import AgentPeer, Credentials, RuleBook
    from devmemtcp.netlink.backend import Device
    from devmemtcp.netlink.constants import AgentCmd, NetdevCmd, TcpDataSplit
    from devmemtcp.netlink.family import Client
    from devmemtcp.netlink.model import NetdevModel
    from devmemtcp.netlink.server import Datagram, NetlinkServer

from tests.fuzz.choices import Choices
from tests.hostile.netlink_garbage import NetlinkGarbage
from tests.unit.channel_config import CONFIG
from tests.unit.netlink.bench import LO, NIC, answers
from tests.unit.netlink.fake import FakeBackend

CLIENTS = 3
DATAGRAMS = 8
ALICE, BOB = 1000, 1001
RULES = RuleBook([EVERYBODY, Rule(users=(ALICE,), admin=True)])


class Datapath:
    """What the family asks of one: applications and listeners, by number."""

    mode = "generic"

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.apps = set[int]()
        self.listeners = set[int]()

    def open_app(self, stack: Any, geometry: Any) -> int:
        for fd in stack:
            os.fstat(fd)
        self.apps.add(number := next(self.numbers))
        return number

    def close_app(self, number: int) -> None:
        self.apps.remove(number)
        self.listeners.clear()

    def listen(self, app: int, address: str, port: int, **options: Any) -> tuple[int, int]:
        assert app in self.apps
        assert 1 <= options["backlog"] <= Limits().backlog
        self.listeners.add(number := next(self.numbers))
        return number, port or 40000

    def steer(self, number: int) -> None:
        assert number in self.listeners

    def unlisten(self, number: int) -> None:
        self.listeners.remove(number)

    def flows(self) -> list[tuple[Any, ...]]:
        return []


class World:
    """A server with all families, made anew for each input."""

    def __init__(self) -> None:
        self.backend = FakeBackend(
            [
                Device(ifindex=LO, ifname="lo", num_rx_queues=1, num_tx_queues=1, managed=False),
                Device(ifindex=NIC, ifname="nic0", num_rx_queues=4, num_tx_queues=4),
            ]
        )
        self.server = NetlinkServer()
        self.model = NetdevModel(self.server, self.backend, page_pool_stats=True)
        self.backend.events = self.model
        nic = self.model.nic(NIC)
        nic.rings = replace(nic.rings, tcp_data_split=TcpDataSplit.ENABLED)  # as bind-rx wants it
        self.datapath = Datapath()
        here = {IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")}
        interface = SimpleNamespace(
            name="nic0",
            ifindex=NIC,
            failed=0,
            config=CONFIG,
            datapath=self.datapath,
            options=SimpleNamespace(memory=1 << 20),
            addresses=lambda: sorted(here, key=str),
            has_address=lambda address: address in here,
            counters=lambda: {"stack": {"rx_segments": 1}},
        )
        self.stacks = StackFamily(self.server, {NIC: cast(Interface, interface)}, Limits)
        self.clients = [self._connect(uid) for uid in (0, ALICE, BOB)]

    def _connect(self, uid: int) -> Client:
        who = Credentials(pid=4000 + uid, uid=uid, gid=uid, groups=frozenset({uid}))
        return self.server.connect(AgentPeer(who, lambda: RULES), lambda _: None)

    def end(self) -> None:
        """All go, and leave nothing."""
        for client in self.clients:
            self.server.disconnect(client)
        assert not self.backend.pools
        assert not self.stacks.applications
        assert not self.datapath.apps


def check(datagrams: list[Datagram], client: Client) -> None:
    """All of it is for this client; what travels with it is closed, as by who has sent it."""
    for answer in answers([datagram.data for datagram in datagrams]):
        assert answer.portid == client.portid
    for datagram in datagrams:
        for fd in datagram.fds:
            os.close(fd)


def one_input(data: bytes) -> None:
    """Some datagrams of three clients: root, one who may administer, one who may not."""
    world = World()
    choices = Choices(data)
    families = world.server.families
    netdev, agent = [
        NetlinkGarbage(choices, families, favourite)
        for favourite in (("netdev", NetdevCmd.BIND_RX), ("devmemtcp", AgentCmd.LISTEN))
    ]
    for garbage in (netdev, agent):
        garbage.seen += [NIC] * 4
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(DATAGRAMS):
        if not choices:
            break
        kind = choices.getrandbits(8)
        client = world.clients[kind % CLIENTS]
        if kind & 0x80:
            datagram = choices.randbytes(choices.getrandbits(7))
        else:
            datagram = (agent if kind & 0x20 else netdev).datagram()
        fds = [os.memfd_create("memory")] if kind & 0x10 else []
        check(world.server.handle(datagram, client, fds), client)
    world.end()
    assert len(os.listdir("/proc/self/fd")) == before


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
