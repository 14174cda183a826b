# SPDX-License-Identifier: Apache-2.0
"""An interface that goes away while it is being taken: each step says which, and what it wanted."""

from __future__ import annotations

import errno
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from devmemtcp.agent.netdev import is_up
from devmemtcp.agent.reservation import reserve

GONE = "nosuch0"


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (lambda: is_up(GONE), "cannot ask nosuch0: No such device"),
        (
            lambda: reserve(GONE, ip_address("192.0.2.1"), 5201),
            "cannot reserve port 5201 of 192.0.2.1 on nosuch0: No such device",
        ),
    ],
    ids=["asking", "reserving"],
)
def test_what_an_interface_was_wanted_for_is_said(step: Callable[[], object], says: str) -> None:
    with pytest.raises(OSError, match=says) as caught:
        step()
    assert caught.value.errno == errno.ENODEV
