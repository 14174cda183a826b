# SPDX-License-Identifier: Apache-2.0
"""What a devmem host sets with ethtool: rings with header split, channels, RSS, features.

The steps of ``Documentation/networking/devmem.rst``: turn tcp-data-split on with hds-thresh 0,
keep other traffic off the queues with RSS, and steer flows to them (``flow_rules``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from devmemtcp.netlink.connection import DEFAULT_TIMEOUT, Connection
from devmemtcp.netlink.constants import (
    ETHTOOL_FAMILY_NAME,
    ETHTOOL_FAMILY_VERSION,
    EthtoolCmd,
    TcpDataSplit,
    spec_name,
)
from devmemtcp.netlink.errors import ProtocolError
from devmemtcp.netlink.ethtool_messages import (
    ethtool_channels_msg,
    ethtool_features_msg,
    ethtool_rings_msg,
    ethtool_rss_msg,
)
from devmemtcp.netlink.genl import GenlFamily
from devmemtcp.netlink.records import Record
from devmemtcp.netlink.target import NetNs, Target

NTUPLE = "rx-ntuple-filter"
"""The feature without which a NIC has no flow rules; ``ethtool -K`` calls it ntuple."""


@dataclass(frozen=True)
class Header(Record):
    """The set "header": which device."""

    dev_index: int | None = None
    dev_name: str | None = None


@dataclass(frozen=True)
class Rings(Record):
    """The set "rings": sizes in descriptors, and how the NIC fills buffers."""

    header: Header | None = None
    rx_max: int | None = None
    rx_mini_max: int | None = None
    rx_jumbo_max: int | None = None
    tx_max: int | None = None
    rx: int | None = None
    rx_mini: int | None = None
    rx_jumbo: int | None = None
    tx: int | None = None
    rx_buf_len: int | None = None
    tcp_data_split: TcpDataSplit | int | None = None
    cqe_size: int | None = None
    tx_push: int | None = None
    rx_push: int | None = None
    tx_push_buf_len: int | None = None
    tx_push_buf_len_max: int | None = None
    hds_thresh: int | None = None
    """Packets up to this many bytes are not split."""
    hds_thresh_max: int | None = None


@dataclass(frozen=True)
class Channels(Record):
    """The set "channels": numbers of queues."""

    header: Header | None = None
    rx_max: int | None = None
    tx_max: int | None = None
    other_max: int | None = None
    combined_max: int | None = None
    rx_count: int | None = None
    tx_count: int | None = None
    other_count: int | None = None
    combined_count: int | None = None


@dataclass(frozen=True)
class Rss(Record):
    """The set "rss": how flows are spread over RX queues."""

    header: Header | None = None
    context: int | None = None
    hfunc: int | None = None
    indir: tuple[int, ...] | None = None
    """The indirection table: the queue of each hash bucket."""
    hkey: bytes | None = None
    input_xfrm: int | None = None


@dataclass(frozen=True)
class Feature:
    """One bit of the set "features", as ``ethtool -k`` shows it."""

    active: bool
    wanted: bool
    """What was asked for last; the driver, or another feature, may keep it from being active."""
    changeable: bool
    """Whether it can be asked for; ``ethtool`` says "fixed" of the others."""

    @property
    def available(self) -> bool:
        """Whether it is active, or may become so when it is asked for."""
        return self.active or self.changeable


class Ethtool:
    """A client of the family ``ethtool``, to the kernel or, where it emulates it, to the agent.

    A device is its index or its name. Errors are NetlinkError: EOPNOTSUPP where the driver has
    no such knob, EINVAL with a text where a value cannot be.
    """

    def __init__(
        self,
        target: Target = "kernel",
        netns: NetNs | None = None,
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> None:
        """Connect as :class:`devmemtcp.netlink.netdev.Netdev` does."""
        connection = Connection.open(target, netns=netns, timeout=timeout)
        self._genl = GenlFamily(connection, ETHTOOL_FAMILY_NAME, ETHTOOL_FAMILY_VERSION)

    def close(self) -> None:
        """Close the socket. Twice is once."""
        self._genl.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def rings_get(self, device: int | str) -> Rings:
        """Ring sizes, tcp-data-split and hds-thresh (``ethtool -g``)."""
        return Rings.of(self._get(EthtoolCmd.RINGS_GET, ethtool_rings_msg, device))

    def rings_set(
        self,
        device: int | str,
        *,
        rx: int | None = None,
        tx: int | None = None,
        rx_buf_len: int | None = None,
        tcp_data_split: TcpDataSplit | None = None,
        hds_thresh: int | None = None,
    ) -> None:
        """Change what is not None (``ethtool -G``). TcpDataSplit.UNKNOWN: as the driver likes."""
        values = {
            "ETHTOOL_A_RINGS_RX": rx,
            "ETHTOOL_A_RINGS_TX": tx,
            "ETHTOOL_A_RINGS_RX_BUF_LEN": rx_buf_len,
            "ETHTOOL_A_RINGS_TCP_DATA_SPLIT": tcp_data_split,
            "ETHTOOL_A_RINGS_HDS_THRESH": hds_thresh,
        }
        self._do(EthtoolCmd.RINGS_SET, ethtool_rings_msg, device, values)

    def channels_get(self, device: int | str) -> Channels:
        """Numbers of queues (``ethtool -l``)."""
        return Channels.of(self._get(EthtoolCmd.CHANNELS_GET, ethtool_channels_msg, device))

    def channels_set(
        self,
        device: int | str,
        *,
        rx: int | None = None,
        tx: int | None = None,
        combined: int | None = None,
    ) -> None:
        """Change what is not None (``ethtool -L``)."""
        values = {
            "ETHTOOL_A_CHANNELS_RX_COUNT": rx,
            "ETHTOOL_A_CHANNELS_TX_COUNT": tx,
            "ETHTOOL_A_CHANNELS_COMBINED_COUNT": combined,
        }
        self._do(EthtoolCmd.CHANNELS_SET, ethtool_channels_msg, device, values)

    def rss_get(self, device: int | str, context: int | None = None) -> Rss:
        """The indirection table and hash key (``ethtool -x``), of an additional context or not."""
        values = {"ETHTOOL_A_RSS_CONTEXT": context}
        return Rss.of(self._get(EthtoolCmd.RSS_GET, ethtool_rss_msg, device, values))

    def rss_set(
        self,
        device: int | str,
        *,
        context: int | None = None,
        indir: Sequence[int] | None = None,
        hkey: bytes | None = None,
    ) -> None:
        """Change what is not None (``ethtool -X``; Linux 6.17).

        A table that is shorter than the device's must divide it and is repeated; an empty one
        stands for the default, all queues evenly.
        """
        values = {
            "ETHTOOL_A_RSS_CONTEXT": context,
            "ETHTOOL_A_RSS_INDIR": None if indir is None else tuple(indir),
            "ETHTOOL_A_RSS_HKEY": hkey,
        }
        self._do(EthtoolCmd.RSS_SET, ethtool_rss_msg, device, values)

    def features_get(self, device: int | str) -> dict[str, Feature]:
        """Offloads and the like, by the kernel's names: "rx-lro" (``ethtool -k``)."""
        answer = self._get(EthtoolCmd.FEATURES_GET, ethtool_features_msg, device)
        sets = {
            kind: dict(_bits(answer.get_attr(f"ETHTOOL_A_FEATURES_{kind}")))
            for kind in ("HW", "WANTED", "ACTIVE", "NOCHANGE")
        }
        return {
            # Of the sets only this one has a mask, so it names all bits and the others those set.
            name: Feature(
                active=name in sets["ACTIVE"],
                wanted=name in sets["WANTED"],
                changeable=changeable and name not in sets["NOCHANGE"],
            )
            for name, changeable in sets["HW"].items()
        }

    def features_set(self, device: int | str, wanted: Mapping[str, bool]) -> None:
        """Ask for features, or for them to be off (``ethtool -K``).

        That it succeeds does not say that they are active then: a driver may fix what it gets
        (``ndo_fix_features``), and what is fixed is left. EOPNOTSUPP for a name that is unknown.
        """
        bits = [
            ("ETHTOOL_A_BITSET_BITS_BIT", {"attrs": _bit(name, on)}) for name, on in wanted.items()
        ]
        bitset = {"attrs": [("ETHTOOL_A_BITSET_BITS", {"attrs": bits})]}
        values = {"ETHTOOL_A_FEATURES_WANTED": bitset}
        self._do(EthtoolCmd.FEATURES_SET, ethtool_features_msg, device, values)

    def _get(
        self,
        command: EthtoolCmd,
        message_class: type[Any],
        device: int | str,
        values: dict[str, Any] | None = None,
    ) -> Any:
        answer = self._do(command, message_class, device, values or {})
        if len(answer) != 1:
            raise ProtocolError(f"{spec_name(command)} was answered with {len(answer)} messages")
        return answer[0]

    def _do(
        self,
        command: EthtoolCmd,
        message_class: type[Any],
        device: int | str,
        values: dict[str, Any],
    ) -> list[Any]:
        kind = "INDEX" if isinstance(device, int) else "NAME"
        header = {"attrs": [(f"ETHTOOL_A_HEADER_DEV_{kind}", device)]}
        attrs = [(f"{message_class.prefix}HEADER", header)]
        attrs += [(name, value) for name, value in values.items() if value is not None]
        return self._genl.do(command, message_class, attrs, spec_name(command))


def _bits(bitset: Any) -> Iterator[tuple[str, bool]]:
    """Names of a verbose bitset, and whether they are set: all are, where there is no mask."""
    bits = bitset and bitset.get_attr("ETHTOOL_A_BITSET_BITS")
    every = bitset and bitset.get_attr("ETHTOOL_A_BITSET_NOMASK") is not None
    for bit in bits.get_attrs("ETHTOOL_A_BITSET_BITS_BIT") if bits else ():
        name = bit.get_attr("ETHTOOL_A_BITSET_BIT_NAME")
        if name is None:
            raise ProtocolError("a bit of a bitset has no name")
        yield name, every or bit.get_attr("ETHTOOL_A_BITSET_BIT_VALUE") is not None


def _bit(name: str, on: bool) -> list[tuple[str, Any]]:
    """A bit of a bitset that has a mask: without the flag it is to be cleared."""
    flag = [("ETHTOOL_A_BITSET_BIT_VALUE", True)] if on else []
    return [("ETHTOOL_A_BITSET_BIT_NAME", name), *flag]
