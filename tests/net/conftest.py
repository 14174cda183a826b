# SPDX-License-Identifier: Apache-2.0
"""A veth pair between two namespaces, and BPF programs for tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from ..capability import pytest_fixture_setup, pytest_pyfunc_call
from .compile_bpf import compile_bpf
from .veth import Veth, remove_leavings, veth_pair

__all__ = ["pytest_fixture_setup", "pytest_pyfunc_call"]


@pytest.fixture(scope="session")
def _clean_slate() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and BPF")
    remove_leavings()


@pytest.fixture
def netns_pair(_clean_slate: None) -> Iterator[Callable[..., Veth]]:
    """A maker of pairs: ``netns_pair(mtu=9000, queues=2)``; all are removed after the test."""
    with ExitStack() as pairs:
        yield lambda **options: pairs.enter_context(veth_pair(**options))


@pytest.fixture
def veth(netns_pair: Callable[..., Veth]) -> Veth:
    """One pair with the defaults: MTU 1500, one queue."""
    return netns_pair()


@pytest.fixture(scope="session")
def bpf_object(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Compile ``tests/net/bpf/<name>.bpf.c`` (once a session) and give the object's path."""
    if shutil.which("clang") is None:
        pytest.skip("needs clang to compile BPF test programs")
    return partial(compile_bpf, tmp_path_factory.mktemp("bpf"))
