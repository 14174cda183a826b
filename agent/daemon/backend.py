# SPDX-License-Identifier: Apache-2.0
"""The live data path as the netdev family's model asks for it: devices, queues, page pools.

A page pool in the kernel's sense is an area of the stack from the moment a queue is put on it until
its last buffer has come home after the queue left. Host memory outlives its queue here, to be used
again; then it is a new pool with a new id, as it would be after a restart of the queue.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

from devmemtcp.agent._loop import FORM, lib
from devmemtcp.agent.daemon.interface import Interface
from devmemtcp.agent.datapath_config import PAGE
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.netdev import is_up
from devmemtcp.agent.preflight import check_mappings
from devmemtcp.agent.region import is_writable
from devmemtcp.netlink.backend import Device, Events, PagePool, QueueStats
from devmemtcp.netlink.constants import PagePoolStatsAttr, QstatsAttr
from devmemtcp.netlink.errors import NetlinkError
from devmemtcp.netlink.extack import Refused
from devmemtcp.netlink.ids import CyclicIds
from devmemtcp.netlink.netdev import Netdev
from devmemtcp.pyxdp import Unsupported
from devmemtcp.pyxdp.ethtool import channels

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


class _Features(TypedDict, total=False):
    """What the kernel says of a device: fields of `backend.Device`."""

    xdp_features: int
    xdp_rx_metadata_features: int
    xsk_features: int
    xdp_zc_max_segs: int


_Key = tuple[int, int, int]
"""Interface, the stack's area, dmabuf id: numbers of areas are used again."""


class LiveBackend:
    """`backend.Backend` over the agent's interfaces. One thread: the agent's loop."""

    net_devmem = FORM != "off"

    events: Events
    """The model; to be set before the first call."""

    def __init__(self, interfaces: Mapping[int, Interface], kernel: Netdev | None) -> None:
        """`interfaces` by ifindex. `kernel` is asked for XDP features; None: it does not know them.

        Then none are told, as for a driver that has none.
        """
        self._interfaces = interfaces
        self._kernel = kernel
        self._features: dict[int, _Features] = {}
        self._ids = CyclicIds()
        self._pools: dict[_Key, PagePool] = {}
        self._bound: dict[int, Interface] = {}
        self._closing = False
        self._known = {device.ifindex: device for device in self.devices()}

    def stop(self) -> None:
        """From now on nothing is bound: the agent is about to end."""
        self._closing = True

    # ---- devices ----

    def devices(self) -> Sequence[Device]:
        """All interfaces of the agent's namespace."""
        return [self._device(index, name) for index, name in sorted(socket.if_nameindex())]

    def _device(self, ifindex: int, name: str) -> Device:
        interface = self._interfaces.get(ifindex)
        rx, tx = _queues(name)
        return Device(
            ifindex=ifindex,
            ifname=name,
            num_rx_queues=interface.config.queues if interface else rx,
            num_tx_queues=tx,
            up=_up(name),
            present=interface is None or not interface.failed,
            managed=interface is not None,
            **self._features_of(ifindex),
        )

    def _features_of(self, ifindex: int) -> _Features:
        if self._kernel is None:
            return _Features()
        if ifindex not in self._features:
            try:
                device = self._kernel.dev_get(ifindex)
            except NetlinkError:  # it is gone
                return _Features()
            self._features[ifindex] = _Features(
                xdp_features=device.xdp_features or 0,
                xdp_rx_metadata_features=device.xdp_rx_metadata_features or 0,
                xsk_features=device.xsk_features or 0,
                xdp_zc_max_segs=device.xdp_zc_max_segs or 0,
            )
        return self._features[ifindex]

    def links_changed(self) -> None:
        """The kernel said that some interface came, went or changed: tell which."""
        now = {device.ifindex: device for device in self.devices()}
        for ifindex in self._known.keys() - now.keys():
            self._features.pop(ifindex, None)
            self.events.device_deleted(self._known[ifindex])
        for ifindex in now.keys() - self._known.keys():
            self.events.device_added(now[ifindex])
        self._known = now

    # ---- bindings ----

    def check_dmabuf(self, ifindex: int, fd: int) -> None:
        """Whether `fd` is a region: a memfd that keeps its size, of whole pages, not too large.

        Raises Refused (EINVAL).
        """
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError as error:
            raise Refused(
                errno.EINVAL, "the region must be a memfd: of a udmabuf, the one it is made of"
            ) from error
        if seals & _SEALS != _SEALS:
            raise Refused(
                errno.EINVAL, "the region must be sealed with F_SEAL_SHRINK and F_SEAL_GROW"
            )
        if not is_writable(fd):
            raise Refused(errno.EINVAL, "the region must be writable, by its descriptor and seals")
        interface = self._interfaces[ifindex]
        stat, most = os.fstat(fd), interface.options.memory
        if stat.st_blksize != PAGE and interface.config.mode != "zerocopy":
            raise Refused(
                errno.EINVAL, "the region must have pages of 4096 bytes, or zero-copy mode be on"
            )
        least = lib.STACK_MIN_AREA * PAGE
        if not least <= stat.st_size <= most or stat.st_size % PAGE:
            raise Refused(
                errno.EINVAL, f"the region must have whole pages, {least} to {most} bytes"
            )

    def bind(self, ifindex: int, queues: Sequence[int], fd: int, dmabuf_id: int) -> None:
        """Restart the queues on the region: all of them, or none. Raises OSError."""
        interface = self._interfaces[ifindex]
        if self._closing:
            raise Refused(errno.ESHUTDOWN, "the agent is ending")
        try:
            check_mappings(os.fstat(fd).st_size // PAGE, interface.config.mode)
            interface.datapath.bind(dmabuf_id, queues, fd)
        except ConfigError as error:
            raise Refused(errno.ENOMEM, str(error)) from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise Refused(
                errno.ENOMEM, f"{interface.name}: all device memory of the agent is bound"
            ) from error
        finally:
            self.pools_changed()
        self._bound[dmabuf_id] = interface

    def unbind(self, dmabuf_id: int) -> None:
        """Restart the binding's queues on host memory; what is out of the region drains."""
        self._bound.pop(dmabuf_id).datapath.unbind(dmabuf_id)
        self.pools_changed()

    # ---- page pools ----

    def pools_changed(self) -> None:
        """Something was bound or unbound, or has drained: tell what became of the page pools."""
        now = self._areas()
        for key, pool in list(self._pools.items()):
            area = now.get(key)
            if area is None or (pool.detach_time is not None and area["queues"]):
                self._forget(key)
            elif pool.detach_time is None and not area["queues"]:
                told = replace(self._fresh(pool, area), detach_time=_boot_seconds())
                self._pools[key] = told
                self.events.pool_changed(told)
        for key, area in now.items():
            if key not in self._pools:
                self._add(key, area)

    def _areas(self) -> dict[_Key, dict[str, Any]]:
        """Those that queues are on, and those that were left with buffers out."""
        found = {}
        for ifindex, interface in self._interfaces.items():
            interface.datapath.reap()
            for area in interface.datapath.pools():
                if area["queues"] or _inflight(area):
                    found[ifindex, area["area"], area["dmabuf_id"]] = area
        return found

    def _add(self, key: _Key, area: dict[str, Any]) -> None:
        pool = self._fresh(
            PagePool(
                id=self._ids.alloc(),
                ifindex=key[0],
                inflight=0,
                inflight_mem=0,
                dmabuf=key[2] or None,
            ),
            area,
        )
        self._pools[key] = pool
        self.events.pool_added(pool)

    def _forget(self, key: _Key) -> None:
        pool = self._pools.pop(key)
        self._ids.free(pool.id)
        self.events.pool_deleted(replace(pool, inflight=0, inflight_mem=0))

    @staticmethod
    def _fresh(pool: PagePool, area: dict[str, Any]) -> PagePool:
        count = _inflight(area)
        return replace(pool, inflight=count, inflight_mem=count * PAGE)

    def page_pools(self) -> Sequence[PagePool]:
        """All that live, draining ones included."""
        self.pools_changed()
        areas = self._areas()
        return [self._fresh(pool, areas[key]) for key, pool in self._pools.items()]

    def page_pool_stats(self, pool_id: int) -> Mapping[PagePoolStatsAttr, int]:
        """The counters of a pool's area."""
        areas = self._areas()
        area = next(areas[key] for key, pool in self._pools.items() if pool.id == pool_id)
        # No pages of a higher order, and no netmem of another kind, are there to be counted.
        return {attr: area.get(attr.name.lower(), 0) for attr in _POOL_COUNTERS}

    def queue_stats(self, ifindex: int) -> QueueStats | None:
        """The counters of each queue; None for an interface that is not ours."""
        interface = self._interfaces.get(ifindex)
        if interface is None:
            return None
        queues = interface.datapath.queue_stats()
        return QueueStats(
            rx=[_counters(queue, "rx_") for queue in queues],
            tx=[_counters(queue, "tx_") for queue in queues],
            base=dict.fromkeys(_BASE, 0),
        )


_POOL_COUNTERS = tuple(attr for attr in PagePoolStatsAttr if attr is not PagePoolStatsAttr.INFO)
_BASE = (
    QstatsAttr.RX_PACKETS,
    QstatsAttr.RX_BYTES,
    QstatsAttr.RX_ALLOC_FAIL,
    QstatsAttr.TX_PACKETS,
    QstatsAttr.TX_BYTES,
)


def _counters(queue: Mapping[str, int], prefix: str) -> dict[QstatsAttr, int]:
    """Those counters of a queue that the family has a name for."""
    return {
        attr: queue[attr.name.lower()]
        for attr in QstatsAttr
        if attr.name.lower().startswith(prefix) and attr.name.lower() in queue
    }


def _inflight(area: Mapping[str, int]) -> int:
    return sum(area[state] for state in ("fill", "queued", "ooo", "lent"))


def _boot_seconds() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))


def _queues(name: str) -> tuple[int, int]:
    """(RX, TX) queues; one of each where the driver does not say."""
    try:
        count = channels(name)
    except (Unsupported, OSError):
        return 1, 1
    return max(1, count.rx), max(1, count.tx)


def _up(name: str) -> bool:
    try:
        return is_up(name)
    except OSError:  # it is gone
        return False
