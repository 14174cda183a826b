# SPDX-License-Identifier: Apache-2.0
"""The pair of the tests in tests/net, but of the NICs that the environment names.

    NETIF=eth1 NETPEER=eth2 ./dev test tests/hw

NETIF receives; NETPEER, the other end of its wire, sends. Both are taken into namespaces.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from ..capability import pytest_fixture_setup, pytest_pyfunc_call
from ..net.conftest import _clean_slate, bpf_object, veth
from ..net.veth import Veth
from .nic_pair import nic_pair

__all__ = ["_clean_slate", "bpf_object", "pytest_fixture_setup", "pytest_pyfunc_call", "veth"]


@pytest.fixture(scope="session")
def nics(_clean_slate: None) -> tuple[str, str]:
    """The names of the two."""
    near, far = os.environ.get("NETIF"), os.environ.get("NETPEER")
    if not (near and far):
        pytest.skip("needs a pair of NICs: NETIF=eth1 NETPEER=eth2, connected to each other")
    return near, far


@pytest.fixture
def netns_pair(nics: tuple[str, str]) -> Iterator[Callable[..., Veth]]:
    """A maker of one pair: ``netns_pair(mtu=9000, queues=2)``; undone after the test."""
    with ExitStack() as undo:
        yield lambda **options: undo.enter_context(nic_pair(*nics, **options))
