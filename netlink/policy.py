# SPDX-License-Identifier: Apache-2.0
"""Attribute policies, and their validation in the kernel's order with the kernel's words.

A :class:`Policy` is the table that a command has: attribute type -> :class:`Rule`. What stands in
no table but below its highest type is NLA_UNSPEC. :func:`parse` walks the attributes once, checks
each as it comes and stops at the first fault, so which of two faults is reported depends on where
they stand: as with ``__nla_validate_parse()`` of lib/nlattr.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from devmemtcp.netlink import attribute
from devmemtcp.netlink.attribute import NLA_HDRLEN, Attribute, Walk
from devmemtcp.netlink.constants import PolicyType, PolicyTypeAttr
from devmemtcp.netlink.extack import ExtAck, Refused

Attrs = dict[int, Attribute]
"""What a message carries: of attributes that are repeated, the last one."""

_INT_SIZE = {PolicyType.U8: 1, PolicyType.U16: 2, PolicyType.U32: 4, PolicyType.U64: 8}
_INT_MAX = {
    PolicyType.U8: 0xFF,
    PolicyType.U16: 0xFFFF,
    PolicyType.U32: 0xFFFFFFFF,
    PolicyType.U64: 0xFFFFFFFFFFFFFFFF,
    PolicyType.UINT: 0xFFFFFFFFFFFFFFFF,
}

MAX_POLICY_RECURSION_DEPTH = 10


@dataclass(frozen=True, slots=True)
class Rule:
    """What an attribute must look like: ``struct nla_policy``.

    ``low`` and ``high`` bound an integer, ``mask`` is the bits it may have, ``length`` the
    longest string without its NUL, ``nested`` the policy within a nest.
    """

    type: PolicyType
    low: int = 0
    high: int | None = None
    mask: int | None = None
    length: int = 0
    nested: Policy | None = None

    def bounds(self) -> tuple[int, int]:
        """Return the inclusive range of an integer."""
        return self.low, _INT_MAX[self.type] if self.high is None else self.high

    def describe(self, index_of: Callable[[Policy], int] | None = None) -> bytes:
        """Return the attributes that tell the rule to user space.

        Args:
            index_of: where CTRL_CMD_GETPOLICY lists a nest's policy; without it, as in an
                extended ACK, nothing is said about the inside of a nest.
        """
        out = b""
        if self.type is PolicyType.NESTED:
            if self.nested is not None and index_of is not None:
                out += attribute.put_u32(PolicyTypeAttr.POLICY_IDX, index_of(self.nested))
                out += attribute.put_u32(PolicyTypeAttr.POLICY_MAXTYPE, self.nested.maxtype)
        elif self.mask is not None:
            out += attribute.put_u64(PolicyTypeAttr.MASK, self.mask)
        elif self.type in _INT_MAX:
            low, high = self.bounds()
            out += attribute.put_u64(PolicyTypeAttr.MIN_VALUE_U, low)
            out += attribute.put_u64(PolicyTypeAttr.MAX_VALUE_U, high)
        elif self.length:
            out += attribute.put_u32(PolicyTypeAttr.MAX_LENGTH, self.length)
        return out + attribute.put_u32(PolicyTypeAttr.TYPE, self.type)


class Policy:
    """The rules of one command or nest. Compared by identity, as the kernel's arrays are."""

    def __init__(self, rules: Mapping[int, Rule], maxtype: int | None = None) -> None:
        self.rules = dict(rules)
        self.maxtype = max(self.rules) if maxtype is None else maxtype


U8 = Rule(PolicyType.U8)
U16 = Rule(PolicyType.U16)
U32 = Rule(PolicyType.U32)
UINT = Rule(PolicyType.UINT)


def at_least(kind: PolicyType, low: int) -> Rule:
    """NLA_POLICY_MIN."""
    return Rule(kind, low=low)


def at_most(kind: PolicyType, high: int) -> Rule:
    """NLA_POLICY_MAX."""
    return Rule(kind, high=high)


def masked(kind: PolicyType, mask: int) -> Rule:
    """NLA_POLICY_MASK."""
    return Rule(kind, mask=int(mask))  # inverted, an IntFlag knows its own bits only


def nul_string(length: int) -> Rule:
    """NLA_NUL_STRING of at most ``length`` bytes before the NUL."""
    return Rule(PolicyType.NUL_STRING, length=length)


def nested(policy: Policy) -> Rule:
    """NLA_POLICY_NESTED."""
    return Rule(PolicyType.NESTED, nested=policy)


def parse(walk: Walk, policy: Policy, extack: ExtAck, *, strict: bool = True) -> Attrs:
    """Validate attributes and return them by type: ``__nla_validate_parse()``.

    Args:
        strict: NL_VALIDATE_STRICT; otherwise NL_VALIDATE_LIBERAL, which lets unknown
            attributes, wrong flags and bytes behind the last attribute pass.

    Raises:
        Refused: EINVAL or ERANGE, with what the kernel says.
    """
    return _parse(walk, policy, extack, strict, 0)


def parse_nested(nest: Attribute, policy: Policy, extack: ExtAck) -> Attrs:
    """Validate the inside of a nest: ``nla_parse_nested()``, always strict."""
    if not nest.nested:
        raise Refused(errno.EINVAL, "NLA_F_NESTED is missing", bad_attr=nest.offset)
    return _parse(nest.children(), policy, extack, True, 0)


def _parse(walk: Walk, policy: Policy, extack: ExtAck, strict: bool, depth: int) -> Attrs:
    if depth >= MAX_POLICY_RECURSION_DEPTH:
        raise Refused(errno.EINVAL, "allowed policy recursion depth exceeded")
    attrs: Attrs = {}
    for attr in walk:
        if not 0 < attr.type <= policy.maxtype:
            if strict:
                raise Refused(errno.EINVAL, "Unknown attribute type", bad_attr=attr.offset)
            continue
        _validate(attr, policy.rules.get(attr.type), extack, strict, depth)
        attrs[attr.type] = attr
    if walk.leftover:
        extack.msg = "bytes leftover after parsing attributes"
        if strict:
            raise Refused(errno.EINVAL)
    return attrs


def _validate(attr: Attribute, rule: Rule | None, extack: ExtAck, strict: bool, depth: int) -> None:
    """``validate_nla()``: length, nest flag, what the type asks for, then range or mask."""
    if rule is None:
        if strict:
            raise Refused(errno.EINVAL, "Unsupported attribute", bad_attr=attr.offset)
        return
    size = len(attr.data)
    if strict and rule.type in _INT_SIZE and size != _INT_SIZE[rule.type]:
        _refuse(attr, rule, errno.EINVAL, "invalid attribute length")
    if strict:
        _check_nest_flag(attr, rule)
    if rule.type is PolicyType.UINT:
        if size not in (4, 8):
            _refuse(attr, rule, errno.EINVAL, "invalid attribute length")
    elif rule.type is PolicyType.NUL_STRING:
        _check_string(attr, rule)
    elif rule.type is PolicyType.NESTED:
        _check_nest(attr, rule, extack, strict, depth)
        return
    elif size < _INT_SIZE[rule.type]:
        _refuse(attr, rule, errno.ERANGE)
    if rule.type in _INT_MAX:
        _check_integer(attr, rule)


def _check_nest_flag(attr: Attribute, rule: Rule) -> None:
    if rule.type is PolicyType.NESTED and not attr.nested:
        _refuse(attr, rule, errno.EINVAL, "NLA_F_NESTED is missing")
    if rule.type is not PolicyType.NESTED and attr.nested:
        _refuse(attr, rule, errno.EINVAL, "NLA_F_NESTED not expected")


def _check_string(attr: Attribute, rule: Rule) -> None:
    size = len(attr.data)
    if b"\0" not in attr.data[: rule.length + 1]:
        _refuse(attr, rule, errno.EINVAL)
    if size - attr.data.endswith(b"\0") > rule.length:
        _refuse(attr, rule, errno.ERANGE)


def _check_nest(attr: Attribute, rule: Rule, extack: ExtAck, strict: bool, depth: int) -> None:
    """A nest may be empty; if it is not, it holds at least an attribute's header."""
    if not attr.data:
        return
    if len(attr.data) < NLA_HDRLEN:
        _refuse(attr, rule, errno.ERANGE)
    if rule.nested is not None:
        _parse(attr.children(), rule.nested, extack, strict, depth + 1)


def _check_integer(attr: Attribute, rule: Rule) -> None:
    value = int.from_bytes(attr.data[: _INT_SIZE.get(rule.type, len(attr.data))], "little")
    if rule.mask is not None:
        if value & ~rule.mask:
            raise Refused(errno.EINVAL, "reserved bit set", bad_attr=attr.offset)
        return
    low, high = rule.bounds()
    if not low <= value <= high:
        _refuse(attr, rule, errno.ERANGE, "integer out of range")


def _refuse(
    attr: Attribute, rule: Rule, error: int, msg: str = "Attribute failed policy validation"
) -> NoReturn:
    raise Refused(error, msg, bad_attr=attr.offset, policy=rule.describe())
