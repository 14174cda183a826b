# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the TCP tests: benches that check at the end that every buffer came home.

And one run of `bench page-pool`, for all who want to look at what it makes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..slowness import SLOWNESS

if TYPE_CHECKING:
    from .tcp.bench import Bench


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    """A factory of benches; each is closed and judged when the test is over."""
    from .tcp.bench import Bench

    made: list[Bench] = []

    def make(**kwargs: Any) -> Bench:
        made.append(Bench(**kwargs))
        return made[-1]

    yield make
    for bench in made:
        bench.finish()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """One stack with a listener on 192.0.2.1:5000 and defaults that rarely matter."""
    return make_bench()


@dataclass(frozen=True)
class PagePoolRun:
    """A short run of `bench page-pool --json --plot`."""

    document: str
    said: str
    plot: Path


@pytest.fixture(scope="session")
def page_pool_run(tmp_path_factory: pytest.TempPathFactory) -> PagePoolRun:
    """Without valgrind, which would take longer than all else; it has a test of its own."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("page-pool")
    command = [sys.executable, "-P", "-m", "devmemtcp.agent.cli", "bench", "page-pool", "--json"]
    options = ["--rounds", "6", "--loops", "1000", "--seed", "1", "--plot", str(folder / "a.svg")]
    done = subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        timeout=100 * SLOWNESS,
        env=os.environ | {"PATH": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    return PagePoolRun(done.stdout, done.stderr, folder / "a.svg")
