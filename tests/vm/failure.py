# SPDX-License-Identifier: Apache-2.0
"""What ends `./dev vm` with a line instead of the guest's status."""

from __future__ import annotations


class Failure(Exception):
    """No guest ran to its end, for a reason outside the command: status 125, as of env(1)."""

    status = 125


class BadUsage(Failure):
    """The caller's fault: what is wrong, and what would be right."""

    status = 2


class TimedOut(Failure):
    """The guest was still at work when its time was up: status 124, as of timeout(1)."""

    status = 124
