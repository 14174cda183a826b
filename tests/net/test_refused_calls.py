# SPDX-License-Identifier: Apache-2.0
"""Calls into the C library fail, and what becomes of the receiver that made them.

`./dev faults --only calls` lets all of them fail; here are those that have failed us before, and
one of each kind with --slow.
"""

from __future__ import annotations

from typing import Any

import pytest

from ..faults.calls import campaign

TOLD = {"OSError", "XdpError", "ConfigError", "PermissionError", "BlockingIOError"}


def made_good(rows: campaign.Rows, at_least: int) -> None:
    """No promise was broken, and enough was tried to say so."""
    assert [promise for row in rows.all() for promise in row.broken] == []
    missed = sum(row.said["not made this time"] for row in rows.all())
    assert sum(row.times for row in rows.all()) - missed >= at_least


def test_a_call_that_fails_is_borne_or_told_and_leaves_nothing(veth: Any) -> None:
    rows = campaign.run(veth, "one process", campaign.few)
    made_good(rows, 10)
    for name in ("calloc", "eventfd", "pthread_create", "getsockname"):
        assert rows[name].said.keys() & TOLD, name


def test_what_fails_for_a_moment_delays_and_loses_nothing(veth: Any) -> None:
    rows = campaign.Rows("one process")
    passing = [
        ("sendto", "ENOBUFS", 2),
        ("sendto", "ENETDOWN", 3),
        ("ppoll", "ENOMEM", 2),
        ("eventfd_write", "ENOMEM", 2),
        ("realloc", "ENOMEM", 2),
        ("sched_setscheduler", "EPERM", 1),
    ]
    with campaign.victim(veth, {}) as victim:
        campaign.fail_often(victim, 300_000, rows, passing, campaign.LASTING[:1])
    made_good(rows, len(passing))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", campaign.MODES)
def test_one_of_each_kind_of_call(slow: None, veth: Any, mode: str) -> None:
    made_good(campaign.run(veth, mode, campaign.representatives), 50)
