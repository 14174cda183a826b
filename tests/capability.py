# SPDX-License-Identifier: Apache-2.0
"""What this machine lacks: the one reason for a test to be skipped.

A test that asks our code for something that the kernel or the driver cannot do gets `Unsupported`;
that is its skip, reason included. But not on a veth of a kernel that has all that is needed
there: then it is our code that asks for too much, and a failure.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Generator
from typing import Any

import pytest

from devmemtcp.netlink.errors import Unsupported as NoFamily
from devmemtcp.pyxdp import Unsupported

RELEASE = tuple(int(part) for part in platform.release().split(".")[:2])
"""Of the running kernel, like (6, 12)."""

_HAS_ALL = RELEASE >= (6, 8) and not os.environ.get("NETIF")
"""docs/kernels.md: metadata, multi-buffer, the netdev family. NICs are as they are."""

DRIVERS_TELL = RELEASE >= (6, 3)
"""The kernel says whether a driver has zero-copy AF_XDP; before, only its refusal does."""


def since(major: int, minor: int, what: str) -> pytest.MarkDecorator:
    """Skip on kernels before the one that has it. For the kernel's own answers, not for ours."""
    return pytest.mark.skipif(
        (major, minor) > RELEASE,
        reason=f"{what}: Linux {major}.{minor}; this is {platform.release()}",
    )


auto_is_generic = since(6, 6, "a veth in generic mode")


def skip_if_lacking(error: str) -> None:
    """Skip when a verb's one line says that this kernel is too old for what was asked."""
    if not _HAS_ALL and "need Linux " in error:
        pytest.skip(error)


def _skipped_if_unsupported() -> Generator[None, Any, Any]:
    try:
        return (yield)
    except (Unsupported, NoFamily) as error:
        if _HAS_ALL:
            raise
        pytest.skip(str(error))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, Any, Any]:
    """Of a test, in the folders whose conftest.py imports it."""
    return (yield from _skipped_if_unsupported())


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup() -> Generator[None, Any, Any]:
    """Of a fixture, likewise."""
    return (yield from _skipped_if_unsupported())
