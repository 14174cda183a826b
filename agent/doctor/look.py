# SPDX-License-Identifier: Apache-2.0
"""Looking without falling: what cannot be asked becomes a line that says why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from devmemtcp.agent.doctor.record import Check, note
from devmemtcp.agent.errors import ConfigError, Unsupported
from devmemtcp.netlink.errors import Unsupported as NoFamily


def looked(name: str, ask: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """Whatever lines `ask` gives; as the last one, what it could not ask, under `name`."""
    try:
        yield from ask()
    except (Unsupported, NoFamily) as error:
        yield note(name, one_line(error), "this kernel or driver does not tell")
    except PermissionError as error:
        yield note(name, one_line(error), "this user may not look; root may")
    except (ConfigError, OSError) as error:  # ConfigError: what was there a moment ago is gone
        yield note(name, one_line(error), "it could not be looked at")


def one_line(error: Exception) -> str:
    """The words of an error, without its number or a verifier's log."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    where = f": {error.filename}" if isinstance(error, OSError) and error.filename else ""
    return text.splitlines()[0] + where


def named(names: Iterable[str]) -> str:
    """`a, b and c`."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def queues_named(queues: Sequence[int]) -> str:
    """`queue 0`, or `queues 0, 1`."""
    return f"queue{'s' if len(queues) > 1 else ''} {', '.join(map(str, queues))}"
