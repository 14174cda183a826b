# SPDX-License-Identifier: Apache-2.0
"""AF_XDP sockets."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

from devmemtcp.pyxdp._xdp import ffi, lib
from devmemtcp.pyxdp.errors import Unsupported, XdpError, check, owned
from devmemtcp.pyxdp.ethtool import channels
from devmemtcp.pyxdp.interface import resolve
from devmemtcp.pyxdp.resource import Resource
from devmemtcp.pyxdp.ring import CompRing, FillRing, RxRing, TxRing
from devmemtcp.pyxdp.umem import Umem, check_ring_size

_XDP_OPTIONS_ZEROCOPY = 1 << 0
_RELEASE_POLL = 0.002  # seconds between looks whether xp_release_deferred() has run


class BindFlags(IntFlag):
    """``sxdp_flags`` of bind(2), ``<linux/if_xdp.h>``."""

    COPY = 1 << 1
    ZEROCOPY = 1 << 2
    USE_NEED_WAKEUP = 1 << 3
    USE_SG = 1 << 4  # multi-buffer packets; kernel 6.6


@dataclass(frozen=True)
class XskStatistics:
    """Counters of one socket since it was made (XDP_STATISTICS)."""

    rx_dropped: int  # for other reasons, such as a packet that does not fit a frame
    rx_invalid_descs: int  # fill ring addresses outside the UMEM
    tx_invalid_descs: int
    rx_ring_full: int
    rx_fill_ring_empty_descs: int  # a packet came, and there was no frame for it
    tx_ring_empty_descs: int


@dataclass(frozen=True)
class XskOptions:
    """State of a bound socket (XDP_OPTIONS)."""

    zero_copy: bool


class XskSocket(Resource):
    """A socket on one queue of one interface, with a receive and a transmit ring.

    It binds in the network namespace of the calling thread and stays there. No XDP program is
    loaded: attach one and enter the socket into its :class:`XskMap`. Sockets are closed before
    their :class:`Umem`, whose description says what closing the first of them leaves.
    """

    def __init__(
        self,
        interface: str | int,
        queue: int,
        umem: Umem,
        *,
        rx_size: int = 2048,
        tx_size: int = 256,
        bind_flags: BindFlags = BindFlags.COPY | BindFlags.USE_NEED_WAKEUP,
        busy_timeout: float = 0.5,
    ) -> None:
        """Bind to ``queue`` of ``interface`` (name or index). Sizes are descriptors.

        The first socket on ``umem`` binds with ``bind_flags``; those that share it inherit them
        (the kernel takes none with XDP_SHARED_UMEM) and must name the same. Sockets on the same
        queue share one fill and one completion ring.

        A queue whose socket has just been closed is still taken for some 30 ms, until the kernel
        gets round to releasing it; so a taken queue is tried for ``busy_timeout`` seconds.

        Raises ``ValueError`` for sizes and flags that cannot be, :class:`XdpError` (EBUSY: the
        queue is taken, EINVAL: no such queue, EPERM: no CAP_NET_RAW), and
        :class:`Unsupported` when the driver has no zero-copy or the kernel no USE_SG.
        """
        check_ring_size("rx_size", rx_size)
        check_ring_size("tx_size", tx_size)
        if queue < 0:
            raise ValueError(f"there is no queue {queue}")
        self.ifindex, self.ifname = resolve(interface)
        self.queue = queue
        self.umem = umem
        self.bind_flags = bind_flags
        rings = owned(lib.pyxdp_socket_rings_new(), lib.pyxdp_socket_rings_free)
        config = ffi.new("struct pyxdp_socket_config *", (rx_size, tx_size, bind_flags))
        handle = ffi.new("struct xsk_socket **")
        key, queue_rings = umem._take(self.ifindex, queue, bind_flags)
        arguments = (os.fsencode(self.ifname), queue, umem._handle, rings, queue_rings, config)
        deadline = time.monotonic() + busy_timeout
        while (result := lib.pyxdp_socket_create(handle, *arguments)) == -errno.EBUSY:
            if time.monotonic() > deadline:
                break
            time.sleep(_RELEASE_POLL)
        if result:
            umem._give_back(key)
            raise self._refused(-result)
        self._handle: Any = handle[0]
        self._key = key
        self.rx = RxRing(lib.pyxdp_rx_ring(rings), rings, rx_size)
        self.tx = TxRing(lib.pyxdp_tx_ring(rings), rings, tx_size)
        self.fill = FillRing(lib.pyxdp_fill_ring(queue_rings), queue_rings, umem.fill_size)
        self.comp = CompRing(lib.pyxdp_comp_ring(queue_rings), queue_rings, umem.comp_size)

    def __repr__(self) -> str:
        return f"<XskSocket {self.ifname} queue {self.queue}>"

    @property
    def closed(self) -> bool:
        """True after :meth:`close`."""
        return self._handle is None

    @property
    def fd(self) -> int:
        """Descriptor for poll(2): POLLIN when there are packets, POLLOUT when there is room."""
        if self._handle is None:
            raise ValueError(f"{self!r} is closed")
        return int(lib.xsk_socket__fd(self._handle))

    def fileno(self) -> int:
        """The same as :attr:`fd`, for :mod:`select` and :mod:`selectors`."""
        return self.fd

    def needs_wakeup(self) -> bool:
        """True when what was submitted to :attr:`tx` waits for a :meth:`kick`."""
        return self.tx.needs_wakeup()

    def kick(self) -> bool:
        """Have the kernel send what is in :attr:`tx`: sendto(2), which does the work itself.

        A copy-mode call sends at most 32 packets. Returns False when it could not send all for
        now (EAGAIN, EBUSY, ENOBUFS): reap :attr:`comp` and call again.
        """
        result = lib.pyxdp_socket_kick(self.fd)
        if result in (-errno.EAGAIN, -errno.EBUSY, -errno.ENOBUFS):
            return False
        check(result, f"cannot send on {self!r}")
        return True

    def statistics(self) -> XskStatistics:
        """What was dropped, and why."""
        raw = ffi.new("struct pyxdp_statistics *")
        check(lib.pyxdp_socket_statistics(self.fd, raw), f"cannot read statistics of {self!r}")
        return XskStatistics(
            rx_dropped=raw.rx_dropped,
            rx_invalid_descs=raw.rx_invalid_descs,
            tx_invalid_descs=raw.tx_invalid_descs,
            rx_ring_full=raw.rx_ring_full,
            rx_fill_ring_empty_descs=raw.rx_fill_ring_empty_descs,
            tx_ring_empty_descs=raw.tx_ring_empty_descs,
        )

    def options(self) -> XskOptions:
        """Whether zero-copy is really in use."""
        flags = check(lib.pyxdp_socket_options(self.fd), f"cannot read options of {self!r}")
        return XskOptions(zero_copy=bool(flags & _XDP_OPTIONS_ZEROCOPY))

    def close(self) -> None:
        """Unmap the rings and, unless this was the Umem's first socket, unbind the queue."""
        if self.closed:
            return
        for ring in (self.rx, self.tx, self.fill, self.comp):
            ring._close()
        lib.xsk_socket__delete(self._handle)
        self._handle = None
        self.umem._give_back(self._key)

    def _refused(self, code: int) -> Exception:
        where = f"queue {self.queue} of {self.ifname}"
        if code == errno.EOPNOTSUPP:
            return Unsupported(f"{self.ifname} cannot bind AF_XDP with {self.bind_flags!r}")
        if code == errno.EINVAL:
            return self._invalid()
        hints = {
            errno.EBUSY: f"{where} has an AF_XDP socket already",
            errno.EPERM: "AF_XDP sockets need CAP_NET_RAW",
            errno.ENETDOWN: f"{self.ifname} is down",
        }
        return XdpError(code, hints.get(code, f"cannot bind AF_XDP to {where}"))

    def _invalid(self) -> Exception:
        """EINVAL is a queue that is not there, or a flag that is not known."""
        try:
            found = channels(self.ifname)
        except Unsupported:
            found = None
        if found and self.queue >= max(found.rx, found.tx):
            count = max(found.rx, found.tx)
            message = f"{self.ifname} has no queue {self.queue}: it has {count}, from 0"
            return XdpError(errno.EINVAL, message)
        if found and self.bind_flags & BindFlags.USE_SG:
            return Unsupported("no multi-buffer AF_XDP (XDP_USE_SG): it came with kernel 6.6")
        message = f"queue {self.queue} of {self.ifname} with {self.bind_flags!r}"
        return XdpError(errno.EINVAL, f"cannot bind AF_XDP to {message}")
