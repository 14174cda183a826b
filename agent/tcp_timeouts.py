# SPDX-License-Identifier: Apache-2.0
"""How long the stack waits for peers. docs/tcp.md has all of its timers."""

from __future__ import annotations

from dataclasses import dataclass

from devmemtcp.agent.errors import ConfigError

DAY = 86_400
"""Seconds."""


@dataclass(frozen=True)
class TcpTimeouts:
    """What an administrator may choose; Linux has it as a sysctl or a socket option."""

    synack_retries: int = 7
    """SYN-ACKs sent again to who does not answer; 0 to 255. 7 last 183 s (RFC 9293 MUST-23: three
    minutes), Linux's 5 (tcp_synack_retries) 63 s."""
    user_timeout: float = 120.0
    """Seconds that a peer may owe an ACK of data or FIN (RFC 9293 3.8.3: R2, at least 100 s;
    TCP_USER_TIMEOUT)."""
    fin_timeout: float = 60.0
    """Seconds in FIN-WAIT-2 once the application has closed (tcp_fin_timeout)."""
    time_wait: float = 60.0
    """Seconds in TIME-WAIT: 2 MSL (TCP_TIMEWAIT_LEN)."""

    def checked(self) -> TcpTimeouts:
        """Itself. Raises ConfigError for a time that cannot be."""
        if not 0 <= self.synack_retries <= 255:
            raise ConfigError(f"synack_retries must be 0 to 255, not {self.synack_retries}")
        for name in ("user_timeout", "fin_timeout", "time_wait"):
            if not 0 <= getattr(self, name) <= DAY:
                raise ConfigError(f"{name} must be 0 to {DAY} seconds, not {getattr(self, name)}")
        return self
