# SPDX-License-Identifier: Apache-2.0
"""A data path that is only bookkeeping, and a peer whose rights a test decides."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from devmemtcp.netlink.backend import Device, Events, PagePool, QueueStats
from devmemtcp.netlink.constants import PagePoolStatsAttr
from devmemtcp.netlink.extack import Refused
from devmemtcp.netlink.ids import CyclicIds

PAGE_SIZE = 4096
BOOT_SECONDS = 777


@dataclass
class FakePeer:
    """Who asks. ``interfaces``: those that it may administer, all if None."""

    pid: int = 4321
    is_admin: bool = True
    interfaces: set[str] | None = None

    def admin(self) -> bool:
        return self.is_admin

    def may_administer(self, ifname: str) -> bool:
        return self.interfaces is None or ifname in self.interfaces


@dataclass
class FakeBackend:
    """Devices and pools as a test sets them up; ``calls`` is what the model asked for.

    A binding gets one page pool a queue. ``held`` bindings keep buffers when they are unbound:
    their pools drain until :meth:`drain`.
    """

    device_list: list[Device] = field(default_factory=list)
    pools: dict[int, PagePool] = field(default_factory=dict)
    pool_counters: dict[int, dict[PagePoolStatsAttr, int]] = field(default_factory=dict)
    stats: dict[int, QueueStats] = field(default_factory=dict)
    calls: list[tuple[object, ...]] = field(default_factory=list)
    held: set[int] = field(default_factory=set)
    check_error: OSError | None = None
    bind_error: OSError | None = None
    events: Events | None = None
    pool_ids: CyclicIds = field(default_factory=CyclicIds)
    net_devmem: bool = True

    def devices(self) -> Sequence[Device]:
        return sorted(self.device_list, key=lambda device: device.ifindex)

    def check_dmabuf(self, ifindex: int, fd: int) -> None:
        if self.check_error is not None:
            raise self.check_error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Refused(errno.EINVAL)

    def bind(self, ifindex: int, queues: Sequence[int], fd: int, dmabuf_id: int) -> None:
        os.fstat(fd)
        self.calls.append(("bind", ifindex, tuple(queues), dmabuf_id))
        if self.bind_error is not None:
            raise self.bind_error
        for _queue in queues:
            self.add_pool(ifindex=ifindex, dmabuf=dmabuf_id, inflight=64)

    def unbind(self, dmabuf_id: int) -> None:
        self.calls.append(("unbind", dmabuf_id))
        for pool in [pool for pool in self.pools.values() if pool.dmabuf == dmabuf_id]:
            if dmabuf_id in self.held:
                self.pools[pool.id] = replace(pool, detach_time=BOOT_SECONDS)
                self._tell("pool_changed", self.pools[pool.id])
            else:
                self._delete(pool)

    def page_pools(self) -> Sequence[PagePool]:
        return list(self.pools.values())

    def page_pool_stats(self, pool_id: int) -> Mapping[PagePoolStatsAttr, int]:
        return self.pool_counters.get(pool_id, {})

    def queue_stats(self, ifindex: int) -> QueueStats | None:
        return self.stats.get(ifindex)

    # --- what a test does ---

    def add_pool(
        self, *, ifindex: int | None, inflight: int = 0, dmabuf: int | None = None
    ) -> PagePool:
        pool = PagePool(
            id=self.pool_ids.alloc(),
            ifindex=ifindex,
            inflight=inflight,
            inflight_mem=inflight * PAGE_SIZE,
            dmabuf=dmabuf,
        )
        self.pools[pool.id] = pool
        self._tell("pool_added", pool)
        return pool

    def drain(self, dmabuf_id: int) -> None:
        """The last buffer of a binding comes home."""
        for pool in [pool for pool in self.pools.values() if pool.dmabuf == dmabuf_id]:
            self._delete(replace(pool, inflight=0, inflight_mem=0))

    def _delete(self, pool: PagePool) -> None:
        del self.pools[pool.id]
        self._tell("pool_deleted", pool)

    def _tell(self, what: str, pool: PagePool) -> None:
        if self.events is not None:
            getattr(self.events, what)(pool)
