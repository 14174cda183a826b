# SPDX-License-Identifier: Apache-2.0
"""What the netdev family's answers say, as typed records; one class an attribute set.

A field is an attribute of ``netdev.yaml`` with ``_`` for ``-``; None is one that was not sent.
Attributes of a later kernel are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum, IntFlag
from typing import Any, Self, get_args, get_origin, get_type_hints

from devmemtcp.netlink.constants import (
    NapiThreaded,
    QueueType,
    XdpAct,
    XdpRxMetadata,
    XskFlags,
    spec_name,
)
from devmemtcp.netlink.errors import ProtocolError


@dataclass(frozen=True)
class Record:
    """One object of the family."""

    @classmethod
    def of(cls, message: Any) -> Self:
        """Take the attributes of a decoded message or nest. Raises ProtocolError."""
        kinds = _kinds(cls)
        values: dict[str, Any] = {}
        for slot in message["attrs"]:
            name = slot[0].removeprefix(message.prefix).lower()
            if name in kinds:
                values[name] = _value(kinds[name], slot[1], name)
        return cls(**values)

    def document(self) -> dict[str, Any]:
        """Return what was sent under the names of the YAML specification, ready for JSON.

        An enum is its name, a set of flags a list of names, an empty nest ``{}``.
        """
        return {
            item.name.replace("_", "-"): _plain(value)
            for item in fields(self)
            if (value := getattr(self, item.name)) is not None and value is not False
        }


def _kinds(record: type[Record]) -> dict[str, type[Any]]:
    """What a field's value or nest means: the first type in its annotation."""
    hints = get_type_hints(record)
    first = {name: (get_args(hints[name]) or (hints[name],))[0] for name in hints}
    return {name: get_origin(kind) or kind for name, kind in first.items()}


def _value(kind: type[Any], value: Any, name: str) -> Any:
    if kind is bool:
        return True  # an empty nest: that it is there is what it says
    is_nest = issubclass(kind, Record)
    expected = dict if is_nest else int if issubclass(kind, int) else kind
    if not isinstance(value, expected):  # pyroute2 gives the bytes of what it cannot decode
        raise ProtocolError(f"{name} has a value of the wrong size")
    if is_nest:
        return kind.of(value)
    try:
        return kind(value)
    except ValueError:
        return value  # a member that a later kernel has


def _plain(value: Any) -> Any:
    if value is True:
        return {}
    if isinstance(value, Record):
        return value.document()
    if isinstance(value, bytes):
        return value.hex(":")
    if isinstance(value, IntFlag):
        return [spec_name(flag) for flag in value]
    return spec_name(value) if isinstance(value, IntEnum) else value


@dataclass(frozen=True)
class Device(Record):
    """The set "dev": what XDP and AF_XDP can do on an interface."""

    ifindex: int | None = None
    xdp_features: XdpAct | None = None
    xdp_zc_max_segs: int | None = None
    """Buffers that a zero-copy packet may have."""
    xdp_rx_metadata_features: XdpRxMetadata | None = None
    xsk_features: XskFlags | None = None


@dataclass(frozen=True)
class Queue(Record):
    """The set "queue": one RX or TX queue and what has it."""

    id: int | None = None
    type: QueueType | int | None = None
    ifindex: int | None = None
    napi_id: int | None = None
    dmabuf: int | None = None
    """The id of the binding that its buffers come from."""
    io_uring: bool = False
    xsk: bool = False


@dataclass(frozen=True)
class Napi(Record):
    """The set "napi". Times are in nanoseconds."""

    id: int | None = None
    ifindex: int | None = None
    irq: int | None = None
    pid: int | None = None
    """The kernel thread's, if it has one."""
    defer_hard_irqs: int | None = None
    gro_flush_timeout: int | None = None
    irq_suspend_timeout: int | None = None
    threaded: NapiThreaded | int | None = None


@dataclass(frozen=True)
class PagePool(Record):
    """The set "page-pool". Memory is in bytes, detach_time in seconds of CLOCK_BOOTTIME."""

    id: int | None = None
    ifindex: int | None = None
    napi_id: int | None = None
    inflight: int | None = None
    """Pages that have not come back, those in its own cache and ring included."""
    inflight_mem: int | None = None
    detach_time: int | None = None
    """When its driver let it go, while buffers were out; None: it has not."""
    dmabuf: int | None = None
    io_uring: bool = False


@dataclass(frozen=True)
class PagePoolInfo(Record):
    """The set "page-pool-info": which page pool."""

    id: int | None = None
    ifindex: int | None = None


@dataclass(frozen=True)
class PagePoolStats(Record):
    """The set "page-pool-stats": counters of page_pool_get_stats()."""

    info: PagePoolInfo | None = None
    alloc_fast: int | None = None
    alloc_slow: int | None = None
    alloc_slow_high_order: int | None = None
    alloc_empty: int | None = None
    alloc_refill: int | None = None
    alloc_waive: int | None = None
    recycle_cached: int | None = None
    recycle_cache_full: int | None = None
    recycle_ring: int | None = None
    recycle_ring_full: int | None = None
    recycle_released_refcnt: int | None = None


@dataclass(frozen=True)
class Qstats(Record):
    """The set "qstats": counters of an interface, or of one queue if that was asked for."""

    ifindex: int | None = None
    queue_type: QueueType | int | None = None
    queue_id: int | None = None
    rx_packets: int | None = None
    rx_bytes: int | None = None
    tx_packets: int | None = None
    tx_bytes: int | None = None
    rx_alloc_fail: int | None = None
    rx_hw_drops: int | None = None
    rx_hw_drop_overruns: int | None = None
    rx_csum_complete: int | None = None
    rx_csum_unnecessary: int | None = None
    rx_csum_none: int | None = None
    rx_csum_bad: int | None = None
    rx_hw_gro_packets: int | None = None
    rx_hw_gro_bytes: int | None = None
    rx_hw_gro_wire_packets: int | None = None
    rx_hw_gro_wire_bytes: int | None = None
    rx_hw_drop_ratelimits: int | None = None
    tx_hw_drops: int | None = None
    tx_hw_drop_errors: int | None = None
    tx_csum_none: int | None = None
    tx_needs_csum: int | None = None
    tx_hw_gso_packets: int | None = None
    tx_hw_gso_bytes: int | None = None
    tx_hw_gso_wire_packets: int | None = None
    tx_hw_gso_wire_bytes: int | None = None
    tx_hw_drop_ratelimits: int | None = None
    tx_stop: int | None = None
    tx_wake: int | None = None
