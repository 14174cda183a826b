# SPDX-License-Identifier: Apache-2.0
"""How Hypothesis runs here: the same examples each time, and at any speed.

A run that fails can be repeated, and one that passed says the same about the next. New
examples are for whoever looks for them: `pytest --hypothesis-profile=explore tests/unit`.

And for how long the hostile clients go on: a second each, or as long as is asked for. And
whether tests run that take minutes, which are those that use the fixture `slow`.

And for how long a test may go on: longer, where the machine is slow.

And Ctrl-C is heard: a shell without job control starts what runs in the background with SIGINT
ignored, and that is inherited by the programs that tests interrupt.
"""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

from .slowness import SLOWNESS

AT_ANY_SPEED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

settings.register_profile("explore", AT_ANY_SPEED)
settings.register_profile("repeatable", AT_ANY_SPEED, derandomize=True)
settings.load_profile("repeatable")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--hostile-seconds",
        type=float,
        default=1.0,
        metavar="N",
        help="how long each test of a hostile client goes on (default: %(default)s)",
    )
    parser.addoption(
        "--slow", action="store_true", help="those tests, too, that take minutes: soak, all faults"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("timeout", None) is None and SLOWNESS != 1:
        config.option.timeout = float(config.getini("timeout")) * SLOWNESS


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("slow"):
        return
    slow = [item for item in items if "slow" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


@pytest.fixture
def slow() -> None:
    """Of a test that takes minutes: it runs with --slow alone."""


@pytest.fixture
def hostile_seconds(request: pytest.FixtureRequest) -> float:
    """How long a hostile client goes on."""
    return float(request.config.getoption("hostile_seconds"))
