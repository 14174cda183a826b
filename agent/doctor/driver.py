# SPDX-License-Identifier: Apache-2.0
"""The interface's driver: what it is known for, what it says of itself, what was tried."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from devmemtcp.agent import preflight
from devmemtcp.agent.doctor.look import named
from devmemtcp.agent.doctor.matrix import DRIVERS, Can, Release, known
from devmemtcp.agent.doctor.record import Check, State, note, ok, warn
from devmemtcp.agent.zerocopy import MTU_MAX, zero_copy_refusals
from devmemtcp.pyxdp import Features, XdpAct

_WORDS = {
    Can.NATIVE: "native XDP",
    Can.ZERO_COPY: "AF_XDP zero-copy",
    Can.DEVMEM: "the kernel's devmem TCP",
}


def checks(can: Features, kernel: Release) -> Iterator[Check]:
    """Of one interface."""
    yield _driver(can, kernel)
    yield _native(can, kernel)
    yield _af_xdp(can)
    yield _zero_copy(can, kernel)


def native(can: Features, kernel: Release) -> bool | None:
    """Whether the driver runs XDP programs, by its own word or else by what is known of it."""
    if can.native_xdp is not None:
        return can.native_xdp
    return known(can.driver, Can.NATIVE, kernel)


def zero_copy(can: Features, kernel: Release) -> bool | None:
    """Whether it has zero-copy: tried, or by its own word, or by what is known of it."""
    if can.zero_copy is not None:
        return can.zero_copy
    if can.xdp_features is not None:
        return bool(can.xdp_features & XdpAct.XSK_ZEROCOPY)
    return known(can.driver, Can.ZERO_COPY, kernel)


def _driver(can: Features, kernel: Release) -> Check:
    if can.driver is None:
        return note("driver", can.reasons["driver"], "nothing is known of it beforehand")
    row = DRIVERS.get(can.driver)
    if row is None:
        return note("driver", can.driver, "not in our table; what can be tried is tried")
    has = {
        Can.NATIVE: native(can, kernel),
        Can.ZERO_COPY: zero_copy(can, kernel),
        Can.DEVMEM: row.has(Can.DEVMEM, kernel),
    }
    there = [_WORDS[what] for what, has_it in has.items() if has_it]
    perhaps = [_WORDS[what] for what, has_it in has.items() if has_it is None]
    means = [f"has {named(there)}"] if there else []
    if perhaps:
        means.append(f"perhaps {named(perhaps)}, which a later or earlier kernel's has")
    if row.note:
        means.append(row.note)
    return ok("driver", can.driver, "; ".join(means or ["has neither native XDP nor zero-copy"]))


def _native(can: Features, kernel: Release) -> Check:
    said = "the driver says so" if can.native_xdp is not None else "it is known for that"
    match native(can, kernel):
        case True:
            return ok("native XDP", "yes", f"the program runs in the driver; {said}")
        case False:
            return warn("native XDP", "no", f"generic mode alone, for any driver; {said}")
        case _:
            reason = can.reasons.get("native_xdp", "the driver does not tell")
            return note("native XDP", reason, "`--mode auto` tries it, then generic")


def _af_xdp(can: Features) -> Check:
    if can.af_xdp:
        return ok("AF_XDP bind", "a socket could be bound", "in copy mode, on queue 0")
    if can.af_xdp is None:
        return note("AF_XDP bind", can.reasons["af_xdp"], "so it could not be tried on queue 0")
    for refusal in preflight.feature_refusals(can):
        return Check.of(refusal)
    raise AssertionError("no AF_XDP, and no rule that says so")


def _zero_copy(can: Features, kernel: Release) -> Check:
    name = "zero-copy"
    if can.zero_copy:
        return ok(name, "a socket could be bound", "`--mode zerocopy` can be used")
    if can.zero_copy is False and can.xdp_features and can.xdp_features & XdpAct.XSK_ZEROCOPY:
        return warn(name, f"the driver says so, but: {can.reasons['zero_copy']}", "copy mode it is")
    match zero_copy(can, kernel):
        case True:
            for refusal in zero_copy_refusals(can, min(can.mtu, MTU_MAX)):  # the MTU can be set
                return Check.of(refusal, State.WARN)
            return note(
                name,
                "the driver has it; not tried, since that resets a queue, on some NICs the link",
                "try it where that does no harm",
                f"devmemtcp doctor -i {quote(can.ifname)} --try-zero-copy",
            )
        case False:
            return note(name, "the driver has none", "copy mode it is")
        case _:
            return note(name, can.reasons["zero_copy"], "nothing is known of it")
