# SPDX-License-Identifier: Apache-2.0
"""The byte pattern that a sender repeats and a receiver checks.

Period N is the bytes 1, 2, ... N-1 and a newline: what `yes` sends when its
argument is those N-1 bytes, so that any shell is a sender:

    yes "$(printf '\\1\\2\\3')" | head -c 1G | nc ADDR PORT     # period 4
"""

from __future__ import annotations

from devmemtcp.agent.errors import ConfigError

MAX_PERIOD = 256
DEFAULT_PERIOD = 251
"""A prime: no power of two divides it, so a page or a chunk in the wrong place shows."""


def one_period(period: int) -> bytes:
    """Return the `period` bytes of the pattern. Raises ConfigError unless 1 <= period <= 256."""
    if not 1 <= period <= MAX_PERIOD:
        raise ConfigError(f"pattern period {period} is out of range; choose 1 to {MAX_PERIOD}")
    return bytes(range(1, period)) + b"\n"
