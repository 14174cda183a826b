# SPDX-License-Identifier: Apache-2.0
"""A bad road: segments of a veth's sender are lost, sent twice, and come late.

The kernels that the tests run on have no netem, so a BPF program at the sender's
egress throws the dice (bpf/impair.bpf.c). Only holding a packet back is something
that BPF cannot do: such packets take a detour over a second veth pair, at whose
other end a thread keeps them for a few milliseconds before they go on.

    TCP ──► egress of veth1 ──────────────────────────────► the receiver
                │ reordered, 2nd copies            ▲ marked
                └─► detour0 ── detour1 ─► AF_PACKET, a heap of packets
"""

from __future__ import annotations

import heapq
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import NetNS

from devmemtcp.pyxdp import BpfObject

_MARK = 0x1A9A  # IMPAIR_MARK
_CLSACT = 0xFFFF0000
_INGRESS, _EGRESS = _CLSACT | 0xFFF2, _CLSACT | 0xFFF3  # TC_H_MIN_INGRESS, _EGRESS
_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_VNET_HDR = 15  # checksum and segmentation offload in front of each packet
_VNET_HDR_LEN = 10
_PACKET_MAX = 1 << 17
_HOLD_SECONDS = (0.0, 0.004)
"""Up to many round trips of a veth, and far less than a retransmission timeout."""


@dataclass(frozen=True)
class Counters:
    """What happened to TCP segments: of the sender, and those that came back to it."""

    seen: int
    lost: int
    duplicated: int
    reordered: int
    acks_seen: int
    acks_lost: int


class Detour:
    """Keeps packets of `source` (frames of `mac`) for a while, then sends them on `target`."""

    def __init__(self, source: socket.socket, target: socket.socket, mac: bytes) -> None:
        self._source = source
        self._target = target
        self._mac = mac
        self._random = random.Random(0)
        self._stop_reader, self._stop_writer = socket.socketpair()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Detour:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop_writer.close()
        self._thread.join()
        self._stop_reader.close()

    def _run(self) -> None:
        held: list[tuple[float, int, bytes]] = []
        number = 0
        while True:
            timeout = max(0.0, held[0][0] - time.monotonic()) if held else None
            ready, _, _ = select.select([self._source, self._stop_reader], [], [], timeout)
            if self._stop_reader in ready:
                return
            if self._source in ready:
                packet = self._source.recv(_PACKET_MAX)
                source_mac = packet[_VNET_HDR_LEN + 6 : _VNET_HDR_LEN + 12]
                if source_mac == self._mac:  # else the detour's own, like its router solicitations
                    number += 1
                    until = time.monotonic() + self._random.uniform(*_HOLD_SECONDS)
                    heapq.heappush(held, (until, number, packet))
            while held and held[0][0] <= time.monotonic():
                self._target.send(heapq.heappop(held)[2])


class BadRoad:
    """The impairment at one end of a veth."""

    def __init__(self, obj: BpfObject) -> None:
        self._object = obj

    def counters(self) -> Counters:
        """What has happened so far."""
        values = (value for _, value in self._object.maps["counters"].items())
        return Counters(*(int.from_bytes(value, "little") for value in values))


@contextmanager
def _bad_road(
    end: Any, program: Path, loss: float, duplication: float, reordering: float, ack_loss: float
) -> Iterator[BadRoad]:
    with ExitStack() as undo:
        handle = undo.enter_context(NetNS(end.netns))
        detour = _make_detour(handle)
        undo.callback(handle.link, "del", index=detour)
        obj = undo.enter_context(BpfObject.open(program).load())
        chances = (int(chance * 0xFFFFFFFF) for chance in (loss, duplication, reordering))
        config = struct.pack("=5I", *chances, detour, int(ack_loss * 0xFFFFFFFF))
        obj.maps["config"].set(struct.pack("=I", 0), config)
        with end.enter():
            source = undo.enter_context(closing(_packet_socket("detour1", _ETH_P_ALL)))
            target = undo.enter_context(closing(_packet_socket(end.ifname, 0)))
        target.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _MARK)
        undo.enter_context(Detour(source, target, bytes.fromhex(end.mac.replace(":", ""))))
        handle.tc("add", "clsact", end.ifindex)
        undo.callback(handle.tc, "del", "clsact", end.ifindex)
        for name, parent in (("worsen", _EGRESS), ("lose_acks", _INGRESS)):
            handle.tc(
                "add-filter",
                "bpf",
                end.ifindex,
                fd=obj.programs[name].fd,
                name=name,
                parent=parent,
                direct_action=True,
                prio=1,
            )
        yield BadRoad(obj)


def _make_detour(handle: NetNS) -> int:
    """A veth pair whose both ends are in the sender's namespace; returns one's ifindex."""
    handle.link("add", ifname="detour0", kind="veth", peer={"ifname": "detour1"})
    indices = [handle.link_lookup(ifname=name)[0] for name in ("detour0", "detour1")]
    for index in indices:
        handle.link("set", index=index, mtu=65535, state="up")
    return int(indices[0])


def _packet_socket(ifname: str, protocol: int) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
    sock.bind((ifname, protocol))
    return sock


@pytest.fixture
def bad_road(bpf_object: Callable[[str], Path]) -> Iterator[Callable[..., BadRoad]]:
    """``bad_road(end, loss=0.2, duplication=0.2, reordering=0.2, ack_loss=0.1)``, until the
    test's end: for what the sockets in this end's namespace send, and get back."""
    with ExitStack() as undo:

        def make(end: Any, **chances: float) -> BadRoad:
            return undo.enter_context(_bad_road(end, bpf_object("impair"), **chances))

        yield make
