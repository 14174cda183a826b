# SPDX-License-Identifier: Apache-2.0
"""A bad road: segments of a sender are lost, sent twice, damaged, and come late.

Where the kernel has netem, that does it (netem.py). Where it has not, a BPF program at the sender's
egress throws the dice (tests/net/bpf/impair.bpf.c). What BPF cannot do there happens on detours:
veth pairs, at whose other end a thread holds packets back, or damages them, before they go on.

    TCP ──► egress of veth1 ──────────────────────────────────► the receiver
                │ out of line, 2nd copies           ▲ marked
                ├─► late0 ── late1 ─► held for up to 4 ms
                │ delayed                           ▲
                ├─► slow0 ── slow1 ─► held for 20 to 80 ms
                │ to be damaged                     ▲
                └─► torn0 ── torn1 ─► bits inverted, lengths changed, the end cut off

Damage must come after the checksum, or the checksum would be that of the damaged bytes: a local
sender leaves it unfinished (CHECKSUM_PARTIAL), also at egress and whatever the interface's
features are. torn0 has no offloads, so on the way through it segments are cut to size and get
their sums, as on their way onto a wire.
"""

from __future__ import annotations

import heapq
import random
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from devmemtcp.pyxdp import BpfObject

from ..net.clsact import EGRESS, INGRESS, clsact
from ..net.veth import VethEnd
from . import netem
from .damage import damaged

_MARK = 0x1A9A  # IMPAIR_MARK
_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_VNET_HDR = 15  # checksum and segmentation offload in front of each packet
_VNET_HDR_LEN = 10
_PACKET_MAX = 1 << 17
_OFFLOADS = ("tx", "sg", "tso", "gso")


class _Hold(NamedTuple):
    """Seconds that a detour takes."""

    least: float
    most: float


_LATE = _Hold(0.0, 0.004)
"""Up to many round trips of a veth: others overtake."""
_SLOW = _Hold(0.02, 0.08)
"""Enough for fast retransmission, and less than a retransmission time-out (200 ms)."""
_TORN = _Hold(0.0, 0.0)


@dataclass(frozen=True)
class Chances:
    """Of each packet, 0 to 1; the first that applies, but a second copy is of what goes on."""

    loss: float = 0.0
    duplication: float = 0.0
    corruption: float = 0.0
    delay: float = 0.0
    reordering: float = 0.0
    ack_loss: float = 0.0
    """Of packets that come back to the sender."""


@dataclass(frozen=True)
class Counters:
    """What happened to TCP packets: of the sender, and those that came back to it."""

    seen: int
    lost: int
    duplicated: int | None
    """None, here and below: netem does not count that."""
    corrupted: int | None
    """Before segmentation: one may become many."""
    delayed: int | None
    reordered: int | None
    acks_seen: int
    acks_lost: int


class Detour:
    """Keeps packets of `source` (frames of `mac`) for a while, then sends them on `target`."""

    def __init__(
        self,
        source: socket.socket,
        target: socket.socket,
        mac: bytes,
        hold: _Hold,
        treat: Callable[[bytes, random.Random], bytes] | None = None,
    ) -> None:
        self._source = source
        self._target = target
        self._mac = mac
        self._hold = hold
        self._treat = treat
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
                header, frame = packet[:_VNET_HDR_LEN], packet[_VNET_HDR_LEN:]
                if frame[6:12] == self._mac:  # else the detour's own, like its router solicitations
                    number += 1
                    if self._treat:
                        assert not any(header[:2]), "segments come whole, and with their sums"
                        frame = self._treat(frame, self._random)
                    until = time.monotonic() + self._random.uniform(*self._hold)
                    heapq.heappush(held, (until, number, header + frame))
            while held and held[0][0] <= time.monotonic():
                self._send(heapq.heappop(held)[2])

    def _send(self, packet: bytes) -> None:
        try:
            self._target.send(packet)
        except OSError:
            # The link is down or gone, or its MTU has become less than the packet: it is lost.
            return


class BadRoad:
    """The impairment at one end of a veth or of a pair of NICs."""

    kind = "dice in BPF"

    def __init__(self, obj: BpfObject) -> None:
        self._object = obj

    def counters(self) -> Counters:
        """What has happened so far."""
        values = (value for _, value in self._object.maps["counters"].items())
        return Counters(*(int.from_bytes(value, "little") for value in values))


class NetemRoad(BadRoad):
    """The same, but that netem treats what is sent."""

    kind = "netem"

    def __init__(self, obj: BpfObject, end: VethEnd) -> None:
        super().__init__(obj)
        self._end = end

    def counters(self) -> Counters:
        """What has happened so far."""
        sent, lost = netem.counters(self._end)
        ours = super().counters()
        return Counters(sent + lost, lost, None, None, None, None, ours.acks_seen, ours.acks_lost)


@contextmanager
def bad_road(end: VethEnd, program: Path, chances: Chances) -> Iterator[BadRoad]:
    """Impair what the sockets in this end's namespace send, and get back, during the block.

    `program`: the object of impair.bpf.c, which in any case loses what comes back: that has no
    queue that netem could be.
    """
    with ExitStack() as undo:
        obj = undo.enter_context(BpfObject.open(program).load())
        programs = {INGRESS: obj.programs["lose_acks"]}
        if undo.enter_context(netem.attached(end, netem.arguments(**_of_netem(chances)))):
            road: BadRoad = NetemRoad(obj, end)
            detours = [0, 0, 0]
        else:
            road = BadRoad(obj)
            detours = _make_detours(undo, end)
            programs[EGRESS] = obj.programs["worsen"]
        obj.maps["config"].set(struct.pack("=I", 0), _config(chances, detours))
        undo.enter_context(clsact(end, programs))
        yield road


def _of_netem(chances: Chances) -> dict[str, float]:
    """What becomes of what is sent."""
    sent = asdict(chances)
    del sent["ack_loss"]
    return sent


def _make_detours(undo: ExitStack, end: VethEnd) -> list[int]:
    """Ifindices, in the order of `struct config`."""
    target = undo.enter_context(closing(_packet_socket(end, end.ifname, 0)))
    target.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _MARK)
    mac = bytes.fromhex(end.mac.replace(":", ""))
    detours = []
    for name, hold, treat in (
        ("late", _LATE, None),
        ("slow", _SLOW, None),
        ("torn", _TORN, damaged),
    ):
        detours.append(_make_detour(end, name))
        undo.callback(end.run, ["ip", "link", "delete", f"{name}0"])
        if treat:
            features = [word for each in _OFFLOADS for word in (each, "off")]
            end.run(["ethtool", "-K", f"{name}0", *features], stdout=subprocess.DEVNULL)
        source = undo.enter_context(closing(_packet_socket(end, f"{name}1", _ETH_P_ALL)))
        undo.enter_context(Detour(source, target, mac, hold, treat))
    return detours


def _config(chances: Chances, detours: list[int]) -> bytes:
    """`struct config`."""
    values = (
        *(chances.loss, chances.duplication, chances.corruption),
        *(chances.delay, chances.reordering, chances.ack_loss),
    )
    return struct.pack("=9I", *(int(value * 0xFFFFFFFF) for value in values), *detours)


def _make_detour(end: VethEnd, name: str) -> int:
    """A veth pair whose both ends are in the sender's namespace; returns one's ifindex."""
    with end.netlink() as handle:
        handle.link("add", ifname=f"{name}0", kind="veth", peer={"ifname": f"{name}1"})
        indices = [handle.link_lookup(ifname=f"{name}{side}")[0] for side in "01"]
        for index in indices:
            handle.link("set", index=index, mtu=65535, state="up")
    return int(indices[0])


def _packet_socket(end: VethEnd, ifname: str, protocol: int) -> socket.socket:
    with end.enter():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
    sock.bind((ifname, protocol))
    return sock
