# SPDX-License-Identifier: Apache-2.0
"""The model: the kernel's netdev family, and the ethtool it needs, over a live data path.

It puts the parts together: devices with their emulated NICs, bindings, the two families; and it
turns what the backend tells (:class:`devmemtcp.netlink.backend.Events`) into notifications.
"""

from __future__ import annotations

from devmemtcp.netlink.backend import Backend, Device, PagePool
from devmemtcp.netlink.binding import Bindings
from devmemtcp.netlink.constants import NETDEV_MCGRP_MGMT, NETDEV_MCGRP_PAGE_POOL, NetdevCmd
from devmemtcp.netlink.devices import Devices
from devmemtcp.netlink.emulation import Nic
from devmemtcp.netlink.ethtool_family import EthtoolFamily
from devmemtcp.netlink.netdev_family import NetdevFamily, describe_dev, describe_pool
from devmemtcp.netlink.server import NetlinkServer


class NetdevModel:
    """The families "netdev" and "ethtool" of a server. Implements ``backend.Events``.

    Args:
        server: where they are registered.
        backend: the live data path; see there for who calls whom when.
        page_pool_stats: CONFIG_PAGE_POOL_STATS, whether page-pool-stats-get exists.
    """

    def __init__(
        self, server: NetlinkServer, backend: Backend, *, page_pool_stats: bool = True
    ) -> None:
        self._server = server
        self._devices = Devices(backend)
        self._bindings = Bindings(self._devices, backend)
        self._netdev = NetdevFamily(
            self._devices, backend, self._bindings, page_pool_stats=page_pool_stats
        ).family
        server.register(self._netdev)
        server.register(EthtoolFamily(server, self._devices).family)

    def nic(self, ifindex: int) -> Nic:
        """Return the NIC that is emulated on a managed interface, to read it and to set it up.

        Raises:
            LookupError: there is no such interface, or it is not managed.
        """
        device = self._devices.get(ifindex)
        nic = None if device is None else self._devices.nic(device)
        if nic is None:
            raise LookupError(f"interface {ifindex} is not there or not managed")
        return nic

    # --- backend.Events ------------------------------------------------------------------------

    def pool_added(self, pool: PagePool) -> None:
        """Tell NETDEV_CMD_PAGE_POOL_ADD_NTF."""
        self._tell_pool(NetdevCmd.PAGE_POOL_ADD_NTF, pool)

    def pool_changed(self, pool: PagePool) -> None:
        """Tell NETDEV_CMD_PAGE_POOL_CHANGE_NTF."""
        self._tell_pool(NetdevCmd.PAGE_POOL_CHANGE_NTF, pool)

    def pool_deleted(self, pool: PagePool) -> None:
        """Tell NETDEV_CMD_PAGE_POOL_DEL_NTF."""
        self._tell_pool(NetdevCmd.PAGE_POOL_DEL_NTF, pool)

    def device_added(self, device: Device) -> None:
        """Tell NETDEV_CMD_DEV_ADD_NTF."""
        self._tell_device(NetdevCmd.DEV_ADD_NTF, device)

    def device_deleted(self, device: Device) -> None:
        """Tell NETDEV_CMD_DEV_DEL_NTF, and forget the emulated NIC; bindings stay with theirs."""
        self._devices.forget(device.ifindex)
        self._tell_device(NetdevCmd.DEV_DEL_NTF, device)

    def device_changed(self, device: Device) -> None:
        """Tell NETDEV_CMD_DEV_CHANGE_NTF."""
        self._tell_device(NetdevCmd.DEV_CHANGE_NTF, device)

    def _tell_pool(self, cmd: NetdevCmd, pool: PagePool) -> None:
        self._server.multicast(self._netdev, NETDEV_MCGRP_PAGE_POOL, cmd, describe_pool(pool))

    def _tell_device(self, cmd: NetdevCmd, device: Device) -> None:
        self._server.multicast(self._netdev, NETDEV_MCGRP_MGMT, cmd, describe_dev(device))
