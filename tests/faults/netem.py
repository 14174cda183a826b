# SPDX-License-Identifier: Apache-2.0
"""The kernel's own bad road, tc-netem(8), where a module or the kernel has it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..net.veth import VethEnd

_LIMIT = 100_000
"""Packets that are held at a time; the default of 1000 would lose more than was asked for."""
_LATE_MS = 40
"""On average; from nothing to twice that, so that others overtake."""


def arguments(
    *, loss: float, duplication: float, corruption: float, delay: float, reordering: float
) -> list[str]:
    """Of the qdisc, for chances of 0 to 1.

    netem delays every packet but those that it "reorders", which overtake the others. So here the
    chance to be late, for either reason, is that of not being reordered.
    """
    words = ["limit", str(_LIMIT)]
    for name, chance in (("loss", loss), ("duplicate", duplication), ("corrupt", corruption)):
        if chance:
            words += [name, f"{chance:.4%}"]
    if late := delay + reordering:
        words += ["delay", f"{_LATE_MS}ms", f"{_LATE_MS}ms", "reorder", f"{1 - late:.4%}"]
    return words


@contextmanager
def attached(end: VethEnd, words: Sequence[str]) -> Iterator[bool]:
    """Have it at the end's egress during the block; False: this kernel has none."""
    command = ["tc", "qdisc", "replace", "dev", end.ifname, "root", "netem", *words]
    done = end.run(command, check=False, stderr=subprocess.PIPE, text=True)
    if done.returncode and "qdisc kind is unknown" in done.stderr:
        yield False
        return
    assert done.returncode == 0, done.stderr
    try:
        yield True
    finally:
        end.run(["tc", "qdisc", "delete", "dev", end.ifname, "root"])


def counters(end: VethEnd) -> tuple[int, int]:
    """Packets of all kinds that went on, second copies included, and that were lost."""
    command = ["tc", "-s", "-j", "qdisc", "show", "dev", end.ifname]
    found = json.loads(end.run(command, stdout=subprocess.PIPE).stdout)
    (qdisc,) = (each for each in found if each["kind"] == "netem")
    return int(qdisc["packets"]), int(qdisc["drops"])
