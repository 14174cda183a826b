# SPDX-License-Identifier: Apache-2.0
"""A family of generic netlink: found by its name, asked by command."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any, Self

from pyroute2.netlink import ctrlmsg

from devmemtcp.netlink.connection import Connection, Message
from devmemtcp.netlink.constants import GENL_CTRL_VERSION, GENL_ID_CTRL, CtrlCmd
from devmemtcp.netlink.errors import NetlinkError, ProtocolError, Unsupported

Attributes = list[tuple[str, Any]]
"""Attributes as pyroute2 takes them: (name, value), a nest's value ``{"attrs": [...]}``."""


class GenlFamily:
    """One family over one connection, which it owns, and closes if the family is not there."""

    def __init__(self, connection: Connection, name: str, version: int) -> None:
        """Look the family up (CTRL_CMD_GETFAMILY). Raises Unsupported when there is none."""
        self.connection = connection
        self.name = name
        self.version = version
        try:
            found = _get_family(connection, name)
        except BaseException:
            connection.close()
            raise
        self.id: int = found.get_attr("CTRL_ATTR_FAMILY_ID")
        self.groups: dict[str, int] = {
            group.get_attr("CTRL_ATTR_MCAST_GRP_NAME"): group.get_attr("CTRL_ATTR_MCAST_GRP_ID")
            for group in found.get_attr("CTRL_ATTR_MCAST_GROUPS") or ()
        }
        """Ids of the multicast groups by name."""
        self.commands = frozenset[int](
            op.get_attr("CTRL_ATTR_OP_ID") for op in found.get_attr("CTRL_ATTR_OPS") or ()
        )
        """Numbers of the commands it takes."""

    def do(
        self,
        command: int,
        message_class: type[Any],
        attrs: Attributes,
        what: str,
        fds: Sequence[int] = (),
    ) -> list[Any]:
        """Ask about one object. Returns the answer's messages, decoded: mostly one or none."""
        request = self._request(command, message_class, attrs)
        return decode(self.connection.request(request, what, fds=fds), message_class)

    def dump(
        self, command: int, message_class: type[Any], attrs: Attributes, what: str
    ) -> list[Any]:
        """Ask for all objects that the attributes leave. Returns a decoded message for each."""
        request = self._request(command, message_class, attrs)
        return decode(self.connection.request(request, what, dump=True), message_class)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _request(self, command: int, message_class: type[Any], attrs: Attributes) -> Any:
        request = message_class()
        request["header"]["type"] = self.id
        request["cmd"] = int(command)
        request["version"] = self.version
        request["attrs"] = list(attrs)
        return request


def decode(messages: Sequence[Message], message_class: type[Any]) -> list[Any]:
    """Decode messages with a pyroute2 class. Raises ProtocolError for a malformed one."""
    return [_decode(message, message_class) for message in messages]


def _decode(message: Message, message_class: type[Any]) -> Any:
    decoded = message_class(message.data)
    try:
        decoded.decode()
    except Exception as error:  # whatever struct and others raise goes through pyroute2
        raise ProtocolError(f"{type(error).__name__}: {error}") from error
    return decoded


def _get_family(connection: Connection, name: str) -> Any:
    request = ctrlmsg()
    request["header"]["type"] = GENL_ID_CTRL
    request["cmd"] = int(CtrlCmd.GETFAMILY)
    request["version"] = GENL_CTRL_VERSION
    request["attrs"] = [("CTRL_ATTR_FAMILY_NAME", name)]
    try:
        answer = connection.request(request, f"getfamily {name}")
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            who = "kernel" if connection.is_kernel else "agent"
            raise Unsupported(f"the {who} has no netlink family {name!r}") from error
        raise
    if len(answer) != 1:
        raise ProtocolError(f"{len(answer)} families are called {name!r}")
    return _decode(answer[0], ctrlmsg)
