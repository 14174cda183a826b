# SPDX-License-Identifier: Apache-2.0
"""What `./dev test --vm` runs in a guest, and what it leaves to the host."""

from __future__ import annotations

from .nics import NAMES

TESTS = {name: ["tests/hw"] for name in NAMES} | {"veth": ["tests/net"]}
"""By NIC: pytest's arguments unless others are given."""

LEFT_TO_THE_HOST = {
    "tests/net/test_soak.py": "how long it goes on is what it is about",
    "tests/net/test_storm.py": "frames by the hundred thousand, in a sanitised process",
    "tests/net/hostile": "garbage for a given time, in a sanitised process",
}
"""What is about load, time, or our code alone, by where it is, with the reason: another kernel
adds nothing, and under emulation it would take most of the time."""


def arguments(nic: str, given: list[str]) -> list[str]:
    """Of pytest, for one guest; tests that are named take the place of those here."""
    named = any(word.startswith("tests/") for word in given)
    left = [f"--deselect={place}" for place in LEFT_TO_THE_HOST]
    return [*([] if named else [*TESTS[nic], *left]), *given]
