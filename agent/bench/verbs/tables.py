# SPDX-License-Identifier: Apache-2.0
"""Tables with names on the left and numbers on the right."""

from __future__ import annotations

from rich.table import Table


def table(*columns: str) -> Table:
    """One with names on the left and numbers on the right."""
    made = Table(title_justify="left")
    for column in columns:
        names = column in ("variant", "against", "verdict")
        made.add_column(column, justify="left" if names else "right")
    return made


def number(value: float | None, digits: int) -> str:
    """Empty: not known."""
    return "" if value is None else f"{value:.{digits}f}"
