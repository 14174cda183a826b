# SPDX-License-Identifier: Apache-2.0
"""Faults of the world, each once; `./dev faults` brings them about by the hundred.

What is looked at is in tests/faults: bytes are right, an error has a name, nothing is left behind,
and the next one that starts works.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ..faults import kills, outside
from ..faults.hosts import Mode, Where
from ..faults.nursery import Nursery
from ..faults.outside import Stage
from ..faults.report import Row

SEED = 5


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Where those come from that are to be killed."""
    with Nursery() as made:
        yield made


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[Row]:
    """Where a case writes what came of it; all promises must have been kept."""
    made = Row(request.node.name)
    yield made
    assert not made.broken
    assert made.times
    assert made.nbytes or "punched" in made.case


@pytest.mark.parametrize(
    ("case", "where", "mode", "ipv6"),
    [
        (outside.link_flaps, "inside", "native", True),
        (outside.link_flaps, "agent", "generic", False),
        (outside.mtu_changes, "isolated", "native", False),
        (outside.mtu_changes, "inside", "generic", True),
    ],
)
def test_what_passes_leaves_a_stream_exact(
    nursery: Nursery,
    veth: Any,
    row: Row,
    case: Callable[..., None],
    where: Where,
    mode: Mode,
    ipv6: bool,
) -> None:
    case(row, Stage(where, nursery, random.Random(SEED), mode, ipv6), veth, 2)


@pytest.mark.parametrize(
    ("how", "where"),
    [*zip(outside.REMOVALS, ("isolated", "agent", "inside"), strict=True)],
)
def test_an_interface_that_goes_is_told(
    nursery: Nursery, netns_pair: Any, row: Row, how: str, where: Where
) -> None:
    outside.interface_removed(row, Stage(where, nursery, random.Random(SEED)), how)


@pytest.mark.parametrize("where", ["isolated", "agent"])
def test_a_namespace_ends_with_the_stack_in_it(
    nursery: Nursery, netns_pair: Any, row: Row, where: Where
) -> None:
    outside.namespace_destroyed(row, Stage(where, nursery, random.Random(SEED)))


@pytest.mark.parametrize(
    ("case", "where"),
    [
        (outside.region_refused, "agent"),
        (outside.region_closed, "agent"),
        (outside.region_closed, "inside"),
        (outside.region_punched, "isolated"),
    ],
)
def test_what_an_owner_does_to_a_region_harms_nobody_else(
    nursery: Nursery, veth: Any, row: Row, case: Callable[..., None], where: Where
) -> None:
    case(row, Stage(where, nursery, random.Random(SEED)), veth)


@pytest.mark.parametrize("case", ["kill_inside", "kill_isolated", "kill_stack"])
def test_a_killed_receiver_or_stack_leaves_nothing(
    nursery: Nursery, veth: Any, row: Row, case: str
) -> None:
    near, far = veth.right, veth.left
    lives = kills.Lives(nursery, near, far, isolate=case != "kill_inside")
    stack = case == "kill_stack"
    kills.kill_receivers(row, lives, near, 1, random.Random(case), stack=stack)
    if stack:
        assert row.said["BrokenPipeError: the stack's process has died: SIGKILL"] == row.times


@pytest.mark.parametrize("kill", [kills.kill_clients, kills.kill_agents])
def test_a_killed_application_or_agent_leaves_nothing(
    nursery: Nursery, veth: Any, row: Row, kill: Callable[..., None]
) -> None:
    kill(row, nursery, veth.right, veth.left, 2, random.Random(SEED))
