# SPDX-License-Identifier: Apache-2.0
"""What `bench xdp-drop` does with a frame: programs of drop.bpf.c, and who is behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from devmemtcp import xdp_prog
from devmemtcp.pyxdp import BpfObject

Flows = Literal["none", "ports", "addresses"]
"""Listeners that do not match: 256 on other ports, or on the frames' port at other addresses."""

PORT = 9
"""The frames' (discard): nobody listens on it."""
_LISTENERS = 256


@dataclass(frozen=True)
class Socket:
    """An AF_XDP socket, whose owner gives every buffer back."""

    form: str | None = None
    """Through the page_pool, with the check in this form; None: the buffer that came."""
    provider: str = "host"
    apart: bool = False
    """Its owner polls on another core, instead of looking now and then on that of the frames."""


@dataclass(frozen=True)
class Variant:
    """A program of drop.bpf.c, what its maps hold, and the socket that it feeds, if any."""

    name: str
    program: str
    flows: Flows = "none"
    socket: Socket | None = None


VARIANTS = (
    Variant("drop", "drop"),
    Variant("parse", "parse"),
    Variant("steer", "steer_off"),
    Variant("steer-flows", "steer_off", "ports"),
    Variant("steer-port", "steer_off", "addresses"),
    Variant("steer-frozen", "steer_frozen"),
    Variant("steer-flag", "steer_flag"),
    Variant("xsk", "redirect", socket=Socket()),
    Variant("xsk-off", "redirect", socket=Socket("off")),
    Variant("xsk-plain", "redirect", socket=Socket("plain")),
    Variant("xsk-static", "redirect", socket=Socket("static")),
    Variant("xsk-device", "redirect", socket=Socket("static-bound", "device")),
    Variant("xsk-apart", "redirect", socket=Socket("static", apart=True)),
)


def load(flows: Flows, mac: bytes) -> BpfObject:
    """All programs of drop.bpf.o on maps of their own, filled as the agent fills them."""
    names = {each.program for each in VARIANTS} | {"send"}
    obj = BpfObject.open(str(xdp_prog.object_path("drop")), programs=names).load()
    obj.maps["mac"].set(bytes(4), xdp_prog.mac_value(mac))
    listeners = list(_listeners(flows))
    for word, bits in xdp_prog.closed_ports({port for _, port in listeners}):
        obj.maps["closed_ports"].set(word, bits)
    for ip, port in listeners:
        obj.maps["listeners"].set(xdp_prog.listener_key(ip, port), xdp_prog.listener_value())
    return obj


def _listeners(flows: Flows) -> Iterator[tuple[str, int]]:
    """Addresses and ports, none of them that of the frames: RFC 2544's network."""
    for number in range(_LISTENERS if flows != "none" else 0):
        yield f"198.18.0.{number}", PORT if flows == "addresses" else 20000 + number
