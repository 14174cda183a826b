# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N801 (pyroute2 names message classes like this)
"""Messages of the ``ethtool`` family (Linux 6.18) that pyroute2 lacks or has in part.

Written like those in ``pyroute2.netlink.generic.ethtool``, for the same reason and in the same
way as :mod:`devmemtcp.netlink.messages`. pyroute2's rings end before HDS_THRESH; channels, RSS and
features it does not have. Source: ``Documentation/netlink/specs/ethtool.yaml``.
"""

from __future__ import annotations

from pyroute2.netlink import NLA_F_NESTED, genlmsg, nla
from pyroute2.netlink.generic.ethtool import ethtoolbitset


class ethtoolheader(nla):
    """The set "header": which device, by index or by name."""

    __slots__ = ()

    prefix = "ETHTOOL_A_HEADER_"
    nla_flags = NLA_F_NESTED
    nla_map = (
        ("ETHTOOL_A_HEADER_UNSPEC", "none"),
        ("ETHTOOL_A_HEADER_DEV_INDEX", "uint32"),
        ("ETHTOOL_A_HEADER_DEV_NAME", "asciiz"),
        ("ETHTOOL_A_HEADER_FLAGS", "uint32"),
        ("ETHTOOL_A_HEADER_PHY_INDEX", "uint32"),
    )


class ethtool_rings_msg(genlmsg):
    """The set "rings": rings-get, rings-set, rings-ntf."""

    __slots__ = ()

    prefix = "ETHTOOL_A_RINGS_"
    nla_map = (
        ("ETHTOOL_A_RINGS_UNSPEC", "none"),
        ("ETHTOOL_A_RINGS_HEADER", "ethtoolheader"),
        ("ETHTOOL_A_RINGS_RX_MAX", "uint32"),
        ("ETHTOOL_A_RINGS_RX_MINI_MAX", "uint32"),
        ("ETHTOOL_A_RINGS_RX_JUMBO_MAX", "uint32"),
        ("ETHTOOL_A_RINGS_TX_MAX", "uint32"),
        ("ETHTOOL_A_RINGS_RX", "uint32"),
        ("ETHTOOL_A_RINGS_RX_MINI", "uint32"),
        ("ETHTOOL_A_RINGS_RX_JUMBO", "uint32"),
        ("ETHTOOL_A_RINGS_TX", "uint32"),
        ("ETHTOOL_A_RINGS_RX_BUF_LEN", "uint32"),
        ("ETHTOOL_A_RINGS_TCP_DATA_SPLIT", "uint8"),
        ("ETHTOOL_A_RINGS_CQE_SIZE", "uint32"),
        ("ETHTOOL_A_RINGS_TX_PUSH", "uint8"),
        ("ETHTOOL_A_RINGS_RX_PUSH", "uint8"),
        ("ETHTOOL_A_RINGS_TX_PUSH_BUF_LEN", "uint32"),
        ("ETHTOOL_A_RINGS_TX_PUSH_BUF_LEN_MAX", "uint32"),
        ("ETHTOOL_A_RINGS_HDS_THRESH", "uint32"),
        ("ETHTOOL_A_RINGS_HDS_THRESH_MAX", "uint32"),
    )

    ethtoolheader = ethtoolheader


class ethtool_channels_msg(genlmsg):
    """The set "channels": channels-get, channels-set, channels-ntf."""

    __slots__ = ()

    prefix = "ETHTOOL_A_CHANNELS_"
    nla_map = (
        ("ETHTOOL_A_CHANNELS_UNSPEC", "none"),
        ("ETHTOOL_A_CHANNELS_HEADER", "ethtoolheader"),
        ("ETHTOOL_A_CHANNELS_RX_MAX", "uint32"),
        ("ETHTOOL_A_CHANNELS_TX_MAX", "uint32"),
        ("ETHTOOL_A_CHANNELS_OTHER_MAX", "uint32"),
        ("ETHTOOL_A_CHANNELS_COMBINED_MAX", "uint32"),
        ("ETHTOOL_A_CHANNELS_RX_COUNT", "uint32"),
        ("ETHTOOL_A_CHANNELS_TX_COUNT", "uint32"),
        ("ETHTOOL_A_CHANNELS_OTHER_COUNT", "uint32"),
        ("ETHTOOL_A_CHANNELS_COMBINED_COUNT", "uint32"),
    )

    ethtoolheader = ethtoolheader


class ethtool_rss_msg(genlmsg):
    """The set "rss": rss-get, rss-set, rss-ntf."""

    __slots__ = ()

    prefix = "ETHTOOL_A_RSS_"
    nla_map = (
        ("ETHTOOL_A_RSS_UNSPEC", "none"),
        ("ETHTOOL_A_RSS_HEADER", "ethtoolheader"),
        ("ETHTOOL_A_RSS_CONTEXT", "uint32"),
        ("ETHTOOL_A_RSS_HFUNC", "uint32"),
        ("ETHTOOL_A_RSS_INDIR", "array(I)"),
        ("ETHTOOL_A_RSS_HKEY", "cdata"),
        ("ETHTOOL_A_RSS_INPUT_XFRM", "uint32"),
        ("ETHTOOL_A_RSS_START_CONTEXT", "uint32"),
    )

    ethtoolheader = ethtoolheader


class ethtool_features_msg(genlmsg):
    """The set "features": features-get, features-set, features-ntf."""

    __slots__ = ()

    prefix = "ETHTOOL_A_FEATURES_"
    nla_map = (
        ("ETHTOOL_A_FEATURES_UNSPEC", "none"),
        ("ETHTOOL_A_FEATURES_HEADER", "ethtoolheader"),
        ("ETHTOOL_A_FEATURES_HW", "ethtoolbitset"),
        ("ETHTOOL_A_FEATURES_WANTED", "ethtoolbitset"),
        ("ETHTOOL_A_FEATURES_ACTIVE", "ethtoolbitset"),
        ("ETHTOOL_A_FEATURES_NOCHANGE", "ethtoolbitset"),
    )

    ethtoolheader = ethtoolheader
    ethtoolbitset = ethtoolbitset
