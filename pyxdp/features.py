# SPDX-License-Identifier: Apache-2.0
"""What an interface and this kernel can do for XDP and AF_XDP.

Asked for where the kernel tells, tried where it does not. What is not known is None, and
``Features.reasons`` says why, as it says for what is False.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from devmemtcp.pyxdp.attach import AttachedProgram, attached_programs
from devmemtcp.pyxdp.errors import Unsupported, XdpError
from devmemtcp.pyxdp.ethtool import Channels, channels, driver, gro, mtu
from devmemtcp.pyxdp.interface import resolve
from devmemtcp.pyxdp.netdev import NetdevFeatures, XdpAct, netdev_features
from devmemtcp.pyxdp.socket import BindFlags, XskSocket
from devmemtcp.pyxdp.umem import Umem

_SO_PREFER_BUSY_POLL = 69
_AF_XDP = 44
_PROBE_FRAMES = 16
_PROBE_RING = 16
_FOREIGN, _OURS = 0.5, 10.0
"""Seconds to wait for a queue that is taken: by somebody else, or until the kernel has released
the socket before, which on an emulated CPU takes more than a second."""


@dataclass(frozen=True)
class Features:
    """One interface. None is "not known"; ``reasons`` is by field name."""

    ifindex: int
    ifname: str
    mtu: int  # bytes
    driver: str | None
    rx_queues: int | None  # in use
    tx_queues: int | None
    max_rx_queues: int | None
    max_tx_queues: int | None
    combined_queues: bool | None  # a queue receives and transmits
    gro: bool  # segments are merged before a generic program sees them
    programs: list[AttachedProgram]
    native_xdp: bool | None  # the driver runs programs
    generic_xdp: bool  # the stack does, for any driver (kernel 4.12)
    xdp_features: XdpAct | None  # what the driver advertises
    zc_max_segs: int | None  # buffers of a zero-copy packet, at most
    af_xdp: bool | None  # a socket could be bound, in copy mode
    need_wakeup: bool | None  # XDP_USE_NEED_WAKEUP
    unaligned_chunks: bool | None  # XDP_UMEM_UNALIGNED_CHUNK_FLAG
    multi_buffer: bool | None  # XDP_USE_SG
    zero_copy: bool | None  # XDP_ZEROCOPY
    busy_poll: bool | None  # SO_PREFER_BUSY_POLL is taken by AF_XDP sockets
    reasons: Mapping[str, str] = field(default_factory=dict)


def features(interface: str | int, *, queue: int = 0, disruptive: bool = False) -> Features:
    """Find out about an interface (name or index) of the calling thread's namespace.

    AF_XDP is tried on ``queue``, with sockets that live for a moment; no packet can get into
    them. Where the driver advertises zero-copy, binding that way reconfigures the queue (some
    drivers reset the link), so it is tried only if ``disruptive``. Without CAP_NET_RAW what
    needs a socket stays unknown. Raises :class:`XdpError` ENODEV for no such interface.
    """
    ifindex, ifname = resolve(interface)
    reasons: dict[str, str] = {}
    counts = _channels(ifname, reasons)
    netdev = _netdev(ifindex, reasons)
    probe = _Probe(ifindex, queue, reasons)
    zero_copy = probe.zero_copy(netdev, disruptive)
    af_xdp = probe.bind("af_xdp", BindFlags.COPY)
    return Features(
        ifindex=ifindex,
        ifname=ifname,
        mtu=mtu(ifname),
        driver=_driver(ifname, reasons),
        rx_queues=counts.rx if counts else None,
        tx_queues=counts.tx if counts else None,
        max_rx_queues=counts.max_rx if counts else None,
        max_tx_queues=counts.max_tx if counts else None,
        combined_queues=counts.combined if counts else None,
        gro=gro(ifname),
        programs=attached_programs(ifindex),
        native_xdp=bool(netdev.xdp & XdpAct.BASIC) if netdev else None,
        generic_xdp=True,
        xdp_features=netdev.xdp if netdev else None,
        zc_max_segs=netdev.zc_max_segs if netdev else None,
        af_xdp=af_xdp,
        need_wakeup=probe.bind("need_wakeup", BindFlags.COPY | BindFlags.USE_NEED_WAKEUP),
        unaligned_chunks=probe.bind("unaligned_chunks", BindFlags.COPY, unaligned=True),
        multi_buffer=probe.bind("multi_buffer", BindFlags.COPY | BindFlags.USE_SG),
        zero_copy=zero_copy,
        busy_poll=_busy_poll(reasons),
        reasons=reasons,
    )


def _driver(ifname: str, reasons: dict[str, str]) -> str | None:
    try:
        return driver(ifname)
    except Unsupported as error:
        reasons["driver"] = str(error)
        return None


def _channels(ifname: str, reasons: dict[str, str]) -> Channels | None:
    try:
        return channels(ifname)
    except Unsupported as error:
        for name in Channels.__dataclass_fields__:
            field = f"{name}_queues"
            reasons[field] = str(error)
        return None


def _netdev(ifindex: int, reasons: dict[str, str]) -> NetdevFeatures | None:
    try:
        found = netdev_features(ifindex)
    except Unsupported as error:
        for name in ("native_xdp", "xdp_features", "zc_max_segs"):
            reasons[name] = str(error)
        return None
    if not found.xdp & XdpAct.BASIC:
        reasons["native_xdp"] = "the driver does not advertise NETDEV_XDP_ACT_BASIC"
    if found.zc_max_segs is None:
        reasons["zc_max_segs"] = "the kernel does not tell (the driver has no zero-copy)"
    return found


def _busy_poll(reasons: dict[str, str]) -> bool | None:
    try:
        with socket.socket(_AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC) as probe:
            probe.setsockopt(socket.SOL_SOCKET, _SO_PREFER_BUSY_POLL, 1)
    except OSError as error:
        reasons["busy_poll"] = error.strerror or str(error)
        return False if error.errno in (errno.ENOPROTOOPT, errno.EAFNOSUPPORT) else None
    return True


@dataclass
class _Probe:
    """Binds a socket for a moment, and notes why that did not work."""

    ifindex: int
    queue: int
    reasons: dict[str, str]
    in_the_way: str = ""  # why no socket can be bound, whatever is asked of it
    bound: bool = False  # one was, so who has the queue now is most likely that one still

    def bind(self, name: str, flags: BindFlags, *, unaligned: bool = False) -> bool | None:
        """Can a socket be bound like this? None: something else is in the way."""
        if self.in_the_way:
            self.reasons[name] = self.in_the_way
            return None
        try:
            self._try(flags, unaligned)
        except Unsupported as error:
            self.reasons[name] = str(error)
            return False
        except XdpError as error:
            self.reasons[name] = error.strerror or str(error)
            if error.errno == errno.EINVAL:
                return False
            if error.errno in (errno.EBUSY, errno.EPERM, errno.ENETDOWN):
                self.in_the_way = self.reasons[name]
            return None
        return True

    def zero_copy(self, netdev: NetdevFeatures | None, disruptive: bool) -> bool | None:
        """As :meth:`bind`, but not on a driver whose queue that would really change."""
        advertised = netdev is None or bool(netdev.xdp & XdpAct.XSK_ZEROCOPY)
        if advertised and not disruptive:
            self.reasons["zero_copy"] = (
                "not tried, for it reconfigures the queue: features(..., disruptive=True)"
            )
            return None
        return self.bind("zero_copy", BindFlags.ZEROCOPY)

    def _try(self, flags: BindFlags, unaligned: bool) -> None:
        rings = {"fill_size": _PROBE_RING, "comp_size": _PROBE_RING}
        with (
            Umem.allocate(_PROBE_FRAMES * 4096, unaligned=unaligned, **rings) as umem,
            XskSocket(
                self.ifindex,
                self.queue,
                umem,
                rx_size=_PROBE_RING,
                tx_size=_PROBE_RING,
                bind_flags=flags,
                busy_timeout=_OURS if self.bound else _FOREIGN,
            ),
        ):
            self.bound = True
