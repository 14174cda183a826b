# SPDX-License-Identifier: Apache-2.0
"""The order of turns: rounds in which each variant has one, in an order drawn anew.

What else the machine does, and how its clock drifts, hits all variants of a round alike, and
none is always measured behind the same neighbour (a randomised complete block design). The
first rounds warm caches, branch predictors and page tables up and are not counted.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from devmemtcp.agent.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Turn(Generic[T]):
    """One variant, measured once."""

    variant: str
    round: int
    """From 0."""
    place: int
    """In its round, from 0."""
    sample: T


def take_turns(
    variants: Mapping[str, Callable[[], T]],
    rounds: int,
    *,
    seed: int,
    warm_up: int = 1,
) -> Iterator[Turn[T]]:
    """Call each variant once a round; yields the turns of all rounds but the first `warm_up`.

    Raises ValueError for fewer than one round or one variant, and whatever a variant does.
    """
    if rounds < 1 or not variants:
        raise ValueError(f"{rounds} rounds of {len(variants)} variants")
    draw = random.Random(seed)
    names = list(variants)
    for number in range(-warm_up, rounds):
        for place, name in enumerate(draw.sample(names, len(names))):
            sample = variants[name]()
            if number >= 0:
                yield Turn(name, number, place, sample)


def by_variant(turns: Sequence[Turn[T]]) -> dict[str, list[T]]:
    """Samples in the order of rounds, so that equal indices are of one round."""
    found: dict[str, list[T]] = {}
    for turn in sorted(turns, key=lambda each: each.round):
        found.setdefault(turn.variant, []).append(turn.sample)
    return found


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Keep the calling thread on one core for the length of the block.

    Raises ConfigError for a core that it may not use.
    """
    usable = os.sched_getaffinity(0)
    if cpu not in usable:
        cores = ", ".join(map(str, sorted(usable)))
        raise ConfigError(f"core {cpu} is not one of those that may be used: {cores}")
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)
