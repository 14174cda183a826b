# SPDX-License-Identifier: Apache-2.0
"""The netdev family's client: one class for the kernel and for the agent, with the same bytes."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from typing import Any, Self, TypeVar, overload

from devmemtcp.netlink.connection import DEFAULT_TIMEOUT, Connection
from devmemtcp.netlink.constants import (
    NETDEV_FAMILY_NAME,
    NETDEV_FAMILY_VERSION,
    NapiThreaded,
    NetdevCmd,
    QstatsScope,
    QueueType,
    spec_name,
)
from devmemtcp.netlink.errors import ProtocolError
from devmemtcp.netlink.genl import Attributes, GenlFamily
from devmemtcp.netlink.messages import NETDEV_MESSAGES
from devmemtcp.netlink.notifications import Notifications
from devmemtcp.netlink.records import (
    Device,
    Napi,
    PagePool,
    PagePoolStats,
    Qstats,
    Queue,
    Record,
)
from devmemtcp.netlink.target import NetNs, Target

R = TypeVar("R", bound=Record)


class Netdev:
    """A client of the family ``netdev`` (``Documentation/netlink/specs/netdev.yaml``).

    Each ``*_get`` asks about one object when its arguments name one (a *do*: it returns that
    record or raises) and for all there are otherwise (a *dump*: it returns a list). Errors are
    NetlinkError with the kernel's errno and extended ACK. Not for several threads at a time.
    """

    def __init__(
        self,
        target: Target = "kernel",
        netns: NetNs | None = None,
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> None:
        """Connect to a target.

        `target` is ``"kernel"``, ``"agent"``, the path of an agent's socket, or a connected
        AF_UNIX SOCK_SEQPACKET socket, which becomes this object's. `netns`, for the kernel, is
        a name below /run/netns or a path. Raises Unsupported when the family is not there.
        """
        self._target, self._netns = target, netns
        connection = Connection.open(target, netns=netns, timeout=timeout)
        self._genl = GenlFamily(connection, NETDEV_FAMILY_NAME, NETDEV_FAMILY_VERSION)

    def fileno(self) -> int:
        """Return the socket's descriptor. The bindings live as long as the last copy of it."""
        return self._genl.connection.fileno()

    def close(self) -> None:
        """Close the socket: what it has bound is unbound. Twice is once."""
        self._genl.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @overload
    def dev_get(self, ifindex: None = None) -> list[Device]: ...
    @overload
    def dev_get(self, ifindex: int) -> Device: ...
    def dev_get(self, ifindex: int | None = None) -> Device | list[Device]:
        """One interface's XDP and AF_XDP features, or those of all. ENODEV."""
        attrs = _attributes(NETDEV_A_DEV_IFINDEX=ifindex)
        return self._get(NetdevCmd.DEV_GET, Device, attrs, do=ifindex is not None)

    @overload
    def queue_get(self, ifindex: int | None = None) -> list[Queue]: ...
    @overload
    def queue_get(self, ifindex: int, queue_type: QueueType, queue_id: int) -> Queue: ...
    def queue_get(
        self,
        ifindex: int | None = None,
        queue_type: QueueType | None = None,
        queue_id: int | None = None,
    ) -> Queue | list[Queue]:
        """One queue, or those of an interface or of all that are up. ENODEV, ENOENT, EINVAL."""
        attrs = _attributes(
            NETDEV_A_QUEUE_IFINDEX=ifindex,
            NETDEV_A_QUEUE_TYPE=queue_type,
            NETDEV_A_QUEUE_ID=queue_id,
        )
        return self._get(NetdevCmd.QUEUE_GET, Queue, attrs, do=queue_id is not None)

    @overload
    def napi_get(self, napi_id: None = None, *, ifindex: int | None = None) -> list[Napi]: ...
    @overload
    def napi_get(self, napi_id: int) -> Napi: ...
    def napi_get(
        self, napi_id: int | None = None, *, ifindex: int | None = None
    ) -> Napi | list[Napi]:
        """One NAPI instance, or those of an interface or of all that are up. ENODEV, ENOENT."""
        attrs = _attributes(NETDEV_A_NAPI_ID=napi_id, NETDEV_A_NAPI_IFINDEX=ifindex)
        return self._get(NetdevCmd.NAPI_GET, Napi, attrs, do=napi_id is not None)

    @overload
    def page_pool_get(self, pool_id: None = None) -> list[PagePool]: ...
    @overload
    def page_pool_get(self, pool_id: int) -> PagePool: ...
    def page_pool_get(self, pool_id: int | None = None) -> PagePool | list[PagePool]:
        """One page pool, or all of this namespace. ENOENT; EOPNOTSUPP: kernel without them."""
        attrs = _attributes(NETDEV_A_PAGE_POOL_ID=pool_id)
        return self._get(NetdevCmd.PAGE_POOL_GET, PagePool, attrs, do=pool_id is not None)

    @overload
    def page_pool_stats_get(self, pool_id: None = None) -> list[PagePoolStats]: ...
    @overload
    def page_pool_stats_get(self, pool_id: int) -> PagePoolStats: ...
    def page_pool_stats_get(
        self, pool_id: int | None = None
    ) -> PagePoolStats | list[PagePoolStats]:
        """Counters of one page pool or of all. ENOENT; EOPNOTSUPP: kernel without them."""
        info = None if pool_id is None else _nest(NETDEV_A_PAGE_POOL_ID=pool_id)
        attrs = _attributes(NETDEV_A_PAGE_POOL_STATS_INFO=info)
        do = pool_id is not None
        return self._get(NetdevCmd.PAGE_POOL_STATS_GET, PagePoolStats, attrs, do=do)

    def qstats_get(
        self, ifindex: int | None = None, scope: QstatsScope | None = None
    ) -> list[Qstats]:
        """Counters of an interface or of all that have any; of each queue with a scope.

        The family has no *do* for it. ENODEV; EOPNOTSUPP: this interface has none.
        """
        attrs = _attributes(NETDEV_A_QSTATS_IFINDEX=ifindex, NETDEV_A_QSTATS_SCOPE=scope)
        return self._dump(NetdevCmd.QSTATS_GET, Qstats, attrs)

    def bind_rx(self, ifindex: int, fd: int, queues: Iterable[int]) -> int:
        """Bind device memory to RX queues of an interface: all of them or, on error, none.

        `fd` is the dma-buf (of an agent: the region's memfd); it may be closed afterwards.
        Returns the binding's id, the ``dmabuf_id`` of what is received into it. There is no
        unbinding: the binding ends when this object's socket is closed. EPERM without
        CAP_NET_ADMIN; see netdev_nl_bind_rx_doit() and net_devmem_bind_dmabuf_to_queue().
        """
        attrs = _attributes(NETDEV_A_DMABUF_IFINDEX=ifindex, NETDEV_A_DMABUF_FD=fd)
        for queue in queues:
            nest = _nest(NETDEV_A_QUEUE_ID=queue, NETDEV_A_QUEUE_TYPE=QueueType.RX)
            attrs += _attributes(NETDEV_A_DMABUF_QUEUES=nest)
        return self._bind(NetdevCmd.BIND_RX, attrs, fd)

    def bind_tx(self, ifindex: int, fd: int) -> int:
        """Bind device memory to an interface for sending. Returns the binding's id.

        It lives as that of :meth:`bind_rx` does. EOPNOTSUPP: the driver cannot.
        """
        attrs = _attributes(NETDEV_A_DMABUF_IFINDEX=ifindex, NETDEV_A_DMABUF_FD=fd)
        return self._bind(NetdevCmd.BIND_TX, attrs, fd)

    def napi_set(
        self,
        napi_id: int,
        *,
        defer_hard_irqs: int | None = None,
        gro_flush_timeout: int | None = None,
        irq_suspend_timeout: int | None = None,
        threaded: NapiThreaded | None = None,
    ) -> None:
        """Configure a NAPI instance; what is None stays. Times are in nanoseconds. ENOENT."""
        attrs = _attributes(
            NETDEV_A_NAPI_ID=napi_id,
            NETDEV_A_NAPI_DEFER_HARD_IRQS=defer_hard_irqs,
            NETDEV_A_NAPI_GRO_FLUSH_TIMEOUT=gro_flush_timeout,
            NETDEV_A_NAPI_IRQ_SUSPEND_TIMEOUT=irq_suspend_timeout,
            NETDEV_A_NAPI_THREADED=threaded,
        )
        self._do(NetdevCmd.NAPI_SET, attrs)

    def subscribe(self, *groups: str) -> Notifications:
        """Open a second socket, which receives the notifications of groups from now on.

        Groups are NETDEV_MCGRP_MGMT and NETDEV_MCGRP_PAGE_POOL. Raises ValueError for others,
        and where this object was given its socket, so that it knows no way to a second one.
        """
        if isinstance(self._target, socket.socket):
            raise ValueError("give Notifications a connected socket of its own")
        return Notifications(self._target, self._netns, groups)

    def _do(self, command: NetdevCmd, attrs: Attributes, fds: Sequence[int] = ()) -> list[Any]:
        return self._genl.do(command, NETDEV_MESSAGES[command], attrs, spec_name(command), fds)

    def _dump(self, command: NetdevCmd, record: type[R], attrs: Attributes) -> list[R]:
        message_class = NETDEV_MESSAGES[command]
        answer = self._genl.dump(command, message_class, attrs, spec_name(command))
        return [record.of(message) for message in answer]

    def _get(
        self, command: NetdevCmd, record: type[R], attrs: Attributes, *, do: bool
    ) -> R | list[R]:
        if not do:
            return self._dump(command, record, attrs)
        return record.of(_only(self._do(command, attrs), command))

    def _bind(self, command: NetdevCmd, attrs: Attributes, fd: int) -> int:
        answer = _only(self._do(command, attrs, fds=[fd]), command)
        binding = answer.get_attr("NETDEV_A_DMABUF_ID")
        if not isinstance(binding, int):
            raise ProtocolError(f"{spec_name(command)} was answered without an id")
        return binding


def _only(answer: list[Any], command: NetdevCmd) -> Any:
    if len(answer) != 1:
        raise ProtocolError(f"{spec_name(command)} was answered with {len(answer)} messages")
    return answer[0]


def _attributes(**values: Any) -> Attributes:
    """Attributes in the order given, without those that are None."""
    return [(name, value) for name, value in values.items() if value is not None]


def _nest(**values: Any) -> dict[str, Attributes]:
    return {"attrs": _attributes(**values)}
