# SPDX-License-Identifier: Apache-2.0
"""Hundreds of cases at a time against one stack behind a veth pair, in real time.

The peers exist in a packet socket only: their addresses belong to nobody, so no kernel answers for
them. Each has a port of its own, by which what comes is told apart; when it came is the kernel's
time stamp, not the moment at which somebody looked.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from ..net.veth import Veth, veth_pair
from ..slowness import SLOWNESS
from ..unit.tcp import wire
from ..unit.tcp.wire import Address
from .end import End
from .frame import Packet
from .run import Diverged, Late, Run, Steps
from .scenario import Case, Offer
from .steps import Whose
from .target import Application, Tolerance
from .words import MS

PORT = 5201
CLOSED_PORT = 5999
PEER_IP = {4: bytes((10, 77, 0, 100)), 6: bytes.fromhex("fd000077" + "00" * 11 + "64")}
PEER_MAC = bytes.fromhex("020000007764")
TOGETHER = 128
_FIRST_PORT = 10_000
_TICK = 1 * MS
_FRAME_MAX = 14 + 4 + 1500
_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_SO_TIMESTAMPNS, _SO_RCVBUFFORCE = 35, 33
_TIMESPEC = struct.Struct("=qq")


class Server(Protocol):
    """The stack's applications, all of them."""

    mtu: int
    """What the stack announces its MSS for, bytes."""

    def poll(self) -> None:
        """Take what there is to take, without waiting."""

    def tighten(self) -> None:
        """From now on there is little memory: the cases that want it all come."""

    def application(self, end: End) -> Application: ...


class PacketSocket:
    """Frames to and from one interface; received ones with their time, ns since the epoch."""

    def __init__(self, ifname: str) -> None:
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._sock.bind((ifname, 0))
        self._sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        self._sock.setblocking(False)

    def close(self) -> None:
        self._sock.close()

    def send(self, frame: bytes) -> None:
        self._sock.send(frame)

    def wait(self, seconds: float) -> None:
        select.select([self._sock], [], [], seconds)

    def receive(self) -> Iterator[tuple[int, bytes]]:
        """All that is there."""
        while True:
            try:
                frame, control, _, _ = self._sock.recvmsg(65_536, 64)
            except BlockingIOError:
                return
            seconds, rest = _TIMESPEC.unpack(control[0][2])
            yield seconds * 1_000_000_000 + rest, frame


class Lab:
    """A packet socket, the peers behind it, and what is at the other end of the veth."""

    def __init__(self, veth: Veth, sock: PacketSocket) -> None:
        self.veth, self.sock = veth, sock
        self.ends: dict[int, End] = {}
        self._next_port = _FIRST_PORT
        self._mac = bytes.fromhex(veth.right.mac.replace(":", ""))

    def local(self, family: int, port: int) -> Address:
        text = self.veth.right.ip4 if family == 4 else self.veth.right.ip6
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        return Address(socket.inet_pton(kind, text), port, self._mac)

    def peer(self, family: int) -> Address:
        self._next_port += 1
        return Address(PEER_IP[family], self._next_port, PEER_MAC)

    def attach(self, end: End) -> End:
        self.ends[end.addr.port] = end
        return end

    def receive(self) -> None:
        for when, frame in self.sock.receive():
            end = self.ends.get(_tcp_destination(frame))
            if end is None:
                continue
            try:
                segment = wire.parse_frame(frame)
            except AssertionError as error:
                end.broken = end.broken or f"{error}: {frame.hex()}"
                continue
            end.deliver(segment, when)


def _tcp_destination(frame: bytes) -> int:
    """The TCP destination port; 0 of what is no TCP segment."""
    kind = frame[12:14]
    if kind == b"\x08\x00" and len(frame) >= 38 and frame[23] == 6:
        at = 14 + (frame[14] & 0x0F) * 4 + 2
    elif kind == b"\x86\xdd" and len(frame) >= 58 and frame[20] == 6:
        at = 56
    else:
        return 0
    return int.from_bytes(frame[at : at + 2], "big")


class Place:
    """The lab as one case sees it: ``Target``."""

    # How late this machine may be; how early the other end may be is its own.
    tolerance = Tolerance(
        at_once=int(30 * MS * SLOWNESS),
        early=10 * MS,
        late=int(300 * MS * SLOWNESS),
        lag=100 * MS,  # half of the least time after which anything is sent again
        slowness=SLOWNESS,
    )

    def __init__(self, lab: Lab, server: Server, family: int) -> None:
        self._lab, self._server, self._family = lab, server, family
        self._ports: list[int] = []

    def now(self) -> int:
        return time.time_ns()

    def end(self, offer: Offer, case: Case) -> End:
        port = CLOSED_PORT if case.given == "closed" else PORT
        addr = self._lab.peer(self._family)
        self._ports.append(addr.port)
        return self._lab.attach(
            End(addr, self._lab.local(self._family, port), offer, self._server.mtu)
        )

    def again(self, end: End, offer: Offer) -> End:
        return self._lab.attach(End(end.addr, end.local, offer, end.mtu))

    def application(self, end: End) -> Application:
        return self._server.application(end)

    def transmit(self, end: End, packets: Sequence[Packet]) -> None:
        for frame in (frame for packet in packets for frame in packet.frames):
            assert len(frame) <= _FRAME_MAX, f"a frame of {len(frame)} bytes is too long"
            self._lab.sock.send(frame)

    def forget(self) -> None:
        for port in self._ports:
            self._lab.ends.pop(port, None)


# ---- all of them ----


@dataclass(slots=True)
class Job:
    """A case to be run, and what became of it: None is well."""

    case: Case
    family: int
    whose: Whose
    failure: Diverged | None = None
    repeated: bool = False


@dataclass(slots=True)
class _Running:
    job: Job
    place: Place
    steps: Steps
    until: int = field(default=0)


def run_all(lab: Lab, server: Server, jobs: Sequence[Job]) -> None:
    """Run them ``TOGETHER`` at a time.

    After that, each alone: those that take all memory, and once more those that were late.
    """
    modest = [job for job in jobs if not job.case.greedy]
    _run(lab, server, sorted(modest, key=lambda job: -job.case.waits), TOGETHER)
    server.tighten()
    _run(lab, server, [job for job in jobs if job.case.greedy], 1)
    for job in jobs:
        if isinstance(job.failure, Late):
            job.failure, job.repeated = None, True
            _run(lab, server, [job], 1)


def _run(lab: Lab, server: Server, jobs: Sequence[Job], together: int) -> None:
    waiting, running = list(reversed(jobs)), list[_Running]()
    try:
        while waiting or running:
            while waiting and len(running) < together:
                job = waiting.pop()
                place = Place(lab, server, job.family)
                steps = Run(job.case, place, whose=job.whose).steps()
                running.append(_Running(job, place, steps))
            lab.receive()
            server.poll()
            running = [one for one in running if _goes_on(one)]
            if running:
                first = min(one.until for one in running) - time.time_ns()
                lab.sock.wait(max(0, min(first, _TICK)) / 1e9)
    finally:
        for one in running:
            one.steps.close()


def _goes_on(one: _Running) -> bool:
    """Its next steps; False when it is over."""
    try:
        one.until = next(one.steps)
    except StopIteration:
        pass
    except Diverged as failure:
        one.job.failure = failure
    else:
        return True
    one.place.forget()
    return False


@contextlib.contextmanager
def lab() -> Iterator[Lab]:
    """A veth pair whose right end answers each peer's address, with whole checksums."""
    with ExitStack() as undo:
        veth = undo.enter_context(veth_pair())
        right = veth.right
        for feature in ("tx", "tso", "gso", "gro"):
            right.run(["ethtool", "-K", right.ifname, feature, "off"], capture_output=True)
        mac = PEER_MAC.hex(":")
        for family, ip in PEER_IP.items():
            text = socket.inet_ntop(socket.AF_INET if family == 4 else socket.AF_INET6, ip)
            right.run(
                ["ip", "neigh", "replace", text, "lladdr", mac, "dev", right.ifname,
                 "nud", "permanent"]
            )  # fmt: skip
        with veth.left.enter():
            sock = PacketSocket(veth.left.ifname)
        undo.callback(sock.close)
        yield Lab(veth, sock)
