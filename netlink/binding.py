# SPDX-License-Identifier: Apache-2.0
"""Bindings of device memory: bind-rx and bind-tx, whose they are, and how they end.

A binding belongs to the control connection that made it and to nothing else: there is no command
to end it, it ends with the connection. Source: net/core/netdev-genl.c, net/core/devmem.c.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from devmemtcp.netlink import attribute
from devmemtcp.netlink.attribute import Attribute
from devmemtcp.netlink.backend import Backend, Device
from devmemtcp.netlink.constants import DmabufAttr, PolicyType, QueueAttr, QueueType
from devmemtcp.netlink.devices import Devices
from devmemtcp.netlink.emulation import Driver, Nic
from devmemtcp.netlink.extack import Refused
from devmemtcp.netlink.family import Client, Request
from devmemtcp.netlink.ids import CyclicIds
from devmemtcp.netlink.policy import U32, Attrs, Policy, at_least, at_most, nested, parse_nested

QUEUE_ID_POLICY = Policy({QueueAttr.ID: U32, QueueAttr.TYPE: at_most(PolicyType.U32, QueueType.TX)})
BIND_RX_POLICY = Policy(
    {
        DmabufAttr.IFINDEX: at_least(PolicyType.U32, 1),
        DmabufAttr.QUEUES: nested(QUEUE_ID_POLICY),
        DmabufAttr.FD: U32,
    }
)
BIND_TX_POLICY = Policy({DmabufAttr.IFINDEX: at_least(PolicyType.U32, 1), DmabufAttr.FD: U32})


@dataclass(eq=False, slots=True)
class Binding:
    """``struct net_devmem_dmabuf_binding``. One for TX has no queues."""

    id: int
    client: Client
    nic: Nic
    queues: tuple[int, ...]


class Bindings:
    """All bindings, over all devices and clients: their ids are drawn from one circle."""

    def __init__(self, devices: Devices, backend: Backend) -> None:
        self._devices = devices
        self._backend = backend
        self._ids = CyclicIds()
        self._bindings: list[Binding] = []

    # --- requests ------------------------------------------------------------------------------

    def bind_rx(self, request: Request) -> bytes:
        """netdev_nl_bind_rx_doit(): give memory to RX queues, all of them or none.

        Raises:
            Refused: with what the kernel says, in its order.
            OSError: what the backend raises.
        """
        request.require(DmabufAttr.IFINDEX, DmabufAttr.FD, DmabufAttr.QUEUES)
        device, ifindex = self._device(request)
        nic = self._devices.nic(device)
        if not device.present:
            raise Refused(errno.ENODEV, bad_attr=ifindex.offset)
        if nic is None or not nic.driver.ops_lock:
            raise Refused(errno.EOPNOTSUPP, bad_attr=ifindex.offset)
        queues = _queues(request, nic.channels.real_num_rx)
        fd = self._dmabuf(request, device, _dma_device(nic.driver, queues))
        binding = Binding(self._ids.alloc(), request.client, nic, tuple(queues))
        try:
            self._open_queues(device, binding, fd)
        except BaseException:
            self._ids.free(binding.id)
            raise
        self._bindings.append(binding)
        return attribute.put_u32(DmabufAttr.ID, binding.id)

    def _open_queues(self, device: Device, binding: Binding, fd: int) -> None:
        """net_devmem_bind_dmabuf_to_queue() of each queue, with one restart of them all."""
        nic = binding.nic
        for queue in binding.queues:
            nic.check_provider(queue)
        self._backend.bind(device.ifindex, binding.queues, fd, binding.id)
        if not nic.driver.unreadable_netmem:  # its new page pool took ordinary memory
            self._backend.unbind(binding.id)
            raise Refused(errno.ENODATA)
        nic.providers.update(dict.fromkeys(binding.queues, binding.id))

    def bind_tx(self, request: Request) -> bytes:
        """netdev_nl_bind_tx_doit(): name memory to transmit from. Anybody may.

        Raises:
            Refused: with what the kernel says, in its order.
        """
        request.require(DmabufAttr.IFINDEX, DmabufAttr.FD)
        device = self._devices.get(request.attrs[DmabufAttr.IFINDEX].u32())
        if device is None or not device.present:
            raise Refused(errno.ENODEV)
        nic = self._devices.nic(device)
        if nic is None or not nic.driver.netmem_tx:
            raise Refused(errno.EOPNOTSUPP, "Driver does not support netmem TX")
        self._dmabuf(request, device, nic.driver.queue_dma_device(0))
        binding = Binding(self._ids.alloc(), request.client, nic, ())
        self._bindings.append(binding)
        return attribute.put_u32(DmabufAttr.ID, binding.id)

    def _device(self, request: Request) -> tuple[Device, Attribute]:
        """The device of bind-rx, if it is there and the peer may bind on it."""
        ifindex = request.attrs[DmabufAttr.IFINDEX]
        device = self._devices.get(ifindex.u32())
        if device is None:
            raise Refused(errno.ENODEV)
        if not request.client.peer.may_administer(device.ifname):
            raise Refused(errno.EPERM, f"you may not bind on {device.ifname}")
        return device, ifindex

    def _dmabuf(self, request: Request, device: Device, dma_device: int | None) -> int:
        """net_devmem_bind_dmabuf() up to the id: the descriptor, and whether it can be used.

        The attribute has the sender's number of it; the descriptor itself came along. Without
        CONFIG_NET_DEVMEM this is where the kernel says no, and looks at neither.
        """
        if not self._backend.net_devmem:
            raise Refused(errno.EOPNOTSUPP, "this build has no device memory (NET_DEVMEM=n)")
        if dma_device is None:
            raise Refused(errno.EOPNOTSUPP, "Device doesn't support DMA")
        if len(request.fds) != 1:
            raise Refused(errno.EBADF)
        fd = request.fds[0]
        self._backend.check_dmabuf(device.ifindex, fd)
        return fd

    # --- ends ----------------------------------------------------------------------------------

    def client_gone(self, client: Client) -> None:
        """netdev_nl_sock_priv_destroy(): the newest first, as the kernel's list has them."""
        for binding in [b for b in reversed(self._bindings) if b.client is client]:
            self._unbind(binding)

    def _unbind(self, binding: Binding) -> None:
        """net_devmem_unbind_dmabuf(): the id first, the list, the queues, the memory last.

        The backend restarts the queues and lets the memory go when the last buffer is home.
        """
        self._ids.free(binding.id)
        self._bindings.remove(binding)
        for queue in binding.queues:
            binding.nic.providers.pop(queue, None)
        if binding.queues:
            self._backend.unbind(binding.id)


def _queues(request: Request, real_num_rx: int) -> list[int]:
    """netdev_nl_read_rxq_bitmap(): each queue once, in ascending order."""
    queues = set()
    for nest in request.each(DmabufAttr.QUEUES):
        attrs = parse_nested(nest, QUEUE_ID_POLICY, request.extack)
        _require_in_nest(nest, attrs, QueueAttr.ID, QueueAttr.TYPE)
        if attrs[QueueAttr.TYPE].u32() != QueueType.RX:
            raise Refused(errno.EINVAL, bad_attr=attrs[QueueAttr.TYPE].offset)
        queue = attrs[QueueAttr.ID]
        if queue.u32() >= real_num_rx:
            raise Refused(errno.EINVAL, bad_attr=queue.offset)
        queues.add(queue.u32())
    return sorted(queues)


def _require_in_nest(nest: Attribute, attrs: Attrs, *kinds: int) -> None:
    """NL_REQ_ATTR_CHECK()."""
    for kind in kinds:
        if kind not in attrs:
            raise Refused(errno.EINVAL, miss_type=kind, miss_nest=nest.offset)


def _dma_device(driver: Driver, queues: list[int]) -> int | None:
    """netdev_nl_get_dma_dev(): the one device that does DMA for all of these queues."""
    found: int | None = None
    last = 0
    for queue in queues:
        own = driver.queue_dma_device(queue)
        if found is not None and own != found:
            raise Refused(
                errno.EOPNOTSUPP,
                f"DMA device mismatch between queue {queue} and {last} (multi-PF device?)",
            )
        found, last = own, queue
    return found
