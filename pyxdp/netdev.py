# SPDX-License-Identifier: Apache-2.0
"""XDP features from the kernel's ``netdev`` generic netlink family (kernel 6.3).

libbpf reads them from version 1.2 on; this is one request and its reply, so that the answer
does not depend on the library's version.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag

from devmemtcp.pyxdp.errors import Unsupported, XdpError

_NETLINK_GENERIC = 16
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_GENLMSGHDR = struct.Struct("=BBH")  # command, version, reserved
_NLATTR = struct.Struct("=HH")  # length, type
_NLA_TYPE_MASK = 0x3FFF
_MAX_REPLY = 65536

_GENL_ID_CTRL = 16
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID = 1
_CTRL_ATTR_FAMILY_NAME = 2

_NETDEV_CMD_DEV_GET = 1
_NETDEV_A_DEV_IFINDEX = 1
_NETDEV_A_DEV_XDP_FEATURES = 3
_NETDEV_A_DEV_XDP_ZC_MAX_SEGS = 4


class XdpAct(IntFlag):
    """NETDEV_XDP_ACT_*: what a driver says it can do natively."""

    BASIC = 1 << 0  # native programs: XDP_ABORTED, DROP, PASS, TX
    REDIRECT = 1 << 1
    NDO_XMIT = 1 << 2  # takes packets redirected to it
    XSK_ZEROCOPY = 1 << 3
    HW_OFFLOAD = 1 << 4
    RX_SG = 1 << 5  # native programs get multi-buffer packets
    NDO_XMIT_SG = 1 << 6


@dataclass(frozen=True)
class NetdevFeatures:
    """The family's answer for one interface."""

    xdp: XdpAct
    zc_max_segs: int | None  # buffers a zero-copy packet may have; None: not told


def netdev_features(ifindex: int) -> NetdevFeatures:
    """Ask for one interface of the calling thread's namespace (NETDEV_CMD_DEV_GET).

    Raises :class:`Unsupported` on a kernel without the family, else :class:`XdpError`.
    """
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_GENERIC
    ) as genl:
        try:
            name = _attribute(_CTRL_ATTR_FAMILY_NAME, b"netdev\0")
            family = _request(genl, _GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, name)
        except XdpError as error:
            if error.errno == errno.ENOENT:
                raise Unsupported("no netdev netlink family (kernel before 6.3)") from error
            raise
        family_id = struct.unpack("=H", family[_CTRL_ATTR_FAMILY_ID])[0]
        index = _attribute(_NETDEV_A_DEV_IFINDEX, struct.pack("=I", ifindex))
        answer = _request(genl, family_id, _NETDEV_CMD_DEV_GET, index)
    segs = answer.get(_NETDEV_A_DEV_XDP_ZC_MAX_SEGS)
    return NetdevFeatures(
        xdp=XdpAct(struct.unpack("=Q", answer[_NETDEV_A_DEV_XDP_FEATURES])[0]),
        zc_max_segs=None if segs is None else struct.unpack("=I", segs)[0],
    )


def _attribute(kind: int, payload: bytes) -> bytes:
    size = _NLATTR.size + len(payload)
    return _NLATTR.pack(size, kind) + payload + bytes(-size % 4)


def _request(genl: socket.socket, family: int, command: int, body: bytes) -> dict[int, bytes]:
    """Send one command and read its one reply: attributes by type."""
    message = _GENLMSGHDR.pack(command, 1, 0) + body
    size = _NLMSGHDR.size + len(message)
    genl.send(_NLMSGHDR.pack(size, family, _NLM_F_REQUEST, 1, 0) + message)
    reply = genl.recv(_MAX_REPLY)
    length, kind, *_ = _NLMSGHDR.unpack_from(reply)
    if kind == _NLMSG_ERROR:
        code = -struct.unpack_from("=i", reply, _NLMSGHDR.size)[0]
        raise XdpError(code, f"generic netlink command {command} of family {family}")
    return dict(_attributes(reply[_NLMSGHDR.size + _GENLMSGHDR.size : length]))


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        size, kind = _NLATTR.unpack_from(data)
        yield kind & _NLA_TYPE_MASK, data[_NLATTR.size : size]
        data = data[(size + 3) // 4 * 4 :]
