# SPDX-License-Identifier: Apache-2.0
"""Calls into the C library fail, and what becomes of the receiver that made them.

`./dev faults calls` lets all of them fail; here are those that have failed us before, and one of
each kind with --slow.
"""

from __future__ import annotations

from typing import Any

import pytest

from ..faults.calls import campaign


def made_good(tally: campaign.Tally, at_least: int) -> None:
    """No promise was broken, and enough was tried to say so."""
    assert not tally.broken, "\n".join(tally.lines())
    assert tally.attempts >= at_least


def test_a_call_that_fails_is_borne_or_told_and_leaves_nothing(veth: Any) -> None:
    tally = campaign.Tally()
    with campaign.victim(veth, {}) as victim:
        attempts = list(campaign.few(campaign.recorded(victim)))
        campaign.fail_each(victim, attempts, tally)
    made_good(tally, len(attempts) - 2)
    assert tally.errors.total() > tally.received


def test_what_fails_for_a_moment_delays_and_loses_nothing(veth: Any) -> None:
    tally = campaign.Tally()
    passing = [
        ("sendto", "ENOBUFS", 2),
        ("sendto", "ENETDOWN", 3),
        ("ppoll", "ENOMEM", 2),
        ("eventfd_write", "ENOMEM", 2),
        ("realloc", "ENOMEM", 2),
        ("sched_setscheduler", "EPERM", 1),
    ]
    with campaign.victim(veth, {}) as victim:
        campaign.fail_often(victim, 300_000, tally, passing, campaign.LASTING[:1])
    made_good(tally, len(passing))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", campaign.MODES)
def test_one_of_each_kind_of_call(slow: None, veth: Any, mode: str) -> None:
    tally = campaign.Tally()
    with campaign.victim(veth, campaign.MODES[mode]) as victim:
        attempts = list(campaign.representatives(campaign.recorded(victim)))
        campaign.fail_each(victim, attempts, tally)
    made_good(tally, int(0.9 * len(attempts)))
