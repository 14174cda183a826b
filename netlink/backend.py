# SPDX-License-Identifier: Apache-2.0
"""What the model asks of the live data path, and what the data path tells the model.

The model (:mod:`devmemtcp.netlink.model`) knows the rules of the kernel's netdev family and
nothing of AF_XDP; the agent knows AF_XDP. Between them stands :class:`Backend`, which the agent
implements, and :class:`Events`, which the model implements and the agent calls.

Everything here happens on one thread, the one that calls ``NetlinkServer.handle()``. The model
calls the backend from within ``handle()`` and ``disconnect()`` and from nowhere else; the backend
may call :class:`Events` from within these calls (a queue restart makes and drops page pools) or
between them, never from another thread.

Records are snapshots: the model asks anew for each request and keeps none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from devmemtcp.netlink.constants import (
    NapiThreaded,
    PagePoolStatsAttr,
    QstatsAttr,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Napi:
    """A NAPI instance, ``struct napi_struct``. Timeouts in nanoseconds."""

    id: int
    irq: int | None = None
    pid: int | None = None
    """The thread that polls, if ``threaded``."""
    defer_hard_irqs: int = 0
    gro_flush_timeout: int = 0
    irq_suspend_timeout: int = 0
    threaded: NapiThreaded = NapiThreaded.DISABLED


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A network interface of the agent's namespace as it is now."""

    ifindex: int
    ifname: str
    num_rx_queues: int
    """RX queues that the device has; how many the emulated NIC uses is the model's affair."""
    num_tx_queues: int
    up: bool = True
    present: bool = True
    managed: bool = True
    """The agent serves this interface: the model emulates a NIC with devmem on it. All others
    are answered for like devices without queue management, loopback for one."""
    xdp_features: int = 0
    """Bits of ``constants.XdpAct``; the next two of ``XdpRxMetadata`` and ``XskFlags``."""
    xdp_rx_metadata_features: int = 0
    xsk_features: int = 0
    xdp_zc_max_segs: int = 0
    """Told only if ``xdp_features`` has XSK_ZEROCOPY."""
    napis: Sequence[Napi] = ()
    rx_napi: Mapping[int, int] = field(default_factory=dict)
    """RX queue -> NAPI id, for the queues that have one."""
    tx_napi: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PagePool:
    """A page_pool with a link to a device: one an area of memory that a queue uses or used."""

    id: int
    """1 .. 2^32-1, cyclic over all devices (:class:`devmemtcp.netlink.ids.CyclicIds`)."""
    ifindex: int | None
    """None: the device is gone, the pool waits for its last buffer."""
    inflight: int
    """Buffers that are out of the pool's hands, those in the fill ring included."""
    inflight_mem: int
    """Bytes of them: inflight * (PAGE_SIZE << order)."""
    napi_id: int | None = None
    detach_time: int | None = None
    """CLOCK_BOOTTIME in whole seconds of the moment the queue let go of the pool."""
    dmabuf: int | None = None
    """Binding whose memory it hands out; None: host memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """The counters of one device, netdev_stat_ops. A counter that is not kept is left out.

    ``rx[i]`` and ``tx[i]`` are queue i's, for all queues the device has; ``base`` is what no
    queue counts any more (queues that were taken away), and must hold, if only as 0, each
    counter that the device's sum shall show.
    """

    rx: Sequence[Mapping[QstatsAttr, int]]
    tx: Sequence[Mapping[QstatsAttr, int]]
    base: Mapping[QstatsAttr, int]


class Backend(Protocol):
    """The live data path behind the model.

    A method may raise ``OSError``: its errno goes to the client as it is. To send the kernel's
    extack text too, raise :class:`devmemtcp.netlink.extack.Refused`.

    File descriptors are borrowed: the server closes what a client sent when its message has been
    dealt with, so a backend dups what it wants to keep.
    """

    net_devmem: bool
    """CONFIG_NET_DEVMEM: whether memory can be bound at all."""

    def devices(self) -> Sequence[Device]:
        """Return all interfaces of the namespace, in ascending order of ifindex."""
        ...

    def check_dmabuf(self, ifindex: int, fd: int) -> None:
        """Say whether ``fd`` is memory that can be bound on this device; change nothing.

        Called before it is looked at what the queues are used for, as the kernel attaches and
        maps a dma-buf before. Must not block: it may be a descriptor of any kind.

        Raises:
            OSError: EINVAL, if it is not a region of ours (a sealed memfd of the right seals and
                size). With text: "Failed to bind dmabuf to device", "Failed to map dmabuf
                attachment", and the errno of what failed.
        """
        ...

    def bind(self, ifindex: int, queues: Sequence[int], fd: int, dmabuf_id: int) -> None:
        """Give the memory of ``fd`` to these RX queues (ascending, no duplicates): restart them.

        All or nothing: when it raises, each queue is as it was. When it returns, the page pools
        that serve these queues carry ``dmabuf=dmabuf_id``, and the events of the restart
        (``pool_added`` of the new pools, ``pool_deleted`` or ``pool_changed`` of the old) have
        been told. The queues were free: not bound, in range, on a managed device.

        Raises:
            OSError: the driver's errno (ENOMEM ...); nothing is bound.
        """
        ...

    def unbind(self, dmabuf_id: int) -> None:
        """Restart the binding's queues with host memory and drop the user's reference.

        Called once for each ``bind`` that succeeded, also if the device has gone since. The
        memory stays until the last buffer is home; until then its pools are listed with a
        ``detach_time`` (``pool_changed``), afterwards not at all (``pool_deleted``). Does not
        raise: what cannot be restarted stays without memory, and is the agent's to report.
        """
        ...

    def page_pools(self) -> Sequence[PagePool]:
        """Return all page pools that live, draining ones included, in any order."""
        ...

    def page_pool_stats(self, pool_id: int) -> Mapping[PagePoolStatsAttr, int]:
        """Return the counters ALLOC_FAST .. RECYCLE_RELEASED_REFCNT of a listed pool."""
        ...

    def queue_stats(self, ifindex: int) -> QueueStats | None:
        """Return a device's counters; None: it keeps none (no netdev_stat_ops)."""
        ...


class Events(Protocol):
    """What the backend tells the model: it becomes notifications to the subscribed clients."""

    def pool_added(self, pool: PagePool) -> None:
        """A pool was made."""

    def pool_changed(self, pool: PagePool) -> None:
        """A queue let go of the pool while buffers are out: ``detach_time`` is set now."""

    def pool_deleted(self, pool: PagePool) -> None:
        """The last buffer came home: the pool is gone. ``pool`` is its last state."""

    def device_added(self, device: Device) -> None:
        """An interface appeared in the namespace."""

    def device_deleted(self, device: Device) -> None:
        """An interface is gone, or left the namespace. Its bindings live on without queues."""

    def device_changed(self, device: Device) -> None:
        """The XDP features of an interface changed."""
