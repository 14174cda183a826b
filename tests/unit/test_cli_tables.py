# SPDX-License-Identifier: Apache-2.0
"""What verbs print for people."""

import re

import pytest
from rich.console import Console

from devmemtcp.agent import agent_cli
from devmemtcp.agent.bench.soak import SoakReport
from devmemtcp.agent.bench.tables import table
from devmemtcp.agent.bench.trend import Trend
from devmemtcp.agent.bench.verbs.soak import print_soak
from devmemtcp.agent.table import table as object_table

NAMES = [f"a-counter-with-a-name-{number}" for number in range(8)]


@pytest.mark.parametrize(
    ("width", "objects", "shape"),
    [
        (300, 2, (8, 2)),  # columns, rows: an object a row
        (80, 2, (3, 7)),  # too wide: an object a column
        (80, 40, (8, 40)),  # too wide either way
    ],
)
def test_a_dump_lies_down_when_only_that_fits(
    width: int, objects: int, shape: tuple[int, int]
) -> None:
    console = Console(width=width)
    made = object_table([dict.fromkeys(NAMES, 5)] * objects, "counters", console, str)
    assert (len(made.columns), made.row_count) == shape
    assert str(made.columns[0].header) == NAMES[0]


@pytest.mark.parametrize("width", [80, 200])
def test_a_status_loses_nothing_for_the_terminals_width(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    address = "fe80::8c1b:2aff:fe5d:77e1"
    reason = "the stack's process has no mapping of the region and no descriptor of it " * 2
    interface = {"interface": "veth1", "mode": "generic", "mtu": 1500, "queues": 2}
    interface |= {"check": "static", "state": "serving", "addresses": ["192.0.2.1", address]}
    monkeypatch.setenv("COLUMNS", str(width))
    agent_cli._show(agent_cli.Status([interface | {"unreadable": reason}], [], []))
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= width
    for word in [*interface, "unreadable", address, "mapping", "descriptor"]:
        assert re.search(rf"\b{word}\b", said), word


def test_a_soak_says_its_growth_with_a_unit_and_whether_it_counts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mib = 1 << 20
    trends = {
        "private": Trend(3.25 * mib, 3 * mib, 3.5 * mib, mib),
        "descriptors": Trend(0.0, None, None, 0.5),
    }
    report = SoakReport(seconds=18.0, trends=trends, verdicts=dict.fromkeys(trends, "grows"))
    print_soak(report)
    said = capsys.readouterr().out.splitlines()[-2:]
    assert said == [
        "private: grows, +3.25 MiB (+3.00 to +3.50) (not judged before 60 s)",
        "descriptors: grows, +0.0 (not judged before 60 s)",
    ]
    report.seconds = 600.0
    print_soak(report)
    assert "judged" not in capsys.readouterr().out


def test_a_variant_keeps_its_name_however_many_columns_there_are() -> None:
    console = Console(width=120)
    made = table("variant", *NAMES)
    made.add_row("devmem-generic/host-static", *["0.9999 (0.9990 - 1.0010)"] * len(NAMES))
    with console.capture() as captured:
        console.print(made)
    assert "devmem-generic/host-static" in captured.get()
