# SPDX-License-Identifier: Apache-2.0
"""Ask everything in turn: first of the machine, then of one interface or shortly of all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from shlex import quote

from devmemtcp.agent import preflight
from devmemtcp.agent.datapath_config import HOST_BUFFERS
from devmemtcp.agent.doctor import (
    agents,
    devmem,
    driver,
    families,
    host,
    link,
    modes,
    offloads,
    process,
    program,
    queues,
    sockets,
    taken,
)
from devmemtcp.agent.doctor.agents import Agent
from devmemtcp.agent.doctor.look import looked, named
from devmemtcp.agent.doctor.matrix import Release
from devmemtcp.agent.doctor.peer import Peer, find_peer
from devmemtcp.agent.doctor.program import Loaded
from devmemtcp.agent.doctor.record import Check, Report, State, note, ok
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.memory import survey
from devmemtcp.agent.netdev import NetDev
from devmemtcp.agent.zerocopy import MTU_MAX, zero_copy_refusals
from devmemtcp.netlink.constants import AGENT_SOCKET
from devmemtcp.netlink.errors import Unsupported as NoFamily
from devmemtcp.netlink.link import Link, Links
from devmemtcp.pyxdp import Features, features

_LOOPBACK = "lo"


def examine_host(*, region_size: int, agent_socket: str = AGENT_SOCKET) -> Report:
    """The machine, and a line for each interface."""
    loaded, agent = program.tried(), agents.asked(agent_socket)
    checks = [
        *_host(loaded, agent, features(_LOOPBACK), region_size, served=bool(agent.serves)),
        *looked("interfaces", _interfaces),
    ]
    return Report(_kernel(), None, checks)


def examine(
    interface: str, *, region_size: int, try_zero_copy: bool, agent_socket: str = AGENT_SOCKET
) -> Report:
    """The machine, one interface of the calling thread's namespace, and the modes.

    Raises ConfigError when there is no such interface.
    """
    dev = NetDev.find(interface, try_zero_copy=try_zero_copy)
    loaded, agent = program.tried(), agents.asked(agent_socket)
    ifname = dev.features.ifname  # which `interface` may be an altname of
    served = ifname in agent.serves
    socket_features = dev.features if dev.features.af_xdp else features(_LOOPBACK)
    checks = [
        *_host(loaded, agent, socket_features, region_size, served=served),
        *_interface(dev, multi_buffer=_multi_buffer(socket_features), served=served),
    ]
    facts = modes.Facts(
        can=dev.features,
        kernel=host.release(),
        loaded=loaded,
        multi_buffer=_multi_buffer(socket_features),
        checks=checks,
    )
    places = modes.places(agent, ifname, checks)
    return Report(_kernel(), ifname, checks, modes.modes(facts), places)


def _kernel() -> str:
    return os.uname().release


def _host(
    loaded: Loaded, agent: Agent, can: Features, region_size: int, *, served: bool
) -> Iterator[Check]:
    """Of the machine. What an agent does for us we need not be able to do."""
    yield from host.checks()
    for check in process.checks(region_size, HOST_BUFFERS):
        yield check if not served else _softened(check, "the agent has what it needs")
    yield from program.checks(loaded)
    yield from sockets.checks(can)
    yield from families.checks()
    yield from looked("memory", _memory)
    yield agents.check(agent)


def _memory() -> Iterator[Check]:
    for memory in survey():
        state = ok if memory.usable else note
        yield state(f"memory {memory.name}", memory.found, memory.means, memory.mend)


def _softened(check: Check, means: str) -> Check:
    if check.state is not State.FAIL:
        return check
    return note(check.name, check.found, means, check.mend)


def _multi_buffer(can: Features) -> bool:
    return can.multi_buffer is not False


def _interface(dev: NetDev, *, multi_buffer: bool, served: bool) -> Iterator[Check]:
    can, kernel = dev.features, host.release()
    with Links() as links:
        its_link = links.get(can.ifindex)
    peer = _peer(its_link)
    yield from link.checks(dev, its_link, peer)
    yield from driver.checks(can, kernel)
    yield from looked("queues", lambda: _queues(dev, kernel))
    yield from looked("offloads", lambda: _offload_lines(can.ifname, peer, multi_buffer))
    yield from taken.checks(can, served=served)


def _peer(its_link: Link) -> Peer | None:
    try:
        return find_peer(its_link)
    except (ConfigError, OSError):
        return None  # in a namespace that this user may not enter, or that has gone meanwhile


def _queues(dev: NetDev, kernel: Release) -> Iterator[Check]:
    can = dev.features
    rings = queues.rings_of(can.ifindex)
    yield from queues.checks(dev, _offloads(can.ifname), rings)
    yield devmem.check(can, kernel, rings)


def _offloads(ifname: str) -> offloads.Offloads:
    """Empty where they cannot be seen: each line that wants one says so itself."""
    try:
        return offloads.offloads_of(ifname)
    except (OSError, NoFamily):
        return {}


def _offload_lines(ifname: str, peer: Peer | None, multi_buffer: bool) -> Iterator[Check]:
    yield from offloads.checks(ifname, offloads.offloads_of(ifname), multi_buffer=multi_buffer)
    if peer is not None:
        with peer.entered():
            there = offloads.offloads_of(peer.link.ifname)
        yield from offloads.peer_checks(
            peer.link.ifname, peer.prefix, there, multi_buffer=multi_buffer
        )


def _interfaces() -> Iterator[Check]:
    with Links() as links:
        names = [each.ifname for each in links.dump() if not each.loopback]
    for name in names:
        yield from looked(name, partial(_summary, name))
    if not names:
        yield note("interfaces", "none but the loopback device", "`devmemtcp demo` makes its own")


def _summary(name: str) -> Iterator[Check]:
    dev, kernel = NetDev.find(name), host.release()
    can = dev.features
    words = [can.driver or "a driver that does not tell"]
    words.append(f"{can.rx_queues or '?'} queues, MTU {can.mtu}")
    if not dev.up:
        words.append("down")
    if dev.default_route:
        words.append("the default route's")
    words += [str(program) for program in can.programs]
    yield summed_up(dev, kernel, ", ".join(words))


def summed_up(dev: NetDev, kernel: Release, found: str) -> Check:
    """What can be received with, in a line: what it has, and whether it is refused as it is."""
    can = dev.features
    native, zero_copy = driver.native(can, kernel), driver.zero_copy(can, kernel)
    if any(zero_copy_refusals(can, min(can.mtu, MTU_MAX))):  # the MTU can be set
        zero_copy = False
    has = {True: "", False: "no ", None: "perhaps "}
    means = [f"{has[native]}native XDP, {has[zero_copy]}zero-copy"]
    refused = [refusal.found for refusal in preflight.link_refusals(dev, can.mtu, force=False)]
    if refused:
        means.append(f"refused as it is: {named(refused)}")
    means.append(f"more: devmemtcp doctor -i {quote(can.ifname)}")
    return (ok if native and not refused else note)(can.ifname, found, "; ".join(means))
