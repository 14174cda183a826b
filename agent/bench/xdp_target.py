# SPDX-License-Identifier: Apache-2.0
"""Where the frames of `bench xdp-drop` end: an interface with one of its programs on it.

    with on_veth(variants, ...) as target:          # or on_interface(), of a NIC
        window = target.measure(variant)

A window is so many frames in so much time: CPU time of all threads that had to do with them on a
veth, see xdp_drop.py, the wall's with frames from outside.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from shlex import quote

from devmemtcp.agent.bench import conditions
from devmemtcp.agent.bench.cores import ksoftirqd, process_seconds
from devmemtcp.agent.bench.live_frames import LiveFrames, tcp_frame
from devmemtcp.agent.bench.machine import Noise
from devmemtcp.agent.bench.xdp_variants import PORT, Flows, Socket, Variant, load
from devmemtcp.agent.bench.xsk_receiver import XskReceiver
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.lab import Lab
from devmemtcp.agent.netdev import NetDev
from devmemtcp.pyxdp import Attachment, BpfObject, Mode, Program, XskMap, attach

Clock = Callable[[], float]
"""Seconds since whenever."""

POLL_SECONDS = 0.002
PATIENCE_SECONDS = 10.0
SETTLE_SECONDS = 0.005
"""From the change of programs to the first count: the veth's ring has been emptied by then."""
_PROC_NET_DEV_BYTES = 1 << 20


@dataclass(frozen=True)
class Window:
    """One turn."""

    frames: int
    """That the program saw; with a socket, those that its owner received."""
    seconds: float
    """That they took all threads together."""
    core_seconds: float
    """That they took the core of the sender and of softirq: less only with the owner elsewhere."""
    wall_seconds: float
    noise: Noise

    @property
    def mpps(self) -> float:
        """10^6 frames a second."""
        return self.frames / self.seconds / 1e6

    @property
    def core_mpps(self) -> float:
        """10^6 frames a second of the sender's core."""
        return self.frames / self.core_seconds / 1e6


class Target:
    """An interface with one of our programs on it."""

    def __init__(
        self, attachment: Attachment, objects: dict[Flows, BpfObject], packets: PacketCount
    ) -> None:
        self.attachment = attachment
        self.objects = objects
        self.clocks: list[Clock] = [time.monotonic]
        """That count for every frame."""
        self.sender: LiveFrames | None = None
        self.receiver: XskReceiver | None = None
        self.cpu = 0
        self.app_cpu = 0
        self._packets = packets
        self._received = packets.read()

    def lost(self) -> float | None:
        """Stop sending: share of the frames that did not arrive. None: they were not ours."""
        if self.sender is None:
            return None
        self.sender.stop()
        if not self.sender.sent:
            raise OSError(errno.ENODATA, "the sender was stopped before it had sent anything")
        return max(0.0, 1 - (self._packets.read() - self._received) / self.sender.sent)

    def measure(self, variant: Variant, duration: float) -> Window:
        """Let a variant drop what comes, until it has taken `duration` seconds.

        Raises OSError when nothing arrives, and what stopped the sender.
        """
        program = self.objects[variant.flows].programs[variant.program]
        if variant.socket is not None:
            return self._receive(program, variant.socket, duration)
        self._attach(program)
        return self._window(self._packets.read, [], duration)

    def _receive(self, program: Program, wanted: Socket, duration: float) -> Window:
        receiver = self.receiver
        assert receiver is not None
        cpu = self.app_cpu if wanted.apart else self.cpu
        running = receiver.running(wanted.form, wanted.provider, cpu=cpu, polling=wanted.apart)
        with running as clock:
            self._attach(program)
            try:
                clocks: list[Clock] = [lambda: time.clock_gettime_ns(clock) / 1e9]
                return self._window(lambda: receiver.received, clocks, duration, wanted.apart)
            finally:  # so that nothing comes any more
                self._attach(self.objects["none"].programs["drop"])

    def _attach(self, program: Program) -> None:
        self.attachment.replace(program)
        time.sleep(SETTLE_SECONDS)

    def _window(
        self,
        count: Callable[[], int],
        clocks: Sequence[Clock],
        duration: float,
        apart: bool = False,
    ) -> Window:
        """`clocks`: of the socket's owner, who is `apart` on another core."""
        core = [*self.clocks, *([] if apart else clocks)]
        elsewhere = clocks if apart else []
        noise, wall = Noise.now(), time.monotonic()
        before, began, other = count(), _read(core), _read(elsewhere)
        after, taken = before, 0.0
        while taken < duration:
            if time.monotonic() - wall > 2 * duration + PATIENCE_SECONDS:
                raise TimeoutError(errno.ETIMEDOUT, "the machine is too busy: nothing is sent")
            time.sleep(max(POLL_SECONDS, duration / 20))
            after, taken = count(), _read(core) - began
            if self.sender:
                self.sender.check()
        if after == before:
            raise OSError(errno.ENODATA, "nothing arrived: there is nothing to be measured")
        return Window(
            frames=after - before,
            seconds=taken + _read(elsewhere) - other,
            core_seconds=taken,
            wall_seconds=time.monotonic() - wall,
            noise=Noise.now() - noise,
        )


def _read(clocks: Sequence[Clock]) -> float:
    return sum(clock() for clock in clocks)


class PacketCount:
    """Packets that an interface received, also those that an XDP program dropped.

    Of the network namespace in which this object is made: the open file remembers it.
    """

    def __init__(self, ifname: str) -> None:
        self._ifname = ifname
        self._fd = os.open("/proc/thread-self/net/dev", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def read(self) -> int:
        """The count. Raises OSError (ENODEV) when the interface is gone."""
        for line in os.pread(self._fd, _PROC_NET_DEV_BYTES, 0).decode().splitlines():
            name, _, counters = line.strip().partition(":")
            if name == self._ifname:
                return int(counters.split()[1])
        raise OSError(errno.ENODEV, f"{self._ifname} is gone")


@contextmanager
def on_veth(variants: Sequence[Variant], *, mode: Mode, cpu: int, app_cpu: int) -> Iterator[Target]:
    """A veth pair, and frames of our own from core `cpu`, until the end of the block."""
    with ExitStack() as undo:
        lab = undo.enter_context(Lab())
        near, far = lab.near, lab.far
        with near.entered():
            # XDP_TX to an interface without a native program finds NAPI there only with GRO.
            conditions.set_offloads(near.ifname, {"gro": mode is Mode.GENERIC})
            target = undo.enter_context(_attached(variants, near.ifname, mode))
            mac = _mac(near.ifname)
            if any(each.socket for each in variants):
                target.receiver = undo.enter_context(XskReceiver(near.ifname))
                sockets = target.objects["none"].maps["xsks"]
                assert isinstance(sockets, XskMap)
                sockets.set_socket(0, target.receiver.socket)
        with far.entered():
            addresses = socket.inet_aton(far.ip4), socket.inet_aton(near.ip4)
            target.sender = LiveFrames(
                target.objects["none"].programs["send"],
                tcp_frame(_mac(far.ifname), mac, *addresses, PORT),
                socket.if_nametoindex(far.ifname),
                cpu=cpu,
            )
            undo.enter_context(target.sender)
        target.cpu, target.app_cpu = cpu, app_cpu
        target.clocks = list(_clocks(target.sender, cpu))
        yield target


def _clocks(sender: LiveFrames, cpu: int) -> Iterator[Clock]:
    thread, softirqs = sender.cpu_clock(), ksoftirqd(cpu)
    yield lambda: time.clock_gettime_ns(thread) / 1e9
    if softirqs is not None:
        yield lambda: process_seconds(softirqs)


@contextmanager
def on_interface(
    variants: Sequence[Variant], ifname: str, *, mode: Mode, force: bool
) -> Iterator[Target]:
    """An interface of the calling thread's namespace: all that it receives is dropped meanwhile.

    A killed process leaves nothing on it: the program hangs on a bpf_link. `force`: even if the
    default route leaves by it. Raises ConfigError, and OSError when it has a program already.
    """
    dev = NetDev.find(ifname)
    if dev.default_route and not force:
        raise ConfigError(
            f"the default route leaves by {ifname}: dropping all that arrives there cuts this "
            "machine off; choose another interface, or insist (--force)"
        )
    if dev.loopback:
        raise ConfigError(
            f"{ifname} is the loopback device; choose a NIC, or one end of a veth pair"
        )
    if not dev.up:
        raise ConfigError(f"{ifname} is down; `ip link set {quote(ifname)} up`")
    with _attached(variants, ifname, mode) as target:
        yield target


@contextmanager
def _attached(variants: Sequence[Variant], ifname: str, mode: Mode) -> Iterator[Target]:
    """Our programs, the first of them on an interface of the thread's namespace."""
    with ExitStack() as undo:
        objects: dict[Flows, BpfObject] = {}
        for flows in ("none", *(each.flows for each in variants)):
            if flows not in objects:
                objects[flows] = undo.enter_context(load(flows, _mac(ifname)))
        packets = PacketCount(ifname)
        undo.callback(packets.close)
        link = undo.enter_context(attach(objects["none"].programs["drop"], ifname, mode=mode))
        yield Target(link, objects, packets)


def _mac(ifname: str) -> bytes:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((ifname, 0))
        return bytes(sock.getsockname()[4])
