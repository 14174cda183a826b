# SPDX-License-Identifier: Apache-2.0
"""What `devmemtcp netdev dump` prints, and in which direction."""

import pytest
from rich.console import Console

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
    assert table.columns[0].header == NAMES[0]
