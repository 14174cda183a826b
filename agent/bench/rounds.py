# SPDX-License-Identifier: Apache-2.0
"""The order of turns: rounds in which each variant has one, in an order drawn anew.

What else the machine does, and how its clock drifts, hits all variants of a round alike, and
none is always measured behind the same neighbour (a randomised complete block design). The
first rounds warm caches, branch predictors and page tables up and are not counted.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from devmemtcp.agent.bench.verdict import MIN_SAMPLES
from devmemtcp.agent.errors import ConfigError

T = TypeVar("T")

LEAST_ROUNDS = MIN_SAMPLES
"""With fewer there is no interval."""
QUICK_FACTOR = 2.5
"""So many times as long as planned a quick measurement may take, before rounds are left out."""


@dataclass(frozen=True)
class Turn(Generic[T]):
    """One variant, measured once."""

    variant: str
    round: int
    """From 0."""
    place: int
    """In its round, from 0."""
    sample: T


def check_rounds(rounds: int) -> None:
    """Raise ConfigError for less than one."""
    if rounds < 1:
        raise ConfigError(f"--rounds {rounds}: at least 1 is needed")


def take_turns(
    variants: Mapping[str, Callable[[], T]],
    rounds: int,
    *,
    seed: int,
    warm_up: int = 1,
    seconds: float = math.inf,
) -> Iterator[Turn[T]]:
    """Call each variant once a round; yields the turns of all rounds but the first `warm_up`.

    After `seconds` no further round begins, but never before LEAST_ROUNDS: somebody waits for a
    quick result, also on a machine that is so busy that all takes many times as long.

    Raises ValueError for fewer than one round or one variant, and whatever a variant does.
    """
    if rounds < 1 or not variants:
        raise ValueError(f"{rounds} rounds of {len(variants)} variants")
    draw = random.Random(seed)
    names = list(variants)
    end = time.monotonic() + seconds
    for number in range(-warm_up, rounds):
        if number >= LEAST_ROUNDS and time.monotonic() > end:
            return
        for place, name in enumerate(draw.sample(names, len(names))):
            sample = variants[name]()
            if number >= 0:
                yield Turn(name, number, place, sample)


def allowed(planned: float, *, quick: bool) -> float:
    """Seconds after which no further round is to begin."""
    return planned * QUICK_FACTOR if quick else math.inf


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
