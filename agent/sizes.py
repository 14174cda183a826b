# SPDX-License-Identifier: Apache-2.0
"""Sizes as people type them: `64M`, `1G`, `1GiB`, `4096`.

The one place where a size on the command line becomes a number of bytes. A bare
letter and the IEC spelling are powers of 1024, as memory is counted; the SI
spelling (`1GB`) is a power of 1000, as the word says.
"""

from __future__ import annotations

import re

from devmemtcp.agent.errors import ConfigError

_LETTERS = "KMGT"
_SIZE = re.compile(rf"(\d{{1,20}})(?:([{_LETTERS}])(i?B)?|B)?", re.IGNORECASE | re.ASCII)


def parse_size(text: str, *, what: str = "size", minimum: int = 0) -> int:
    """Return the number of bytes that `text` stands for.

    Accepted are `N`, `NB`, and `N` with `K`, `M`, `G`, `T` (1024-based), `KiB`...
    (1024-based) or `KB`... (1000-based), in any case. `what` names the value in the
    error. Raises ConfigError for anything else and for less than `minimum` bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"{what} {text!r} is not a size; write bytes, or for example 64M, 1G, 1GiB"
        )
    digits, letter, suffix = match.groups()
    power = _LETTERS.index(letter.upper()) + 1 if letter else 0
    base = 1000 if suffix and suffix.upper() == "B" else 1024
    size = int(digits) * int(base**power)
    if size >= 1 << 63:
        raise ConfigError(f"{what} {text!r} is more than a 64-bit machine can address")
    if size < minimum:
        raise ConfigError(
            f"{what} {text!r} is too small; at least {format_size(minimum)} is needed"
        )
    return size


def format_size(size: int) -> str:
    """Return `size` bytes the way parse_size() reads them, exact where a unit divides it."""
    for power in range(len(_LETTERS), 0, -1):
        unit: int = 1024**power
        if size >= unit:
            amount = f"{size // unit}" if size % unit == 0 else f"{size / unit:.2f}"
            return f"{amount} {_LETTERS[power - 1]}iB"
    return f"{size} B"
