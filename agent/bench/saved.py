# SPDX-License-Identifier: Apache-2.0
"""Results as JSON: written, and read as if an enemy had written them.

The document is `asdict()` of a Result, one estimate, comparison, aim or sample a line, so that
two of them can be held side by side. In a sample, what is at its default is left out: no
`setting`, no `details`, and of `noise` what did not happen. Reading gives a Result again, or one
line that says what is wrong with the file.
"""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from devmemtcp.agent.bench.result import SCHEMA, Result
from devmemtcp.agent.errors import ConfigError

MAX_BYTES = 16 << 20
MAX_TEXT = 200
"""Characters of a name."""
_MAX_INT = (1 << 63) - 1
_SMALL, _LARGE = 1e-15, 1e15
"""Of a number that somebody measured: ratios and products of such are finite."""


# ---- writing ----


def text(result: Result) -> str:
    """The document, with the first two keys that each of the project's documents has."""
    fields = {"ok": True, "exit_code": 0, **dataclasses.asdict(result)}
    fields["samples"] = [_without_defaults(each) for each in result.samples]
    lines = [f"{json.dumps(name)}: {_value(value)}" for name, value in fields.items()]
    return "{\n" + ",\n".join(lines) + "\n}"


def write(result: Result, path: Path) -> None:
    """The document into a file, which is the old or the new one, and never half of either."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        try:
            file.write(text(result) + "\n")
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _value(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(_compact(each) for each in value) + "\n]"
    return _compact(value)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _without_defaults(value: Any) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(value):
        mine = getattr(value, field.name)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if mine != default:
            found[field.name] = _without_defaults(mine) if dataclasses.is_dataclass(mine) else mine
    return found


# ---- reading ----


def load(path: Path) -> Result:
    """Raises ConfigError, with one line, for a file that holds no result."""
    try:
        values = _parsed(path)
        _check_schema(values)
        result: Result = _decoded(Result, values, "the document")
        _check_metrics(result)
        result.found()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except RecursionError:
        raise ConfigError(f"{path} is no result of a benchmark: too deep") from None
    except ValueError as error:
        raise ConfigError(f"{path} is no result of a benchmark: {error}") from None
    return result


def _parsed(path: Path) -> Any:
    # Not waited for when it is a FIFO that nobody writes to.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a regular file")
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES >> 20} MiB")
    return json.loads(content.decode(), parse_constant=_no_number)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _check_schema(values: Any) -> None:
    schema = values.get("schema") if isinstance(values, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"no document of the schema {SCHEMA}")


def _check_metrics(result: Result) -> None:
    known = {each.name for each in result.metrics}
    named = {each.metric for each in result.estimates} | {
        each.metric for each in result.comparisons
    }
    if unknown := sorted(named - known):
        raise ValueError(f"an estimate or comparison of an unknown metric, {unknown[0]}")


def _decoded(wanted: Any, value: Any, where: str) -> Any:
    """`value` as the type `wanted`; ValueError says `where` it is not."""
    if wanted is Any:
        return value
    if dataclasses.is_dataclass(wanted):
        return _dataclass(wanted, value, where)
    origin, args = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):
        (some,) = (each for each in args if each is not NoneType)
        return None if value is None else _decoded(some, value, where)
    if origin is Literal:
        return _one_of(args, value, where)
    if origin is list:
        return [_decoded(args[0], each, where) for each in _is(list, value, where)]
    if origin is tuple:
        return _tuple(args, _is(list, value, where), where)
    if origin is dict:
        items = _is(dict, value, where).items()
        return {_text(name, where): _decoded(args[1], each, where) for name, each in items}
    return _scalar(wanted, value, where)


def _dataclass(wanted: Any, value: Any, where: str) -> Any:
    _is(dict, value, where)
    hints = get_type_hints(wanted)
    known = {}
    for field in dataclasses.fields(wanted):
        if field.name in value:
            place = f"{wanted.__name__}.{field.name}"
            known[field.name] = _decoded(hints[field.name], value[field.name], place)
        elif (field.default, field.default_factory) == (dataclasses.MISSING,) * 2:
            raise ValueError(f"{where} has no {field.name}")
    return wanted(**known)


def _tuple(args: tuple[Any, ...], values: list[Any], where: str) -> tuple[Any, ...]:
    if args[-1] is Ellipsis:
        return tuple(_decoded(args[0], each, where) for each in values)
    if len(values) != len(args):
        raise ValueError(f"{where} has {len(values)} values, not {len(args)}")
    return tuple(_decoded(each, of, where) for each, of in zip(args, values, strict=True))


def _scalar(wanted: Any, value: Any, where: str) -> Any:
    if wanted is str:
        return _text(value, where)
    if issubclass(wanted, StrEnum):
        return wanted(_one_of(tuple(map(str, wanted)), value, where))
    if wanted is bool:
        return _is(bool, value, where)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where} is not a number")
    if wanted is int and not (isinstance(value, int) and abs(value) <= _MAX_INT):
        raise ValueError(f"{where} is not a whole number of 64 bits")
    if wanted is float and value and not _SMALL <= abs(value) <= _LARGE:
        raise ValueError(f"{where} is no measured size")
    return wanted(value)


def _one_of(known: tuple[Any, ...], value: Any, where: str) -> Any:
    if value not in known:
        raise ValueError(f"{where} is none of {', '.join(known)}")
    return value


def _is(wanted: type, value: Any, where: str) -> Any:
    if not isinstance(value, wanted):
        names: Mapping[type, str] = {list: "list", dict: "object", bool: "truth value"}
        raise ValueError(f"{where} is no {names[wanted]}")
    return value


def _text(value: Any, where: str) -> str:
    """Names are printed: so nothing that a terminal would take for more than text."""
    if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_TEXT:
        raise ValueError(f"{where} is no short line of text")
    return value
