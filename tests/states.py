# SPDX-License-Identifier: Apache-2.0
"""The state diagram of docs/tcp.md, from the table in stack/tcp_state.c.

What is drawn is what tcp_next_state() of the built core answers, for each state and each event: the
table that connections run by, not a reading of its source. It stands between BEGIN and END.

    ./dev states           write it
    ./dev states --check   write nothing; fail when that would change anything
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from devmemtcp.stack._stack import ffi, lib

from .arguments import Arguments
from .page import write

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/tcp.md"
BEGIN = "<!-- states, by ./dev states -->\n"
END = "<!-- end of states -->"

WORDS = {
    "OPEN": "passive open",
    "SYN": "SYN",
    "SYN_ACKED": "ACK of SYN",
    "FIN": "FIN",
    "CLOSE": "close",
    "FIN_ACKED": "ACK of FIN",
    "TIMEOUT": "timeout",
    "RESET": "RST",
}
"""What an event is called along its arrow."""

Transition = tuple[str, str, str]
"""State, event, next state: as RFC 9293 spells states, and api.h events."""


def _names(enum: str, prefix: str) -> list[str]:
    """Names of an enum of api.h, by value; the last, which counts them, left out."""
    names: dict[int, str] = ffi.typeof(f"enum {enum}").elements
    count = max(names)
    return [names[value].removeprefix(prefix) for value in range(count)]


def states() -> list[str]:
    """By value."""
    return [name.replace("_", "-") for name in _names("tcp_state", "TCP_")]


def events() -> list[str]:
    """By value."""
    return _names("tcp_event", "TCP_EV_")


def transitions() -> Iterator[Transition]:
    """Each pair of the table that leads somewhere, by state and event."""
    names = states()
    for number, state in enumerate(names):
        for event, what in enumerate(events()):
            to: Any = lib.tcp_next_state(number, event)
            if to != lib.TCP_STATES:
                yield state, what, names[to]


def diagram() -> str:
    """A mermaid stateDiagram-v2. Arrows with the same ends are one."""
    arrows: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for state, event, to in transitions():
        arrows[state, to].append(WORDS[event])
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> CLOSED"]
    for (state, to), words in arrows.items():
        lines.append(f"    {_id(state)} --> {_id(to)} : {', '.join(words)}")
    lines += [f'    state "{name}" as {_id(name)}' for name in states() if "-" in name]
    return "\n".join([*lines, "```", ""])


def _id(state: str) -> str:
    """As mermaid takes it for a name."""
    return state.replace("-", "_")


def page(text: str) -> str:
    """The page with its diagram made anew. Raises ValueError when it has no place for it."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/tcp.md: no {BEGIN.strip()} ... {END}")
    return before + begin + diagram() + end + after


def main() -> None:
    """Write, or check."""
    parser = Arguments("states", description="The state diagram in docs/tcp.md.")
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.given().check
    old = PAGE.read_text()
    new = page(old)
    if check and new != old:
        sys.exit("states: docs/tcp.md is not of stack/tcp_state.c: ./dev states")
    if not check:
        write(PAGE, new)


if __name__ == "__main__":
    main()
