# SPDX-License-Identifier: Apache-2.0
"""What `bench tcp-rx` was asked for: which variants, in which settings, how long."""

from __future__ import annotations

import fnmatch
from dataclasses import asdict, dataclass, replace
from typing import Any

from devmemtcp.agent._loop import FORM
from devmemtcp.agent.bench.plan import CpuPlan, default_kernel_plans, default_plans, two_cores_plan
from devmemtcp.agent.bench.rounds import check_rounds
from devmemtcp.agent.bench.tcp_turn import SETUP_SECONDS, WARM_UP_SECONDS, Conditions
from devmemtcp.agent.bench.tcp_variants import COPIES, Factors, Variant, catalogue
from devmemtcp.agent.datapath_config import ACK_SEGMENTS_MAX, XdpMode
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.lab import MTU_MAX, check_mtu
from devmemtcp.agent.region import check_size
from devmemtcp.agent.runtime import RxCsum
from devmemtcp.stack.form import FORMS

TRIALS = 3
"""Turns of each CPU plan before one is chosen."""
MOST_CONNECTIONS = 256
AIMED = (1500, 1)
"""MTU and connections that the aims are for."""


@dataclass(frozen=True)
class TcpRxOptions:
    """What was asked for on the command line."""

    mtus: tuple[int, ...]
    connections: tuple[int, ...]
    modes: tuple[XdpMode, ...]
    checks: tuple[str, ...]
    """Forms of the check "page or net_iov?", see stack/form.py."""
    acks: tuple[int, ...]
    """Full-sized segments to an ACK."""
    spins: tuple[int, ...]
    """us that the stack polls before it sleeps."""
    busy_poll: bool
    """Also with a stack that never sleeps."""
    copy: bool
    """Also with an application that copies every byte out of the region."""
    slots: bool
    """Also with headers that come by slots, as on kernels before 6.8."""
    rounds: int
    duration: float
    """Seconds of a turn's window."""
    ask_seconds: float
    """Seconds of requests and responses in each turn; 0: none, and no latency."""
    plans: tuple[CpuPlan, ...]
    """For ours."""
    kernel_plans: tuple[CpuPlan, ...]
    region_size: int
    rx_csum: RxCsum
    window: int | None
    """Ours: largest receive window, in bytes; None: what suits the interface."""
    variants: tuple[str, ...]
    """Names, or patterns of them; empty: all."""
    quick: bool
    seed: int

    @classmethod
    def usual(cls, *, quick: bool, seed: int) -> TcpRxOptions:
        """What is measured when nothing else is asked for."""
        return cls(
            mtus=(1500,) if quick else (1500, 9000, MTU_MAX),
            connections=(1,) if quick else (1, 16),
            modes=("auto", "native"),
            checks=FORMS,
            acks=() if quick else (1, 8, 32),
            spins=() if quick else (50,),
            busy_poll=not quick,
            copy=not quick,
            slots=False,
            rounds=7 if quick else 10,
            duration=0.4 if quick else 0.5,
            ask_seconds=0.2 if quick else 0.3,
            plans=default_plans(),
            kernel_plans=default_kernel_plans(),
            region_size=64 << 20,
            rx_csum="verify",
            window=None,
            variants=(),
            quick=quick,
            seed=seed,
        )

    def check(self) -> None:
        """Raise ConfigError for what cannot work, as far as it shows in the values."""
        check_rounds(self.rounds)
        if not 0.05 <= self.duration <= 60:
            raise ConfigError(f"--duration {self.duration}: 0.05 to 60 seconds")
        if not 0 <= self.ask_seconds <= 60:
            raise ConfigError(f"--ask {self.ask_seconds}: 0 to 60 seconds")
        for mtu in self.mtus:
            check_mtu(mtu)
        for number in self.connections:
            if not 1 <= number <= MOST_CONNECTIONS:
                raise ConfigError(f"--connections {number}: 1 to {MOST_CONNECTIONS}")
        for every in self.acks:
            if not 1 <= every <= ACK_SEGMENTS_MAX:
                raise ConfigError(f"--ack {every}: 1 to {ACK_SEGMENTS_MAX}")
        check_size(self.region_size)
        self.chosen()

    @property
    def common(self) -> Conditions:
        """What all turns have in common."""
        return Conditions(
            duration=self.duration,
            ask_seconds=self.ask_seconds,
            region_size=self.region_size,
            rx_csum=self.rx_csum,
            window=self.window,
        )

    def chosen(self) -> list[Variant]:
        """The variants of the base setting. Raises ConfigError for a pattern of none."""
        factors = Factors(
            self.modes,
            FORM,
            self.checks,
            self.acks,
            self.spins,
            self.busy_poll,
            self.copy,
            self.slots,
        )
        everyone = catalogue(factors, brief=self.quick and not self.variants)
        for pattern in self.variants:
            if not any(fnmatch.fnmatchcase(each.name, pattern) for each in everyone):
                known = ", ".join(each.name for each in everyone)
                raise ConfigError(f"--variant {pattern} is unknown; there are {known}")
        return [
            each
            for each in everyone
            if not self.variants or any(fnmatch.fnmatchcase(each.name, p) for p in self.variants)
        ]

    def settings(self) -> list[tuple[int, int]]:
        """(MTU, connections): the base, and those that differ from it by one of the two."""
        base = (self.mtus[0], self.connections[0])
        return [
            base,
            *((mtu, base[1]) for mtu in self.mtus[1:]),
            *((base[0], number) for number in self.connections[1:]),
        ]

    def of(self, setting: tuple[int, int]) -> list[Variant]:
        """The variants of a setting: whatever is varied, it is in the base alone."""
        chosen = self.chosen()
        if setting == self.settings()[0]:
            return chosen
        return [each for each in chosen if each.base]

    def plans_of(self, family: str) -> tuple[CpuPlan, ...]:
        """Those that a family can choose from."""
        if family == COPIES:
            return (two_cores_plan(),)
        return self.plans if family.startswith("devmem") else self.kernel_plans

    def turns(self) -> int:
        """Of all settings, those included in which plans are tried."""
        return sum(sum(self._turns(each)) for each in self.settings())

    def seconds(self) -> float:
        """About how long it will take."""
        each = self.duration + WARM_UP_SECONDS + SETUP_SECONDS
        return sum(
            counted * (each + self.ask_seconds) + tried * each
            for counted, tried in map(self._turns, self.settings())
        )

    def _turns(self, setting: tuple[int, int]) -> tuple[int, int]:
        """Those that count, and those in which plans are tried."""
        variants = self.of(setting)
        choices = [len(self.plans_of(name)) for name in {each.family for each in variants}]
        tried = sum(TRIALS * plans for plans in choices if plans > 1)
        return len(variants) * self.rounds, tried

    def as_json(self) -> dict[str, Any]:
        """All but plans and seed, which the document has elsewhere."""
        values = asdict(replace(self, plans=(), kernel_plans=()))
        return {name: value for name, value in values.items() if "plans" not in name}


def setting_name(mtu: int, connections: int) -> str:
    """As in the document."""
    return f"mtu={mtu} connections={connections}"
