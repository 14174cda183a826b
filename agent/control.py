# SPDX-License-Identifier: Apache-2.0
"""Messages between an application and the isolated process that runs its stack.

They travel over a SOCK_SEQPACKET socket: JSON, cut into packets that each begin with the
number of the call and whether they are its message's first and last. A call is
[method, arguments, options] in one packet, with file descriptors (SCM_RIGHTS) where it needs any;
its answer, of any length, is {"result": ...} or {"error": ...}. One call at a time.

Why packets with numbers: a Ctrl-C may end a call anywhere, also between two packets of its
answer. Whoever calls next skips what belongs to the call that was given up.
"""

from __future__ import annotations

import array
import json
import socket
import struct
from typing import Any

from devmemtcp.agent.errors import ConfigError, Unsupported, XdpError

_HEADER = struct.Struct("=I??")  # number of the call, first packet, last packet
_PIECE = 64 * 1024
"""Bytes of JSON a packet: a socket's buffer holds several (net.core.wmem_default)."""
_MAX_FDS = 16


class Gone(Exception):
    """The other side has closed its end, or died."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new control socket."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, number: int, message: Any, fds: tuple[int, ...] = ()) -> None:
    """Send one message; descriptors go with its first packet. Raises Gone."""
    body = json.dumps(message).encode()
    try:
        for start in range(0, len(body), _PIECE):
            end = start + _PIECE
            packet = [_HEADER.pack(number, start == 0, end >= len(body)), body[start:end]]
            socket.send_fds(sock, packet, list(fds)) if fds else sock.sendmsg(packet)
            fds = ()
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Gone from error


def receive(sock: socket.socket) -> tuple[int, Any, list[int]]:
    """The next whole message: (number of its call, message, descriptors). Raises Gone."""
    fds: list[int] = []
    number, body = -1, b""
    while True:
        packet = _packet(sock, fds)
        belongs_to, first, last = _HEADER.unpack_from(packet)
        if first:
            number, body = belongs_to, b""
        elif belongs_to != number:
            continue  # the rest of a message whose beginning was taken by a call given up
        body += packet[_HEADER.size :]
        if last:
            return number, json.loads(body), fds


def _packet(sock: socket.socket, fds: list[int]) -> bytes:
    space = socket.CMSG_SPACE(4 * _MAX_FDS)
    try:
        packet, rights, _, _ = sock.recvmsg(_HEADER.size + _PIECE, space, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError as error:
        raise Gone from error
    if not packet:
        raise Gone
    for level, kind, payload in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.extend(array.array("i", payload[: len(payload) // 4 * 4]))
    return packet


def pack_error(error: Exception) -> dict[str, Any]:
    """An exception as an answer."""
    if isinstance(error, OSError):
        kind = "XdpError" if isinstance(error, XdpError) else "OSError"
        details = {"errno": error.errno, "log": getattr(error, "log", "")}
        return {"error": {"kind": kind, "text": error.strerror or str(error), **details}}
    if isinstance(error, ConfigError):
        return {"error": {"kind": "ConfigError", "text": str(error), "errno": error.errno}}
    if isinstance(error, Unsupported):
        return {"error": {"kind": "Unsupported", "text": str(error)}}
    return {"error": {"kind": "", "text": repr(error)}}


def unpack(answer: dict[str, Any]) -> Any:
    """The result of an answer, or its exception, raised."""
    if "error" not in answer:
        return answer["result"]
    error = answer["error"]
    match error["kind"]:
        case "ConfigError":
            raise ConfigError(error["text"], error["errno"])
        case "Unsupported":
            raise Unsupported(error["text"])
        case "XdpError":
            restored = XdpError(error["errno"], error["text"], error["log"])
            restored.strerror = error["text"]  # which ends with the errno's meaning already
            raise restored
        case "OSError":
            raise OSError(error["errno"], error["text"])
    raise RuntimeError(f"in the stack's process: {error['text']}")
