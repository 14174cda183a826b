# SPDX-License-Identifier: Apache-2.0
"""The extended ACK: what an answer says beyond its errno, and the refusal that carries it.

A handler raises :class:`Refused`; the server turns it into NLMSG_ERROR, or into the NLMSG_DONE
that ends a dump. Sources: ``struct netlink_ext_ack``, ``netlink_ack_tlv_fill()``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from devmemtcp.netlink import attribute
from devmemtcp.netlink.constants import ExtAckAttr


@dataclass(slots=True)
class ExtAck:
    """What has been said so far about one request. Offsets count from its nlmsghdr."""

    msg: str | None = None
    bad_attr: int | None = None
    policy: bytes | None = None
    miss_type: int | None = None
    miss_nest: int | None = None

    def take(self, refused: Refused) -> None:
        """Take over what a refusal says; what it is silent about stays as it was."""
        for name in ("msg", "bad_attr", "policy", "miss_type", "miss_nest"):
            said = getattr(refused, name)
            if said is not None:
                setattr(self, name, said)

    def tlvs(self, error: int) -> bytes:
        """Return the TLVs of an ACK with this (positive) errno; of success only the text."""
        out = b"" if self.msg is None else attribute.put_string(ExtAckAttr.MSG, self.msg)
        if not error:
            return out
        if self.bad_attr is not None:
            out += attribute.put_u32(ExtAckAttr.OFFS, self.bad_attr)
        if self.policy is not None:
            out += attribute.nest(ExtAckAttr.POLICY, self.policy)
        if self.miss_type is not None:
            out += attribute.put_u32(ExtAckAttr.MISS_TYPE, self.miss_type)
        if self.miss_nest is not None:
            out += attribute.put_u32(ExtAckAttr.MISS_NEST, self.miss_nest)
        return out


class Refused(OSError):
    """A request is refused: an errno and, where the kernel has one, its extack.

    Args:
        errno: positive.
        msg: the extack's text.
        bad_attr: offset of the attribute that is to blame, from the nlmsghdr.
        policy: the broken policy, as :meth:`devmemtcp.netlink.policy.Rule.describe` writes it.
        miss_type: type of an attribute that is missing.
        miss_nest: offset of the nest that it is missing from.
    """

    def __init__(
        self,
        errno: int,
        msg: str | None = None,
        *,
        bad_attr: int | None = None,
        policy: bytes | None = None,
        miss_type: int | None = None,
        miss_nest: int | None = None,
    ) -> None:
        super().__init__(errno, msg or os.strerror(errno))
        self.msg = msg
        self.bad_attr = bad_attr
        self.policy = policy
        self.miss_type = miss_type
        self.miss_nest = miss_nest
