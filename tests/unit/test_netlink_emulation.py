# SPDX-License-Identifier: Apache-2.0
"""The emulated NIC: ethtool's rings and channels, and what a memory provider forbids."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

import pytest

from devmemtcp.netlink.attribute import nest, nest_noflag, put_u8, put_u32
from devmemtcp.netlink.backend import Device
from devmemtcp.netlink.constants import (
    ChannelsAttr,
    EthtoolCmd,
    EthtoolReply,
    RingsAttr,
    TcpDataSplit,
)
from devmemtcp.netlink.emulation import HDS_THRESH_MAX, RING_DEFAULT, RING_MAX, Driver, Rings
from devmemtcp.netlink.extack import Refused

from .netlink.bench import (
    ACK,
    DO,
    DOWN,
    DUMP,
    HEADERS,
    LO,
    NIC,
    Answer,
    Bench,
    Refusal,
    header,
    refusal,
)
from .netlink.fake import FakePeer

RINGS_GET, RINGS_SET = EthtoolCmd.RINGS_GET, EthtoolCmd.RINGS_SET
CHANNELS_GET, CHANNELS_SET = EthtoolCmd.CHANNELS_GET, EthtoolCmd.CHANNELS_SET
ATTR = HEADERS + 12  # behind a header nest with an ifindex in it


def split(value: int) -> bytes:
    return put_u8(RingsAttr.TCP_DATA_SPLIT, value)


def combined(count: int) -> bytes:
    return put_u32(ChannelsAttr.COMBINED_COUNT, count)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def numbers(answer: Answer) -> dict[int, int]:
    return {
        attr.type: int.from_bytes(attr.data, "little") for attr in answer.walk() if not attr.nested
    }


def show(bench: Bench, cmd: int, ifindex: int = NIC) -> dict[int, int]:
    (row,) = bench.ask("ethtool", cmd, header(ifindex))
    assert row.walk()[0].type == 1
    assert row.walk()[0].nested
    return numbers(row)


def accept(bench: Bench, cmd: int, attrs: bytes) -> None:
    assert refusal(bench.ask("ethtool", cmd, header() + attrs, flags=ACK)[0]) == Refusal(0)


# --- get ---


def test_rings_of_a_new_nic(bench: Bench) -> None:
    (row,) = bench.ask("ethtool", RINGS_GET, header(None, b"nic0"))
    assert row.cmd == EthtoolReply.RINGS_GET_REPLY
    assert row.order() == [1, 2, 6, 5, 9, 13, 14, 17, 18]
    names = {attr.type: attr for attr in row.attrs()[1].children()}
    assert (names[1].u32(), names[2].string()) == (NIC, b"nic0")
    assert numbers(row) == {
        RingsAttr.RX_MAX: RING_MAX,
        RingsAttr.RX: RING_DEFAULT,
        RingsAttr.TX_MAX: RING_MAX,
        RingsAttr.TX: RING_DEFAULT,
        RingsAttr.TX_PUSH: 0,
        RingsAttr.RX_PUSH: 0,
        RingsAttr.HDS_THRESH: 0,
        RingsAttr.HDS_THRESH_MAX: HDS_THRESH_MAX,
    }


def test_split_is_shown_when_it_is_known(bench: Bench) -> None:
    for value in (TcpDataSplit.DISABLED, TcpDataSplit.ENABLED):
        accept(bench, RINGS_SET, split(value))
        assert show(bench, RINGS_GET)[RingsAttr.TCP_DATA_SPLIT] == value
    accept(bench, RINGS_SET, split(TcpDataSplit.UNKNOWN))
    assert RingsAttr.TCP_DATA_SPLIT not in show(bench, RINGS_GET)


def test_a_driver_that_splits_by_habit_shows_it_and_is_still_not_configured(bench: Bench) -> None:
    bench.nic().driver = Driver(default_split=TcpDataSplit.ENABLED)
    assert show(bench, RINGS_GET)[RingsAttr.TCP_DATA_SPLIT] == TcpDataSplit.ENABLED
    with pytest.raises(Refused, match="tcp-data-split is disabled"):
        bench.nic().check_provider(0)


def test_channels_are_combined_if_there_are_as_many_of_both(bench: Bench) -> None:
    assert show(bench, CHANNELS_GET) == {
        ChannelsAttr.COMBINED_MAX: 4,
        ChannelsAttr.COMBINED_COUNT: 4,
    }
    (row,) = bench.ask("ethtool", CHANNELS_GET, header(DOWN))
    assert row.cmd == EthtoolReply.CHANNELS_GET_REPLY
    assert row.order() == [1, 2, 6, 3, 7]
    assert numbers(row) == {2: 2, 6: 2, 3: 1, 7: 1}


@pytest.mark.parametrize("cmd", [RINGS_GET, CHANNELS_GET])
def test_a_dump_has_the_managed_interfaces(bench: Bench, cmd: int) -> None:
    for attrs in (b"", nest(1)):
        *rows, done = bench.ask("ethtool", cmd, attrs, flags=DUMP)
        assert refusal(done) == Refusal(0)
        assert [row.attrs()[1].data[4] for row in rows] == [NIC, DOWN]
        assert all(row.flags == 2 for row in rows)


@pytest.mark.parametrize("cmd", [RINGS_GET, RINGS_SET, CHANNELS_GET, CHANNELS_SET])
@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        (b"", Refusal(errno.EINVAL, miss_type=1)),
        (nest(1), Refusal(errno.EINVAL, "neither ifindex nor name specified", HEADERS)),
        (header(99), Refusal(errno.ENODEV, "no device matches ifindex", HEADERS + 4)),
        (header(None, b"x"), Refusal(errno.ENODEV, "no device matches name", HEADERS + 4)),
        (header(NIC, b"lo"), Refusal(errno.ENODEV, "ifindex and name do not match", HEADERS)),
        (nest_noflag(1), Refusal(errno.EINVAL, "NLA_F_NESTED is missing", HEADERS)),
        (nest(1, put_u32(3, 4)), Refusal(errno.EINVAL, "reserved bit set", HEADERS + 4)),
        (nest(1, put_u32(4, 1)), Refusal(errno.EINVAL, "Unknown attribute type", HEADERS + 4)),
        (header(LO), Refusal(errno.EOPNOTSUPP)),
    ],
)
def test_the_header_is_checked_alike(
    bench: Bench, cmd: int, attrs: bytes, expected: Refusal
) -> None:
    assert bench.refused("ethtool", cmd, attrs) == expected


@pytest.mark.parametrize("cmd", [RINGS_GET, RINGS_SET, CHANNELS_GET, CHANNELS_SET])
def test_an_absent_device_cannot_be_asked(bench: Bench, cmd: int) -> None:
    bench.backend.device_list[1] = replace(bench.backend.device_list[1], present=False)
    assert bench.refused("ethtool", cmd, header()) == Refusal(errno.ENODEV)


@pytest.mark.parametrize("cmd", [RINGS_SET, CHANNELS_SET])
def test_setting_needs_permission(bench: Bench, cmd: int) -> None:
    user = bench.connect(FakePeer(is_admin=False))
    assert bench.refused("ethtool", cmd, b"", client=user) == Refusal(errno.EPERM)
    neighbour = bench.connect(FakePeer(interfaces={"nic1"}))
    assert bench.refused("ethtool", cmd, header(), client=neighbour) == Refusal(
        errno.EPERM, "you may not configure nic0"
    )


@pytest.mark.parametrize("cmd", [1, 19, 38, 48])
def test_other_commands_are_not_offered(bench: Bench, cmd: int) -> None:
    assert bench.refused("ethtool", cmd, header()) == Refusal(errno.EOPNOTSUPP)


# --- set ---


def test_what_does_not_change_anything_is_no_change(bench: Bench) -> None:
    bench.server.join(bench.client, bench.family("ethtool").group_ids["monitor"])
    accept(bench, RINGS_SET, b"")
    accept(bench, RINGS_SET, split(0) + put_u32(RingsAttr.RX, RING_DEFAULT))
    accept(bench, CHANNELS_SET, combined(4) + put_u32(ChannelsAttr.OTHER_COUNT, 0))
    assert not bench.inbox(bench.client)


def test_changes_are_notified_and_numbered(bench: Bench) -> None:
    bench.server.join(bench.client, bench.family("ethtool").group_ids["monitor"])
    accept(bench, RINGS_SET, split(2))
    accept(bench, CHANNELS_SET, combined(3))
    first, second = bench.inbox(bench.client)
    assert (first.cmd, first.seq, first.portid) == (EthtoolReply.RINGS_NTF, 1, 0)
    assert (second.cmd, second.seq) == (EthtoolReply.CHANNELS_NTF, 2)
    assert numbers(first) == show(bench, RINGS_GET)
    assert numbers(second) == show(bench, CHANNELS_GET)


def test_sizes_and_threshold_are_set(bench: Bench) -> None:
    wanted = {RingsAttr.RX: 64, RingsAttr.TX: RING_MAX, RingsAttr.HDS_THRESH: 256}
    accept(bench, RINGS_SET, b"".join(put_u32(*item) for item in wanted.items()))
    assert wanted.items() <= show(bench, RINGS_GET).items()


TOO_BIG = "requested ring size exceeds maximum"
TOO_MANY = "requested channel count exceeds maximum"
NONE_LEFT = "requested channel counts would result in no RX or TX channel being configured"
OUT_OF_RANGE = "integer out of range"


@pytest.mark.parametrize(
    ("cmd", "attrs", "expected"),
    [
        (RINGS_SET, put_u32(6, RING_MAX + 1), Refusal(errno.EINVAL, TOO_BIG, ATTR)),
        (RINGS_SET, put_u32(9, RING_MAX + 1), Refusal(errno.EINVAL, TOO_BIG, ATTR)),
        (RINGS_SET, put_u32(7, 1), Refusal(errno.EINVAL, TOO_BIG, ATTR)),
        (RINGS_SET, put_u32(8, 1), Refusal(errno.EINVAL, TOO_BIG, ATTR)),
        (RINGS_SET, put_u32(17, HDS_THRESH_MAX + 1), Refusal(errno.EINVAL, TOO_BIG, ATTR)),
        (RINGS_SET, put_u8(11, 3), Refusal(errno.ERANGE, OUT_OF_RANGE, ATTR)),
        (RINGS_SET, put_u32(2, 1), Refusal(errno.EINVAL, "Unsupported attribute", ATTR)),
        (RINGS_SET, put_u32(18, 1), Refusal(errno.EINVAL, "Unsupported attribute", ATTR)),
        (RINGS_SET, put_u32(19, 1), Refusal(errno.EINVAL, "Unknown attribute type", ATTR)),
        (
            RINGS_SET,
            put_u32(10, 1),
            Refusal(errno.EOPNOTSUPP, "setting rx buf len not supported", ATTR),
        ),
        (
            RINGS_SET,
            put_u32(12, 1),
            Refusal(errno.EOPNOTSUPP, "setting cqe size not supported", ATTR),
        ),
        (
            RINGS_SET,
            put_u8(13, 1),
            Refusal(errno.EOPNOTSUPP, "setting tx push not supported", ATTR),
        ),
        (
            RINGS_SET,
            put_u8(14, 1),
            Refusal(errno.EOPNOTSUPP, "setting rx push not supported", ATTR),
        ),
        (
            RINGS_SET,
            put_u32(15, 1),
            Refusal(errno.EOPNOTSUPP, "setting tx push buf len is not supported", ATTR),
        ),
        (CHANNELS_SET, combined(5), Refusal(errno.EINVAL, TOO_MANY, ATTR)),
        (CHANNELS_SET, put_u32(6, 1), Refusal(errno.EINVAL, TOO_MANY, ATTR)),
        (CHANNELS_SET, put_u32(7, 1), Refusal(errno.EINVAL, TOO_MANY, ATTR)),
        (CHANNELS_SET, put_u32(8, 1), Refusal(errno.EINVAL, TOO_MANY, ATTR)),
        (CHANNELS_SET, combined(0), Refusal(errno.EINVAL, NONE_LEFT, ATTR)),
    ],
)
def test_a_wrong_setting_changes_nothing(
    bench: Bench, cmd: int, attrs: bytes, expected: Refusal
) -> None:
    before = (show(bench, RINGS_GET), show(bench, CHANNELS_GET))
    assert bench.refused("ethtool", cmd, header() + attrs) == expected
    assert (show(bench, RINGS_GET), show(bench, CHANNELS_GET)) == before


def test_split_settings_of_an_interface_without_a_nic(bench: Bench) -> None:
    assert bench.refused("ethtool", RINGS_SET, header(LO) + split(2)) == Refusal(
        errno.EOPNOTSUPP, "setting TCP data split is not supported", ATTR
    )
    assert bench.refused("ethtool", RINGS_SET, header(LO) + put_u32(17, 2)) == Refusal(
        errno.EOPNOTSUPP, "setting hds-thresh is not supported", ATTR
    )


@pytest.mark.parametrize(("kind", "attr"), [(ChannelsAttr.RX_COUNT, 6), (ChannelsAttr.TX_COUNT, 7)])
def test_separate_channels_need_one_of_each(bench: Bench, kind: int, attr: int) -> None:
    assert bench.refused("ethtool", CHANNELS_SET, header(DOWN) + put_u32(attr, 0)) == Refusal(
        errno.EINVAL, NONE_LEFT, ATTR
    )
    assert kind == attr


def test_channels_follow_the_interface(bench: Bench) -> None:
    accept(bench, CHANNELS_SET, combined(2))
    assert bench.nic().channels.combined == 2
    bench.backend.device_list[1] = Device(
        ifindex=NIC, ifname="nic0", num_rx_queues=8, num_tx_queues=8
    )
    assert show(bench, CHANNELS_GET)[ChannelsAttr.COMBINED_COUNT] == 8


# --- guards while a queue has a memory provider ---


def refused_by(call: Callable[[], object]) -> tuple[int | None, str | None]:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.errno, caught.value.msg


@pytest.fixture
def bound(bench: Bench) -> Bench:
    bench.ready()
    bench.bind(1)
    return bench


MP_XDP = "unable to install XDP to device using memory provider"
MP_XDP_UPPER = "unable to propagate XDP to device using memory provider"
MP_SPLIT = "can't disable tcp-data-split while device has memory provider enabled"
MP_THRESH = "can't set non-zero hds_thresh while device is memory provider enabled"
MP_CHANNELS = "requested channel counts are too low for existing memory provider setting (2)"


def test_xdp_cannot_be_attached(bound: Bench) -> None:
    nic = bound.nic()
    assert refused_by(lambda: nic.attach_xdp(frags=True)) == (errno.EBUSY, MP_XDP)
    assert refused_by(lambda: nic.attach_xdp(frags=True, from_upper=True)) == (
        errno.EBUSY,
        MP_XDP_UPPER,
    )


def test_zero_copy_sockets_cannot_be_bound_but_copying_ones_can(bound: Bench) -> None:
    assert refused_by(lambda: bound.nic().bind_xsk(3, zero_copy=True)) == (errno.EBUSY, None)
    bound.nic().bind_xsk(3, zero_copy=False)
    assert refused_by(lambda: bound.nic().bind_xsk(3, zero_copy=False)) == (errno.EBUSY, None)


@pytest.mark.parametrize("value", [TcpDataSplit.DISABLED, TcpDataSplit.UNKNOWN])
def test_split_cannot_be_switched_off(bound: Bench, value: int) -> None:
    assert bound.refused("ethtool", RINGS_SET, header() + split(value)) == Refusal(
        errno.EINVAL, MP_SPLIT
    )
    assert bound.nic().rings.tcp_data_split is TcpDataSplit.ENABLED


def test_the_threshold_cannot_be_raised(bound: Bench) -> None:
    attrs = header() + put_u32(RingsAttr.HDS_THRESH, 1)
    assert bound.refused("ethtool", RINGS_SET, attrs) == Refusal(errno.EINVAL, MP_THRESH)


@pytest.mark.parametrize("count", [1, 2])
def test_bound_queues_cannot_be_taken_away_nor_just_kept(bound: Bench, count: int) -> None:
    assert bound.refused("ethtool", CHANNELS_SET, header() + combined(count)) == Refusal(
        errno.EINVAL, MP_CHANNELS
    )
    accept(bound, CHANNELS_SET, combined(3))


def test_what_the_provider_does_not_mind_is_allowed(bound: Bench) -> None:
    accept(bound, RINGS_SET, put_u32(RingsAttr.RX, 64))
    accept(bound, CHANNELS_SET, combined(3))


def test_the_guards_end_with_the_binding(bound: Bench) -> None:
    bound.server.disconnect(bound.client)
    other = bound.connect()
    attrs = header() + split(TcpDataSplit.DISABLED)
    assert bound.ask("ethtool", RINGS_SET, attrs, client=other) == []
    assert bound.ask("ethtool", CHANNELS_SET, header() + combined(1), client=other) == []
    bound.nic().attach_xdp(frags=False)
    bound.nic().detach_xdp()
    bound.nic().attach_xdp(frags=True, from_upper=True)


def test_single_buffer_xdp_and_header_split_exclude_each_other(bench: Bench) -> None:
    bench.nic().attach_xdp(frags=False)
    assert bench.refused("ethtool", RINGS_SET, header() + split(2)) == Refusal(
        errno.EINVAL, "tcp-data-split can not be enabled with single buffer XDP", ATTR
    )
    bench.nic().detach_xdp()
    bench.nic().attach_xdp(frags=True)
    accept(bench, RINGS_SET, split(2))
    bench.nic().detach_xdp()
    assert refused_by(lambda: bench.nic().attach_xdp(frags=False)) == (
        errno.EBUSY,
        "unable to install XDP to device using tcp-data-split",
    )


def test_channels_with_an_af_xdp_pool_cannot_be_taken_away(bench: Bench) -> None:
    bench.nic().bind_xsk(3, zero_copy=True)
    assert bench.refused("ethtool", CHANNELS_SET, header() + combined(3)) == Refusal(
        errno.EINVAL, "requested channel counts are too low for existing zerocopy AF_XDP sockets"
    )
    bench.nic().release_xsk(3)
    bench.nic().bind_xsk(2, zero_copy=True)
    assert bench.ask("ethtool", CHANNELS_SET, header() + combined(3), flags=DO) == []


def test_a_nic_is_configured_by_whoever_made_the_model(bench: Bench) -> None:
    bench.nic().rings = Rings(tcp_data_split=TcpDataSplit.ENABLED)
    assert bench.bind(0) == 1
    for ifindex in (LO, 99):
        with pytest.raises(LookupError):
            bench.model.nic(ifindex)
