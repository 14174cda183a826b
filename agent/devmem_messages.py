# SPDX-License-Identifier: Apache-2.0
"""Taking apart what recvmsg(2) has left in a control buffer."""

from __future__ import annotations

import socket
from typing import Any, TypeAlias

from devmemtcp.agent._loop import ffi
from devmemtcp.agent.devmem_abi import SCM_DEVMEM_LINEAR, DmabufCmsg

AncData: TypeAlias = list[tuple[int, int, bytes]]
"""(level, type, data) of each message, as Python's `socket` has them."""


def messages(control: Any, used: int) -> AncData:
    """Take a control buffer apart: cmsghdr (length, level, type), data, padding."""
    found: AncData = []
    at = 0
    header = socket.CMSG_LEN(0)
    raw = ffi.buffer(control, used)
    while at + header <= used:
        message = ffi.cast("struct app_cmsg *", control + at)
        end = at + message.len
        found.append((message.level, message.type, raw[at + header : end]))
        at += socket.CMSG_SPACE(message.len - header)
    return found


def host_bytes(room: Any, size: int, ancdata: AncData, flags: int) -> bytes:
    """The bytes that were written, and zeros for those in device memory."""
    if flags & socket.MSG_TRUNC:
        return bytes(size)
    if not ancdata:
        return bytes(ffi.buffer(room, size))
    linear = sum(
        DmabufCmsg.unpack(data).frag_size for _, kind, data in ancdata if kind == SCM_DEVMEM_LINEAR
    )
    return bytes(ffi.buffer(room, linear)) + bytes(size - linear) if linear else bytes(size)
