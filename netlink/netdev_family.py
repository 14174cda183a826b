# SPDX-License-Identifier: Apache-2.0
"""The server of the family "netdev": who is asked what, and how the answers are written.

The order of attributes on the wire is the kernel's order of nla_put() calls, not that of their
numbers. Source: net/core/netdev-genl.c, net/core/page_pool_user.c.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from devmemtcp.netlink import attribute
from devmemtcp.netlink.backend import Backend, Device, Napi, PagePool
from devmemtcp.netlink.binding import BIND_RX_POLICY, BIND_TX_POLICY, Bindings
from devmemtcp.netlink.constants import (
    NETDEV_FAMILY_NAME,
    NETDEV_FAMILY_VERSION,
    NETDEV_MCGRP_MGMT,
    NETDEV_MCGRP_PAGE_POOL,
    DevAttr,
    GenlOpFlag,
    NapiAttr,
    NapiThreaded,
    NetdevCmd,
    PagePoolAttr,
    PagePoolStatsAttr,
    PolicyType,
    QstatsAttr,
    QstatsScope,
    QueueAttr,
    QueueType,
    XdpAct,
)
from devmemtcp.netlink.devices import Devices
from devmemtcp.netlink.extack import Refused
from devmemtcp.netlink.family import Family, Op, Request
from devmemtcp.netlink.policy import (
    U32,
    UINT,
    Policy,
    Rule,
    at_least,
    at_most,
    masked,
    nested,
    parse_nested,
)

LOOPBACK_IFINDEX = 1
S32_MAX = 0x7FFFFFFF
U32_MAX = 0xFFFFFFFF

_IFINDEX = at_least(PolicyType.U32, 1)
_POOL_ID = Rule(PolicyType.UINT, low=1, high=U32_MAX)

_DEV_GET = Policy({DevAttr.IFINDEX: _IFINDEX})
_PAGE_POOL_GET = Policy({PagePoolAttr.ID: _POOL_ID})
_PAGE_POOL_INFO = Policy(
    {
        PagePoolAttr.ID: _POOL_ID,
        PagePoolAttr.IFINDEX: Rule(PolicyType.U32, low=1, high=S32_MAX),
    }
)
_PAGE_POOL_STATS_GET = Policy({PagePoolStatsAttr.INFO: nested(_PAGE_POOL_INFO)})
_QUEUE_GET = Policy(
    {
        QueueAttr.IFINDEX: _IFINDEX,
        QueueAttr.TYPE: at_most(PolicyType.U32, QueueType.TX),
        QueueAttr.ID: U32,
    }
)
_QUEUE_DUMP = Policy({QueueAttr.IFINDEX: _IFINDEX})
_NAPI_GET = Policy({NapiAttr.ID: U32})
_NAPI_DUMP = Policy({NapiAttr.IFINDEX: _IFINDEX})
_NAPI_SET = Policy(
    {
        NapiAttr.ID: U32,
        NapiAttr.DEFER_HARD_IRQS: Rule(PolicyType.U32, high=S32_MAX),
        NapiAttr.GRO_FLUSH_TIMEOUT: UINT,
        NapiAttr.IRQ_SUSPEND_TIMEOUT: UINT,
        NapiAttr.THREADED: at_most(PolicyType.U32, NapiThreaded.ENABLED),
    }
)
_QSTATS_DUMP = Policy(
    {
        QstatsAttr.IFINDEX: _IFINDEX,
        QstatsAttr.SCOPE: masked(PolicyType.UINT, QstatsScope.QUEUE),
    }
)

_RX_STATS = tuple(kind for kind in QstatsAttr if kind.name.startswith("RX_"))
_TX_STATS = tuple(kind for kind in QstatsAttr if kind.name.startswith("TX_"))
_POOL_STATS = tuple(kind for kind in PagePoolStatsAttr if kind is not PagePoolStatsAttr.INFO)


class NetdevFamily:
    """Handlers of the family's commands.

    Args:
        page_pool_stats: CONFIG_PAGE_POOL_STATS; without it the command does not exist.
    """

    def __init__(
        self,
        devices: Devices,
        backend: Backend,
        bindings: Bindings,
        *,
        page_pool_stats: bool = True,
    ) -> None:
        self._devices = devices
        self._backend = backend
        self._napi_config: dict[int, Napi] = {}
        self.family = Family(
            name=NETDEV_FAMILY_NAME,
            version=NETDEV_FAMILY_VERSION,
            groups=(NETDEV_MCGRP_MGMT, NETDEV_MCGRP_PAGE_POOL),
            ops=self._ops(bindings, page_pool_stats),
            disconnect=bindings.client_gone,
        )

    def _ops(self, bindings: Bindings, page_pool_stats: bool) -> dict[int, Op]:
        ops: dict[int, Op] = {
            NetdevCmd.DEV_GET: Op(
                do=self.get_dev, do_policy=_DEV_GET, dump=self.dump_devs, multi=False
            ),
            NetdevCmd.PAGE_POOL_GET: Op(
                do=self.get_pool, do_policy=_PAGE_POOL_GET, dump=self.dump_pools, multi=False
            ),
            NetdevCmd.QUEUE_GET: Op(
                do=self.get_queue,
                do_policy=_QUEUE_GET,
                dump=self.dump_queues,
                dump_policy=_QUEUE_DUMP,
                multi=False,
            ),
            NetdevCmd.NAPI_GET: Op(
                do=self.get_napi,
                do_policy=_NAPI_GET,
                dump=self.dump_napis,
                dump_policy=_NAPI_DUMP,
                multi=False,
            ),
            NetdevCmd.QSTATS_GET: Op(dump=self.dump_qstats, dump_policy=_QSTATS_DUMP, multi=False),
            NetdevCmd.BIND_RX: Op(
                do=bindings.bind_rx, do_policy=BIND_RX_POLICY, perm=GenlOpFlag.ADMIN_PERM
            ),
            NetdevCmd.NAPI_SET: Op(
                do=self.set_napi, do_policy=_NAPI_SET, perm=GenlOpFlag.ADMIN_PERM
            ),
            NetdevCmd.BIND_TX: Op(do=bindings.bind_tx, do_policy=BIND_TX_POLICY),
        }
        if page_pool_stats:
            ops[NetdevCmd.PAGE_POOL_STATS_GET] = Op(
                do=self.get_pool_stats,
                do_policy=_PAGE_POOL_STATS_GET,
                dump=self.dump_pool_stats,
                multi=False,
            )
        return ops

    # --- devices -------------------------------------------------------------------------------

    def get_dev(self, request: Request) -> bytes:
        """netdev_nl_dev_get_doit()."""
        request.require(DevAttr.IFINDEX)
        return describe_dev(self._device(request.attrs[DevAttr.IFINDEX].u32()))

    def dump_devs(self, request: Request) -> Iterator[bytes]:
        """netdev_nl_dev_get_dumpit()."""
        return (describe_dev(device) for device in self._devices.all())

    def _device(self, ifindex: int) -> Device:
        device = self._devices.get(ifindex)
        if device is None:
            raise Refused(errno.ENODEV)
        return device

    def _asked_for(self, request: Request, ifindex: int) -> Iterator[Device]:
        """The device that a dump is limited to, or all of them; only those that are up."""
        if ifindex in request.attrs:
            chosen: Sequence[Device] = [self._device(request.attrs[ifindex].u32())]
        else:
            chosen = self._devices.all()
        return (device for device in chosen if device.up)

    # --- queues --------------------------------------------------------------------------------

    def get_queue(self, request: Request) -> bytes:
        """netdev_nl_queue_get_doit()."""
        request.require(QueueAttr.ID, QueueAttr.TYPE, QueueAttr.IFINDEX)
        attrs = request.attrs
        device = self._device(attrs[QueueAttr.IFINDEX].u32())
        if not device.up:
            raise Refused(errno.ENOENT)
        queue = attrs[QueueAttr.ID].u32()
        kind = QueueType(attrs[QueueAttr.TYPE].u32())
        if queue >= self._devices.real_num_queues(device)[kind]:
            raise Refused(errno.EINVAL)
        return self._describe_queue(device, kind, queue)

    def dump_queues(self, request: Request) -> Iterator[bytes]:
        """netdev_nl_queue_get_dumpit()."""
        for device in self._asked_for(request, QueueAttr.IFINDEX):
            numbers = self._devices.real_num_queues(device)
            for kind in QueueType:
                for queue in range(numbers[kind]):
                    yield self._describe_queue(device, kind, queue)

    def _describe_queue(self, device: Device, kind: QueueType, queue: int) -> bytes:
        """netdev_nl_queue_fill_one()."""
        out = (
            attribute.put_u32(QueueAttr.ID, queue)
            + attribute.put_u32(QueueAttr.TYPE, kind)
            + attribute.put_u32(QueueAttr.IFINDEX, device.ifindex)
        )
        napi = (device.rx_napi if kind is QueueType.RX else device.tx_napi).get(queue)
        if napi is not None:
            out += attribute.put_u32(QueueAttr.NAPI_ID, napi)
        nic = self._devices.nic(device)
        if nic is None:
            return out
        if kind is QueueType.RX and queue in nic.providers:
            out += attribute.put_u32(QueueAttr.DMABUF, nic.providers[queue])
        if nic.has_xsk(queue):
            out += attribute.nest(QueueAttr.XSK)
        return out

    # --- NAPI instances ------------------------------------------------------------------------

    def get_napi(self, request: Request) -> bytes:
        """netdev_nl_napi_get_doit()."""
        return _describe_napi(*self._napi(request))

    def dump_napis(self, request: Request) -> Iterator[bytes]:
        """netdev_nl_napi_get_dumpit(): the newest first."""
        for device in self._asked_for(request, NapiAttr.IFINDEX):
            for napi in sorted(device.napis, key=lambda napi: napi.id, reverse=True):
                yield _describe_napi(device, self._configured(napi))

    def set_napi(self, request: Request) -> None:
        """netdev_nl_napi_set_doit(), of the emulated NIC: the settings are kept and shown."""
        attrs = request.attrs
        device, napi = self._napi(request)
        if not request.client.peer.may_administer(device.ifname):
            raise Refused(errno.EPERM, f"you may not configure {device.ifname}")
        if NapiAttr.THREADED in attrs:
            napi = replace(napi, threaded=NapiThreaded(attrs[NapiAttr.THREADED].u32()))
        if NapiAttr.DEFER_HARD_IRQS in attrs:
            napi = replace(napi, defer_hard_irqs=attrs[NapiAttr.DEFER_HARD_IRQS].u32())
        if NapiAttr.IRQ_SUSPEND_TIMEOUT in attrs:
            napi = replace(napi, irq_suspend_timeout=attrs[NapiAttr.IRQ_SUSPEND_TIMEOUT].uint())
        if NapiAttr.GRO_FLUSH_TIMEOUT in attrs:
            napi = replace(napi, gro_flush_timeout=attrs[NapiAttr.GRO_FLUSH_TIMEOUT].uint())
        self._forget_napis()
        self._napi_config[napi.id] = napi

    def _forget_napis(self) -> None:
        """Drop what was set for instances that are gone."""
        live = {napi.id for device in self._devices.all() for napi in device.napis}
        self._napi_config = {k: v for k, v in self._napi_config.items() if k in live}

    def _napi(self, request: Request) -> tuple[Device, Napi]:
        request.require(NapiAttr.ID)
        wanted = request.attrs[NapiAttr.ID]
        for device in self._devices.all():
            for napi in device.napis:
                if napi.id == wanted.u32() and device.up:
                    return device, self._configured(napi)
        raise Refused(errno.ENOENT, bad_attr=wanted.offset)

    def _configured(self, napi: Napi) -> Napi:
        """Return the instance with what was set here; who it is remains the backend's word."""
        own = self._napi_config.get(napi.id)
        return napi if own is None else replace(own, irq=napi.irq, pid=napi.pid)

    # --- page pools ----------------------------------------------------------------------------

    def get_pool(self, request: Request) -> bytes:
        """netdev_nl_page_pool_get_doit()."""
        request.require(PagePoolAttr.ID)
        return describe_pool(self._pool(request.attrs[PagePoolAttr.ID].uint()))

    def dump_pools(self, request: Request) -> Iterator[bytes]:
        """netdev_nl_page_pool_get_dumpit()."""
        return map(describe_pool, self._pools())

    def get_pool_stats(self, request: Request) -> bytes:
        """netdev_nl_page_pool_stats_get_doit()."""
        request.require(PagePoolStatsAttr.INFO)
        nest = request.attrs[PagePoolStatsAttr.INFO]
        info = parse_nested(nest, _PAGE_POOL_INFO, request.extack)
        if PagePoolAttr.ID not in info:
            raise Refused(errno.EINVAL, miss_type=PagePoolAttr.ID, miss_nest=nest.offset)
        if PagePoolAttr.IFINDEX in info:
            raise Refused(
                errno.EINVAL,
                "selecting by ifindex not supported",
                bad_attr=info[PagePoolAttr.IFINDEX].offset,
            )
        return self._describe_pool_stats(self._pool(info[PagePoolAttr.ID].uint()))

    def dump_pool_stats(self, request: Request) -> Iterator[bytes]:
        """netdev_nl_page_pool_stats_get_dumpit()."""
        return map(self._describe_pool_stats, self._pools())

    def _pool(self, number: int) -> PagePool:
        for pool in self._backend.page_pools():
            if pool.id == number:
                return pool
        raise Refused(errno.ENOENT)

    def _pools(self) -> list[PagePool]:
        """By device, the newest first. Those whose device is gone are kept on loopback."""
        return sorted(
            self._backend.page_pools(),
            key=lambda pool: (pool.ifindex or LOOPBACK_IFINDEX, -pool.id),
        )

    def _describe_pool_stats(self, pool: PagePool) -> bytes:
        """page_pool_nl_stats_fill()."""
        info = attribute.put_uint(PagePoolAttr.ID, pool.id)
        if pool.ifindex is not None:
            info += attribute.put_u32(PagePoolAttr.IFINDEX, pool.ifindex)
        stats = self._backend.page_pool_stats(pool.id)
        return attribute.nest(PagePoolStatsAttr.INFO, info) + b"".join(
            attribute.put_uint(kind, stats.get(kind, 0)) for kind in _POOL_STATS
        )

    # --- queue statistics ----------------------------------------------------------------------

    def dump_qstats(self, request: Request) -> Iterator[bytes]:
        """netdev_nl_qstats_get_dumpit()."""
        attrs = request.attrs
        by_queue = QstatsAttr.SCOPE in attrs and attrs[QstatsAttr.SCOPE].uint() != 0
        describe = self._qstats_by_queue if by_queue else self._qstats_by_device
        if QstatsAttr.IFINDEX not in attrs:
            for device in self._devices.all():
                yield from describe(device)
            return
        ifindex = attrs[QstatsAttr.IFINDEX]
        found = self._devices.get(ifindex.u32())
        if found is None or self._backend.queue_stats(found.ifindex) is None:
            error = errno.ENODEV if found is None else errno.EOPNOTSUPP
            raise Refused(error, bad_attr=ifindex.offset)
        yield from describe(found)

    def _qstats_by_queue(self, device: Device) -> Iterator[bytes]:
        stats = self._backend.queue_stats(device.ifindex)
        if stats is None or not device.up:
            return
        numbers = self._devices.real_num_queues(device)
        for kind, queues, kept in (
            (QueueType.RX, stats.rx, _RX_STATS),
            (QueueType.TX, stats.tx, _TX_STATS),
        ):
            for queue, kept_by_queue in enumerate(queues[: numbers[kind]]):
                counters = _describe_counters(kept_by_queue, kept)
                if counters:
                    yield (
                        attribute.put_u32(QstatsAttr.IFINDEX, device.ifindex)
                        + attribute.put_u32(QstatsAttr.QUEUE_TYPE, kind)
                        + attribute.put_u32(QstatsAttr.QUEUE_ID, queue)
                        + counters
                    )

    def _qstats_by_device(self, device: Device) -> Iterator[bytes]:
        """The device's sum of the counters that its base has."""
        stats = self._backend.queue_stats(device.ifindex)
        if stats is None or not stats.base:
            return
        total = dict(stats.base)
        rx, tx = self._devices.real_num_queues(device)
        for counters in (*stats.rx[:rx], *stats.tx[:tx]):
            for kind, value in counters.items():
                if kind in total:
                    total[kind] += value
        yield (
            attribute.put_u32(QstatsAttr.IFINDEX, device.ifindex)
            + _describe_counters(total, _RX_STATS)
            + _describe_counters(total, _TX_STATS)
        )


def describe_dev(device: Device) -> bytes:
    """netdev_nl_dev_fill()."""
    out = (
        attribute.put_u32(DevAttr.IFINDEX, device.ifindex)
        + attribute.put_u64(DevAttr.XDP_FEATURES, device.xdp_features)
        + attribute.put_u64(DevAttr.XDP_RX_METADATA_FEATURES, device.xdp_rx_metadata_features)
        + attribute.put_u64(DevAttr.XSK_FEATURES, device.xsk_features)
    )
    if device.xdp_features & XdpAct.XSK_ZEROCOPY:
        out += attribute.put_u32(DevAttr.XDP_ZC_MAX_SEGS, device.xdp_zc_max_segs)
    return out


def describe_pool(pool: PagePool) -> bytes:
    """page_pool_nl_fill()."""
    out = attribute.put_uint(PagePoolAttr.ID, pool.id)
    if pool.ifindex is not None:
        out += attribute.put_u32(PagePoolAttr.IFINDEX, pool.ifindex)
    if pool.napi_id is not None:
        out += attribute.put_uint(PagePoolAttr.NAPI_ID, pool.napi_id)
    out += attribute.put_uint(PagePoolAttr.INFLIGHT, pool.inflight)
    out += attribute.put_uint(PagePoolAttr.INFLIGHT_MEM, pool.inflight_mem)
    if pool.detach_time is not None:
        out += attribute.put_uint(PagePoolAttr.DETACH_TIME, pool.detach_time)
    if pool.dmabuf is not None:
        out += attribute.put_u32(PagePoolAttr.DMABUF, pool.dmabuf)
    return out


def _describe_napi(device: Device, napi: Napi) -> bytes:
    """netdev_nl_napi_fill_one()."""
    out = attribute.put_u32(NapiAttr.ID, napi.id)
    out += attribute.put_u32(NapiAttr.IFINDEX, device.ifindex)
    if napi.irq is not None:
        out += attribute.put_u32(NapiAttr.IRQ, napi.irq)
    out += attribute.put_u32(NapiAttr.THREADED, napi.threaded)
    if napi.pid is not None:
        out += attribute.put_u32(NapiAttr.PID, napi.pid)
    out += attribute.put_u32(NapiAttr.DEFER_HARD_IRQS, napi.defer_hard_irqs)
    out += attribute.put_uint(NapiAttr.IRQ_SUSPEND_TIMEOUT, napi.irq_suspend_timeout)
    out += attribute.put_uint(NapiAttr.GRO_FLUSH_TIMEOUT, napi.gro_flush_timeout)
    return out


def _describe_counters(counters: Mapping[QstatsAttr, int], kept: Sequence[QstatsAttr]) -> bytes:
    return b"".join(attribute.put_uint(kind, counters[kind]) for kind in kept if kind in counters)
