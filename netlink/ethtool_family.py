# SPDX-License-Identifier: Apache-2.0
"""The server of the family "ethtool": rings and channels of the emulated NICs, nothing else.

Source: net/ethtool/netlink.c, rings.c, channels.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

from devmemtcp.netlink import attribute
from devmemtcp.netlink.attribute import Attribute
from devmemtcp.netlink.backend import Device
from devmemtcp.netlink.constants import (
    ETHTOOL_FAMILY_NAME,
    ETHTOOL_FAMILY_VERSION,
    ETHTOOL_MCGRP_MONITOR,
    ChannelsAttr,
    EthtoolCmd,
    EthtoolFlag,
    EthtoolHeaderAttr,
    EthtoolReply,
    GenlOpFlag,
    PolicyType,
    RingsAttr,
    TcpDataSplit,
)
from devmemtcp.netlink.devices import Devices
from devmemtcp.netlink.emulation import Nic
from devmemtcp.netlink.extack import Refused
from devmemtcp.netlink.family import Family, Op, Request
from devmemtcp.netlink.policy import (
    U32,
    Attrs,
    Policy,
    at_least,
    at_most,
    masked,
    nested,
    nul_string,
)
from devmemtcp.netlink.server import NetlinkServer

ALTIFNAMSIZ = 128
FIRST_CHECKED_CMD = 35  # ETHTOOL_MSG_MODULE_GET + 1

_HEADER = 1  # the header's attribute type, in rings and channels alike

_HEADER_POLICY = Policy(
    {
        EthtoolHeaderAttr.DEV_INDEX: U32,
        EthtoolHeaderAttr.DEV_NAME: nul_string(ALTIFNAMSIZ - 1),
        EthtoolHeaderAttr.FLAGS: masked(
            PolicyType.U32, EthtoolFlag.COMPACT_BITSETS | EthtoolFlag.OMIT_REPLY
        ),
    }
)
_RINGS_GET = Policy({RingsAttr.HEADER: nested(_HEADER_POLICY)})
_RINGS_SET = Policy(
    {
        RingsAttr.HEADER: nested(_HEADER_POLICY),
        RingsAttr.RX: U32,
        RingsAttr.RX_MINI: U32,
        RingsAttr.RX_JUMBO: U32,
        RingsAttr.TX: U32,
        RingsAttr.RX_BUF_LEN: at_least(PolicyType.U32, 1),
        RingsAttr.TCP_DATA_SPLIT: at_most(PolicyType.U8, TcpDataSplit.ENABLED),
        RingsAttr.CQE_SIZE: at_least(PolicyType.U32, 1),
        RingsAttr.TX_PUSH: at_most(PolicyType.U8, 1),
        RingsAttr.RX_PUSH: at_most(PolicyType.U8, 1),
        RingsAttr.TX_PUSH_BUF_LEN: U32,
        RingsAttr.HDS_THRESH: U32,
    },
    maxtype=RingsAttr.HDS_THRESH_MAX,
)
_CHANNELS_GET = Policy({ChannelsAttr.HEADER: nested(_HEADER_POLICY)})
_CHANNELS_SET = Policy(
    {
        ChannelsAttr.HEADER: nested(_HEADER_POLICY),
        ChannelsAttr.RX_COUNT: U32,
        ChannelsAttr.TX_COUNT: U32,
        ChannelsAttr.OTHER_COUNT: U32,
        ChannelsAttr.COMBINED_COUNT: U32,
    }
)

_SPLIT_UNSUPPORTED = {
    RingsAttr.TCP_DATA_SPLIT: "setting TCP data split is not supported",
    RingsAttr.HDS_THRESH: "setting hds-thresh is not supported",
}
_RINGS_UNSUPPORTED = {
    RingsAttr.RX_BUF_LEN: "setting rx buf len not supported",
    **_SPLIT_UNSUPPORTED,
    RingsAttr.CQE_SIZE: "setting cqe size not supported",
    RingsAttr.TX_PUSH: "setting tx push not supported",
    RingsAttr.RX_PUSH: "setting rx push not supported",
    RingsAttr.TX_PUSH_BUF_LEN: "setting tx push buf len is not supported",
}

Describe = Callable[[Nic], bytes]


class EthtoolFamily:
    """Handlers of the family's commands."""

    def __init__(self, server: NetlinkServer, devices: Devices) -> None:
        self._server = server
        self._devices = devices
        self._notified = 0
        self.family = Family(
            name=ETHTOOL_FAMILY_NAME,
            version=ETHTOOL_FAMILY_VERSION,
            groups=(ETHTOOL_MCGRP_MONITOR,),
            resv_start_op=FIRST_CHECKED_CMD,
            ops={
                EthtoolCmd.RINGS_GET: self._get_op(
                    _RINGS_GET, EthtoolReply.RINGS_GET_REPLY, _describe_rings
                ),
                EthtoolCmd.RINGS_SET: Op(
                    do=self.set_rings, do_policy=_RINGS_SET, perm=GenlOpFlag.UNS_ADMIN_PERM
                ),
                EthtoolCmd.CHANNELS_GET: self._get_op(
                    _CHANNELS_GET, EthtoolReply.CHANNELS_GET_REPLY, _describe_channels
                ),
                EthtoolCmd.CHANNELS_SET: Op(
                    do=self.set_channels, do_policy=_CHANNELS_SET, perm=GenlOpFlag.UNS_ADMIN_PERM
                ),
            },
        )

    # --- get -----------------------------------------------------------------------------------

    def _get_op(self, policy: Policy, reply_cmd: int, describe: Describe) -> Op:
        """The do and dump that ethnl_default_doit() and _dumpit() make of a request type."""

        def get(request: Request) -> bytes:
            request.require(_HEADER)
            device = self._device(request.attrs[_HEADER])
            nic = self._present_nic(device)
            return _describe_header(device) + describe(nic)

        def dump(request: Request) -> Iterator[bytes]:
            if _HEADER in request.attrs:
                self._named(request.attrs[_HEADER])  # checked, and then not minded
            return self._dump(describe)

        return Op(do=get, dump=dump, do_policy=policy, dump_policy=policy, reply_cmd=reply_cmd)

    def _dump(self, describe: Describe) -> Iterator[bytes]:
        """All devices whose driver has the operation."""
        for device in self._devices.all():
            if device.managed:
                yield _describe_header(device) + describe(self._present_nic(device))

    # --- set -----------------------------------------------------------------------------------

    def set_rings(self, request: Request) -> None:
        """ETHTOOL_MSG_RINGS_SET: sizes, tcp-data-split, hds-thresh."""
        request.require(RingsAttr.HEADER)
        device = self._administered(request)
        nic = self._devices.nic(device)
        _check_supported(request.attrs, _RINGS_UNSUPPORTED, nic)
        if nic is None:
            raise Refused(errno.EOPNOTSUPP)
        if self._present_nic(device).set_rings(request.attrs):
            self._notify(EthtoolReply.RINGS_NTF, device, _describe_rings(nic))

    def set_channels(self, request: Request) -> None:
        """ETHTOOL_MSG_CHANNELS_SET: how many queues are in use."""
        request.require(ChannelsAttr.HEADER)
        device = self._administered(request)
        nic = self._present_nic(device)
        if nic.set_channels(request.attrs):
            self._notify(EthtoolReply.CHANNELS_NTF, device, _describe_channels(nic))

    def _notify(self, cmd: int, device: Device, content: bytes) -> None:
        """ethnl_default_notify(): these notifications are numbered."""
        self._notified += 1
        attrs = _describe_header(device) + content
        self._server.multicast(
            self.family, ETHTOOL_MCGRP_MONITOR, cmd, attrs, seq=self._notified & 0xFFFFFFFF
        )

    # --- the device ----------------------------------------------------------------------------

    def _administered(self, request: Request) -> Device:
        device = self._device(request.attrs[_HEADER])
        if not request.client.peer.may_administer(device.ifname):
            raise Refused(errno.EPERM, f"you may not configure {device.ifname}")
        return device

    def _device(self, header: Attribute) -> Device:
        device = self._named(header)
        if device is None:
            raise Refused(
                errno.EINVAL, "neither ifindex nor name specified", bad_attr=header.offset
            )
        return device

    def _named(self, header: Attribute) -> Device | None:
        """ethnl_parse_header_dev_get(). The policy has looked into the nest already."""
        attrs = {attr.type: attr for attr in header.children()}
        name = attrs.get(EthtoolHeaderAttr.DEV_NAME)
        if EthtoolHeaderAttr.DEV_INDEX in attrs:
            index = attrs[EthtoolHeaderAttr.DEV_INDEX]
            device = self._devices.get(index.u32())
            if device is None:
                raise Refused(errno.ENODEV, "no device matches ifindex", bad_attr=index.offset)
            if name is not None and device.ifname.encode() != name.string():
                raise Refused(errno.ENODEV, "ifindex and name do not match", bad_attr=header.offset)
            return device
        if name is None:
            return None
        device = self._devices.by_name(name.string())
        if device is None:
            raise Refused(errno.ENODEV, "no device matches name", bad_attr=name.offset)
        return device

    def _present_nic(self, device: Device) -> Nic:
        """ethnl_ops_begin(): a driver that has the operation, and a device that is there."""
        nic = self._devices.nic(device)
        if nic is None:
            raise Refused(errno.EOPNOTSUPP)
        if not device.present:
            raise Refused(errno.ENODEV)
        return nic


def _check_supported(attrs: Attrs, unsupported: dict[RingsAttr, str], nic: Nic | None) -> None:
    """ethnl_set_rings_validate(): of what a driver may lack, ours can split headers."""
    for kind, msg in unsupported.items():
        if kind in attrs and (nic is None or kind not in _SPLIT_UNSUPPORTED):
            raise Refused(errno.EOPNOTSUPP, msg, bad_attr=attrs[kind].offset)


def _describe_header(device: Device) -> bytes:
    """ethnl_fill_reply_header()."""
    return attribute.nest(
        _HEADER,
        attribute.put_u32(EthtoolHeaderAttr.DEV_INDEX, device.ifindex)
        + attribute.put_string(EthtoolHeaderAttr.DEV_NAME, device.ifname),
    )


def _describe_rings(nic: Nic) -> bytes:
    """rings_fill_reply()."""
    rings = nic.rings
    out = (
        attribute.put_u32(RingsAttr.RX_MAX, rings.rx_max)
        + attribute.put_u32(RingsAttr.RX, rings.rx)
        + attribute.put_u32(RingsAttr.TX_MAX, rings.tx_max)
        + attribute.put_u32(RingsAttr.TX, rings.tx)
    )
    if nic.shown_split() is not TcpDataSplit.UNKNOWN:
        out += attribute.put_u8(RingsAttr.TCP_DATA_SPLIT, nic.shown_split())
    return (
        out
        + attribute.put_u8(RingsAttr.TX_PUSH, 0)
        + attribute.put_u8(RingsAttr.RX_PUSH, 0)
        + attribute.put_u32(RingsAttr.HDS_THRESH, rings.hds_thresh)
        + attribute.put_u32(RingsAttr.HDS_THRESH_MAX, rings.hds_thresh_max)
    )


def _describe_channels(nic: Nic) -> bytes:
    """channels_fill_reply(): kinds of channels that cannot exist are left out."""
    channels = nic.channels
    out = b""
    for most, most_attr, count, count_attr in (
        (channels.rx_max, ChannelsAttr.RX_MAX, channels.rx, ChannelsAttr.RX_COUNT),
        (channels.tx_max, ChannelsAttr.TX_MAX, channels.tx, ChannelsAttr.TX_COUNT),
        (
            channels.combined_max,
            ChannelsAttr.COMBINED_MAX,
            channels.combined,
            ChannelsAttr.COMBINED_COUNT,
        ),
    ):
        if most:
            out += attribute.put_u32(most_attr, most) + attribute.put_u32(count_attr, count)
    return out
