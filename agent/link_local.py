# SPDX-License-Identifier: Apache-2.0
"""Link-local IPv6 addresses that somebody has given an interface, and how to give them again.

The kernel gives an interface one of its own when it comes up, and somebody may have given it
others, or have forbidden the kernel's: NetworkManager does both. An interface that is moved to
another namespace loses all that, the mode that the kernel makes its own by included.
"""

from __future__ import annotations

import re
import socket
from dataclasses import astuple, dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Any, Self

from pyroute2 import IPRoute

_IFA_F_PERMANENT = 0x80
_IFA_F_SETTABLE = 0x02 | 0x04 | 0x10 | 0x100 | 0x200 | 0x400  # inet6_rtm_newaddr()
_IFAPROT_KERNEL_LL = 3
_FOREVER = 0xFFFFFFFF
_WORD = re.compile(r"([0-9a-f:]+),([0-9a-f:]+)" + r",([0-9]{1,10})" * 5, re.ASCII)
_LIMITS = (128, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFF)


@dataclass(frozen=True)
class LinkLocal:
    """An address, as `ip -6 address add` would be told."""

    address: IPv6Address
    peer: IPv6Address
    """Of a point-to-point link; else the address itself."""
    prefixlen: int
    flags: int
    """IFA_F_NODAD, IFA_F_NOPREFIXROUTE ..., those that can be asked for."""
    metric: int
    """Of its prefix's route; 0: the kernel's usual one."""
    preferred: int
    """Seconds; 0: it is deprecated."""
    protocol: int
    """IFA_PROTO, who has given it (Linux 5.18); 0: it is not said."""

    @classmethod
    def of(cls, message: Any) -> Self | None:
        """Take what an RTM_NEWADDR says; None: it is another kind's, or does not last."""
        local, prefix = message.get_attr("IFA_LOCAL"), message.get_attr("IFA_ADDRESS")
        address = IPv6Address(local or prefix)
        flags = message.get_attr("IFA_FLAGS")
        protocol = message.get_attr("IFA_PROTO") or 0
        if not (address.is_link_local and flags & _IFA_F_PERMANENT):
            return None
        if protocol == _IFAPROT_KERNEL_LL:
            return None
        return cls(
            address,
            IPv6Address(prefix),
            message["prefixlen"],
            flags & _IFA_F_SETTABLE,
            message.get_attr("IFA_RT_PRIORITY") or 0,
            message.get_attr("IFA_CACHEINFO")["ifa_preferred"],
            protocol,
        )

    @classmethod
    def parse(cls, word: str) -> Self | None:
        """What `word()` made; None for anything else."""
        match = _WORD.fullmatch(word)
        if match is None:
            return None
        try:
            address, peer = map(IPv6Address, match.groups()[:2])
        except AddressValueError:
            return None
        numbers = [int(number) for number in match.groups()[2:]]
        if not address.is_link_local or any(map(int.__gt__, numbers, _LIMITS)):
            return None
        return cls(address, peer, *numbers)

    def word(self) -> str:
        """For a journal: one word, without blanks."""
        return ",".join(map(str, astuple(self)))

    def give(self, netlink: IPRoute, ifindex: int) -> None:
        """Give it to an interface, which may have it already. Raises NetlinkError."""
        optional = {"rt_priority": self.metric, "proto": self.protocol}
        netlink.addr(
            "replace",
            family=socket.AF_INET6,
            index=ifindex,
            local=str(self.address),
            address=str(self.peer),
            prefixlen=self.prefixlen,
            flags=self.flags,
            valid_lft=_FOREVER,
            preferred_lft=self.preferred,
            **{name: value for name, value in optional.items() if value},
        )


def given(ifname: str) -> tuple[LinkLocal, ...]:
    """Those that an interface of the calling thread's namespace has, but for the kernel's own."""
    with IPRoute() as netlink:
        dump = netlink.get_addr(family=socket.AF_INET6, index=socket.if_nametoindex(ifname))
        return tuple(filter(None, map(LinkLocal.of, dump)))


def generation_mode(ifname: str) -> int | None:
    """How the kernel makes its own (IFLA_INET6_ADDR_GEN_MODE); None: there is no IPv6 here."""
    with IPRoute() as netlink:
        (message,) = netlink.link("get", index=socket.if_nametoindex(ifname))
    mode = message.get_nested("IFLA_AF_SPEC", "AF_INET6", "IFLA_INET6_ADDR_GEN_MODE")
    return None if mode is None else int(mode)


def set_generation_mode(netlink: IPRoute, ifindex: int, mode: int) -> None:
    """To be set before the interface is up. Raises NetlinkError."""
    family = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", mode)]}
    netlink.link("set", index=ifindex, IFLA_AF_SPEC={"attrs": [("AF_INET6", family)]})
