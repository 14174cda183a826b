# SPDX-License-Identifier: Apache-2.0
"""What zero-copy mode asks of an interface, and what a driver's refusal means.

The driver writes whole frames to the region: nothing is copied, and the headers of each packet
lie in device memory as well, in front of its payload. docs/zero-copy.md says which promises that
leaves.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from devmemtcp.agent.errors import ConfigError, Unsupported, XdpError
from devmemtcp.agent.refusal import Refusal
from devmemtcp.pyxdp import Features
from devmemtcp.pyxdp.ethtool import bus_info
from devmemtcp.pyxdp.netdev import XdpAct

MTU_MAX = 4096 - 256 - 14 - 4
"""Of a chunk: without XDP's headroom, an Ethernet header and a VLAN tag."""

_CHECK = "zero-copy"
_INSTEAD = "receive in copy mode, which --mode auto chooses"
_VIRTIO_F_ACCESS_PLATFORM = 33
_VIRTIO = (
    "virtio_net takes zero-copy sockets only where the device is behind an IOMMU "
    "(VIRTIO_F_ACCESS_PLATFORM): start QEMU with -device virtio-net-pci,iommu_platform=on,"
    f"disable-legacy=on, or {_INSTEAD}"
)


def zero_copy_refusals(can: Features, mtu: int) -> Iterator[Refusal]:
    """What is known beforehand; a driver may refuse all the same, see `refused()`."""
    name, driver = can.ifname, can.driver
    who = f"{driver}, the driver of {name}," if driver else f"the driver of {name}"
    if can.xdp_features is not None and not can.xdp_features & XdpAct.XSK_ZEROCOPY:
        yield Refusal(
            _CHECK,
            f"{who} has no zero-copy AF_XDP in this kernel",
            _INSTEAD,
        )
    elif driver == "virtio_net" and is_bare_virtio(name):
        yield Refusal(_CHECK, f"{name} has no DMA address space of its own", _VIRTIO)
    if mtu > MTU_MAX:
        yield Refusal(
            "MTU",
            f"{name} has an MTU of {mtu}",
            f"in zero-copy mode a packet must fit a chunk of 4 KiB: {MTU_MAX} at most",
            f"ip link set {quote(name)} mtu {MTU_MAX}",
        )


def refused(ifname: str, driver: str | None, error: Unsupported | XdpError) -> ConfigError:
    """The error for a socket that the driver has not taken, in one line."""
    number = (error.errno if isinstance(error, XdpError) else None) or errno.EOPNOTSUPP
    why = os.strerror(number)
    if driver == "virtio_net" and number == errno.EINVAL:
        return ConfigError(f"{ifname} refuses zero-copy ({why}): {_VIRTIO}", number)
    return ConfigError(
        f"{driver or 'the driver'} refuses zero-copy on {ifname} ({why}); {_INSTEAD}", number
    )


def is_bare_virtio(name: str, buses: Path = Path("/sys/bus")) -> bool:
    """Whether a virtio device's DMA goes past the platform; False where that cannot be seen.

    It is found by its place on the bus: /sys/class/net has the names of one network namespace,
    which need not be the caller's.
    """
    try:
        place = bus_info(name)
    except (Unsupported, XdpError):
        return False
    for bus in ("pci", "platform"):  # virtio-pci, virtio-mmio
        for features in (buses / bus / "devices" / place).glob("virtio*/features"):
            bits = features.read_text().strip()
            return bits[_VIRTIO_F_ACCESS_PLATFORM : _VIRTIO_F_ACCESS_PLATFORM + 1] == "0"
    return False
