# SPDX-License-Identifier: Apache-2.0
"""Two interpreters for an agent under attack: this one, and one with sanitised extensions."""

from __future__ import annotations

import pytest

from devmemtcp.agent.errors import Unsupported

from ...sanitised import Build, sanitised


@pytest.fixture(params=["as installed", "sanitised"])
def build(request: pytest.FixtureRequest) -> Build:
    """The build that an agent is started from."""
    if request.param != "sanitised":
        return Build()
    try:
        return sanitised()
    except Unsupported as why:
        pytest.skip(str(why))
