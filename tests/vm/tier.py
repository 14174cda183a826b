# SPDX-License-Identifier: Apache-2.0
"""What `./dev test --vm` runs in a guest, and what it leaves to the host."""

from __future__ import annotations

from .nics import NAMES

TESTS = {name: ["tests/hw"] for name in NAMES} | {
    "veth": ["-n", "2", "--dist", "loadfile", "tests/net", "tests/unit/test_memory.py"],
}
"""By NIC: pytest's arguments unless tests are named. Of a pair of NICs there is but one; kinds of
device memory are the kernel's."""

_TIME = "about time: how long it goes on is what it is about"
_LOAD = "about load: packets, calls or processes by the thousand"
_SPEED = "a benchmark: under emulation it would measure the emulator"
_FRAMES = (
    "a frame at a time through BPF_PROG_TEST_RUN: that the program loads and works under a kernel, "
    "all other tests show"
)
_OURS = "about our code alone: another kernel has no say in it"

LEFT_TO_THE_HOST = {
    "tests/net/hostile": _TIME,
    "tests/net/test_bench.py": _SPEED,
    "tests/net/test_bench_agent.py": _SPEED,
    "tests/net/test_bench_flood.py": _SPEED,
    "tests/net/test_bench_idle.py": _SPEED,
    "tests/net/test_bench_xdp_drop.py": _SPEED,
    "tests/net/test_cli_lab.py": _OURS,
    "tests/net/test_faults.py": _LOAD,
    "tests/net/test_netmem_forms.py": _OURS,
    "tests/net/test_refused_calls.py": _LOAD,
    "tests/net/test_runtime_failures.py::test_what_cannot_be_is_refused": _OURS,
    "tests/net/test_soak.py": _TIME,
    "tests/net/test_storm.py": _LOAD,
    "tests/net/test_xdp_prog.py": _FRAMES,
}
"""Deselected, with the reason: what would take most of the time under emulation, and say
nothing about another kernel."""


def arguments(nic: str, given: list[str]) -> list[str]:
    """Of pytest, for one guest; tests that are named take the place of those here."""
    left = [f"--deselect={place}" for place in left_out([nic], given)]
    return [*([] if _named(given) else TESTS[nic]), *left, *given]


def left_out(nics: list[str], given: list[str]) -> dict[str, str]:
    """Of what would run in guests with these NICs: what does not, and why."""
    return {} if _named(given) or "veth" not in nics else LEFT_TO_THE_HOST


def _named(given: list[str]) -> bool:
    return any(word.startswith("tests/") for word in given)
