# SPDX-License-Identifier: Apache-2.0
"""Numbers of the scenario language: small sums of literals and names, and ranges of them."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from dataclasses import dataclass

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.LShift: operator.lshift,
}

#: What a connection knows, by the names that a scenario uses; counters of `repeat` join them.
NAMES = frozenset({"edge", "acked", "mss", "full", "win", "tsval", "isn", "irs"})


@dataclass(frozen=True, slots=True)
class Number:
    """A sum that is worked out when its line is reached."""

    text: str
    tree: ast.expr

    @classmethod
    def parse(cls, text: str, names: frozenset[str] = NAMES) -> Number:
        """Raises ValueError for what is no sum of numbers and known names."""
        try:
            tree = ast.parse(text, mode="eval").body
        except SyntaxError:
            raise ValueError(f"{text!r} is not a number") from None
        _check(tree, text, names)
        return cls(text, tree)

    def value(self, names: Mapping[str, int]) -> int:
        return _value(self.tree, names)

    def __str__(self) -> str:
        return self.text


def _check(node: ast.expr, text: str, names: frozenset[str]) -> None:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return
    if isinstance(node, ast.Name):
        if node.id not in names:
            raise ValueError(f"{node.id!r} in {text!r} is not known; there are {_list(names)}")
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        _check(node.operand, text, names)
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        _check(node.left, text, names)
        _check(node.right, text, names)
    else:
        raise ValueError(f"{text!r} is not a number")


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _value(node: ast.expr, names: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int)
        return node.value
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand, names)
    assert isinstance(node, ast.BinOp)
    left, right = _value(node.left, names), _value(node.right, names)
    return int(_OPERATORS[type(node.op)](left, right))


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; an end that is None is open."""

    text: str
    low: Number | None
    high: Number | None

    @classmethod
    def parse(cls, text: str, names: frozenset[str] = NAMES) -> Range:
        """``N``, ``A..B``, ``A..`` or ``..B``; raises ValueError."""
        low, dots, high = text.partition("..")
        if not dots:
            number = Number.parse(text, names)
            return cls(text, number, number)
        if not low and not high:
            raise ValueError("'..' alone is no range")
        return cls(
            text,
            Number.parse(low, names) if low else None,
            Number.parse(high, names) if high else None,
        )

    def holds(self, value: int, names: Mapping[str, int]) -> bool:
        if self.low is not None and value < self.low.value(names):
            return False
        return self.high is None or value <= self.high.value(names)

    def exhausted(self, value: int, names: Mapping[str, int]) -> bool:
        """Whether no higher number is in it."""
        return self.high is not None and value >= self.high.value(names)

    def __str__(self) -> str:
        return self.text


_UNITS = {"us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_UNITS["d"] = 24 * _UNITS["h"]


def duration(text: str) -> int:
    """``40ms``, ``1.5s``, ``2h``, ``25d`` as nanoseconds; raises ValueError."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(digits) :]
    if unit not in _UNITS or not digits:
        raise ValueError(f"{text!r} is no time; write 40ms, 1.5s, 2h")
    try:
        return round(float(digits) * _UNITS[unit])
    except ValueError:
        raise ValueError(f"{text!r} is no time; write 40ms, 1.5s, 2h") from None
