# SPDX-License-Identifier: Apache-2.0
"""`./dev faults`: all faults of the world, in their long form, and a table of what came of them."""

from __future__ import annotations

import random
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from ..arguments import Arguments
from ..net.compile_bpf import compile_bpf
from ..net.veth import Veth, remove_leavings, veth_pair
from . import kills, moments, outside
from .calls import campaign
from .crossing import Load, cross, one_segment_a_packet
from .hosts import WHERE, Mode
from .leftovers import nothing_left
from .nursery import Nursery
from .outside import Stage
from .report import Row, finish
from .road import Chances, bad_road

GROUPS = ("road", "outside", "moments", "kills", "calls")
_LOAD = Load(connections=4, size=100_000)
_AT_A_TIME = 4
"""Roads: what a stream waits for there is mostly time."""
_TIMES = 10
_MOMENTS = 16
_OFTEN_BYTES = 3_000_000
_MODES: tuple[Mode, ...] = ("native", "generic")
_WAYS: tuple[tuple[Mode, bool], ...] = (("native", True), ("generic", True), ("generic", False))
"""And whether the sender's segments are single ones."""


def _say(text: str) -> None:
    print(f"faults: {text}", file=sys.stderr, flush=True)


def _attempt(row: Row, call: Callable[[], object]) -> None:
    """Whatever a case raises is a promise broken; the others are tried all the same."""
    began = time.monotonic()
    try:
        call()
    except Exception:  # noqa: BLE001 - reported in the table
        row.broken.append(traceback.format_exc())
    how = "BROKEN" if row.broken else "as promised"
    _say(f"{row.case}: {how}, {time.monotonic() - began:.1f} s")


# ---- the road ----


@dataclass(frozen=True)
class _Journey:
    """One set of chances on one pair."""

    row: Row
    veth: Veth
    program: Path
    chances: Chances
    mode: Mode
    family: socket.AddressFamily
    single: bool

    def run(self) -> None:
        near, far = self.veth.right, self.veth.left
        if self.single:
            one_segment_a_packet(far)
        with bad_road(far, self.program, self.chances) as road:
            crossing = cross(near, far, _LOAD, mode=self.mode, family=self.family)
            happened = asdict(road.counters())
        self.row.nbytes += crossing.nbytes
        steer = crossing.stats.steer
        noticed = sum(steer[name] for name in steer if name.startswith("drop_"))
        for what, count in (happened | {"refused by the XDP program": noticed}).items():
            if count and not what.endswith("seen"):
                self.row.said[f"packet {what}"] += count
        self.row.times += sum(
            count or 0 for what, count in happened.items() if not what.endswith("seen")
        )


def _roads() -> list[tuple[str, Chances]]:
    kinds = ("loss", "duplication", "corruption", "delay", "reordering", "ack_loss")
    alone = [
        (
            f"{kind.replace('ack_loss', 'loss of ACKs')} {chance:.0%}",
            replace(Chances(), **{kind: chance}),
        )
        for kind in kinds
        for chance in (0.1, 0.3)
    ]
    together = [
        (f"all of these, {chance:.0%} each", Chances(*[chance] * len(kinds)))
        for chance in (0.05, 0.1, 0.2, 0.3)
    ]
    return alone + together


def road(rows: list[Row], _: random.Random, __: int) -> None:
    """Each impairment alone and all together, both families, native and generic."""
    with ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="devmemtcp-faults-")))
        program = compile_bpf(folder, "impair")
        undo.enter_context(nothing_left())
        pool = undo.enter_context(ThreadPoolExecutor(_AT_A_TIME))
        for name, chances in _roads():
            rows.append(row := Row(f"road: {name}"))
            with ExitStack() as pairs:
                journeys = [
                    _Journey(
                        row,
                        pairs.enter_context(veth_pair()),
                        program,
                        chances,
                        mode=mode,
                        family=family,
                        single=single,
                    )
                    for family in (socket.AF_INET, socket.AF_INET6)
                    for mode, single in _WAYS
                ]
                _attempt(row, lambda: [*pool.map(_Journey.run, journeys)])  # noqa: B023


# ---- what a stack hangs on ----


def outside_(rows: list[Row], chance: random.Random, _: int) -> None:
    """Links, MTUs, interfaces, namespaces and regions, by all three kinds of stack."""
    with Nursery() as nursery:
        for where in WHERE:
            for mode in _MODES:
                for ipv6 in (False, True):
                    stage = Stage(where, nursery, chance, mode, ipv6)
                    family = "IPv6" if ipv6 else "IPv4"
                    what = f"{where}, {mode}, {family}"
                    for name, case in (
                        ("link down and up", outside.link_flaps),
                        ("MTU", outside.mtu_changes),
                    ):
                        with veth_pair() as veth:
                            rows.append(row := Row(f"{name}: {what}"))
                            _attempt(row, partial(case, row, stage, veth, _TIMES))
                stage = Stage(where, nursery, chance, mode)
                for how in outside.REMOVALS:
                    rows.append(row := Row(f"interface removed {how}: {where}, {mode}"))
                    _attempt(row, partial(outside.interface_removed, row, stage, how))
            stage = Stage(where, nursery, chance)
            rows.append(row := Row(f"namespace destroyed: {where}"))
            _attempt(row, partial(outside.namespace_destroyed, row, stage))
            for name, region_case in (
                ("refused", outside.region_refused),
                ("sealed, closed", outside.region_closed),
                ("punched", outside.region_punched),
            ):
                with veth_pair() as veth:
                    rows.append(row := Row(f"region {name}: {where}"))
                    _attempt(row, partial(region_case, row, stage, veth))


# ---- at any moment ----


def moments_(rows: list[Row], chance: random.Random, _: int) -> None:
    """The interface goes away, or down, also while somebody starts or ends."""
    with Nursery() as nursery:
        for disturbance in moments.DISTURBANCES:
            what = f"interface {disturbance.name} at any moment"
            for where in WHERE:
                rows.append(row := Row(f"{what}: {where}"))
                args = (row, nursery, where, disturbance, _MOMENTS, chance)
                _attempt(row, partial(moments.disturb_receivers, *args))
            rows.append(row := Row(f"{what}: agent that starts"))
            agents = (row, nursery, disturbance, _MOMENTS, chance)
            _attempt(row, partial(moments.disturb_agents, *agents))


# ---- SIGKILL ----


def kills_(rows: list[Row], chance: random.Random, times: int) -> None:
    """At so many points of all lives."""
    with Nursery() as nursery, veth_pair() as veth:
        for case in kills.cases(nursery, veth, times, chance):
            rows.append(case.row)
            _attempt(case.row, case.run)


# ---- calls that fail ----


def calls_(rows: list[Row], _: random.Random, __: int) -> None:
    """Each call into the C library, and the data path's all the time."""
    for mode in campaign.MODES:
        _say(f"calls that fail, {mode}: minutes")
        with veth_pair() as veth:
            made = campaign.run(veth, mode, campaign.CHOICE[mode])
        rows += made.all()
        if mode in campaign.ELSEWHERE:
            continue
        with veth_pair() as veth, campaign.victim(veth, campaign.MODES[mode]) as victim:
            often = campaign.Rows(f"again and again, {mode}")
            campaign.fail_often(victim, _OFTEN_BYTES, often)
        rows += often.all()


def main() -> int:
    """Run what is asked for; the exit code is 1 when a promise is broken."""
    parser = Arguments("faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="of all random choices")
    parser.add_argument("--kills", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--only", choices=GROUPS, action="append", help="some of it; repeatable")
    options = parser.given()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    _say(f"seed {seed}")
    remove_leavings()
    rows: list[Row] = []
    began = time.monotonic()
    for name, group in zip(GROUPS, (road, outside_, moments_, kills_, calls_), strict=True):
        if name in (options.only or GROUPS):
            group(rows, random.Random(f"{seed} {name}"), options.kills)
    code = finish(rows)
    _say(f"seed {seed}, {time.monotonic() - began:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
