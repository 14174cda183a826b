# SPDX-License-Identifier: Apache-2.0
"""The rate at which frames of 64 bytes are dropped, by programs that do more and more.

An empty XDP_DROP is the most sensitive thing there is on the receive path: whatever is added to
it shows. On a veth the frames come from `live_frames`, on a NIC from outside. The programs are
those of xdp_prog/drop.bpf.c; one link stays attached, and the programs take turns in it.

On a veth everything happens on one core: the sender, the softirq that receives, and the owner of an
AF_XDP socket, which looks into its rings now and then. What is measured is the CPU time of all of
them, not the clock on the wall: then it does not matter who else wants the core, nor that the
sender sleeps between two calls; and a frame that needs more threads has all of them counted. The
kernel's thread for softirqs (ksoftirqd) is one of them: what it does is nobody else's time.
`xsk-apart` has the socket polled on a second core, all of which it takes.
With frames from outside, where softirq is booked on whoever it interrupts, it is the wall's clock.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass

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
from devmemtcp.agent.bench.rounds import Turn, allowed, check_rounds, pinned, take_turns
from devmemtcp.agent.bench.xdp_target import (
    SETTLE_SECONDS,
    Target,
    Window,
    on_interface,
    on_veth,
)
from devmemtcp.agent.bench.xdp_variants import VARIANTS, Variant
from devmemtcp.agent.errors import ConfigError
from devmemtcp.pyxdp import Mode

MARGIN = 0.02
METRICS = (
    Metric("mpps", "Mpps", "higher"),
    Metric("mpps_core", "Mpps of softirq's core", "higher"),
    Metric("ns", "ns/frame", "lower", kind="derived"),
)

PAIRS = (
    *(
        Pair(name, "drop", "mpps", MARGIN)
        for name in ("parse", "steer", "steer-flows", "steer-port", "xsk", "xsk-static")
    ),
    Pair("steer-frozen", "steer", "mpps", MARGIN),
    Pair("steer-flag", "steer", "mpps", MARGIN),
    Pair("xsk-off", "xsk", "mpps", MARGIN),
    *(Pair(name, "xsk-off", "mpps", MARGIN) for name in ("xsk-plain", "xsk-static", "xsk-device")),
    Pair("xsk-apart", "drop", "mpps_core", MARGIN),
)

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
    force: bool
    """Take the interface of the default route all the same."""
    mode: str
    """Of attachment: native, generic, or auto, which is native on a veth."""
    cpu: int
    """Where sender, softirq and the owner of the AF_XDP socket run."""
    app_cpu: int
    """Where that owner polls in `xsk-apart`."""
    seed: int
    quick: bool = False

    @classmethod
    def usual(cls, *, quick: bool, seed: int) -> XdpDropOptions:
        """What is measured when nothing else is asked for: on one core, without `xsk-apart`."""
        first, *others = sorted(os.sched_getaffinity(0))
        return cls(
            rounds=24 if quick else 60,
            duration=0.03,
            variants=tuple(each.name for each in VARIANTS if others or not _is_apart(each)),
            interface=None,
            force=False,
            mode="auto",
            cpu=first,
            app_cpu=others[0] if others else first,
            seed=seed,
            quick=quick,
        )

    def check(self) -> None:
        """Raise ConfigError for what cannot work, as far as it shows in the values."""
        check_rounds(self.rounds)
        if not 0.01 <= self.duration <= 60:
            raise ConfigError(f"--duration {self.duration}: 0.01 to 60 seconds")
        unknown = set(self.variants) - {each.name for each in VARIANTS}
        if unknown:
            known = ", ".join(each.name for each in VARIANTS)
            raise ConfigError(f"--variant {sorted(unknown)[0]} is unknown; there are {known}")
        if self.app_cpu == self.cpu and any(map(_is_apart, self.chosen())):
            raise ConfigError(
                "xsk-apart polls on another core than the sender's: name two with --cpu and "
                "--app-cpu, or leave it out with --variant"
            )
        if not self.chosen():
            raise ConfigError("none of these variants can be measured with frames from outside")

    def chosen(self) -> list[Variant]:
        """Those to be measured. With frames from outside there is no socket of ours."""
        chosen = [each for each in VARIANTS if each.name in self.variants]
        return [each for each in chosen if self.interface is None or each.socket is None]

    def turns(self) -> int:
        """That are counted."""
        return self.rounds * len(self.chosen())

    def seconds(self) -> float:
        """About how long it will take: the sender sleeps between its calls."""
        turns = (self.rounds + 1) * len(self.chosen())
        return turns * (1.5 * self.duration + SETTLE_SECONDS + 0.015) + 1

    def target(self) -> AbstractContextManager[Target]:
        """Where to measure."""
        if self.interface is not None:
            mode = Mode(self.mode)
            return on_interface(self.chosen(), self.interface, mode=mode, force=self.force)
        mode = Mode.NATIVE if self.mode == "auto" else Mode(self.mode)
        return on_veth(self.chosen(), mode=mode, cpu=self.cpu, app_cpu=self.app_cpu)


def _is_apart(variant: Variant) -> bool:
    return variant.socket is not None and variant.socket.apart


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
        pinning={"softirq": options.cpu, "xsk-apart": options.app_cpu} if on_veth else {},
        veth=on_veth,
    )
    samples: list[Sample] = []
    with pinned(options.cpu), options.target() as target:
        mode = target.attachment.mode.value
        variants: dict[str, Callable[[], Window]] = {
            each.name: functools.partial(target.measure, each, options.duration)
            for each in options.chosen()
        }
        limit = allowed(options.seconds(), quick=options.quick)
        for turn in take_turns(variants, options.rounds, seed=options.seed, seconds=limit):
            samples.append(_sample(turn, f"mode={mode}"))
            progress.turn(f"xdp-drop, round {turn.round + 1} of {options.rounds}")
        lost = target.lost()
    return judge(
        run,
        samples,
        metrics=METRICS,
        variants=[each.name for each in options.chosen()],
        pairs=PAIRS,
        goals=GOALS,
        details={"mode": mode, "lost": lost},
    )


def _sample(turn: Turn[Window], setting: str) -> Sample:
    window = turn.sample
    return Sample(
        setting,
        turn.variant,
        turn.round,
        turn.place,
        {"mpps": window.mpps, "mpps_core": window.core_mpps, "ns": 1e3 / window.mpps},
        window.noise,
        {"frames": window.frames, "seconds": window.seconds, "wall_seconds": window.wall_seconds},
    )
