# SPDX-License-Identifier: Apache-2.0
"""Attribute policies: each rule of lib/nlattr.c by errno, text, offset and advertised policy."""

from __future__ import annotations

import errno
import struct

import pytest

from devmemtcp.netlink.attribute import Walk, nest, nest_noflag, put, put_u8, put_u32, put_u64
from devmemtcp.netlink.constants import NlaFlag, PolicyType, PolicyTypeAttr
from devmemtcp.netlink.extack import ExtAck, Refused
from devmemtcp.netlink.policy import (
    U8,
    U16,
    U32,
    UINT,
    Attrs,
    Policy,
    Rule,
    at_least,
    at_most,
    masked,
    nested,
    nul_string,
    parse,
    parse_nested,
)

BASE = 20
INNER = Policy({1: U32, 3: at_most(PolicyType.U32, 1)})
POLICY = Policy(
    {
        1: at_least(PolicyType.U32, 1),
        2: nested(INNER),
        3: UINT,
        4: masked(PolicyType.UINT, 1),
        5: nul_string(7),
        6: U8,
        8: Rule(PolicyType.U32, low=1, high=0x7FFFFFFF),
        9: U16,
        10: Rule(PolicyType.U64),
    }
)
INVALID_LENGTH = "invalid attribute length"
OUT_OF_RANGE = "integer out of range"
FAILED = "Attribute failed policy validation"


def parsed(stream: bytes, *, strict: bool = True, extack: ExtAck | None = None) -> Attrs:
    return parse(Walk(stream, BASE), POLICY, extack or ExtAck(), strict=strict)


@pytest.mark.parametrize(
    ("stream", "error", "msg", "rule"),
    [
        (put(0), errno.EINVAL, "Unknown attribute type", None),
        (put(11), errno.EINVAL, "Unknown attribute type", None),
        (put(0x3FFF), errno.EINVAL, "Unknown attribute type", None),
        (put(7), errno.EINVAL, "Unsupported attribute", None),
        (put_u32(1, 0), errno.ERANGE, OUT_OF_RANGE, 1),
        (put(1, bytes(3)), errno.EINVAL, INVALID_LENGTH, 1),
        (put(1, bytes(5)), errno.EINVAL, INVALID_LENGTH, 1),
        (put(1), errno.EINVAL, INVALID_LENGTH, 1),
        (put_u32(1 | NlaFlag.NESTED, 1), errno.EINVAL, "NLA_F_NESTED not expected", 1),
        (put(1 | NlaFlag.NESTED, b"x"), errno.EINVAL, INVALID_LENGTH, 1),
        (nest_noflag(2), errno.EINVAL, "NLA_F_NESTED is missing", 2),
        (nest(2, b"abc")[:7] + b"\0", errno.ERANGE, FAILED, 2),
        (put(3, bytes(2)), errno.EINVAL, INVALID_LENGTH, 3),
        (put_u32(4, 2), errno.EINVAL, "reserved bit set", None),
        (put_u64(4, 1 << 40), errno.EINVAL, "reserved bit set", None),
        (put(5), errno.EINVAL, FAILED, 5),
        (put(5, b"abc"), errno.EINVAL, FAILED, 5),
        (put(5, b"abcdefgh\0"), errno.EINVAL, FAILED, 5),
        (put(5, b"abc\0defgh"), errno.ERANGE, FAILED, 5),
        (put(6, bytes(4)), errno.EINVAL, INVALID_LENGTH, 6),
        (put_u32(8, 0x80000000), errno.ERANGE, OUT_OF_RANGE, 8),
        (put(9, bytes(4)), errno.EINVAL, INVALID_LENGTH, 9),
        (put(10, bytes(4)), errno.EINVAL, INVALID_LENGTH, 10),
    ],
)
def test_a_fault_is_reported_as_the_kernel_does(
    stream: bytes, error: int, msg: str, rule: int | None
) -> None:
    with pytest.raises(Refused) as caught:
        parsed(put_u32(3, 9) + stream)
    refused = caught.value
    assert (refused.errno, refused.msg, refused.bad_attr) == (error, msg, BASE + 8)
    assert refused.policy == (None if rule is None else POLICY.rules[rule].describe())


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        put_u32(1, 1),
        put_u32(1, 0xFFFFFFFF),
        put_u32(1 | NlaFlag.NET_BYTEORDER, 1),
        nest(2),
        nest(2, put_u32(1, 5) + put_u32(3, 1)),
        put_u32(3, 0),
        put_u64(3, 1 << 63),
        put_u64(4, 1),
        put(5, b"\0"),
        put(5, b"abcdefg\0"),
        put_u8(6, 255),
        put_u32(8, 0x7FFFFFFF),
    ],
)
def test_what_fits_the_policy_passes(stream: bytes) -> None:
    parsed(stream)


def test_faults_inside_a_nest_are_named_by_their_own_offset() -> None:
    with pytest.raises(Refused) as caught:
        parsed(put_u32(1, 1) + nest(2, put_u32(1, 5) + put_u32(3, 2)))
    assert caught.value.bad_attr == BASE + 8 + 4 + 8
    assert caught.value.policy == INNER.rules[3].describe()
    with pytest.raises(Refused) as caught:
        parsed(nest(2, put_u32(9, 5)))
    assert (caught.value.msg, caught.value.bad_attr) == ("Unknown attribute type", BASE + 4)


def test_the_first_fault_in_the_stream_is_reported() -> None:
    with pytest.raises(Refused) as caught:
        parsed(put(9, b"x") + put_u32(1, 0))
    assert caught.value.msg == INVALID_LENGTH


def test_of_repeated_attributes_the_last_one_counts() -> None:
    assert parsed(put_u32(3, 1) + put_u32(3, 2))[3].u32() == 2


@pytest.mark.parametrize("tail", [b"x", b"xyz", struct.pack("=HH", 3, 1), struct.pack("=HH", 9, 1)])
def test_bytes_behind_the_last_attribute_are_refused(tail: bytes) -> None:
    extack = ExtAck()
    with pytest.raises(Refused) as caught:
        parsed(put_u32(1, 1) + tail, extack=extack)
    extack.take(caught.value)
    assert extack == ExtAck(msg="bytes leftover after parsing attributes")


def test_padding_that_the_message_does_not_have_is_not_missed() -> None:
    assert parsed(put_u32(1, 1) + put_u8(6, 7)[:5])[6].u8() == 7


def test_liberal_validation_forgives_what_old_commands_forgave() -> None:
    extack = ExtAck()
    stream = put(99) + put(7, b"x") + put(9, b"abc") + nest_noflag(2) + b"x"
    assert set(parsed(stream, strict=False, extack=extack)) == {7, 9, 2}
    assert extack.msg == "bytes leftover after parsing attributes"
    with pytest.raises(Refused) as caught:
        parsed(put(9, b"a"), strict=False)
    assert (caught.value.errno, caught.value.msg) == (errno.ERANGE, FAILED)


def test_nests_deeper_than_the_kernel_goes_are_refused() -> None:
    policy = Policy({}, maxtype=1)
    policy.rules[1] = nested(policy)
    stream = b""
    for _ in range(10):
        stream = nest(1, stream)
    parse(Walk(stream, BASE), policy, ExtAck())
    with pytest.raises(Refused) as caught:
        parse(Walk(nest(1, stream), BASE), policy, ExtAck())
    assert caught.value.msg == "allowed policy recursion depth exceeded"


def test_parse_nested_wants_the_flag() -> None:
    (attr,) = Walk(nest_noflag(2, put_u32(1, 5)), BASE)
    with pytest.raises(Refused) as caught:
        parse_nested(attr, INNER, ExtAck())
    assert (caught.value.msg, caught.value.bad_attr) == ("NLA_F_NESTED is missing", BASE)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (U32, {4: 0, 5: 0xFFFFFFFF, 1: PolicyType.U32}),
        (at_least(PolicyType.U32, 1), {4: 1, 5: 0xFFFFFFFF, 1: PolicyType.U32}),
        (at_most(PolicyType.U8, 2), {4: 0, 5: 2, 1: PolicyType.U8}),
        (UINT, {4: 0, 5: 0xFFFFFFFFFFFFFFFF, 1: PolicyType.UINT}),
        (masked(PolicyType.UINT, 1), {12: 1, 1: PolicyType.UINT}),
        (nul_string(127), {7: 127, 1: PolicyType.NUL_STRING}),
        (nested(INNER), {1: PolicyType.NESTED}),
    ],
)
def test_a_rule_is_told_as_getpolicy_tells_it(rule: Rule, told: dict[int, int]) -> None:
    said = {attr.type: int.from_bytes(attr.data, "little") for attr in Walk(rule.describe(), 0)}
    assert said == told
    assert list(said)[-1] == PolicyTypeAttr.TYPE
