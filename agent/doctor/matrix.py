# SPDX-License-Identifier: Apache-2.0
"""What drivers can do, by kernel: for what cannot be tried without disturbing a NIC.

Found in the packages of three Debian kernels, 6.1.0-50, 6.12.107 and 7.3.4: a module that calls
xdp_do_redirect() or bpf_warn_invalid_xdp_action() runs XDP programs, one that calls xp_alloc() or
xp_dma_map() has AF_XDP zero-copy; memory providers need queue_mgmt_ops and, in its source,
PP_FLAG_ALLOW_UNREADABLE_NETMEM (6.18 as well, whose source was looked at for that alone). What came
between two of these kernels came in a release that is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto
from types import MappingProxyType

Release = tuple[int, int]
"""Of a kernel: (6, 12). What follows the second number makes no difference here."""


class Can(Flag):
    """What a driver has."""

    NOTHING = 0
    NATIVE = auto()
    """It runs XDP programs."""
    ZERO_COPY = auto()
    """AF_XDP without a copy."""
    DEVMEM = auto()
    """The kernel's devmem TCP, to receive."""


_X, _Z, _D = Can.NATIVE, Can.ZERO_COPY, Can.DEVMEM
_NO = Can.NOTHING

COLUMNS: tuple[Release, ...] = ((6, 1), (6, 12), (7, 3))
_DEVMEM_SEEN: Release = (6, 18)


@dataclass(frozen=True)
class Driver:
    """One row."""

    columns: tuple[Can, ...]
    """For each of COLUMNS."""
    note: str = ""

    def has(self, what: Can, release: Release) -> bool | None:
        """Whether it can, in that kernel; None: nobody has looked."""
        seen = [(at, bool(can & what)) for at, can in self._columns(what)]
        before = [there for at, there in seen if at <= release]
        after = [there for at, there in seen if at >= release]
        if before and (before[-1] or not after or not after[0]):
            return before[-1]
        return False if not after[0] else None

    def _columns(self, what: Can) -> list[tuple[Release, Can]]:
        columns = list(zip(COLUMNS, self.columns, strict=True))
        if what is Can.DEVMEM and self.columns[-1] & Can.DEVMEM:
            columns.insert(-1, (_DEVMEM_SEEN, self.columns[-1]))
        return columns


_SPLIT = "tcp-data-split on and hds-thresh 0"
_COPY_ONLY = Driver((_X, _X, _X), "no zero-copy")
_BOTH = Driver((_X | _Z, _X | _Z, _X | _Z))

DRIVERS = MappingProxyType(
    {
        "bnxt_en": Driver((_X, _X, _X | _D), f"devmem TCP needs {_SPLIT}"),
        "gve": Driver((_NO, _X | _Z, _X | _Z | _D), f"devmem TCP in DQO mode alone, with {_SPLIT}"),
        "mlx5_core": Driver((_X | _Z, _X | _Z, _X | _Z | _D), f"devmem TCP needs {_SPLIT}"),
        "fbnic": Driver((_NO, _NO, _X | _D), "Debian does not build it"),
        "ice": _BOTH,
        "i40e": _BOTH,
        "ixgbe": _BOTH,
        "igc": _BOTH,
        "igb": Driver((_X, _X, _X | _Z), "drops its link for two seconds when XDP is attached"),
        "idpf": Driver((_NO, _NO, _X | _Z)),
        "nfp": _BOTH,
        "st_gmac": _BOTH,
        "ena": _COPY_ONLY,
        "ionic": Driver((_NO, _X, _X), "no zero-copy; Debian's 6.1 does not build it"),
        "mana": _COPY_ONLY,
        "hv_netvsc": _COPY_ONLY,
        "qede": _COPY_ONLY,
        "sfc": _COPY_ONLY,
        "atlantic": _COPY_ONLY,
        "mlx4_en": _COPY_ONLY,
        "ixgbevf": _COPY_ONLY,
        "vif": _COPY_ONLY,  # xen-netfront
        "tun": _COPY_ONLY,
        "virtio_net": Driver(
            (_X, _X, _X | _Z), "zero-copy needs VIRTIO_F_ACCESS_PLATFORM (iommu_platform=on)"
        ),
        "vmxnet3": Driver((_NO, _X, _X), "no zero-copy"),
        "veth": _COPY_ONLY,
        "e1000": Driver((_NO, _NO, _NO)),
        "e1000e": Driver((_NO, _NO, _NO)),
    }
)
"""By the name that `ethtool -i` shows."""


def drivers_with(what: Can) -> list[str]:
    """Those whose newest version has it."""
    return [name for name, row in DRIVERS.items() if row.columns[-1] & what]


def known(driver: str | None, what: Can, release: Release) -> bool | None:
    """Whether a driver has it in that kernel; None: nothing is known of that."""
    row = DRIVERS.get(driver or "")
    return row.has(what, release) if row else None
