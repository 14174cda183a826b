# SPDX-License-Identifier: Apache-2.0
"""Names that others have chosen: what a terminal gets of them, and what a journal keeps."""

from __future__ import annotations

import logging

import pytest
from rich.console import Console
from rich.table import Table

from devmemtcp.agent.doctor import render
from devmemtcp.agent.doctor.record import Report, ok
from devmemtcp.agent.lent_nic import LentNic
from devmemtcp.agent.netdev import is_ifname
from devmemtcp.agent.terminal import Formatter, cell, printable

NAMES = {
    "eth0.100": "eth0.100",
    "\xe9[/x]": "\xe9[/x]",
    "a\x1b[1m": r"a\x1b[1m",
    "a\x9b1m": r"a\x9b1m",
    "a\udcff": r"a\udcff",
    "a\u202eb": r"a\u202eb",
    "a\x7f": r"a\x7f",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_terminal_is_told_nothing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = NAMES[name]
    assert printable(name) == shown
    assert printable(f"{name}\n") == rf"{shown}\n"
    for console in (Console(width=80), Console(width=80, force_terminal=True, color_system=None)):
        table = Table()
        table.add_row(cell(f"{name}\n{name}"))
        console.print(table)
        said = capsys.readouterr().out
        assert said.count(shown) == 2
        assert all(each.isprintable() for each in said.replace("\n", ""))


@pytest.mark.parametrize("name", NAMES)
def test_doctor_shows_what_can_be_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    checks = [ok(name, name, name)]
    render.show(Report("6.18", name, checks))
    Console(width=200).print(render._checks(checks))
    said = capsys.readouterr().out
    assert said.count(NAMES[name]) == 6
    assert all(each.isprintable() for each in said.replace("\n", ""))


def test_a_line_of_the_log_is_one_line() -> None:
    record = logging.makeLogRecord({"msg": "%s is down\n", "args": ("a\x1b[1m",)})
    assert Formatter("devmemtcp: %(message)s").format(record) == r"devmemtcp: a\x1b[1m is down\n"
    try:
        raise OSError("gone")
    except OSError as error:
        record.exc_info = (OSError, error, error.__traceback__)
    assert "\nTraceback (most" in Formatter("%(message)s").format(record)


@pytest.mark.parametrize(
    "name", [*(name for name in NAMES if "/" not in name), "x" * 15, "\xe9" * 7]
)
def test_whatever_is_a_name_can_be_journalled(name: str) -> None:
    assert is_ifname(name)
    line = LentNic("near", name, 1500, up=True, home=7).line()
    read = LentNic.parse(line.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape"))
    assert read is not None
    assert read.ifname == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "x" * 16, "\xe9" * 8, "a b", "a\tb", "a/b", "a:b", "a\0", "\xa0", "\ud800"],
)
def test_what_is_no_name(name: str) -> None:
    assert not is_ifname(name)
    assert LentNic.parse(f"nic near {name} 1500 up 7 -") is None
