# SPDX-License-Identifier: Apache-2.0
"""Messages between an application and the isolated process that runs its stack.

A message is a JSON document behind its length (4 bytes, native), on a stream socket; the
first one carries file descriptors (SCM_RIGHTS). A call is [method, arguments...], its answer
{"result": ...} or {"error": ...}. One call at a time.
"""

from __future__ import annotations

import array
import json
import socket
import struct
from typing import Any

from devmemtcp.agent.errors import ConfigError, Unsupported, XdpError

_LENGTH = struct.Struct("=I")
_MAX_FDS = 16


class Gone(Exception):
    """The other side has closed its end, or died."""


def send(sock: socket.socket, message: Any, fds: tuple[int, ...] = ()) -> None:
    """Send one message. Raises Gone."""
    body = json.dumps(message).encode()
    data = _LENGTH.pack(len(body)) + body
    try:
        sent = socket.send_fds(sock, [data], list(fds)) if fds else 0
        sock.sendall(data[sent:])
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Gone from error


def receive(sock: socket.socket) -> tuple[Any, list[int]]:
    """The next message and the descriptors that came with it. Raises Gone."""
    fds: list[int] = []
    try:
        (length,) = _LENGTH.unpack(_exactly(sock, _LENGTH.size, fds))
        return json.loads(_exactly(sock, length, fds)), fds
    except ConnectionResetError as error:
        raise Gone from error


def _exactly(sock: socket.socket, size: int, fds: list[int]) -> bytes:
    parts = []
    while size:
        space = socket.CMSG_SPACE(4 * _MAX_FDS)
        data, control, _, _ = sock.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
        if not data:
            raise Gone
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.extend(array.array("i", payload[: len(payload) // 4 * 4]))
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def pack_error(error: Exception) -> dict[str, Any]:
    """An exception as an answer."""
    if isinstance(error, OSError):
        kind = "XdpError" if isinstance(error, XdpError) else "OSError"
        details = {"errno": error.errno, "log": getattr(error, "log", "")}
        return {"error": {"kind": kind, "text": error.strerror or str(error), **details}}
    if isinstance(error, ConfigError | Unsupported):
        return {"error": {"kind": type(error).__name__, "text": str(error)}}
    return {"error": {"kind": "", "text": repr(error)}}


def unpack(answer: dict[str, Any]) -> Any:
    """The result of an answer, or its exception, raised."""
    if "error" not in answer:
        return answer["result"]
    error = answer["error"]
    match error["kind"]:
        case "ConfigError":
            raise ConfigError(error["text"])
        case "Unsupported":
            raise Unsupported(error["text"])
        case "XdpError":
            restored = XdpError(error["errno"], error["text"], error["log"])
            restored.strerror = error["text"]  # which ends with the errno's meaning already
            raise restored
        case "OSError":
            raise OSError(error["errno"], error["text"])
    raise RuntimeError(f"in the stack's process: {error['text']}")
