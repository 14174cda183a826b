# SPDX-License-Identifier: Apache-2.0
"""The RSS indirection table: which RX queue a flow's hash leads to (``ethtool -x``, ``-X``).

By ioctl, which every kernel has: netlink reads it since Linux 6.3 and writes it since 6.17
(:meth:`devmemtcp.netlink.ethtool.Ethtool.rss_set`). Source: ``include/uapi/linux/ethtool.h``,
struct ethtool_rxfh; ``net/ethtool/ioctl.c``, ethtool_set_rxfh().
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence

from devmemtcp.netlink.ethtool_ioctl import EthtoolIoctl

_GRSSH = 0x46
_SRSSH = 0x47


class _Rxfh(ctypes.Structure):
    """struct ethtool_rxfh; rss_config follows: the table, then the key."""

    _fields_ = (
        ("cmd", ctypes.c_uint32),
        ("rss_context", ctypes.c_uint32),
        ("indir_size", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("hfunc", ctypes.c_uint8),
        ("input_xfrm", ctypes.c_uint8),
        ("rsvd8", ctypes.c_uint8 * 2),
        ("rsvd32", ctypes.c_uint32),
    )


def default_table(size: int, queues: int) -> tuple[int, ...]:
    """What the kernel writes when it is asked for the default: ethtool_rxfh_indir_default()."""
    return tuple(bucket % queues for bucket in range(size))


class RssTable(EthtoolIoctl):
    """The table of one interface's main RSS context. Key and hash function are left alone."""

    def get(self) -> tuple[int, ...]:
        """Return the queue of each bucket. EOPNOTSUPP where there is no table."""
        size = self._sizes().indir_size
        if not size:
            raise OSError(errno.EOPNOTSUPP, f"{self._ifname}: has no RSS table")
        _, table = self._room(_Rxfh(cmd=_GRSSH, indir_size=size), [0] * size)
        return tuple(table)

    def set(self, table: Sequence[int]) -> None:
        """Write the whole table. EINVAL for another size, or for a queue that there is not."""
        wanted = self._sizes()
        wanted.cmd, wanted.indir_size, wanted.key_size, wanted.hfunc = _SRSSH, len(table), 0, 0
        self._room(wanted, table)

    def reset(self) -> None:
        """Have the default written, and the table no longer be counted as a user's.

        As long as it is a user's (netif_is_rxfh_configured()), a change of channels keeps it.
        """
        default = self._sizes()
        default.cmd, default.indir_size, default.key_size, default.hfunc = _SRSSH, 0, 0, 0
        self.call(default, "reset the RSS table")

    def _sizes(self) -> _Rxfh:
        """What the device has; asked with room for nothing it tells sizes.

        Its input_xfrm is what a later write repeats: to a kernel that knows the field 0 is a
        setting, to one that does not anything else is an error.
        """
        rxfh = _Rxfh(cmd=_GRSSH)
        self.call(rxfh, "read the RSS table")
        return rxfh

    def _room(self, rxfh: _Rxfh, table: Sequence[int]) -> tuple[_Rxfh, list[int]]:
        """Make the call with a table behind the structure; returns both as they are then."""
        head, width = ctypes.sizeof(_Rxfh), len(table)
        entries = (ctypes.c_uint32 * width)(*table)
        room = ctypes.create_string_buffer(bytes(rxfh) + bytes(entries), head + 4 * width)
        self.call(room, f"{'read' if rxfh.cmd == _GRSSH else 'write'} the RSS table")
        return _Rxfh.from_buffer(room), list((ctypes.c_uint32 * width).from_buffer(room, head))
