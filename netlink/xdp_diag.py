# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N801 (pyroute2 names message classes like this)
"""AF_XDP sockets of a network namespace, by sock_diag(7).

Source: ``include/uapi/linux/xdp_diag.h``, ``net/xdp/xsk_diag.c`` (CONFIG_XDP_SOCKETS_DIAG).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Any

from pyroute2.netlink import nla, nlmsg

from devmemtcp.netlink.connection import Connection
from devmemtcp.netlink.errors import NetlinkError, ProtocolError, Unsupported
from devmemtcp.netlink.genl import decode

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
AF_XDP = 44
_XDP_SHOW_INFO = 1


class _request(nlmsg):
    """struct xdp_diag_req."""

    __slots__ = ()

    fields = (
        ("sdiag_family", "B"),
        ("sdiag_protocol", "B"),
        ("pad", "H"),
        ("xdiag_ino", "I"),
        ("xdiag_show", "I"),
        ("xdiag_cookie", "Q"),
    )
    nla_map = (("XDP_DIAG_NONE", "none"),)


class _answer(nlmsg):
    """struct xdp_diag_msg, and the one attribute that was asked for."""

    __slots__ = ()

    fields = (
        ("xdiag_family", "B"),
        ("xdiag_type", "B"),
        ("pad", "H"),
        ("xdiag_ino", "I"),
        ("xdiag_cookie", "Q"),
    )
    nla_map = (("XDP_DIAG_NONE", "none"), ("XDP_DIAG_INFO", "info"))

    class info(nla):
        """struct xdp_diag_info."""

        __slots__ = ()

        fields = (("ifindex", "I"), ("queue_id", "I"))


@dataclass(frozen=True)
class XdpSocket:
    """A socket, as its namespace knows it."""

    inode: int
    """As in /proc/PID/fd: ``socket:[inode]``."""
    ifindex: int
    """0: not bound yet."""
    queue: int


def xdp_sockets() -> list[XdpSocket]:
    """All of the calling thread's namespace. Needs no privilege.

    Raises Unsupported on a kernel that cannot tell, NetlinkError.
    """
    request = _request()
    request["header"]["type"] = _SOCK_DIAG_BY_FAMILY
    request.update({"sdiag_family": AF_XDP, "sdiag_protocol": 0, "pad": 0})
    request.update({"xdiag_ino": 0, "xdiag_show": _XDP_SHOW_INFO, "xdiag_cookie": 0})
    try:
        with Connection.open("kernel", protocol=_NETLINK_SOCK_DIAG) as connection:
            answers = connection.request(request, "sock_diag of AF_XDP", dump=True)
    except NetlinkError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):
            text = "this kernel does not list AF_XDP sockets (CONFIG_XDP_SOCKETS_DIAG)"
            raise Unsupported(text) from error
        raise
    return [_socket(message) for message in decode(answers, _answer)]


def _socket(message: Any) -> XdpSocket:
    info = message.get_attr("XDP_DIAG_INFO")
    if info is None:
        raise ProtocolError("an AF_XDP socket without its interface")
    return XdpSocket(message["xdiag_ino"], info["ifindex"], info["queue_id"])
