# SPDX-License-Identifier: Apache-2.0
"""Two emulated NICs in one guest with a hub between them, as a veth pair would be."""

from __future__ import annotations

from collections.abc import Callable

from .failure import BadUsage


def _virtio(number: int) -> list[str]:
    # Zero-copy needs DMA through the IOMMU API; native XDP refuses the guest's offloads.
    offloads = ("csum", "tso4", "tso6", "ufo", "ecn")
    options = ["romfile=", "iommu_platform=on", "disable-legacy=on"]
    options += [f"guest_{name}=off" for name in offloads]
    return ["-device", _device("virtio-net-pci", number, *options)]


def _igb(number: int) -> list[str]:
    # PCI Express, with a function for each: each needs a port of its own.
    port = f"pcie-root-port,id=port{number},chassis={number + 1},slot={number + 1}"
    return ["-device", port, "-device", _device("igb", number, f"bus=port{number}", "romfile=")]


def _vmxnet3(number: int) -> list[str]:
    return ["-device", _device("vmxnet3", number, "romfile=")]


def _device(model: str, number: int, *options: str) -> str:
    address = f"mac=52:54:00:0d:e0:{number:02x}"
    return ",".join([model, f"netdev=hub{number}", address, *options])


_MODELS: dict[str, tuple[str, Callable[[int], list[str]]]] = {
    "virtio": ("virtio_net", _virtio),
    "igb": ("igb", _igb),
    "vmxnet3": ("vmxnet3", _vmxnet3),
}

NAMES = ("veth", *_MODELS)
"""veth: no NIC at all; tests make their pairs themselves."""


def check(name: str) -> None:
    """Refuse what is no NIC of ours."""
    if name not in NAMES:
        raise BadUsage(f"no NIC '{name}'; there are {', '.join(NAMES)}")


def driver(name: str) -> str | None:
    """The kernel module of the pair."""
    return _MODELS[name][0] if name in _MODELS else None


def arguments(name: str) -> list[str]:
    """QEMU's, for two of them back to back."""
    if name not in _MODELS:
        return []
    words = []
    for number in (0, 1):
        words += ["-netdev", f"hubport,hubid=0,id=hub{number}", *_MODELS[name][1](number)]
    return words
