# SPDX-License-Identifier: Apache-2.0
"""How Hypothesis runs here: the same examples each time, and at any speed.

A run that fails can be repeated, and one that passed says the same about the next. New
examples are for whoever looks for them: `pytest --hypothesis-profile=explore tests/unit`.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

AT_ANY_SPEED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

settings.register_profile("explore", AT_ANY_SPEED)
settings.register_profile("repeatable", AT_ANY_SPEED, derandomize=True)
settings.load_profile("repeatable")
