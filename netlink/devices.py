# SPDX-License-Identifier: Apache-2.0
"""The interfaces that the model answers for, each managed one with its emulated NIC."""

from __future__ import annotations

from collections.abc import Sequence

from devmemtcp.netlink.backend import Backend, Device
from devmemtcp.netlink.emulation import Nic


class Devices:
    """Looks devices up in the backend, anew each time, and keeps their emulated state."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._nics: dict[int, Nic] = {}

    def all(self) -> Sequence[Device]:
        """Return all interfaces, in ascending order of ifindex."""
        return self._backend.devices()

    def get(self, ifindex: int) -> Device | None:
        """__dev_get_by_index()."""
        return next((dev for dev in self.all() if dev.ifindex == ifindex), None)

    def by_name(self, name: bytes) -> Device | None:
        """__dev_get_by_name()."""
        return next((dev for dev in self.all() if dev.ifname.encode() == name), None)

    def nic(self, device: Device) -> Nic | None:
        """Return the NIC that is emulated on it; None: the interface is not managed."""
        if not device.managed:
            return None
        nic = self._nics.get(device.ifindex)
        if nic is None:
            nic = self._nics[device.ifindex] = Nic(device)
        nic.channels = nic.channels.resized(device)
        return nic

    def forget(self, ifindex: int) -> None:
        """The interface is gone: a later one with this number starts afresh."""
        self._nics.pop(ifindex, None)

    def real_num_queues(self, device: Device) -> tuple[int, int]:
        """Return how many RX and TX queues are in use."""
        nic = self.nic(device)
        if nic is None:
            return device.num_rx_queues, device.num_tx_queues
        return nic.channels.real_num_rx, nic.channels.real_num_tx
