# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: each is a command of this app (`devmemtcp bench NAME`)."""

from __future__ import annotations

import typer

app = typer.Typer(help="Measure, interleaved with what a user would have instead.")
