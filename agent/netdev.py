# SPDX-License-Identifier: Apache-2.0
"""What must be known of a network interface, and of the namespace it is in, beforehand.

Everything is asked of the kernel in the calling thread's network namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self

from devmemtcp.agent._loop import ffi, lib
from devmemtcp.agent.errors import ConfigError, failed
from devmemtcp.agent.rtnetlink import index_of_altname
from devmemtcp.agent.way_out import ways_out
from devmemtcp.pyxdp.features import Features, features

_SIOCGIFFLAGS = 0x8913
_IFF_UP = 1
_IFF_LOOPBACK = 8
_IFNAMSIZ = 16
_IFREQ = struct.Struct(f"{_IFNAMSIZ}s24x")
_V4_MAPPED = b"\0" * 10 + b"\xff\xff"  # RFC 4291, 2.5.5.2

IpAddress = IPv4Address | IPv6Address


class NetNs:
    """A network namespace: of a name below /run/netns, of a path, or (None) the caller's own."""

    def __init__(self, where: str | None) -> None:
        """Raises ConfigError when there is no such namespace."""
        self.name = where
        path = "/proc/thread-self/ns/net" if where is None else where
        if where is not None and "/" not in where:
            path = f"/run/netns/{where}"
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ConfigError(
                f"no network namespace {where!r}; `ip netns list` shows those there are"
            ) from error

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread, and what it starts or opens, is in the namespace meanwhile."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.path.sameopenfile(home, self._fd):
                yield  # setns(2) would need CAP_SYS_ADMIN to change nothing
                return
            _setns(self._fd)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def enter(self) -> None:
        """The calling thread, and what it starts, is in the namespace from now on."""
        _setns(self._fd)

    def close(self) -> None:
        """Close the descriptor; the namespace lives on without us."""
        os.close(self._fd)


def _setns(fd: int) -> None:
    result = lib.netns_enter(fd)
    if result:
        raise failed(result, "cannot enter the network namespace")


@dataclass(frozen=True)
class NetDev:
    """An interface, as it was when asked."""

    features: Features
    up: bool
    loopback: bool
    default_route: bool
    """Whether a default route of this namespace leaves by it, or by something on top of it."""

    @classmethod
    def find(cls, name: str, *, try_zero_copy: bool = False) -> Self:
        """Ask the kernel. Raises ConfigError when there is no such interface.

        `try_zero_copy`: that, too, where it is said to be there, which resets a queue of the NIC.
        """
        ifindex = ifindex_of(name)
        can = features(ifindex, disruptive=try_zero_copy)
        flags = _flags(can.ifname)
        return cls(
            features=can,
            up=bool(flags & _IFF_UP),
            loopback=bool(flags & _IFF_LOOPBACK),
            default_route=ifindex in ways_out(),
        )

    def has_address(self, address: IpAddress) -> bool:
        """Whether the address is configured on the interface."""
        name = self.features.ifname
        result = lib.netdev_has_address(os.fsencode(name), to_stack(address, 0))
        if result < 0:
            raise failed(result, f"cannot list the addresses of {name}")
        return bool(result)


def ifindex_of(name: str) -> int:
    """The index of an interface, by its name or an altname.

    Raises ConfigError: there is none, or it is called what netlink's libraries cannot say.
    """
    if name.encode(errors="ignore") != os.fsencode(name):
        raise ConfigError(f"{name!r} is no UTF-8; give the interface another name: ip-link(8)")
    try:
        # if_nametoindex(3) has room for a name, and an altname may be longer.
        long = len(os.fsencode(name)) >= _IFNAMSIZ
        return index_of_altname(name) if long else socket.if_nametoindex(name)
    except (OSError, OverflowError) as error:
        raise no_interface(name) from error


def no_interface(name: str) -> ConfigError:
    """The error for a name that nothing has here."""
    return ConfigError(f"no interface {name!r} here; `ip link show` lists those there are")


def is_ifname(name: str) -> bool:
    """Whether an interface may be called so: dev_valid_name(), to which no-break space is blank."""
    try:
        raw = os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return 0 < len(raw) < _IFNAMSIZ and not re.search(rb"^\.\.?$|[/:\0\t-\r \xa0]", raw)


def addresses_of(name: str) -> list[IpAddress]:
    """The IP addresses of an interface, in no particular order. Raises OSError."""
    count, there = 0, 64
    while there > count:
        count = there
        out = ffi.new("struct stack_addr[]", count)
        there = lib.netdev_addresses(os.fsencode(name), out, count)
        if there < 0:
            raise failed(there, f"cannot list the addresses of {name}")
    return [ip_address(from_stack(addr)[0]) for addr in out[0:there]]


def is_up(name: str) -> bool:
    """Whether an interface is. Raises OSError, ENODEV: there is none."""
    return bool(_flags(name) & _IFF_UP)


def _flags(name: str) -> int:
    """IFF_UP and others."""
    answer = ask(name, _SIOCGIFFLAGS, _IFREQ.pack(os.fsencode(name)))
    flags: int = struct.unpack_from("=H", answer, _IFNAMSIZ)[0]
    return flags


def ask(name: str, request: int, ifreq: bytes) -> bytes:
    """An ioctl of netdevice(7). Raises OSError, ENODEV: there is no such interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            return fcntl.ioctl(sock, request, ifreq)
        except OSError as error:
            raise OSError(error.errno, f"cannot ask {name}: {error.strerror}") from error


def to_stack(address: IpAddress, port: int) -> object:
    """`struct stack_addr`, by value, for C."""
    packed = address.packed if address.version == 6 else _V4_MAPPED + address.packed
    return ffi.new("struct stack_addr *", (packed, port, address.version))


def from_stack(addr: object) -> tuple[str, int]:
    """(host, port) of a `struct stack_addr`."""
    raw = bytes(addr.ip)  # type: ignore[attr-defined]
    family: int = addr.family  # type: ignore[attr-defined]
    host = IPv6Address(raw) if family == 6 else IPv4Address(raw[12:])
    return str(host), int(addr.port)  # type: ignore[attr-defined]
