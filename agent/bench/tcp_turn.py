# SPDX-License-Identifier: Apache-2.0
"""One turn of `bench tcp-rx`: connections over a veth, and what is seen while they are there.

A turn is, with receivers set up anew:

    requests and responses on one connection       latency, for `ask_seconds`
    the connections that send; warm-up
    a window                                       goodput, and in the same window how busy
                                                   each core was, and who kept it so
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from devmemtcp.agent.bench import conditions
from devmemtcp.agent.bench.conditions import CpuTimes
from devmemtcp.agent.bench.cores import CoreClocks, process_seconds
from devmemtcp.agent.bench.machine import Noise
from devmemtcp.agent.bench.plan import CpuPlan
from devmemtcp.agent.bench.tcp_variants import Variant
from devmemtcp.agent.bench.worker import PORT, Message, Worker
from devmemtcp.agent.bench.worker_receive import MESSAGE_BYTES
from devmemtcp.agent.header_path import HeaderPath
from devmemtcp.agent.lab import Lab, Side
from devmemtcp.agent.runtime import RxCsum

WARM_UP_SECONDS = 0.3
TURN_ATTEMPTS = 5
COPY_SECONDS = 0.04
SETUP_SECONDS = 0.3
"""Of a turn, besides what is measured and warm-up; roughly."""


@dataclass(frozen=True)
class Conditions:
    """What all turns have in common."""

    duration: float
    """Seconds of the window."""
    ask_seconds: float
    """Of requests and responses; 0: none."""
    region_size: int
    rx_csum: RxCsum
    window: int | None
    """Ours: largest receive window, in bytes; None: what suits the interface."""


@dataclass(frozen=True)
class Turn:
    """One variant, measured once: values by metric, and whatever else was seen."""

    values: dict[str, float]
    details: dict[str, Any]
    noise: Noise


@dataclass(frozen=True)
class _Seen:
    """The machine at one end of the window."""

    cores: CoreClocks
    accounts: CpuTimes
    processes: dict[str, float]
    """CPU seconds by role."""
    noise: Noise

    @classmethod
    def now(cls, cores: Sequence[int], pids: Mapping[str, int]) -> _Seen:
        processes = {role: process_seconds(pid) for role, pid in pids.items()}
        accounts = CpuTimes.now((os.getpid(), *pids.values()))
        return cls(CoreClocks.now(cores), accounts, processes, Noise.now())


class Bench:
    """A veth pair at one MTU with a worker in each end: a context manager."""

    def __init__(self, mtu: int, common: Conditions) -> None:
        self.congestion = ""
        self._mtu = mtu
        self._common = common
        self._cores = sorted(os.sched_getaffinity(0))
        self._receivers: dict[tuple[str | None, HeaderPath | None], Worker] = {}
        self._undo = ExitStack()

    def __enter__(self) -> Bench:
        with ExitStack() as halfway:
            halfway.callback(self._undo.close)
            self._lab = self._undo.enter_context(Lab(mtu=self._mtu))
            self._far = self._undo.enter_context(Worker(self._lab.far))
            self._near = self._receiver()
            self._defaults = {
                each: worker.ask(do="offloads", ifname=side.ifname, wanted={})["offloads"]
                for each, worker, side in self._ends()
            }
            halfway.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._undo.close()

    def _receiver(self, check: str | None = None, headers: HeaderPath | None = None) -> Worker:
        """The process at the near end with this form of the check, and this way of headers."""
        form = (check, headers)
        if form not in self._receivers:
            self._receivers[form] = self._undo.enter_context(Worker(self._lab.near, *form))
        return self._receivers[form]

    def _ends(self) -> Iterator[tuple[Literal["near", "far"], Worker, Side]]:
        yield "near", self._near, self._lab.near
        yield "far", self._far, self._lab.far

    def copy(self, cpu: int | None, size: int) -> float:
        """Seconds that it takes to copy 10^9 bytes into `size` bytes of memory, by packets."""
        done = self._near.ask(do="copy", cpu=cpu, size=size, seconds=COPY_SECONDS)
        return float(done["seconds"] / (done["bytes"] / 1e9))

    def turn(self, variant: Variant, plan: CpuPlan, connections: int) -> Turn:
        """A turn in which something came: a busy machine may sleep through a window.

        Raises OSError (ETIMEDOUT) when nothing did TURN_ATTEMPTS times, and for what the kernel
        refuses; Unsupported for what it does not have.
        """
        for _ in range(TURN_ATTEMPTS):
            turn = self._turn(variant, plan, connections)
            if turn.values:
                return turn
        raise OSError(
            errno.ETIMEDOUT,
            f"the machine is too busy: {TURN_ATTEMPTS} times nothing came to {variant.name} "
            f"within {self._common.duration} s",
        )

    def _turn(self, variant: Variant, plan: CpuPlan, connections: int) -> Turn:
        near = self._receiver(variant.check, variant.headers)
        offloads = self._prepare(variant, plan)
        dropped = self._dropped()
        address = [self._lab.near.ip4, PORT]
        seconds = self._common.ask_seconds
        ready = near.ask(
            do="receive",
            address=address,
            cpu=plan.app,
            asked=bool(seconds),
            connections=connections,
            **self._request(variant, plan),
        )
        asked: Message = {}
        if seconds:
            asked = self._far.ask(
                do="ask", address=address, cpu=plan.sender, seconds=seconds, size=MESSAGE_BYTES
            )
        hello = self._far.ask(do="send", address=address, cpu=plan.sender, connections=connections)
        self.congestion = hello["congestion"]
        near.hear()
        pids = {"sender": self._far.pid, "app": near.pid}
        if ready["pid"] != near.pid:
            pids["stack"] = ready["pid"]
        before, after = self._window(near, pids)
        near.tell(read=True)
        received, sent = near.hear(), self._far.hear()
        drops = {name: count - dropped[name] for name, count in self._dropped().items()}
        about = {
            "plan": str(plan),
            "mode": variant.mode,
            "offloads": [name for name, on in offloads.items() if on],
            "drops": _short(drops),
        }
        return _evaluated(_Turned(before, after, received, sent, asked), about)

    def _request(self, variant: Variant, plan: CpuPlan) -> Message:
        """How to receive, as the worker wants to be told."""
        return {
            "receiver": variant.receiver,
            "ifname": self._lab.near.ifname,
            "mode": variant.mode,
            "discard": variant.discard,
            "region_size": self._common.region_size,
            "host": variant.host,
            "rx_csum": self._common.rx_csum,
            "rcv_wnd": self._common.window,
            "ack_segments": variant.ack_segments,
            "spin_us": variant.spin_us,
            "busy_poll": variant.busy_poll,
            "loop_cpu": plan.loop,
            "napi_cpu": plan.napi if variant.mode == "native" else None,
            "copy": variant.copy,
        }

    def _prepare(self, variant: Variant, plan: CpuPlan) -> dict[str, bool]:
        """Set offloads and steering; returns the offloads of the sending end."""
        for each, worker, side in self._ends():
            wanted = dict(self._defaults[each])
            wanted["tx-checksum"] &= variant.tx_checksum
            for name in conditions.SEGMENTATION:
                wanted[name] &= variant.segmentation
            answer = worker.ask(do="offloads", ifname=side.ifname, wanted=wanted)
            cpu = plan.rps if each == "near" else plan.acks
            worker.ask(do="rps", ifname=side.ifname, cpu=cpu)
        return dict(answer["offloads"])

    def _dropped(self) -> dict[str, int]:
        """Packets that the two interfaces have dropped."""
        return {
            f"{each}_{name}": count
            for each, worker, side in self._ends()
            for name, count in worker.ask(do="dropped", ifname=side.ifname).items()
        }

    def _window(self, near: Worker, pids: Mapping[str, int]) -> tuple[_Seen, _Seen]:
        """Lead the receiver through its window; the machine at both ends of it."""
        start = time.monotonic_ns() + int(WARM_UP_SECONDS * 1e9)
        end = start + int(self._common.duration * 1e9)
        near.tell(window=[start, end])
        _sleep_until(start)
        before = _Seen.now(self._cores, pids)
        _sleep_until(end)
        return before, _Seen.now(self._cores, pids)


def _sleep_until(ns: int) -> None:
    time.sleep(max(0, ns - time.monotonic_ns()) / 1e9)


@dataclass(frozen=True)
class _Turned:
    """All that a turn has brought."""

    before: _Seen
    after: _Seen
    received: Message
    sent: Message
    asked: Message


def _evaluated(got: _Turned, about: dict[str, Any]) -> Turn:
    noise = got.after.noise - got.before.noise
    received = dict(got.received)
    size, seconds = received.pop("bytes"), received.pop("seconds")
    if not size:
        return Turn({}, about, noise)
    busy = got.after.cores.busy_since(got.before.cores)
    goodput = size / seconds
    values = {
        "goodput_gbps": goodput * 8 / 1e9,
        "cpu_s_per_gb": sum(busy.values()) / (goodput / 1e9),
    }
    values |= {f"latency_us_{name}": us for name, us in got.asked.get("latency", {}).items()}
    processes = _processes(got)
    values |= {
        "sender_cpu": processes["sender"],
        "receiver_cpu": sum(processes.values()) - processes["sender"],
        "busiest_core": max(busy.values()),
    }
    gigabytes = size / 1e9
    foreign = conditions.foreign_cores(got.before.accounts, got.after.accounts)
    return Turn(
        values,
        about
        | {
            "cores_busy": _short({str(core): share for core, share in busy.items()}),
            "processes": {role: float(f"{cores:.3g}") for role, cores in processes.items()},
            **_short({"foreign_cores": foreign}),
            "mss": got.sent["mss"],
            "retransmits": got.sent["retransmits"],
            "acks_per_gb": round(got.sent["acks"] / (got.sent["bytes"] / 1e9)),
            "per_gb": _short({name: count / gigabytes for name, count in received.items()}),
            "asked": got.asked.get("asked", 0),
            "latency_us_histogram": got.asked.get("histogram", []),
        },
        noise,
    )


def _short(values: Mapping[str, float]) -> dict[str, float]:
    """Three digits of each, which is more than they are good for; zeros left out."""
    short = {name: float(f"{value:.3g}") for name, value in values.items() if value}
    return {name: int(value) if value >= 100 else value for name, value in short.items()}


def _processes(got: _Turned) -> dict[str, float]:
    """Cores that each process had, softirqs on its back included."""
    seconds = got.after.cores.at - got.before.cores.at
    return {
        role: (after - got.before.processes[role]) / seconds
        for role, after in got.after.processes.items()
    }
