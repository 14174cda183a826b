# SPDX-License-Identifier: Apache-2.0
"""The byte pattern that a sender repeats and a receiver checks.

Period N is the bytes 1, 2, ... N-1 and a newline: what `yes` sends when its
argument is those N-1 bytes, so that any shell is a sender:

    yes "$(printf '\\1\\2\\3')" | head -c 1G | nc ADDR PORT     # period 4

This holds for each period but 11: there byte 10, itself a newline, is the last of
the argument, and $( ) strips newlines from the end.
"""

from __future__ import annotations

from devmemtcp.agent.errors import ConfigError

MIN_PERIOD, MAX_PERIOD = 2, 256


def one_period(period: int) -> bytes:
    """Return the `period` bytes of the pattern. Raises ConfigError unless 2 <= period <= 256."""
    if not MIN_PERIOD <= period <= MAX_PERIOD:
        raise ConfigError(
            f"pattern period {period} is out of range; choose {MIN_PERIOD} to {MAX_PERIOD}"
        )
    return bytes(range(1, period)) + b"\n"
