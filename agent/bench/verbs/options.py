# SPDX-License-Identifier: Apache-2.0
"""Options that several benchmarks have, with one name and one help text each."""

from __future__ import annotations

import os
from typing import Annotated

import typer

Quick = Annotated[bool, typer.Option("--quick", help="A fifth of the rounds: wider intervals.")]
Seed = Annotated[int | None, typer.Option(help="Of the order of turns; default: a new one.")]


def seed_or_new(seed: int | None) -> int:
    """The seed that was given, or one of chance."""
    return int.from_bytes(os.urandom(4)) if seed is None else seed
