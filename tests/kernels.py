# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/kernels.md: what needs which kernel, and what drivers can do.

The first is `agent/doctor/floors.py`, with a column for each kernel that the doctor has been run
on: docs/kernels/RELEASE-NIC.json is what it said, and the second what it said of the NIC. The third
is `agent/doctor/matrix.py`.

    ./dev kernels           write them
    ./dev kernels --check   write nothing; fail when that would change anything, or when
                                      a kernel has what it is too old for, or lacks what it is
                                      not (and was built with)
    python -m tests.kernels --record FILE
                                      run the doctor on a veth pair, or on $NETIF, and keep what
                                      it says (in a guest: `./dev vm --results DIR -- ...`)
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devmemtcp.agent.doctor.floors import FLOORS, Floor
from devmemtcp.agent.doctor.matrix import COLUMNS, DRIVERS, Can, Driver

from .arguments import Arguments
from .page import write
from .slowness import SLOWNESS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/kernels.md"
FOLDER = ROOT / "docs/kernels"
END = "<!-- end of table -->"

_WORDS = {Can.NATIVE: "XDP", Can.ZERO_COPY: "zero-copy", Can.DEVMEM: "devmem"}

Release = tuple[int, int]


class Wrong(Exception):
    """What is wrong, in one line."""


@dataclass(frozen=True)
class Record:
    """What the doctor said on one kernel."""

    release: Release
    nic: str
    states: dict[str, str]
    """Of its lines, by name."""
    lacks: set[str]
    """What the kernel was built without."""
    driver: str
    zero_copy: bool
    """Whether the driver has it."""
    said: dict[str, Any]
    """All of it."""

    @property
    def modes(self) -> list[dict[str, Any]]:
        """Its conclusion."""
        return list(self.said["modes"])

    def has(self, floor: Floor) -> bool | None:
        """None: it was built without it."""
        if floor.config in self.lacks:
            return None
        return self.states[floor.check] == "ok"


def records(folder: Path = FOLDER) -> list[Record]:
    """All there are, by release and NIC. Raises Wrong for one that lacks a line."""
    return sorted(
        (_record(path) for path in folder.glob("*.json")), key=lambda each: (each.release, each.nic)
    )


def _record(path: Path) -> Record:
    said: dict[str, Any] = json.loads(path.read_text())
    checks = {check["name"]: check for check in said["checks"]}
    if missing := [floor.check for floor in FLOORS if floor.check not in checks]:
        raise Wrong(f"{path.name} has no line {missing[0]!r}; record it again")
    return Record(
        release=_release(said["kernel"]),
        nic=path.stem.partition("-")[2],
        states={name: check["state"] for name, check in checks.items()},
        lacks=set(re.findall(r"CONFIG_(\w+)", checks["configuration"]["found"])),
        driver=checks["driver"]["found"],
        zero_copy=checks["zero-copy"]["mend"] is not None,
        said=said,
    )


def _release(text: str) -> Release:
    major, minor = text.split(".")[:2]
    return int(major), int(minor.partition("-")[0])


def contradictions(found: Iterable[Record]) -> Iterator[str]:
    """Between floors and what was seen."""
    for record in found:
        for floor in FLOORS:
            has = record.has(floor)
            if has is not None and has != (record.release >= floor.since):
                word = "has" if has else "lacks"
                yield f"Linux {_dotted(record.release)} {word} {floor.feature}"


def _dotted(release: Release) -> str:
    return ".".join(map(str, release))


def floors_table(found: list[Record]) -> str:
    """One row a feature. All records of a kernel say the same of them: see contradictions()."""
    seen = list({record.release: record for record in found}.values())
    head = ["feature", "since Linux", "doctor's line", "without it"]
    rows = [
        [floor.feature, _dotted(floor.since), floor.check, floor.without]
        + [_seen(record.has(floor)) for record in seen]
        for floor in FLOORS
    ]
    return _table([*head, *(f"seen on {_dotted(record.release)}" for record in seen)], rows)


def _seen(has: bool | None) -> str:
    return {True: "yes", False: "no", None: "not built"}[has]


def nics_table(found: list[Record]) -> str:
    """One row a kernel and NIC."""
    head = ["Linux", "driver", "native XDP", "zero-copy", "modes that can be used", "auto takes"]
    return _table(head, [_nic(record) for record in found])


def _nic(record: Record) -> list[str]:
    usable = [mode["mode"] for mode in record.modes if mode["usable"]]
    auto = [mode["mode"] for mode in record.modes if mode["chosen"] and mode["usable"]]
    return [
        _dotted(record.release),
        record.driver,
        "yes" if record.states["native XDP"] == "ok" else "no",
        "yes" if record.zero_copy else "no",
        ", ".join(usable) or "none",
        *(auto or ["nothing"]),
    ]


def drivers_table() -> str:
    """One row a driver, or several that are alike."""
    alike: dict[Driver, list[str]] = {}
    for name, row in DRIVERS.items():
        alike.setdefault(row, []).append(name)
    head = ["driver", *(f"in Linux {_dotted(release)}" for release in COLUMNS), "note"]
    rows = [
        [", ".join(names), *(_can(column) for column in row.columns), row.note]
        for row, names in alike.items()
    ]
    return _table(head, rows)


def _can(column: Can) -> str:
    return ", ".join(word for what, word in _WORDS.items() if column & what) or "none"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page(text: str, found: list[Record]) -> str:
    """The page with its tables made anew. Raises Wrong when it has no place for one."""
    tables = {
        "floors": floors_table(found),
        "nics": nics_table(found),
        "drivers": drivers_table(),
    }
    for name, table in tables.items():
        begin = f"<!-- {name}, by ./dev kernels -->\n"
        before, there, rest = text.partition(begin)
        _, ends, after = rest.partition(END)
        if not there or not ends:
            raise Wrong(f"docs/kernels.md: no {begin.strip()} ... {END}")
        text = before + begin + table + END + after
    return text


# ---- recording ----


def record(file: Path) -> None:
    """Run the doctor on an interface whose peer is in another namespace; both end with it."""
    _run("ip netns add peer")
    try:
        interface = _interface(os.environ.get("NETIF"), os.environ.get("NETPEER"))
        _run("ip link set lo up")
        _run(f"ip address add 192.0.2.1/24 dev {interface}")
        _await_carrier(interface)
        doctor = [sys.executable, "-m", "devmemtcp.agent.cli", "doctor", "-i", interface, "--json"]
        done = subprocess.run(doctor, check=False, stdout=subprocess.PIPE)
        file.write_bytes(done.stdout)
    finally:
        _run("ip netns delete peer")


def _interface(nic: str | None, peer: str | None) -> str:
    near, far = nic or "veth0", peer or "veth1"
    if nic is None:
        _run(f"ip link add {near} type veth peer name {far} netns peer")
    else:
        _run(f"ip link set {far} netns peer")
    _run(f"ip -n peer link set {far} up")
    _run(f"ip link set {near} up")
    return near


def _await_carrier(interface: str) -> None:
    deadline = time.monotonic() + 30 * SLOWNESS
    while Path(f"/sys/class/net/{interface}/carrier").read_text() != "1\n":
        if time.monotonic() > deadline:
            raise Wrong(f"{interface} has no carrier")
        time.sleep(0.05)


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True)


def main() -> None:
    """Write, check or record."""
    parser = Arguments("kernels", description="The tables in docs/kernels.md.")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--record", type=Path, metavar="FILE", help="what the doctor says here")
    options = parser.given()
    try:
        if options.record:
            record(options.record)
            print(f"wrote {options.record}")
            return
        found = records()
        old = PAGE.read_text()
        new = page(old, found)
        if options.check and new != old:
            raise Wrong("docs/kernels.md is not of what is known: ./dev kernels")
        if wrong := list(contradictions(found)):
            raise Wrong("; ".join(wrong))
    except Wrong as error:
        sys.exit(f"kernels: {error}")
    if not options.check:
        write(PAGE, new)


if __name__ == "__main__":
    main()
