# SPDX-License-Identifier: Apache-2.0
"""Errors of netlink sockets, by whose fault they are.

``ValueError``: the caller's, raised before anything is sent. :class:`NetlinkError`: the kernel,
or the agent in its place, refused a request. :class:`Unsupported`: it does not know the family.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devmemtcp.netlink.acknowledgement import Acknowledgement
    from devmemtcp.netlink.constants import PolicyTypeAttr


class NetlinkError(OSError):
    """A request was refused.

    ``errno`` is the answer's; ``extack`` is its text, empty if there is none. ``bad_attr`` is
    the offset of the attribute at fault in the request, ``miss_type`` the number of a missing
    one, in the nest at offset ``miss_nest`` or in the message itself. ``bad_attr_name`` and
    ``miss_type_name`` are their names in the YAML specification, a path for one inside a nest
    (``queues/type``), or None where they could not be told. ``policy`` is the rule broken.
    """

    def __init__(
        self,
        number: int,
        request: str,
        ack: Acknowledgement,
        *,
        bad_attr_name: str | None = None,
        miss_type_name: str | None = None,
    ) -> None:
        self.extack: str = ack.msg or ""
        self.bad_attr: int | None = ack.bad_attr
        self.bad_attr_name = bad_attr_name
        self.miss_type: int | None = ack.miss_type
        self.miss_type_name = miss_type_name
        self.miss_nest: int | None = ack.miss_nest
        self.policy: dict[PolicyTypeAttr, int] | None = ack.policy
        super().__init__(number, f"{request}: {self._reason(number)}")

    def _reason(self, number: int) -> str:
        words = [os.strerror(number)]
        if self.extack:
            words.append(f": {self.extack}")
        if self.bad_attr is not None:
            words.append(f" (attribute {self.bad_attr_name or f'at byte {self.bad_attr}'})")
        if self.miss_type is not None:
            words.append(f" (missing attribute {self.miss_type_name or self.miss_type})")
        return "".join(words)


class ProtocolError(OSError):
    """An answer is not what netlink allows (EBADMSG)."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EBADMSG, f"malformed netlink answer: {what}")


class DumpInterrupted(OSError):
    """What was dumped changed meanwhile, so the answer may be inconsistent (EINTR). Ask again."""

    def __init__(self, request: str) -> None:
        super().__init__(errno.EINTR, f"{request}: the dump was interrupted by a change")


class NotificationsLost(OSError):
    """More notifications came than the socket had room for (ENOBUFS).

    Which ones is not known. The socket still works; dump the objects to know where they stand.
    """

    def __init__(self) -> None:
        super().__init__(errno.ENOBUFS, "notifications were lost: the receive buffer was full")


class Unsupported(Exception):
    """The kernel or the agent lacks what was asked for; the message says which."""
