# SPDX-License-Identifier: Apache-2.0
"""`ADDR:PORT` on the command line, in the spelling of RFC 3986 section 3.2.2."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from devmemtcp.agent.errors import ConfigError

ANY = ("0.0.0.0", "::")
"""The unspecified addresses: each stands for every address of its family."""


class Endpoint(NamedTuple):
    """A host and a TCP port. An empty host stands for every address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def split_endpoint(text: str) -> Endpoint:
    """Split `HOST:PORT`, `[V6]:PORT` or `:PORT`; the host may be a name.

    Raises ConfigError when the port is missing or not 1..65535, or when an IPv6
    address stands without its brackets.
    """
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ConfigError(f"{text!r} has no port; write ADDR:PORT or [V6ADDR]:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        _check_v6(host, text)
    elif ":" in host:
        raise ConfigError(f"{text!r}: put an IPv6 address in brackets, [V6ADDR]:PORT")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ConfigError(f"{text!r}: port {port!r} is not a number from 1 to 65535")
    return Endpoint(host, int(port))


def parse_listen(text: str) -> Endpoint:
    """Split an address to listen on: a numeric address of the interface, or none for all of them.

    Raises ConfigError as split_endpoint() does, and for a host that is not an address.
    """
    endpoint = split_endpoint(text)
    if endpoint.host:
        try:
            ipaddress.ip_address(endpoint.host)
        except ValueError:
            raise ConfigError(f"{text!r}: {endpoint.host!r} is not an IP address") from None
    return endpoint


def overlap(one: Endpoint, other: Endpoint) -> bool:
    """Whether two addresses to listen on, as of parse_listen(), have one in common."""
    return one.port == other.port and any(
        a.version == b.version and (a == b or a.is_unspecified or b.is_unspecified)
        for a in _addresses(one)
        for b in _addresses(other)
    )


def _addresses(endpoint: Endpoint) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    return [ipaddress.ip_address(host) for host in ([endpoint.host] if endpoint.host else ANY)]


def _check_v6(host: str, text: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise ConfigError(f"{text!r}: {host!r} is not an IPv6 address") from None
