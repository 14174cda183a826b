# SPDX-License-Identifier: Apache-2.0
"""The NIC that is emulated on a managed interface: what ethtool shows and sets, and its guards.

A veth or virtio interface has no header split, no queue management and no memory providers; the
model gives it them, as state: this module holds the state, refuses what the kernel refuses while
a queue has a memory provider, and moves no packet. Texts and order are those of
net/core/netdev_rx_queue.c, net/core/dev.c, net/ethtool/{rings,channels,common}.c.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from devmemtcp.netlink.attribute import Attribute
from devmemtcp.netlink.backend import Device
from devmemtcp.netlink.constants import ChannelsAttr, RingsAttr, TcpDataSplit
from devmemtcp.netlink.extack import Refused
from devmemtcp.netlink.policy import Attrs

HDS_THRESH_MAX = 1024
RING_MAX = 8192
RING_DEFAULT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """What the emulated driver can do: what a driver must have for devmem, as switches.

    Attributes:
        ops_lock: it takes the instance lock; without, no bind at all.
        queue_mgmt: it can stop, start, allocate and free single queues.
        unreadable_netmem: its page pools accept a memory provider (ALLOW_UNREADABLE_NETMEM).
        netmem_tx: it can transmit from device memory.
        dma_device: a number for the device that does DMA, None if there is none.
        queue_dma_devices: where single queues differ from that.
        default_split: what it does, and reports, while the user has configured nothing.
    """

    ops_lock: bool = True
    queue_mgmt: bool = True
    unreadable_netmem: bool = True
    netmem_tx: bool = False
    dma_device: int | None = 0
    queue_dma_devices: Mapping[int, int | None] = field(default_factory=dict)
    default_split: TcpDataSplit = TcpDataSplit.UNKNOWN

    def queue_dma_device(self, queue: int) -> int | None:
        """netdev_queue_get_dma_dev()."""
        return self.queue_dma_devices.get(queue, self.dma_device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rings:
    """Ring sizes in descriptors, and how packets are split: ``ethtool -g``."""

    rx: int = RING_DEFAULT
    rx_max: int = RING_MAX
    tx: int = RING_DEFAULT
    tx_max: int = RING_MAX
    tcp_data_split: TcpDataSplit = TcpDataSplit.UNKNOWN
    hds_thresh: int = 0
    hds_thresh_max: int = HDS_THRESH_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """How many queues are in use, and how many there are: ``ethtool -l``."""

    rx: int = 0
    rx_max: int = 0
    tx: int = 0
    tx_max: int = 0
    combined: int = 0
    combined_max: int = 0

    @staticmethod
    def of(device: Device) -> Channels:
        """Return what a device of this shape starts with: all queues in use, combined if even."""
        rx, tx = device.num_rx_queues, device.num_tx_queues
        if rx == tx:
            return Channels(combined=rx, combined_max=rx)
        return Channels(rx=rx, rx_max=rx, tx=tx, tx_max=tx)

    @property
    def real_num_rx(self) -> int:
        """RX queues in use, dev->real_num_rx_queues."""
        return self.combined + self.rx

    @property
    def real_num_tx(self) -> int:
        """TX queues in use, dev->real_num_tx_queues."""
        return self.combined + self.tx

    def resized(self, device: Device) -> Channels:
        """Return this for a device whose queues have become more or fewer."""
        whole = Channels.of(device)
        if (whole.combined_max, whole.rx_max, whole.tx_max) == (
            self.combined_max,
            self.rx_max,
            self.tx_max,
        ):
            return self
        return whole


class Nic:
    """The emulated state of one interface.

    Attributes:
        driver: its switches.
        rings, channels: as configured.
        providers: RX queue -> id of the binding whose memory it uses.
    """

    def __init__(
        self, device: Device, driver: Driver | None = None, rings: Rings | None = None
    ) -> None:
        self.driver = driver or Driver()
        self.rings = rings or Rings()
        self.channels = Channels.of(device)
        self.providers: dict[int, int] = {}
        self._xdp_frags: bool | None = None
        self._xsk: set[int] = set()

    # --- memory providers ----------------------------------------------------------------------

    def min_mp_channel_count(self) -> int:
        """dev_get_min_mp_channel_count(): highest queue with a provider, plus 1; 0: none."""
        return max(self.providers, default=-1) + 1

    def check_provider(self, queue: int) -> None:
        """Say whether a queue may get a memory provider: __net_mp_open_rxq().

        Raises:
            Refused: with the kernel's errno and text.
        """
        if queue >= self.channels.real_num_rx:
            raise Refused(errno.ERANGE, "rx queue index out of range")
        if self.rings.tcp_data_split is not TcpDataSplit.ENABLED:
            raise Refused(errno.EINVAL, "tcp-data-split is disabled")
        if self.rings.hds_thresh:
            raise Refused(errno.EINVAL, "hds-thresh is not zero")
        if self._xdp_frags is not None:
            raise Refused(
                errno.EEXIST,
                "unable to custom memory provider to device with XDP program attached",
            )
        if queue in self.providers:
            raise Refused(errno.EEXIST, "designated queue already memory provider bound")
        if queue in self._xsk:
            raise Refused(errno.EBUSY, "designated queue already in use by AF_XDP")
        if not self.driver.queue_mgmt:
            raise Refused(errno.EOPNOTSUPP)  # netdev_rx_queue_restart()

    # --- somebody else's XDP -------------------------------------------------------------------

    def attach_xdp(self, *, frags: bool, from_upper: bool = False) -> None:
        """Somebody attaches an XDP program: dev_xdp_install(), dev_xdp_propagate().

        Args:
            frags: the program understands packets of several buffers.
            from_upper: it was attached to a device above this one (a bond).

        Raises:
            Refused: EBUSY, while header split or a memory provider stands against it.
        """
        if from_upper:
            if self.providers:
                raise Refused(
                    errno.EBUSY, "unable to propagate XDP to device using memory provider"
                )
        elif not frags and self.rings.tcp_data_split is TcpDataSplit.ENABLED:
            raise Refused(errno.EBUSY, "unable to install XDP to device using tcp-data-split")
        elif self.providers:
            raise Refused(errno.EBUSY, "unable to install XDP to device using memory provider")
        self._xdp_frags = frags

    def detach_xdp(self) -> None:
        """The program is gone."""
        self._xdp_frags = None

    def bind_xsk(self, queue: int, *, zero_copy: bool) -> None:
        """Somebody binds an AF_XDP socket to a queue: xp_assign_dev().

        Raises:
            Refused: EBUSY, the queue has one; or it asks for zero copy while any queue of the
                device has a memory provider.
        """
        if queue in self._xsk or (zero_copy and self.providers):
            raise Refused(errno.EBUSY)
        self._xsk.add(queue)

    def release_xsk(self, queue: int) -> None:
        """The socket is closed."""
        self._xsk.discard(queue)

    def has_xsk(self, queue: int) -> bool:
        """Say whether queue-get shows an AF_XDP pool."""
        return queue in self._xsk

    # --- ethtool -------------------------------------------------------------------------------

    def shown_split(self) -> TcpDataSplit:
        """Return what ``ethtool -g`` reports: the configuration, or else the driver's habit."""
        return self.rings.tcp_data_split or self.driver.default_split

    def set_rings(self, attrs: Attrs) -> bool:
        """``ethtool -G``: ethnl_set_rings(). Say whether anything has changed.

        Raises:
            Refused: EINVAL with the kernel's text; nothing has changed.
        """
        old = self.rings
        new = replace(
            old,
            rx=_updated(old.rx, attrs, RingsAttr.RX),
            tx=_updated(old.tx, attrs, RingsAttr.TX),
            hds_thresh=_updated(old.hds_thresh, attrs, RingsAttr.HDS_THRESH),
            tcp_data_split=TcpDataSplit(
                attrs[RingsAttr.TCP_DATA_SPLIT].u8()
                if RingsAttr.TCP_DATA_SPLIT in attrs
                else old.tcp_data_split
            ),
        )
        # Neither mini nor jumbo rings exist: their maximum is 0, and any size exceeds it.
        absent = [kind for kind in (RingsAttr.RX_MINI, RingsAttr.RX_JUMBO) if _asks(attrs, kind)]
        if new == old and not absent:
            return False
        self._check_split(new, attrs)
        for kind, exceeds in (
            (RingsAttr.RX, new.rx > new.rx_max),
            (RingsAttr.RX_MINI, RingsAttr.RX_MINI in absent),
            (RingsAttr.RX_JUMBO, RingsAttr.RX_JUMBO in absent),
            (RingsAttr.TX, new.tx > new.tx_max),
            (RingsAttr.HDS_THRESH, new.hds_thresh > new.hds_thresh_max),
        ):
            if exceeds:
                _refuse(attrs, kind, "requested ring size exceeds maximum")
        self.rings = new
        return True

    def _check_split(self, new: Rings, attrs: Attrs) -> None:
        enabled = new.tcp_data_split is TcpDataSplit.ENABLED
        if enabled and self._xdp_frags is False:
            _refuse(
                attrs,
                RingsAttr.TCP_DATA_SPLIT,
                "tcp-data-split can not be enabled with single buffer XDP",
            )
        if self.providers and not enabled:
            raise Refused(
                errno.EINVAL,
                "can't disable tcp-data-split while device has memory provider enabled",
            )
        if self.providers and new.hds_thresh:
            raise Refused(
                errno.EINVAL,
                "can't set non-zero hds_thresh while device is memory provider enabled",
            )

    def set_channels(self, attrs: Attrs) -> bool:
        """``ethtool -L``: ethnl_set_channels(). Say whether anything has changed.

        Raises:
            Refused: EINVAL with the kernel's text; nothing has changed.
        """
        old = self.channels
        new = replace(
            old,
            rx=_updated(old.rx, attrs, ChannelsAttr.RX_COUNT),
            tx=_updated(old.tx, attrs, ChannelsAttr.TX_COUNT),
            combined=_updated(old.combined, attrs, ChannelsAttr.COMBINED_COUNT),
        )
        other = _asks(attrs, ChannelsAttr.OTHER_COUNT)
        if new == old and not other:
            return False
        for kind, exceeds in (
            (ChannelsAttr.RX_COUNT, new.rx > new.rx_max),
            (ChannelsAttr.TX_COUNT, new.tx > new.tx_max),
            (ChannelsAttr.OTHER_COUNT, other),
            (ChannelsAttr.COMBINED_COUNT, new.combined > new.combined_max),
        ):
            if exceeds:
                _refuse(attrs, kind, "requested channel count exceeds maximum")
        self._check_channels_left(old, new, attrs)
        self._check_channels_used(old, new)
        self.channels = new
        return True

    def _check_channels_left(self, old: Channels, new: Channels, attrs: Attrs) -> None:
        """There is at least one RX and one TX channel."""
        if new.combined or (new.rx and new.tx):
            return
        kind = ChannelsAttr.TX_COUNT if new.rx else ChannelsAttr.RX_COUNT
        if new.combined != old.combined:
            kind = ChannelsAttr.COMBINED_COUNT
        _refuse(
            attrs,
            kind,
            "requested channel counts would result in no RX or TX channel being configured",
        )

    def _check_channels_used(self, old: Channels, new: Channels) -> None:
        """ethtool_check_max_channel() and the look for AF_XDP pools that follows it."""
        used = self.min_mp_channel_count()
        if new.real_num_rx <= used:
            raise Refused(
                errno.EINVAL,
                "requested channel counts are too low for existing memory provider setting "
                f"({used})",
            )
        first = new.combined + min(new.rx, new.tx)
        if any(queue in self._xsk for queue in range(first, old.combined + max(old.rx, old.tx))):
            raise Refused(
                errno.EINVAL,
                "requested channel counts are too low for existing zerocopy AF_XDP sockets",
            )


def _updated(value: int, attrs: Attrs, kind: int) -> int:
    """ethnl_update_u32()."""
    return attrs[kind].u32() if kind in attrs else value


def _asks(attrs: Attrs, kind: int) -> bool:
    """Say whether a number is asked for of something that there is none of."""
    return _updated(0, attrs, kind) != 0


def _refuse(attrs: Attrs, kind: int, msg: str) -> None:
    """NL_SET_ERR_MSG_ATTR(): the attribute is named if it is in the message."""
    attr: Attribute | None = attrs.get(kind)
    raise Refused(errno.EINVAL, msg, bad_attr=None if attr is None else attr.offset)
