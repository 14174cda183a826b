# SPDX-License-Identifier: Apache-2.0
"""What an answer says about a failure beyond its errno: the extended ACK, as it is read.

Its attributes follow the copied header in NLMSG_ERROR and the errno in NLMSG_DONE; see
``include/uapi/linux/netlink.h`` (enum nlmsgerr_attrs) and ``net/netlink/af_netlink.c``
(netlink_ack_tlv_fill).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from devmemtcp.netlink.attribute import Attribute, Walk
from devmemtcp.netlink.constants import ExtAckAttr, PolicyTypeAttr
from devmemtcp.netlink.errors import ProtocolError


@dataclass(frozen=True)
class Acknowledgement:
    """What is None was not said."""

    msg: str | None = None
    bad_attr: int | None = None
    """Offset of the attribute at fault from the request's nlmsghdr, in bytes."""
    cookie: bytes | None = None
    policy: dict[PolicyTypeAttr, int] | None = None
    """The rule that the value broke: its type, and its limits or its mask."""
    miss_type: int | None = None
    """Number of an attribute that is required and was not there."""
    miss_nest: int | None = None
    """Offset of the nest that lacks it; None: the message itself does."""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the attributes of an extended acknowledgement; those not known are skipped.

        Raises ProtocolError when they are malformed.
        """
        ack = cls()
        for attribute in _attributes(data):
            value = attribute.data
            match attribute.type:
                case ExtAckAttr.MSG:
                    ack = replace(ack, msg=value.rstrip(b"\0").decode(errors="replace"))
                case ExtAckAttr.OFFS:
                    ack = replace(ack, bad_attr=_unsigned(value))
                case ExtAckAttr.COOKIE:
                    ack = replace(ack, cookie=value)
                case ExtAckAttr.POLICY:
                    ack = replace(ack, policy=_policy(value))
                case ExtAckAttr.MISS_TYPE:
                    ack = replace(ack, miss_type=_unsigned(value))
                case ExtAckAttr.MISS_NEST:
                    ack = replace(ack, miss_nest=_unsigned(value))
        return ack


def _attributes(data: bytes) -> Iterator[Attribute]:
    walk = Walk(data, 0)
    yield from walk
    if walk.leftover:
        raise ProtocolError(f"{walk.leftover} bytes that are no attribute in an acknowledgement")


def _unsigned(value: bytes) -> int:
    if len(value) != 4:
        raise ProtocolError(f"a number of {len(value)} bytes in an acknowledgement")
    return int.from_bytes(value, sys.byteorder)


def _policy(nest: bytes) -> dict[PolicyTypeAttr, int]:
    known = set(PolicyTypeAttr) - {PolicyTypeAttr.PAD}
    return {
        PolicyTypeAttr(attribute.type): _limit(PolicyTypeAttr(attribute.type), attribute.data)
        for attribute in _attributes(nest)
        if attribute.type in known
    }


def _limit(attr: PolicyTypeAttr, value: bytes) -> int:
    signed = attr in (PolicyTypeAttr.MIN_VALUE_S, PolicyTypeAttr.MAX_VALUE_S)
    return int.from_bytes(value, sys.byteorder, signed=signed)
