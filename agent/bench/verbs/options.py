# SPDX-License-Identifier: Apache-2.0
"""Options that several benchmarks have, with one name and one help text each."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

Options = TypeVar("Options", bound=Any)

Quick = Annotated[bool, typer.Option("--quick", help="A smaller measurement: wider intervals.")]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw every sample into this .png or .svg."),
]
Seed = Annotated[int | None, typer.Option(help="Of the order of turns; default: a new one.")]


def seed_or_new(seed: int | None) -> int:
    """The seed that was given, or one of chance."""
    return int.from_bytes(os.urandom(4)) if seed is None else seed


def given(usual: Options, **values: object) -> Options:
    """The usual options with those that were given: None was not."""
    named = {name: value for name, value in values.items() if value is not None}
    return dataclasses.replace(usual, **named)
