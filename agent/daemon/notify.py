# SPDX-License-Identifier: Apache-2.0
"""What the service manager is told: sd_notify(3), without its library.

The variables are taken out of the environment, so that no child mistakes them for its own.
"""

from __future__ import annotations

import os
import socket

from devmemtcp.agent.closing import Closing


class ServiceManager(Closing):
    """systemd, if it started us and asked to be told; otherwise nobody listens, and all is well."""

    watchdog: float | None
    """Seconds between two `alive()`, half of what systemd waits for; None: it does not wait."""

    def __init__(self) -> None:
        self._to = os.environ.pop("NOTIFY_SOCKET", "")
        if self._to.startswith("@"):
            self._to = "\0" + self._to[1:]
        microseconds = int(os.environ.pop("WATCHDOG_USEC", "0") or 0)
        pid = os.environ.pop("WATCHDOG_PID", "")
        ours = microseconds and pid in ("", str(os.getpid()))
        self.watchdog = microseconds / 2e6 if ours else None
        flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_UNIX, flags)

    def ready(self, status: str) -> None:
        """All is set up."""
        self._tell(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._tell(f"STATUS={status}")

    def alive(self) -> None:
        """The watchdog need not bite, if there is one."""
        if self.watchdog is not None:
            self._tell("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """Told to end, and ending."""
        self._tell(f"STOPPING=1\nSTATUS={status}")

    def _tell(self, what: str) -> None:
        if not self._to:
            return
        try:
            self._socket.sendto(what.encode(), self._to)
        except OSError:
            # A manager that restarts or is too busy: what it missed it learns from our exit.
            return

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._socket.close()
