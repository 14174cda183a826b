# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the TCP tests: benches that check at the end that every buffer came home."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

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
