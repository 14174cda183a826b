#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The agent's configuration file: whatever is in it, there is a configuration or a ConfigError.

An input is a file as it is, or choices of which tables, keys and values one has; nearly all of
those get past the parser of TOML. What was accepted is printed and read again: it must be the same.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["devmemtcp.agent.daemon", "devmemtcp.agent.sizes"]):
    from devmemtcp.agent.daemon.config import (
        AgentOptions,
        InterfaceOptions,
        Limits,
        Rule,
        format_config,
        parse_config,
    )
from tests.fuzz.choices import Choices

from devmemtcp.agent.errors import ConfigError

TABLES = {
    "[agent]": AgentOptions,
    "[limits]": Limits,
    "[[interface]]": InterfaceOptions,
    "[[rule]]": Rule,
}
VALUES = (
    *("true", "false", "0", "1", "-1", "16", "1000", "65536", "1e3", "0.5", "nan", "inf"),
    *("4096", "1048576", "4294967295", "18446744073709551616", "0x10", "1979-05-27", "[]", "{}"),
    *('""', '"eth1"', '"*"', '"/run/x"', '"0660"', '"64M"', '"1GiB"', '"auto"', '"on"', '"verify"'),
    *('"80-90"', '"90-80"', '"\\u0000"', '"\\U0001F600"', '["eth1"]', '["*", 1000]', "[80]"),
    *('["5000-5999", 80]', "[[1]]", "{ a = 1 }", '"native"', '"trust"', '"debug"', '"a\\nb"'),
)


def document(choices: Choices) -> str:
    """Tables of a few keys; some keys are of another table, and some values are made of bytes."""
    lines: list[str] = []
    fields = [field.name for table in TABLES.values() for field in dataclasses.fields(table)]
    while choices and len(lines) < 60:
        title = choices.choice([*TABLES, "[other]", "rule = []"])
        lines.append(title)
        own = [field.name for field in dataclasses.fields(TABLES.get(title, Rule))]
        for _ in range(choices.randrange(8)):
            key = choices.choice(fields if choices.random() < 0.1 else own)
            value = choices.choice(VALUES)
            if choices.random() < 0.1:
                value = f'"{choices.randbytes(6).decode("latin-1")}"'
            lines.append(f"{key} = {value}")
    return "\n".join(lines)


def one_input(data: bytes) -> None:
    """Read a file with these bytes, or with what they stand for."""
    try:
        text = data[1:].decode() if data[:1] < b"\x40" else document(Choices(data[1:]))
    except UnicodeDecodeError:
        return
    try:
        config = parse_config(text, "agent.toml")
    except ConfigError as error:
        message = str(error)
        assert message.startswith("agent.toml: "), message
        assert "\n" not in message, message
        return
    assert parse_config(format_config(config), "printed") == config


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
