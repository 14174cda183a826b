# SPDX-License-Identifier: Apache-2.0
"""The controller: families by id and by name, their operations, groups and policies."""

from __future__ import annotations

import errno
import struct

import pytest

from devmemtcp.netlink.attribute import Attribute, put, put_u32
from devmemtcp.netlink.constants import (
    GENL_ID_CTRL,
    CtrlAttr,
    CtrlCmd,
    CtrlMcastGrpAttr,
    CtrlOpAttr,
    GenlOpFlag,
    MsgFlag,
    NetdevCmd,
    PolicyTypeAttr,
)

from .netlink.bench import ACK, DUMP, HEADERS, Answer, Bench, Refusal

GETFAMILY, GETPOLICY = CtrlCmd.GETFAMILY, CtrlCmd.GETPOLICY


@pytest.fixture
def bench() -> Bench:
    return Bench()


def by_id(number: int) -> bytes:
    return put(CtrlAttr.FAMILY_ID, struct.pack("=H", number))


def by_name(name: str) -> bytes:
    return put(CtrlAttr.FAMILY_NAME, name.encode() + b"\0")


def ops(answer: Answer) -> dict[int, int]:
    found = {}
    for entry in answer.attrs()[CtrlAttr.OPS].children():
        op = {attr.type: attr for attr in entry.children()}
        found[op[CtrlOpAttr.ID].u32()] = op[CtrlOpAttr.FLAGS].u32()
    return found


def test_netdev_is_described_as_the_kernel_describes_it(bench: Bench) -> None:
    netdev = bench.family("netdev")
    for attrs in (by_id(netdev.id), by_name("netdev"), by_id(999) + by_name("netdev")):
        (answer,) = bench.ask("nlctrl", GETFAMILY, attrs)
        assert answer.type == GENL_ID_CTRL
        assert answer.payload[:4] == bytes([CtrlCmd.NEWFAMILY, 2, 0, 0])
        assert answer.order() == [2, 1, 3, 4, 5, 6, 7]
        assert answer.attrs()[CtrlAttr.FAMILY_NAME].data == b"netdev\0"
        assert answer.attrs()[CtrlAttr.VERSION].u32() == 1
        assert answer.attrs()[CtrlAttr.MAXATTR].u32() == 0
        assert ops(answer) == {
            1: 0x0E, 5: 0x0E, 9: 0x0E, 10: 0x0E, 11: 0x0E, 12: 0x0C, 13: 0x0B, 14: 0x0B, 15: 0x0A,
        }  # fmt: skip
        groups = {}
        for entry in answer.attrs()[CtrlAttr.MCAST_GROUPS].children():
            group = {attr.type: attr for attr in entry.children()}
            name = group[CtrlMcastGrpAttr.NAME].string().decode()
            groups[name] = group[CtrlMcastGrpAttr.ID].u32()
        assert groups == netdev.group_ids
        assert list(groups) == ["mgmt", "page-pool"]


def test_setting_ethtool_is_for_administrators(bench: Bench) -> None:
    (answer,) = bench.ask("nlctrl", GETFAMILY, by_name("ethtool"))
    for cmd, flags in ops(answer).items():
        assert bool(flags & GenlOpFlag.UNS_ADMIN_PERM) == (cmd in (16, 18))


def test_all_families_are_dumped(bench: Bench) -> None:
    *rows, _done = bench.ask("nlctrl", GETFAMILY, flags=DUMP)
    names = [row.attrs()[CtrlAttr.FAMILY_NAME].string() for row in rows]
    assert names == [b"nlctrl", b"netdev", b"ethtool", b"devmemtcp"]
    assert all(row.flags == MsgFlag.MULTI for row in rows)


@pytest.mark.parametrize(
    ("cmd", "attrs", "flags", "expected"),
    [
        (GETFAMILY, b"", ACK, Refusal(errno.EINVAL)),
        (GETFAMILY, by_name("nobody"), ACK, Refusal(errno.ENOENT)),
        (GETFAMILY, by_id(999), ACK, Refusal(errno.ENOENT)),
        (CtrlCmd.NEWFAMILY, by_id(16), ACK, Refusal(errno.EOPNOTSUPP)),
        (GETPOLICY, by_id(16), ACK, Refusal(errno.EOPNOTSUPP)),
        (GETPOLICY, b"", DUMP, Refusal(errno.EINVAL)),
        (GETPOLICY, by_name("nobody"), DUMP, Refusal(errno.ENOENT)),
        (
            GETPOLICY,
            by_id(16) + put_u32(CtrlAttr.OP, 99),
            DUMP,
            Refusal(errno.ENOENT, offs=HEADERS + 8),
        ),
        (
            GETPOLICY,
            by_name("netdev") + put(77),
            DUMP,
            Refusal(errno.EINVAL, "Unknown attribute type", HEADERS + 12),
        ),
    ],
)
def test_what_there_is_not(
    bench: Bench, cmd: int, attrs: bytes, flags: int, expected: Refusal
) -> None:
    assert bench.refused("nlctrl", cmd, attrs, flags=flags) == expected


def policies(bench: Bench, attrs: bytes) -> tuple[dict[int, list[int]], list[tuple[int, int]]]:
    """Which policies each command uses, and which attributes each policy describes."""
    used: dict[int, list[int]] = {}
    told: list[tuple[int, int]] = []

    def only(attr: Attribute) -> Attribute:
        (child,) = attr.children()
        return child

    *rows, _done = bench.ask("nlctrl", GETPOLICY, attrs, flags=DUMP)
    for row in rows:
        if CtrlAttr.OP_POLICY in row.attrs():
            use = only(row.attrs()[CtrlAttr.OP_POLICY])
            used[use.type] = [entry.u32() for entry in use.children()]
        else:
            policy = only(row.attrs()[CtrlAttr.POLICY])
            told.append((policy.type, only(policy).type))
    return used, told


def test_the_policies_of_bind_rx(bench: Bench) -> None:
    attrs = by_name("netdev") + put_u32(CtrlAttr.OP, NetdevCmd.BIND_RX)
    used, told = policies(bench, attrs)
    assert used == {NetdevCmd.BIND_RX: [0]}
    assert told == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 3)]
    rows = bench.ask("nlctrl", GETPOLICY, attrs, flags=DUMP)
    (nest,) = next(iter(rows[2].attrs()[CtrlAttr.POLICY].children())).children()
    said = {attr.type: attr.u32() for attr in nest.children()}
    assert said[PolicyTypeAttr.POLICY_IDX] == 1
    assert said[PolicyTypeAttr.POLICY_MAXTYPE] == 3


def test_a_policy_that_is_shared_is_told_once(bench: Bench) -> None:
    used, told = policies(bench, by_name("ethtool"))
    assert used == {15: [0, 0], 16: [2], 17: [3, 3], 18: [4]}
    assert len(told) == len(set(told))
    assert [kind for index, kind in told if index == 1] == [1, 2, 3], "the header's"


def test_a_command_without_attributes_is_listed_as_taking_none(bench: Bench) -> None:
    used, told = policies(bench, by_name("netdev"))
    assert used[NetdevCmd.DEV_GET] == [0, 1]
    assert not [kind for index, kind in told if index == 1]
    used, _told = policies(bench, by_name("netdev") + put_u32(CtrlAttr.OP, NetdevCmd.DEV_GET))
    assert used == {NetdevCmd.DEV_GET: [0]}
