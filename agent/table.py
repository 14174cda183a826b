# SPDX-License-Identifier: Apache-2.0
"""Objects with attributes as a table that fits the terminal, and loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from devmemtcp.agent.terminal import cell

_UNLIMITED = 10_000


def table(
    objects: list[dict[str, Any]], title: str, console: Console, words: Callable[[object], str]
) -> Table:
    """One row an object, one column an attribute that any of them has; `words` are a value's.

    The other way round when only that fits the width, as counters have many names; or when
    neither does, and there are fewer objects than attributes: sentences need the width.
    """
    names = list(dict.fromkeys(name for each in objects for name in each))
    rows = [names, *([words(each.get(name, "")) for name in names] for each in objects)]
    upright = _grid(rows, title)
    if _fits(upright, console):
        return upright
    columns = [list(column) for column in zip(*rows, strict=True)]
    lying = _grid(columns, title)
    return lying if _fits(lying, console) or len(rows) < len(names) else upright


def _grid(rows: list[list[str]], title: str) -> Table:
    """A table whose first row is its head."""
    grid = Table(title=title, title_justify="left")
    for name in rows[0]:
        grid.add_column(cell(name), overflow="fold")
    for row in rows[1:]:
        grid.add_row(*map(cell, row))
    return grid


def _fits(grid: Table, console: Console) -> bool:
    """Whether no cell has to be broken."""
    unlimited = console.options.update(width=_UNLIMITED)
    return Measurement.get(console, unlimited, grid).maximum <= console.width
