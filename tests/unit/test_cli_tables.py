# SPDX-License-Identifier: Apache-2.0
"""What verbs print for people."""

import pytest
from rich.console import Console

from devmemtcp.agent.bench.soak import SoakReport
from devmemtcp.agent.bench.tables import table
from devmemtcp.agent.bench.trend import Trend
from devmemtcp.agent.bench.verbs.soak import print_soak
from devmemtcp.agent.netdev_cli import _table

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
    table = _table([dict.fromkeys(NAMES, 5)] * objects, "counters", console)
    assert (len(table.columns), table.row_count) == shape
    assert str(table.columns[0].header) == NAMES[0]


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
