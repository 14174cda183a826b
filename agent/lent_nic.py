# SPDX-License-Identifier: Apache-2.0
"""A NIC that is lent to a namespace, and comes back as it was.

A move takes an interface down, and its addresses, routes and neighbours away, so one that somebody
has given any is in his use and not lent. Link-local IPv6 addresses say nothing of use, but may be
somebody's all the same. They, what was set below /proc/sys/net for it alone, MTU and whether it was
up fit one line of a journal:

    nic near eth1 1500 up 4097 0        side, name, MTU, state, cookie of the namespace it is of,
                                        mode of the kernel's own link-local address (-: no IPv6);
                                        then the sysctls and the addresses, a word each

What ethtool(8) shows goes with it, and is not touched. Not kept: its qdiscs with their filters, an
IPv6 token (ip-token(8)), a secret of its own for stable addresses.

The line alone is enough to take the NIC back, wherever it is by then: still in the namespace, back
but down, or in the hands of somebody who has renamed it, set it up or given it addresses since;
that is then left to him.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from pyroute2 import IPRoute, NetlinkError

from devmemtcp.agent import namespaces
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.if_sysctl import IfSysctl, set_apart
from devmemtcp.agent.link_local import LinkLocal, generation_mode, given, set_generation_mode
from devmemtcp.agent.netdev import addresses_of, ifindex_of, is_ifname
from devmemtcp.agent.way_out import ways_out
from devmemtcp.netlink.link import Link, Links

_LINE = re.compile(
    r"nic (near|far) ([^ ]{1,15}) ([0-9]{1,5}) (up|down) ([0-9]{1,20}) ([0-9]|-)((?: [!-~]+)*)",
    re.ASCII,
)

_RTPROT_KERNEL = 2
_NUD_PERMANENT = 0x80

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LentNic:
    """Its state before it was lent."""

    side: str
    """Of the lab: near or far."""
    ifname: str
    mtu: int
    up: bool
    home: int
    """The namespace's cookie."""
    generation_mode: int | None = None
    """Of the kernel's own link-local address; None: there is no IPv6."""
    sysctls: tuple[IfSysctl, ...] = ()
    """Those that it has not the default of."""
    link_locals: tuple[LinkLocal, ...] = ()
    """Those it was given."""

    @classmethod
    def of(cls, side: str, ifname: str) -> Self:
        """Look at an interface of the calling thread's namespace, by its name or an altname.

        It goes by its name from here on: if_nameindex(3) lists no altnames. Raises ConfigError for
        one that is not there, or is in use.
        """
        ifindex = ifindex_of(ifname)
        with Links() as links:
            link = links.get(ifindex)
            others = links.dump()
        _refuse_used(link, others)
        return cls(
            side,
            link.ifname,
            link.mtu,
            link.up,
            namespaces.netns_cookie(),
            generation_mode(link.ifname),
            set_apart(link.ifname),
            given(link.ifname),
        )

    @classmethod
    def parse(cls, line: str) -> Self | None:
        """What `line()` made; None for anything else."""
        match = _LINE.fullmatch(line)
        if match is None or not is_ifname(match.group(2)):
            return None
        side, ifname, mtu, state, home, mode, words = match.groups()
        things = [IfSysctl.parse(word) or LinkLocal.parse(word) for word in words.split()]
        if None in things:
            return None
        return cls(
            side,
            ifname,
            int(mtu),
            state == "up",
            int(home),
            None if mode == "-" else int(mode),
            tuple(thing for thing in things if isinstance(thing, IfSysctl)),
            tuple(thing for thing in things if isinstance(thing, LinkLocal)),
        )

    def line(self) -> str:
        """For the journal, without an end of line."""
        state = "up" if self.up else "down"
        mode = "-" if self.generation_mode is None else self.generation_mode
        words = [sysctl.word() for sysctl in self.sysctls]
        words += [address.word() for address in self.link_locals]
        line = f"nic {self.side} {self.ifname} {self.mtu} {state} {self.home} {mode}"
        return " ".join([line, *words])

    def lend(self, netns: str) -> None:
        """Move it into a named namespace. Raises OSError as the kernel does."""
        with IPRoute() as here, _told(f"cannot move {self.ifname}"):
            here.link("set", index=socket.if_nametoindex(self.ifname), net_ns_fd=netns)

    def take_back(self, netns: str) -> None:
        """Undo `lend()`, however far it came; to be called in the namespace it is of.

        Raises OSError: ENOENT, this is another namespace; else as the kernel does.
        """
        if namespaces.netns_cookie() != self.home:
            raise OSError(
                errno.ENOENT, f"{self.ifname} is of another network namespace; run it there"
            )
        fetched = namespaces.exists(netns) and self._fetch(netns)
        if self.ifname not in (name for _, name in socket.if_nameindex()):
            return
        with Links() as links:
            link = links.get(self.ifname)
        ours = {address.address for address in self.link_locals}
        if not fetched and (link.up or not ours.issuperset(addresses_of(self.ifname))):
            # It has not come out of our hands, where one that nobody has touched is down.
            if (link.mtu, link.up) != (self.mtu, self.up):
                log.warning("%s is somebody's by now; left as it is", self.ifname)
            return
        self._set_up(link.ifindex)

    def _set_up(self, ifindex: int) -> None:
        """Up last of all: who is killed before leaves it down, and the next one begins again."""
        with IPRoute() as here, _told(f"cannot set {self.ifname} up as it was"):
            here.link("set", index=ifindex, mtu=self.mtu)
            if self.generation_mode is not None:
                with _borne(f"{self.ifname}: its own link-local address is made another way"):
                    set_generation_mode(here, ifindex, self.generation_mode)
            for sysctl in self.sysctls:
                with _borne(f"{self.ifname} has lost {sysctl.word()}"):
                    sysctl.set(self.ifname)
            for address in reversed(self.link_locals):  # the kernel lists the last one first
                with _borne(f"{self.ifname} has lost the address {address.address}"):
                    address.give(here, ifindex)
            here.link("set", index=ifindex, state="up" if self.up else "down")

    def _fetch(self, netns: str) -> bool:
        """Whether it was there."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with namespaces.entered(netns), _told(f"cannot move {self.ifname} back"):
                if self.ifname not in (name for _, name in socket.if_nameindex()):
                    return False
                with IPRoute() as away:
                    index = socket.if_nametoindex(self.ifname)
                    away.link("set", index=index, net_ns_fd=home)
                return True
        finally:
            os.close(home)


def _refuse_used(link: Link, others: list[Link]) -> None:
    """Raise ConfigError for what somebody uses. `others`: all links of the namespace."""
    ifname = link.ifname
    if link.loopback:
        raise ConfigError(f"{ifname} is the loopback device; it cannot leave its namespace")
    if link.master is not None:
        raise ConfigError(f"{ifname} is a port of a bridge or bond: it is in use")
    if link.ifindex in ways_out():
        raise ConfigError(
            f"the default route leaves by {ifname}: it is in use; choose another interface"
        )
    for other in others:
        # A veth's peer is not on it, and an index of another namespace is none of ours.
        if other.lower == link.ifindex and other.lower_netns is None and other.kind != "veth":
            raise ConfigError(f"{other.ifname} is made on {ifname}: it is in use")
    for what in _given_away(link):
        raise ConfigError(
            f"{ifname} has {what}, so it is in use, and a lent NIC loses that; choose another"
        )


def _given_away(link: Link) -> Iterator[str]:
    """What it has of somebody's that would not come back."""
    for address in addresses_of(link.ifname):
        # Every IPv6 link has an address of its own, but an IPv4 one somebody has asked for.
        if address.version == 4 or not address.is_link_local:
            yield f"the address {address}"
    with IPRoute() as netlink:
        for route in netlink.get_routes():
            hops = route.get_attr("RTA_MULTIPATH") or ()
            leaves_by = {route.get_attr("RTA_OIF"), *(hop["oif"] for hop in hops)}
            if link.ifindex in leaves_by and route["proto"] != _RTPROT_KERNEL:
                yield f"a route to {route.get_attr('RTA_DST')}/{route['dst_len']}"
        for neighbour in netlink.get_neighbours(ifindex=link.ifindex):
            if neighbour["state"] & _NUD_PERMANENT:
                yield f"the permanent neighbour {neighbour.get_attr('NDA_DST')}"


@contextmanager
def _told(what: str) -> Iterator[None]:
    """pyroute2's errors are no OSErrors."""
    try:
        yield
    except NetlinkError as error:
        raise OSError(error.code, f"{what}: {os.strerror(error.code)}") from error


@contextmanager
def _borne(what: str) -> Iterator[None]:
    """Of what a NIC can be used without."""
    try:
        yield
    except NetlinkError as error:
        log.warning("%s: %s", what, os.strerror(error.code))
    except OSError as error:
        log.warning("%s: %s", what, error.strerror)
