# SPDX-License-Identifier: Apache-2.0
"""The conclusion: in which modes packets can be received, what each promises, and why not.

A mode is out when a line of the report says that nothing can be received, or when one of
`agent/preflight.py`'s rules refuses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from devmemtcp.agent import preflight
from devmemtcp.agent.datapath_config import AttachMode, attach_mode
from devmemtcp.agent.doctor import driver
from devmemtcp.agent.doctor.agents import Agent
from devmemtcp.agent.doctor.look import named
from devmemtcp.agent.doctor.matrix import Release
from devmemtcp.agent.doctor.program import Loaded
from devmemtcp.agent.doctor.record import Check, State, Verdict
from devmemtcp.agent.header_path import HeaderPath
from devmemtcp.agent.readability import PROMISES, Where
from devmemtcp.agent.zerocopy import MTU_MAX
from devmemtcp.pyxdp import Features

_PATHS: dict[HeaderPath, str] = {
    "metadata": "headers come up as XDP metadata: payload alone gets into device memory",
    "slot": "headers come up in a map: payload alone gets into device memory",
}


@dataclass(frozen=True)
class Facts:
    """What the conclusion follows from."""

    can: Features
    kernel: Release
    loaded: Loaded
    multi_buffer: bool
    checks: Sequence[Check]


def modes(facts: Facts) -> list[Verdict]:
    """One for each mode."""
    blocked = _blocked(facts.checks)
    chosen = _chosen(facts)
    return [
        _verdict(facts, "native", _against_native(facts), blocked, chosen),
        _verdict(facts, "generic", _against_mode(facts, "generic"), blocked, chosen),
        _verdict(facts, "zerocopy", _against_zero_copy(facts), blocked, chosen),
    ]


def places(agent: Agent, ifname: str, checks: Sequence[Check]) -> list[Verdict]:
    """One for each process that the stack can run in."""
    blocked = _blocked(checks)
    served = ifname in agent.serves
    why_not = blocked or ("the agent has the interface" if served else "")
    no_agent = "" if served else agent.reason or f"the agent does not serve {ifname}"
    reasons: dict[Where, str] = {"inside": why_not, "isolated": why_not, "agent": no_agent}
    return [Verdict(where, not why, (PROMISES[where],), why) for where, why in reasons.items()]


def _blocked(checks: Sequence[Check]) -> str:
    """What is in the way of every mode."""
    names = [check.name for check in checks if check.state is State.FAIL]
    return f"see above: {named(names)}" if names else ""


def _chosen(facts: Facts) -> str:
    """What `--mode auto` comes to: without a mode of its own it tries native, then generic."""
    mode = attach_mode("auto", facts.can.driver, multi_buffer=facts.multi_buffer)
    if mode is None:
        return "generic" if any(_against_native(facts)) else "native"
    return mode


def _verdict(facts: Facts, mode: str, against: Iterator[str], blocked: str, chosen: str) -> Verdict:
    why_not = "; ".join(filter(None, [blocked, *against]))
    return Verdict(mode, not why_not, tuple(_promises(facts, mode)), why_not, mode == chosen)


def _against_native(facts: Facts) -> Iterator[str]:
    can = facts.can
    if driver.native(can, facts.kernel) is False:
        yield f"{can.driver or can.ifname} runs no XDP programs"
    yield from _against_mode(facts, "native")


def _against_zero_copy(facts: Facts) -> Iterator[str]:
    can = facts.can
    refused = list(_against_mode(facts, "zerocopy"))
    yield from refused
    has = driver.zero_copy(can, facts.kernel)
    if not refused and not has:
        who = can.driver or can.ifname
        yield f"{who} has no zero-copy" if has is False else f"{who} is not known to have it"
    if facts.loaded.against_chunk:
        yield f"its program: {facts.loaded.against_chunk}"


def _against_mode(facts: Facts, mode: AttachMode) -> Iterator[str]:
    refusals = preflight.buffer_refusals(
        facts.can, mode, facts.can.mtu, multi_buffer=facts.multi_buffer
    )
    yield from (f"{refusal.found}; {refusal.means}" for refusal in refusals)


_ZERO_COPY = (
    "the NIC writes to device memory itself, and nothing is copied",
    "headers lie in device memory too, in front of the payload; the stack can read neither there",
    "applications can read and forge all frames on their queues: trust them as with CAP_NET_RAW",
    f"packets of one buffer alone, an MTU of at most {MTU_MAX}",
    "regions may have huge pages",
)


def _promises(facts: Facts, mode: str) -> Iterator[str]:
    if mode == "zerocopy":
        yield from _ZERO_COPY
        return
    if facts.loaded.path is not None:
        yield _PATHS[facts.loaded.path]
    if mode == "native" and facts.can.driver == "veth":
        yield "packets come cut to the MTU, and each is copied once more by the veth"
    elif mode == "generic" and facts.can.driver == "veth":
        yield "a local sender's packets of up to 64 KB come uncut"
    elif mode == "generic":
        yield "packets come as the stack has merged them; slower than native"
    if not facts.multi_buffer:
        yield f"packets of one buffer alone, an MTU of at most {preflight.LINEAR_MTU}"
