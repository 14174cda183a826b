# SPDX-License-Identifier: Apache-2.0
"""The controller, family "nlctrl": which families there are, what they can do, their policies.

Source: net/netlink/genetlink.c, net/netlink/policy.c.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping

from devmemtcp.netlink import attribute
from devmemtcp.netlink.constants import (
    GENL_CTRL_MCGRP_NOTIFY,
    GENL_CTRL_NAME,
    GENL_CTRL_VERSION,
    CtrlAttr,
    CtrlCmd,
    CtrlMcastGrpAttr,
    CtrlOpAttr,
    GenlOpFlag,
)
from devmemtcp.netlink.extack import Refused
from devmemtcp.netlink.family import Family, Op, Request
from devmemtcp.netlink.policy import U16, U32, Policy, nul_string

GENL_NAMSIZ = 16
CTRL_ATTR_POLICY_DO = 1
CTRL_ATTR_POLICY_DUMP = 2

_FAMILY_POLICY = Policy(
    {CtrlAttr.FAMILY_ID: U16, CtrlAttr.FAMILY_NAME: nul_string(GENL_NAMSIZ - 1)}
)
_POLICY_POLICY = Policy(
    {
        CtrlAttr.FAMILY_ID: U16,
        CtrlAttr.FAMILY_NAME: nul_string(GENL_NAMSIZ - 1),
        CtrlAttr.OP: U32,
    }
)


# What the kernel's list of all policies has for a command, new enough, without one. It is not
# held to it, and asked about alone it has none.
_REJECT_ALL = Policy({}, maxtype=1)


def family(families: Mapping[int, Family]) -> Family:
    """Return the family that answers for ``families``, which the server fills."""
    handlers = _Controller(families)
    return Family(
        name=GENL_CTRL_NAME,
        version=GENL_CTRL_VERSION,
        groups=(GENL_CTRL_MCGRP_NOTIFY,),
        resv_start_op=CtrlCmd.GETPOLICY + 1,
        ops={
            CtrlCmd.GETFAMILY: Op(
                do=handlers.get_family,
                dump=handlers.dump_families,
                do_policy=_FAMILY_POLICY,
                dump_policy=_FAMILY_POLICY,
                reply_cmd=CtrlCmd.NEWFAMILY,
                strict=False,
            ),
            CtrlCmd.GETPOLICY: Op(
                dump=handlers.dump_policies, dump_policy=_POLICY_POLICY, done_apart=True
            ),
        },
    )


class _Controller:
    def __init__(self, families: Mapping[int, Family]) -> None:
        self._families = families

    def _by_name(self, name: bytes) -> Family | None:
        return next((f for f in self._families.values() if f.name.encode() == name), None)

    def get_family(self, request: Request) -> bytes:
        """CTRL_CMD_GETFAMILY of one: the name decides if both are given."""
        attrs = request.attrs
        found = None
        if CtrlAttr.FAMILY_ID in attrs:
            found = self._families.get(_family_id(request))
        if CtrlAttr.FAMILY_NAME in attrs:
            found = self._by_name(attrs[CtrlAttr.FAMILY_NAME].string())
        if found is None:
            raise Refused(errno.ENOENT if attrs else errno.EINVAL)
        return _describe(found)

    def dump_families(self, request: Request) -> Iterator[bytes]:
        return (_describe(one) for one in self._families.values())

    def dump_policies(self, request: Request) -> Iterator[bytes]:
        """CTRL_CMD_GETPOLICY: which command uses which policy, then the policies."""
        attrs = request.attrs
        if CtrlAttr.FAMILY_ID in attrs:
            found = self._families.get(_family_id(request))
        elif CtrlAttr.FAMILY_NAME in attrs:
            found = self._by_name(attrs[CtrlAttr.FAMILY_NAME].string())
        else:
            raise Refused(errno.EINVAL)
        if found is None:
            raise Refused(errno.ENOENT)
        ops = dict(sorted(found.ops.items()))
        uses: dict[int, dict[int, Policy]]
        if CtrlAttr.OP in attrs:
            cmd = attrs[CtrlAttr.OP].u32()
            if cmd not in ops:
                raise Refused(errno.ENOENT, bad_attr=attrs[CtrlAttr.OP].offset)
            uses = {cmd: _policies_of(ops[cmd], None)}
        else:
            uses = {cmd: _listed_policies(found, cmd, op) for cmd, op in ops.items()}
        policies: list[Policy] = []
        for use in uses.values():
            for policy in use.values():
                _add_policy(policies, policy)
        if not policies:
            raise Refused(errno.ENODATA)
        return _policy_messages(found.id, uses, policies)


def _family_id(request: Request) -> int:
    """Validated liberally, the attribute may be longer than the number in it."""
    return int.from_bytes(request.attrs[CtrlAttr.FAMILY_ID].data[:2], "little")


def _describe(family: Family) -> bytes:
    """ctrl_fill_info()."""
    out = (
        attribute.put_string(CtrlAttr.FAMILY_NAME, family.name)
        + attribute.put_u16(CtrlAttr.FAMILY_ID, family.id)
        + attribute.put_u32(CtrlAttr.VERSION, family.version)
        + attribute.put_u32(CtrlAttr.HDRSIZE, 0)
        + attribute.put_u32(CtrlAttr.MAXATTR, 0)
    )
    if family.ops:
        ops = (
            attribute.nest_noflag(
                index,
                attribute.put_u32(CtrlOpAttr.ID, cmd)
                + attribute.put_u32(CtrlOpAttr.FLAGS, _op_flags(family, cmd, op)),
            )
            for index, (cmd, op) in enumerate(sorted(family.ops.items()), 1)
        )
        out += attribute.nest_noflag(CtrlAttr.OPS, b"".join(ops))
    if family.groups:
        groups = (
            attribute.nest_noflag(
                index,
                attribute.put_u32(CtrlMcastGrpAttr.ID, family.group_ids[name])
                + attribute.put_string(CtrlMcastGrpAttr.NAME, name),
            )
            for index, name in enumerate(family.groups, 1)
        )
        out += attribute.nest_noflag(CtrlAttr.MCAST_GROUPS, b"".join(groups))
    return out


def _op_flags(family: Family, cmd: int, op: Op) -> GenlOpFlag:
    flags = op.perm
    if op.do is not None:
        flags |= GenlOpFlag.CMD_CAP_DO
    if op.dump is not None:
        flags |= GenlOpFlag.CMD_CAP_DUMP
    if _listed_policies(family, cmd, op):
        flags |= GenlOpFlag.CMD_CAP_HASPOL
    return flags


def _listed_policies(family: Family, cmd: int, op: Op) -> dict[int, Policy]:
    """The policies of a command in a list of all of them."""
    return _policies_of(op, _REJECT_ALL if cmd >= family.resv_start_op else None)


def _policies_of(op: Op, fallback: Policy | None) -> dict[int, Policy]:
    """CTRL_ATTR_POLICY_DO and _DUMP -> policy."""
    do = None if op.do is None else op.do_policy or fallback
    dump = None if op.dump is None else op.dump_policy or fallback
    found = {CTRL_ATTR_POLICY_DO: do, CTRL_ATTR_POLICY_DUMP: dump}
    return {kind: policy for kind, policy in found.items() if policy is not None}


def _add_policy(found: list[Policy], policy: Policy) -> None:
    if policy in found:
        return
    found.append(policy)
    for _kind, rule in sorted(policy.rules.items()):
        if rule.nested is not None:
            _add_policy(found, rule.nested)


def _policy_messages(
    family_id: int, uses: Mapping[int, Mapping[int, Policy]], policies: list[Policy]
) -> Iterator[bytes]:
    header = attribute.put_u16(CtrlAttr.FAMILY_ID, family_id)
    for cmd, use in uses.items():
        if use:
            # The kernel names the command by its do part: one that can only dump is "0".
            named = cmd if CTRL_ATTR_POLICY_DO in use else 0
            content = b"".join(
                attribute.put_u32(kind, policies.index(policy)) for kind, policy in use.items()
            )
            yield header + attribute.nest(CtrlAttr.OP_POLICY, attribute.nest(named, content))
    for index, policy in enumerate(policies):
        for kind, rule in sorted(policy.rules.items()):
            content = attribute.nest(kind, rule.describe(policies.index))
            yield header + attribute.nest(CtrlAttr.POLICY, attribute.nest(index, content))
