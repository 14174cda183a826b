# SPDX-License-Identifier: Apache-2.0
"""Network interfaces as rtnetlink shows them, by pyroute2's messages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from pyroute2.netlink.rtnl import RTM_GETLINK, RTM_SETLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from devmemtcp.netlink.connection import DEFAULT_TIMEOUT, Connection
from devmemtcp.netlink.constants import NETLINK_ROUTE
from devmemtcp.netlink.errors import ProtocolError
from devmemtcp.netlink.genl import decode
from devmemtcp.netlink.target import NetNs

_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_IFF_LOWER_UP = 0x10000


@dataclass(frozen=True)
class Link:
    """An interface, as it was when asked."""

    ifindex: int
    ifname: str
    mtu: int
    min_mtu: int
    """What the driver allows; 0: nothing is said."""
    max_mtu: int
    perm_address: str | None
    """The MAC address that the hardware came with; None where there is no hardware."""
    up: bool
    """Whether it is set up (IFF_UP)."""
    carrier: bool
    """Whether its lower layer is up (IFF_LOWER_UP)."""
    loopback: bool
    kind: str | None
    """The driver of a virtual interface: ``veth``, ``dummy``."""
    num_rx_queues: int
    num_tx_queues: int
    xdp_prog_id: int | None
    """The XDP program's, if one is attached in one mode only."""
    parent: str | None = None
    """The device that it is the interface of, by its bus: ``pci/0000:01:00.0``."""
    master: int | None = None
    """The bridge or bond that it is a port of."""
    lower: int | None = None
    """What it is made on or, of a veth, its peer: an index in the namespace `lower_netns`."""
    lower_netns: int | None = None
    """Which the interface's own namespace knows by this number; None: it is that itself."""

    @classmethod
    def of(cls, message: Any) -> Self:
        """Take what concerns us of an RTM_NEWLINK."""
        info = message.get_attr("IFLA_LINKINFO")
        xdp = message.get_attr("IFLA_XDP")
        bus = message.get_attr("IFLA_PARENT_DEV_BUS_NAME")
        device = message.get_attr("IFLA_PARENT_DEV_NAME")
        return cls(
            ifindex=message["index"],
            ifname=os.fsdecode(message.get_attr("IFLA_IFNAME")),
            mtu=message.get_attr("IFLA_MTU"),
            min_mtu=message.get_attr("IFLA_MIN_MTU") or 0,
            max_mtu=message.get_attr("IFLA_MAX_MTU") or 0,
            perm_address=message.get_attr("IFLA_PERM_ADDRESS"),
            up=bool(message["flags"] & _IFF_UP),
            carrier=bool(message["flags"] & _IFF_LOWER_UP),
            loopback=bool(message["flags"] & _IFF_LOOPBACK),
            kind=info and info.get_attr("IFLA_INFO_KIND"),
            num_rx_queues=message.get_attr("IFLA_NUM_RX_QUEUES"),
            num_tx_queues=message.get_attr("IFLA_NUM_TX_QUEUES"),
            xdp_prog_id=xdp and xdp.get_attr("IFLA_XDP_PROG_ID"),
            parent=f"{bus}/{device}" if bus and device else None,
            master=message.get_attr("IFLA_MASTER"),
            lower=message.get_attr("IFLA_LINK"),
            lower_netns=message.get_attr("IFLA_LINK_NETNSID"),
        )


class Links:
    """The interfaces of a network namespace. Errors are NetlinkError: ENODEV for one it lacks."""

    def __init__(
        self, netns: NetNs | None = None, *, timeout: float | None = DEFAULT_TIMEOUT
    ) -> None:
        """Open a socket to the kernel; see :mod:`devmemtcp.netlink.target` about `netns`."""
        self._connection = Connection.open(
            "kernel", protocol=NETLINK_ROUTE, netns=netns, timeout=timeout
        )

    def get(self, device: int | str) -> Link:
        """One interface, by index or by name."""
        answer = self._do(RTM_GETLINK, device, {}, "getlink")
        if len(answer) != 1:
            raise ProtocolError(f"getlink was answered with {len(answer)} messages")
        return Link.of(answer[0])

    def dump(self) -> list[Link]:
        """All interfaces."""
        request = ifinfmsg()
        request["header"]["type"] = RTM_GETLINK
        answer = self._connection.request(request, "getlink", dump=True)
        return [Link.of(message) for message in decode(answer, ifinfmsg)]

    def set(self, device: int | str, *, up: bool | None = None, mtu: int | None = None) -> None:
        """Change what is not None. EPERM without CAP_NET_ADMIN."""
        values: dict[str, Any] = {"IFLA_MTU": mtu}
        self._do(RTM_SETLINK, device, values, "setlink", up=up)

    def close(self) -> None:
        """Close the socket. Twice is once."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _do(
        self,
        kind: int,
        device: int | str,
        values: dict[str, Any],
        what: str,
        up: bool | None = None,
    ) -> Sequence[Any]:
        request = ifinfmsg()
        request["header"]["type"] = kind
        if isinstance(device, int):
            request["index"] = device
        else:
            values = {"IFLA_IFNAME": os.fsencode(device), **values}
        if up is not None:
            request["change"] = _IFF_UP
            request["flags"] = _IFF_UP if up else 0
        request["attrs"] = [(name, value) for name, value in values.items() if value is not None]
        return decode(self._connection.request(request, what), ifinfmsg)
