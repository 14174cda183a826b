# SPDX-License-Identifier: Apache-2.0
"""Why something cannot be had here, in parts: an error's line, and a line of `devmemtcp doctor`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from devmemtcp.agent.errors import ConfigError


@dataclass(frozen=True)
class Refusal:
    """One rule that does not hold. Whoever wants to go on all the same raises `error()`."""

    check: str
    """What `doctor` calls the line, e.g. "link"."""
    found: str
    means: str
    """And what to do about it, where no command does that."""
    mend: str | None = None
    """A shell command, after which the rule holds."""
    kind: Callable[[str], Exception] = ConfigError

    def __str__(self) -> str:
        return f"{self.found}: {self.means}" + (f"; `{self.mend}`" if self.mend else "")

    def error(self) -> Exception:
        """As it is raised: ConfigError or Unsupported."""
        return self.kind(str(self))


def raise_first(refusals: Iterable[Refusal]) -> None:
    """Raise the first as an error, if there is one."""
    for refusal in refusals:
        raise refusal.error()
