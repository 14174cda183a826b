# SPDX-License-Identifier: Apache-2.0
"""The state diagram of docs/tcp.md is of the table that connections run by."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .. import states

ROOT = Path(__file__).resolve().parents[2]


def test_the_diagram_is_what_is_in_docs() -> None:
    assert states.page(states.PAGE.read_text()) == states.PAGE.read_text(), "run ./dev states"


def test_every_arrow_is_drawn_once() -> None:
    drawn = re.findall(r"^    (\w+) --> (\w+) : (.+)$", states.diagram(), re.MULTILINE)
    words = {text: event for event, text in states.WORDS.items()}
    assert sorted(
        (state.replace("_", "-"), words[word], to.replace("_", "-"))
        for state, to, text in drawn
        for word in text.split(", ")
    ) == sorted(states.transitions())


def test_a_page_without_a_place_for_it_is_refused() -> None:
    with pytest.raises(ValueError, match="no <!-- states"):
        states.page("# TCP\n")


def test_no_other_file_has_a_way_around_const() -> None:
    """The compiler refuses to assign a const member (tests/c/compile_fail.c); a cast would not."""
    ways = re.compile(r"(?<!&)&\(?(f|flow|old|oldest)->state\b|offsetof\(struct flow, state\)")
    found = {path.name for path in ROOT.glob("stack/*.c") if ways.search(path.read_text())}
    assert found == {"tcp_state.c"}
    assert "const uint8_t state;" in (ROOT / "stack/flow.h").read_text()
