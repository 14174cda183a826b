# SPDX-License-Identifier: Apache-2.0
"""The kernel socket that has a steered port, so that no service of this host can have it too.

It listens behind a filter that lets nothing in. What the program passes to the kernel all the
same (IP fragments of our flows, once reassembled) ends there in silence; without a listener the
kernel would answer with a RST, and end a connection that is not its own. It is bound to the
interface: connecting to the port by another one is still refused. (From this host itself the
address is reached by lo, where no program sees the packets: such an attempt times out.)
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct

from devmemtcp.agent.errors import ConfigError, failed
from devmemtcp.agent.netdev import IpAddress

_SO_ATTACH_FILTER = 26
_SO_ATTACH_BPF = 50
_BPF_RET_K = 0x06


def reserve(
    ifname: str, address: IpAddress, port: int, deaf: int | None = None
) -> tuple[socket.socket, int]:
    """Take the port (0: any) in the calling thread's network namespace; closing gives it back.

    Returns the socket, and the port that it has.

    `deaf`: descriptor of a socket filter that lets nothing in, for who has no CAP_NET_ADMIN,
    without which recent kernels attach no classic one to a TCP socket. Raises ConfigError when
    the port is in use, OSError for what else the kernel refuses.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(ifname))
        if address.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            scope = socket.if_nametoindex(ifname) if address.is_link_local else 0
            sock.bind((str(address), port, 0, scope))
        else:
            sock.bind((str(address), port))
        _let_nothing_in(sock, deaf)
        sock.listen(1)
        return sock, sock.getsockname()[1]
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise port_in_use(str(address), port) from error
        number = error.errno or errno.ENODEV  # if_nametoindex() says none
        what = f"cannot reserve port {port} of {address} on {ifname}"
        raise failed(-number, what) from error


def port_in_use(host: str, port: int) -> ConfigError:
    """Somebody has it, us included."""
    return ConfigError(
        f"port {port} of {host} is in use; choose another (`ss -tlnp` shows by whom)",
        errno.EADDRINUSE,
    )


def _let_nothing_in(sock: socket.socket, deaf: int | None) -> None:
    """A classic BPF filter of one instruction, `ret #0` (linux/filter.h, struct sock_fprog)."""
    if deaf is not None:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, deaf)
        return
    program = ctypes.create_string_buffer(struct.pack("=HBBI", _BPF_RET_K, 0, 0, 0))
    fprog = struct.pack("@HP", 1, ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
