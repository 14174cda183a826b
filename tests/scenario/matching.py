# SPDX-License-Identifier: Apache-2.0
"""Is a segment one that was wanted, and if not, why?"""

from __future__ import annotations

from collections.abc import Mapping

from .end import End, Mail
from .steps import Expect, Pattern, Wanted


def mismatch(step: Expect, end: End, mail: Mail, names: Mapping[str, int]) -> str | None:
    """Why the segment is none of those that are wanted, or None."""
    reasons = [_differs(form, end, mail, names) for form in step.patterns]
    if None in reasons:
        return None
    return "; ".join(str(reason) for reason in reasons)


def _differs(form: Pattern, end: End, mail: Mail, names: Mapping[str, int]) -> str | None:
    s = mail.segment
    if s.flags - {"P"} != frozenset(form.flags) - {"P"}:
        return f"[{form.flags}] wanted"
    if form.seq is not None and not form.seq.holds(s.rseq, names):
        return f"seq {form.seq} wanted"
    if form.end is None and s.data:
        return "0 bytes wanted"
    if form.end is not None and not form.end.holds(s.rseq + len(s.data), names):
        return f"bytes up to {form.end} wanted"
    shift = 0 if "S" in s.flags else end.rcv_wscale
    for name, wanted, got in (("ack", form.ack, s.rack), ("win", form.win, s.win << shift)):
        if wanted is not None and not wanted.holds(got, names):
            return f"{name} {wanted} wanted"
    for option in form.options:
        if why := _option_differs(option, mail, names):
            return why
    return None


def _option_differs(option: Wanted, mail: Mail, names: Mapping[str, int]) -> str | None:
    s = mail.segment
    got: dict[str, list[int]] = {
        "mss": [] if s.mss is None else [s.mss],
        "ws": [] if s.ws is None else [s.ws],
        "sackok": [0] if s.sackok else [],
        "ts": [] if s.ts is None else list(s.ts),
        "sack": [edge for block in s.rsack for edge in block],
    }
    values = got[option.name]
    if bool(values) != option.present:
        return f"{'' if option.present else 'no '}{option.name} wanted"
    if option.name == "ts":
        pairs = dict(zip(("val", "ecr"), values, strict=False))
        wrong = any(not wanted.holds(pairs[key], names) for key, wanted in option.ranges)
    else:
        wanted = [each for _, each in option.ranges]
        wrong = bool(wanted) and (
            len(wanted) != len(values)
            or any(not each.holds(value, names) for each, value in zip(wanted, values, strict=True))
        )
    return f"other {option.name} wanted" if wrong else None
