# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N801 (pyroute2 names message classes like this)
"""The messages of the kernel's ``netdev`` family (Linux 6.18) as pyroute2 describes messages.

One class an attribute set, in the manner of ``pyroute2.netlink.generic``: nothing here but
tables, and no import but pyroute2's, so that the file can be offered to pyroute2 as it is.
Source: ``Documentation/netlink/specs/netdev.yaml`` and what is generated from it. An attribute
that a later kernel adds decodes as ``UNKNOWN``.
"""

from __future__ import annotations

import struct
from typing import Any

from pyroute2.netlink import NLA_F_NESTED, genlmsg, nla, nlmsg_atoms

_NLA_HEADER_LENGTH = 4


def _uint(parent: Any, data: bytearray | None = None, offset: int = 0, value: int = 0) -> Any:
    """Choose the class of a "uint": four bytes on the wire if the value fits, else eight.

    pyroute2 calls it with `data` and `offset` to decode, with `value` to encode.
    """
    if data is not None:
        length = struct.unpack_from("=H", data, offset)[0] - _NLA_HEADER_LENGTH
        return nlmsg_atoms.uint64 if length == 8 else nlmsg_atoms.uint32
    return nlmsg_atoms.uint64 if value > 0xFFFFFFFF else nlmsg_atoms.uint32


class empty_nest(nla):
    """A nest without attributes: that it is there is what it says."""

    __slots__ = ()

    nla_flags = NLA_F_NESTED
    nla_map = (("NETDEV_A_NEST_UNSPEC", "none"),)


class netdev_dev_msg(genlmsg):
    """The set "dev": dev-get, dev-add-ntf, dev-del-ntf, dev-change-ntf."""

    __slots__ = ()

    prefix = "NETDEV_A_DEV_"
    nla_map = (
        ("NETDEV_A_DEV_UNSPEC", "none"),
        ("NETDEV_A_DEV_IFINDEX", "uint32"),
        ("NETDEV_A_DEV_PAD", "none"),
        ("NETDEV_A_DEV_XDP_FEATURES", "uint64"),
        ("NETDEV_A_DEV_XDP_ZC_MAX_SEGS", "uint32"),
        ("NETDEV_A_DEV_XDP_RX_METADATA_FEATURES", "uint64"),
        ("NETDEV_A_DEV_XSK_FEATURES", "uint64"),
    )


class netdev_page_pool_msg(genlmsg):
    """The set "page-pool": page-pool-get, page-pool-{add,del,change}-ntf."""

    __slots__ = ()

    prefix = "NETDEV_A_PAGE_POOL_"
    nla_map = (
        ("NETDEV_A_PAGE_POOL_UNSPEC", "none"),
        ("NETDEV_A_PAGE_POOL_ID", "uint"),
        ("NETDEV_A_PAGE_POOL_IFINDEX", "uint32"),
        ("NETDEV_A_PAGE_POOL_NAPI_ID", "uint"),
        ("NETDEV_A_PAGE_POOL_INFLIGHT", "uint"),
        ("NETDEV_A_PAGE_POOL_INFLIGHT_MEM", "uint"),
        ("NETDEV_A_PAGE_POOL_DETACH_TIME", "uint"),
        ("NETDEV_A_PAGE_POOL_DMABUF", "uint32"),
        ("NETDEV_A_PAGE_POOL_IO_URING", "empty_nest"),
    )

    uint = staticmethod(_uint)
    empty_nest = empty_nest


class netdev_page_pool_stats_msg(genlmsg):
    """The set "page-pool-stats": page-pool-stats-get."""

    __slots__ = ()

    prefix = "NETDEV_A_PAGE_POOL_STATS_"
    nla_map = (
        (0, "NETDEV_A_PAGE_POOL_STATS_UNSPEC", "none"),
        (1, "NETDEV_A_PAGE_POOL_STATS_INFO", "page_pool_info"),
        (8, "NETDEV_A_PAGE_POOL_STATS_ALLOC_FAST", "uint"),
        (9, "NETDEV_A_PAGE_POOL_STATS_ALLOC_SLOW", "uint"),
        (10, "NETDEV_A_PAGE_POOL_STATS_ALLOC_SLOW_HIGH_ORDER", "uint"),
        (11, "NETDEV_A_PAGE_POOL_STATS_ALLOC_EMPTY", "uint"),
        (12, "NETDEV_A_PAGE_POOL_STATS_ALLOC_REFILL", "uint"),
        (13, "NETDEV_A_PAGE_POOL_STATS_ALLOC_WAIVE", "uint"),
        (14, "NETDEV_A_PAGE_POOL_STATS_RECYCLE_CACHED", "uint"),
        (15, "NETDEV_A_PAGE_POOL_STATS_RECYCLE_CACHE_FULL", "uint"),
        (16, "NETDEV_A_PAGE_POOL_STATS_RECYCLE_RING", "uint"),
        (17, "NETDEV_A_PAGE_POOL_STATS_RECYCLE_RING_FULL", "uint"),
        (18, "NETDEV_A_PAGE_POOL_STATS_RECYCLE_RELEASED_REFCNT", "uint"),
    )

    uint = staticmethod(_uint)

    class page_pool_info(nla):
        """The set "page-pool-info", a part of "page-pool"."""

        __slots__ = ()

        prefix = "NETDEV_A_PAGE_POOL_"
        nla_flags = NLA_F_NESTED
        nla_map = (
            ("NETDEV_A_PAGE_POOL_UNSPEC", "none"),
            ("NETDEV_A_PAGE_POOL_ID", "uint"),
            ("NETDEV_A_PAGE_POOL_IFINDEX", "uint32"),
        )

        uint = staticmethod(_uint)


class netdev_queue_msg(genlmsg):
    """The set "queue": queue-get."""

    __slots__ = ()

    prefix = "NETDEV_A_QUEUE_"
    nla_map = (
        ("NETDEV_A_QUEUE_UNSPEC", "none"),
        ("NETDEV_A_QUEUE_ID", "uint32"),
        ("NETDEV_A_QUEUE_IFINDEX", "uint32"),
        ("NETDEV_A_QUEUE_TYPE", "uint32"),
        ("NETDEV_A_QUEUE_NAPI_ID", "uint32"),
        ("NETDEV_A_QUEUE_DMABUF", "uint32"),
        ("NETDEV_A_QUEUE_IO_URING", "empty_nest"),
        ("NETDEV_A_QUEUE_XSK", "empty_nest"),
    )

    empty_nest = empty_nest


class netdev_napi_msg(genlmsg):
    """The set "napi": napi-get, napi-set."""

    __slots__ = ()

    prefix = "NETDEV_A_NAPI_"
    nla_map = (
        ("NETDEV_A_NAPI_UNSPEC", "none"),
        ("NETDEV_A_NAPI_IFINDEX", "uint32"),
        ("NETDEV_A_NAPI_ID", "uint32"),
        ("NETDEV_A_NAPI_IRQ", "uint32"),
        ("NETDEV_A_NAPI_PID", "uint32"),
        ("NETDEV_A_NAPI_DEFER_HARD_IRQS", "uint32"),
        ("NETDEV_A_NAPI_GRO_FLUSH_TIMEOUT", "uint"),
        ("NETDEV_A_NAPI_IRQ_SUSPEND_TIMEOUT", "uint"),
        ("NETDEV_A_NAPI_THREADED", "uint"),
    )

    uint = staticmethod(_uint)


class netdev_qstats_msg(genlmsg):
    """The set "qstats": qstats-get."""

    __slots__ = ()

    prefix = "NETDEV_A_QSTATS_"
    nla_map = (
        (0, "NETDEV_A_QSTATS_UNSPEC", "none"),
        (1, "NETDEV_A_QSTATS_IFINDEX", "uint32"),
        (2, "NETDEV_A_QSTATS_QUEUE_TYPE", "uint32"),
        (3, "NETDEV_A_QSTATS_QUEUE_ID", "uint32"),
        (4, "NETDEV_A_QSTATS_SCOPE", "uint"),
        (8, "NETDEV_A_QSTATS_RX_PACKETS", "uint"),
        (9, "NETDEV_A_QSTATS_RX_BYTES", "uint"),
        (10, "NETDEV_A_QSTATS_TX_PACKETS", "uint"),
        (11, "NETDEV_A_QSTATS_TX_BYTES", "uint"),
        (12, "NETDEV_A_QSTATS_RX_ALLOC_FAIL", "uint"),
        (13, "NETDEV_A_QSTATS_RX_HW_DROPS", "uint"),
        (14, "NETDEV_A_QSTATS_RX_HW_DROP_OVERRUNS", "uint"),
        (15, "NETDEV_A_QSTATS_RX_CSUM_COMPLETE", "uint"),
        (16, "NETDEV_A_QSTATS_RX_CSUM_UNNECESSARY", "uint"),
        (17, "NETDEV_A_QSTATS_RX_CSUM_NONE", "uint"),
        (18, "NETDEV_A_QSTATS_RX_CSUM_BAD", "uint"),
        (19, "NETDEV_A_QSTATS_RX_HW_GRO_PACKETS", "uint"),
        (20, "NETDEV_A_QSTATS_RX_HW_GRO_BYTES", "uint"),
        (21, "NETDEV_A_QSTATS_RX_HW_GRO_WIRE_PACKETS", "uint"),
        (22, "NETDEV_A_QSTATS_RX_HW_GRO_WIRE_BYTES", "uint"),
        (23, "NETDEV_A_QSTATS_RX_HW_DROP_RATELIMITS", "uint"),
        (24, "NETDEV_A_QSTATS_TX_HW_DROPS", "uint"),
        (25, "NETDEV_A_QSTATS_TX_HW_DROP_ERRORS", "uint"),
        (26, "NETDEV_A_QSTATS_TX_CSUM_NONE", "uint"),
        (27, "NETDEV_A_QSTATS_TX_NEEDS_CSUM", "uint"),
        (28, "NETDEV_A_QSTATS_TX_HW_GSO_PACKETS", "uint"),
        (29, "NETDEV_A_QSTATS_TX_HW_GSO_BYTES", "uint"),
        (30, "NETDEV_A_QSTATS_TX_HW_GSO_WIRE_PACKETS", "uint"),
        (31, "NETDEV_A_QSTATS_TX_HW_GSO_WIRE_BYTES", "uint"),
        (32, "NETDEV_A_QSTATS_TX_HW_DROP_RATELIMITS", "uint"),
        (33, "NETDEV_A_QSTATS_TX_STOP", "uint"),
        (34, "NETDEV_A_QSTATS_TX_WAKE", "uint"),
    )

    uint = staticmethod(_uint)


class netdev_dmabuf_msg(genlmsg):
    """The set "dmabuf": bind-rx, bind-tx. There is one QUEUES nest a queue."""

    __slots__ = ()

    prefix = "NETDEV_A_DMABUF_"
    nla_map = (
        ("NETDEV_A_DMABUF_UNSPEC", "none"),
        ("NETDEV_A_DMABUF_IFINDEX", "uint32"),
        ("NETDEV_A_DMABUF_QUEUES", "queue_id"),
        ("NETDEV_A_DMABUF_FD", "uint32"),
        ("NETDEV_A_DMABUF_ID", "uint32"),
    )

    class queue_id(nla):
        """The set "queue-id", a part of "queue"."""

        __slots__ = ()

        prefix = "NETDEV_A_QUEUE_"
        nla_flags = NLA_F_NESTED
        nla_map = (
            ("NETDEV_A_QUEUE_UNSPEC", "none"),
            ("NETDEV_A_QUEUE_ID", "uint32"),
            ("NETDEV_A_QUEUE_IFINDEX", "uint32"),
            ("NETDEV_A_QUEUE_TYPE", "uint32"),
        )


NETDEV_MESSAGES = {
    1: netdev_dev_msg,  # dev-get
    2: netdev_dev_msg,  # dev-add-ntf
    3: netdev_dev_msg,  # dev-del-ntf
    4: netdev_dev_msg,  # dev-change-ntf
    5: netdev_page_pool_msg,  # page-pool-get
    6: netdev_page_pool_msg,  # page-pool-add-ntf
    7: netdev_page_pool_msg,  # page-pool-del-ntf
    8: netdev_page_pool_msg,  # page-pool-change-ntf
    9: netdev_page_pool_stats_msg,  # page-pool-stats-get
    10: netdev_queue_msg,  # queue-get
    11: netdev_napi_msg,  # napi-get
    12: netdev_qstats_msg,  # qstats-get
    13: netdev_dmabuf_msg,  # bind-rx
    14: netdev_napi_msg,  # napi-set
    15: netdev_dmabuf_msg,  # bind-tx
}
"""The class of a command's request and answer; notifications have that of their command."""
