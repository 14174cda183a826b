# SPDX-License-Identifier: Apache-2.0
"""The rate at which frames of 64 bytes are dropped, by programs that do more and more.

An empty XDP_DROP is the most sensitive thing there is on the receive path: whatever is added to
it shows. On a veth the frames come from `live_frames`, on a NIC from outside. The programs are
those of xdp_prog/drop.bpf.c; one link stays attached, and the programs take turns in it.

On a veth the sender and the receiver's softirq take turns on one core, and what is measured is the
CPU time of that thread, of both together, not the clock on the wall: then it does not matter who
else wants the core, nor that the sender sleeps between two calls. Nothing is lost between them.
The owner of an AF_XDP socket polls it from another core, and frames count when they have come
there; the time is still that of the thread that copies them into the socket's memory.
With frames from outside, where softirq is booked on whoever it interrupts, it is the wall's.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Literal

from devmemtcp import xdp_prog
from devmemtcp.agent.bench.live_frames import LiveFrames, tcp_frame
from devmemtcp.agent.bench.machine import Noise
from devmemtcp.agent.bench.progress import Progress
from devmemtcp.agent.bench.result import (
    Goal,
    Metric,
    Pair,
    Quantity,
    Result,
    Run,
    Sample,
    judge,
)
from devmemtcp.agent.bench.rounds import Turn, pinned, take_turns
from devmemtcp.agent.bench.xsk_receiver import XskReceiver
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.lab import Lab
from devmemtcp.pyxdp import Attachment, BpfObject, Mode, Program, XskMap, attach

Flows = Literal["none", "ports", "addresses"]
"""Listeners that do not match: 256 on other ports, or on the frames' port at other addresses."""

PORT = 9
"""The frames' (discard): nobody listens on it."""
MARGIN = 0.02
POLL_SECONDS = 0.002
PATIENCE_SECONDS = 10.0
_PROC_NET_DEV_BYTES = 1 << 20
SETTLE_SECONDS = 0.005
"""From the change of programs to the first count: the veth's ring has been emptied by then."""


@dataclass(frozen=True)
class Variant:
    """A program of drop.bpf.c, and what its maps hold."""

    name: str
    program: str
    flows: Flows = "none"
    pool: tuple[str, str] | None = None
    """With an AF_XDP socket: form of the check and kind of memory; ("", "") is without a pool."""


VARIANTS = (
    Variant("drop", "drop"),
    Variant("parse", "parse"),
    Variant("steer", "steer_off"),
    Variant("steer-flows", "steer_off", "ports"),
    Variant("steer-port", "steer_off", "addresses"),
    Variant("steer-frozen", "steer_frozen"),
    Variant("steer-flag", "steer_flag"),
    Variant("xsk", "redirect", pool=("", "")),
    Variant("xsk-off", "redirect", pool=("off", "host")),
    Variant("xsk-plain", "redirect", pool=("plain", "host")),
    Variant("xsk-static", "redirect", pool=("static", "host")),
    Variant("xsk-device", "redirect", pool=("static-bound", "device")),
)

PAIRS = (
    ("parse", "drop"),
    ("steer", "drop"),
    ("steer-flows", "drop"),
    ("steer-port", "drop"),
    ("steer-frozen", "steer"),
    ("steer-flag", "steer"),
    ("xsk", "drop"),
    ("xsk-static", "drop"),
    ("xsk-off", "xsk"),
    ("xsk-plain", "xsk-off"),
    ("xsk-static", "xsk-off"),
    ("xsk-device", "xsk-off"),
)
"""(variant, what it is held against)."""

METRICS = (Metric("mpps", "Mpps", "higher"), Metric("ns", "ns/frame", "lower", kind="derived"))

GOALS = (
    Goal(
        "our steering program, no flow: rate against an empty XDP_DROP",
        0.85,
        "steer",
        "mpps",
        "drop",
    ),
    Goal(
        "AF_XDP, receive and recycle: rate against an empty XDP_DROP",
        0.5,
        "xsk-static",
        "mpps",
        "drop",
    ),
    Goal(
        "check as a frozen constant: equivalent to none (its interval's distance from 1)",
        MARGIN,
        "steer-frozen",
        "mpps",
        "steer",
        Quantity.DEVIATION,
        at_least=False,
    ),
)


@dataclass(frozen=True)
class XdpDropOptions:
    """What was asked for on the command line."""

    rounds: int
    duration: float
    """Seconds of a turn."""
    variants: tuple[str, ...]
    interface: str | None
    """A real one; None: a veth pair and frames of our own."""
    cpu: int
    """Where sender and softirq run."""
    app_cpu: int
    """Where the owner of the AF_XDP socket runs."""
    seed: int
    quick: bool = False

    @classmethod
    def usual(cls, *, quick: bool, seed: int) -> XdpDropOptions:
        """What is measured when nothing else is asked for."""
        first, *others = sorted(os.sched_getaffinity(0))
        return cls(
            rounds=24 if quick else 60,
            duration=0.03,
            variants=tuple(each.name for each in VARIANTS),
            interface=None,
            cpu=first,
            app_cpu=others[0] if others else first,
            seed=seed,
            quick=quick,
        )

    def check(self) -> None:
        """Raise ConfigError for what cannot work, as far as it shows in the values."""
        if self.rounds < 1:
            raise ConfigError(f"--rounds {self.rounds}: at least 1 is needed")
        if not 0.01 <= self.duration <= 60:
            raise ConfigError(f"--duration {self.duration}: 0.01 to 60 seconds")
        unknown = set(self.variants) - {each.name for each in VARIANTS}
        if unknown:
            known = ", ".join(each.name for each in VARIANTS)
            raise ConfigError(f"--variant {sorted(unknown)[0]} is unknown; there are {known}")

        if self.app_cpu == self.cpu and any(each.pool for each in self.chosen()):
            raise ConfigError(
                "the xsk variants poll, on another core than the sender's: name two with --cpu "
                "and --app-cpu, or leave them out with --variant"
            )

    def chosen(self) -> list[Variant]:
        """Those to be measured. With frames from outside there is no socket of ours."""
        chosen = [each for each in VARIANTS if each.name in self.variants]
        return [each for each in chosen if self.interface is None or each.pool is None]

    def turns(self) -> int:
        """That are counted."""
        return self.rounds * len(self.chosen())

    def seconds(self) -> float:
        """About how long it will take."""
        turns = (self.rounds + 1) * len(self.chosen())
        return turns * 1.5 * (self.duration + SETTLE_SECONDS) + 1


@dataclass(frozen=True)
class Window:
    """One turn's window."""

    frames: int
    """That the program saw; with a socket, those that its owner received."""
    seconds: float
    """That they took: of CPU time on a veth, on the wall with frames from outside."""
    wall_seconds: float
    noise: Noise

    @property
    def mpps(self) -> float:
        """10^6 frames a second."""
        return self.frames / self.seconds / 1e6


def run_xdp_drop(options: XdpDropOptions, progress: Progress) -> Result:
    """Measure. Nothing is left behind, whatever happens.

    Raises ConfigError for what cannot work, OSError when the kernel refuses.
    """
    options.check()
    progress.expect("xdp-drop", options.turns(), options.seconds())
    on_veth = options.interface is None
    run = Run.begin(
        "xdp-drop",
        seed=options.seed,
        quick=options.quick,
        options={**asdict(options), "frame_bytes": 64},
        pinning={"softirq": options.cpu, "application": options.app_cpu} if on_veth else {},
        veth=on_veth,
    )
    samples: list[Sample] = []
    with pinned(options.cpu), _bench(options) as bench:
        variants = {each.name: bench.measurement(each) for each in options.chosen()}
        for turn in take_turns(variants, options.rounds, seed=options.seed):
            samples.append(_sample(turn))
            progress.turn(f"xdp-drop, round {turn.round + 1} of {options.rounds}")
        details = {"mode": bench.attachment.mode.value, "lost": bench.lost()}
    return judge(
        run,
        samples,
        metrics=METRICS,
        variants=[each.name for each in options.chosen()],
        pairs=[Pair(name, against, "mpps", MARGIN) for name, against in PAIRS],
        goals=GOALS,
        details=details,
    )


def _sample(turn: Turn[Window]) -> Sample:
    window = turn.sample
    return Sample(
        "",
        turn.variant,
        turn.round,
        turn.place,
        {"mpps": window.mpps, "ns": 1e3 / window.mpps},
        window.noise,
        {"frames": window.frames, "seconds": window.seconds, "wall_seconds": window.wall_seconds},
    )


class _Bench:
    """An interface with one of our programs on it."""

    def __init__(
        self,
        attachment: Attachment,
        objects: dict[Flows, BpfObject],
        packets: PacketCount,
        duration: float,
    ) -> None:
        self.attachment = attachment
        self.clock = time.CLOCK_MONOTONIC
        self.sender: LiveFrames | None = None
        self.receiver: XskReceiver | None = None
        self.objects = objects
        self._packets = packets
        self._received = packets.read()
        self._duration = duration

    def lost(self) -> float | None:
        """Share of the frames sent so far that did not arrive."""
        if self.sender is None:
            return None
        return max(0.0, 1 - (self._packets.read() - self._received) / self.sender.sent)

    def measurement(self, variant: Variant) -> Callable[[], Window]:
        program = self.objects[variant.flows].programs[variant.program]

        def measure() -> Window:
            self._attach(program)
            return self._window(self._packets.read)

        def receive() -> Window:
            assert self.receiver is not None
            assert variant.pool is not None
            form, provider = variant.pool
            receiver = self.receiver
            with receiver.running(form or None, provider):
                self._attach(program)
                try:
                    return self._window(lambda: receiver.received)
                finally:  # so that nothing comes any more
                    self._attach(self.objects["none"].programs["drop"])

        return receive if variant.pool else measure

    def _attach(self, program: Program) -> None:
        self.attachment.replace(program)
        time.sleep(SETTLE_SECONDS)

    def _window(self, count: Callable[[], int]) -> Window:
        """Until the duration has passed by the clock, however long that takes on the wall."""
        noise, wall = Noise.now(), time.monotonic()
        began, before = time.clock_gettime_ns(self.clock), count()
        ended = began
        while ended - began < self._duration * 1e9:
            if time.monotonic() - wall > 2 * self._duration + PATIENCE_SECONDS:
                raise TimeoutError(errno.ETIMEDOUT, "the machine is too busy: nothing is sent")
            time.sleep(max(POLL_SECONDS, self._duration / 20))
            ended, after = time.clock_gettime_ns(self.clock), count()
            if self.sender:
                self.sender.check()
        if after == before:
            raise OSError(errno.ENODATA, "nothing arrived: there is nothing to be measured")
        return Window(
            frames=after - before,
            seconds=(ended - began) / 1e9,
            wall_seconds=time.monotonic() - wall,
            noise=Noise.now() - noise,
        )


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
def _bench(options: XdpDropOptions) -> Iterator[_Bench]:
    """A veth pair and frames, or the interface that was named, until the end of the block."""
    with ExitStack() as undo:
        if options.interface is not None:
            yield undo.enter_context(_attached(options, options.interface))
            return
        lab = undo.enter_context(Lab())
        with lab.near.entered():
            bench = undo.enter_context(_attached(options, lab.near.ifname))
            target = _mac(lab.near.ifname)
            if any(each.pool for each in options.chosen()):
                receiver = XskReceiver(lab.near.ifname, options.app_cpu)
                bench.receiver = undo.enter_context(receiver)
                sockets = bench.objects["none"].maps["xsks"]
                assert isinstance(sockets, XskMap)
                sockets.set_socket(0, receiver.socket)
        with lab.far.entered():
            source_ip, target_ip = socket.inet_aton(lab.far.ip4), socket.inet_aton(lab.near.ip4)
            bench.sender = LiveFrames(
                bench.objects["none"].programs["send"],
                tcp_frame(_mac(lab.far.ifname), target, source_ip, target_ip, PORT),
                socket.if_nametoindex(lab.far.ifname),
                cpu=options.cpu,
            )
            undo.enter_context(bench.sender)
        bench.clock = bench.sender.cpu_clock()
        yield bench


@contextmanager
def _attached(options: XdpDropOptions, ifname: str) -> Iterator[_Bench]:
    """Our programs, the first of them on an interface of the thread's namespace."""
    mode = Mode.NATIVE if options.interface is None else Mode.AUTO
    with ExitStack() as undo:
        objects: dict[Flows, BpfObject] = {}
        for flows in ("none", *(each.flows for each in options.chosen())):
            if flows not in objects:
                objects[flows] = undo.enter_context(_loaded(flows, _mac(ifname)))
        packets = PacketCount(ifname)
        undo.callback(packets.close)
        link = undo.enter_context(attach(objects["none"].programs["drop"], ifname, mode=mode))
        yield _Bench(link, objects, packets, options.duration)


def _loaded(flows: Flows, mac: bytes) -> BpfObject:
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
    for number in range(256 if flows != "none" else 0):
        yield f"198.18.0.{number}", PORT if flows == "addresses" else 20000 + number


def _mac(ifname: str) -> bytes:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((ifname, 0))
        return bytes(sock.getsockname()[4])
