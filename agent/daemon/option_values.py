# SPDX-License-Identifier: Apache-2.0
"""What an option of the configuration accepts.

A check takes the value as TOML gives it and returns it as the agent uses it, or raises ValueError
with the words that follow "must be".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple, TypeGuard

from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.sizes import format_size, parse_size

Check = Callable[[object], object]

_MAX_ID = (1 << 32) - 2  # (uid_t)-1 is nobody's
_PORT_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
_MODE = re.compile(r"0?[0-7]{3}", re.ASCII)


class PortRange(NamedTuple):
    """Ports, both ends included."""

    first: int
    last: int

    def __contains__(self, port: object) -> bool:
        return isinstance(port, int) and self.first <= port <= self.last


def shown(value: object) -> str:
    """A value as the file has it, for a message."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        return str(value)  # a date
    except ValueError:
        return "a number of too many digits"  # hexadecimal: those are read, but not printed


def boolean(value: object) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def number(least: int, most: int) -> Check:
    """A whole number."""

    def check(value: object) -> int:
        if not _is_int(value) or not least <= value <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return value

    return check


def seconds(most: int) -> Check:
    """A time in seconds, fractions included."""

    def check(value: object) -> float:
        if not (_is_int(value) or isinstance(value, float)) or not 0 <= value <= most:
            raise ValueError(f"seconds, from 0 to {most}")
        return float(value)

    return check


def size(least: int, most: int = 1 << 46) -> Check:
    """Bytes: a number, or a string such as "64M"; a multiple of the page."""

    def check(value: object) -> int:
        found = value if _is_int(value) else -1
        if isinstance(value, str):
            try:
                found = parse_size(value)
            except ConfigError:
                found = -1
        if not least <= found <= most or found % 4096:
            raise ValueError(
                f'a size from {format_size(least)} to {format_size(most)}, e.g. "64M", '
                "in steps of 4096"
            )
        return found

    return check


def choice(*choices: str) -> Check:
    """One of some words."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(", ".join(choices[:-1]) + f" or {choices[-1]}")
        return value

    return check


def text(value: object) -> str:
    """Some text."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("some text")
    return value


def texts(value: object) -> tuple[str, ...]:
    """A list of text."""
    if not isinstance(value, list) or not value:
        raise ValueError('a list such as ["eth1"]')
    return tuple(map(text, value))


def path(value: object) -> str:
    """An absolute path that fits into `struct sockaddr_un`."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError("an absolute path")
    if len(value.encode()) > 107:
        raise ValueError("a path of at most 107 bytes, see unix(7)")
    return value


def mode(value: object) -> str:
    """Permission bits, in octal, as text: a bare 660 in TOML would be decimal."""
    if not isinstance(value, str) or not _MODE.fullmatch(value):
        raise ValueError('permissions in octal, in quotes, such as "0660"')
    return f"{int(value, 8):04o}"


def principal(value: object) -> str | int:
    """A user or a group, by name or by number."""
    if _is_int(value) and 0 <= value <= _MAX_ID:
        return value
    if isinstance(value, str) and value and "\0" not in value:
        return value
    raise ValueError("a name or a number")


def principals(value: object) -> tuple[str | int, ...]:
    """A list of users or groups."""
    if not isinstance(value, list):
        raise ValueError('a list such as ["alice", 1000]')
    return tuple(map(principal, value))


def ports(value: object) -> tuple[PortRange, ...]:
    """A list of ports and ranges of ports."""
    if not isinstance(value, list):
        raise ValueError('a list such as [80, "5000-5999"]')
    return tuple(map(_port_range, value))


def _port_range(value: object) -> PortRange:
    match = _PORT_RANGE.fullmatch(str(value)) if _is_int(value) or isinstance(value, str) else None
    if match:
        first, last = int(match[1]), int(match[2] or match[1])
        if first <= last <= 65535:
            return PortRange(first, last)
    raise ValueError('a list of ports from 0 to 65535 and ranges such as "5000-5999"')


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
