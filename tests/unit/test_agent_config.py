# SPDX-License-Identifier: Apache-2.0
"""The agent's configuration: what is read, what is refused and how that is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from devmemtcp.agent.daemon.config import (
    EVERYBODY,
    Config,
    InterfaceOptions,
    Rule,
    format_config,
    load_config,
    override,
    parse_config,
)
from devmemtcp.agent.daemon.option_values import PortRange
from devmemtcp.agent.errors import ConfigError

FULL = """
[agent]
socket = "/run/x/agent.sock"
owner = "root"
group = 1000
mode = "660"
user = "nobody"
netns = "blue \\u007f \\"quoted\\" # no comment"
linger = 3
max_clients = 7
seccomp = false
log_level = "debug"

[limits]
listeners = 3
backlog = 4
blocks = 32
channels = 2
clients = 5

[[interface]]
name = "eth1"
mode = "native"
rx_csum = "trust"
linear_bytes = 14
memory = "64M"
host_memory = 8388608
max_connections = 100
rcv_wnd = "1MiB"
cpu = 1
busy_poll = true
spin_us = 20
force = true
tcp_data_split = "off"
hds_thresh = 64

[[interface]]
name = "eth2"

[[rule]]
users = ["alice", 1001]
groups = [1002, 1003]
interfaces = ["eth1"]
ports = [80, "5000-5999"]
admin = true

[[rule]]
users = ["*"]
"""


def test_what_is_read_is_what_was_meant() -> None:
    config = parse_config(FULL, "x.toml")
    assert config.agent.mode == "0660"
    assert config.agent.linger == 3.0
    assert config.limits.clients == 5
    first, second = config.interfaces
    assert (first.memory, first.host_memory, first.rcv_wnd) == (64 << 20, 8 << 20, 1 << 20)
    assert second == InterfaceOptions(name="eth2")
    assert config.rules[0] == Rule(
        users=("alice", 1001),
        groups=(1002, 1003),
        interfaces=("eth1",),
        ports=(PortRange(80, 80), PortRange(5000, 5999)),
        admin=True,
    )


@pytest.mark.parametrize("text", ["", FULL, "rule = []"], ids=["defaults", "full", "no rules"])
def test_what_is_printed_can_be_read_again(text: str) -> None:
    config = parse_config(text, "x.toml")
    assert parse_config(format_config(config), "printed") == config


def test_without_an_interface_its_options_are_printed_in_comments() -> None:
    _, found, rest = format_config(Config()).partition("# [[interface]]\n")
    assert found
    lines = rest.partition("\n\n")[0].splitlines()
    assert [line.split()[1] for line in lines] == list(InterfaceOptions.__dataclass_fields__)
    assert len({line.index("#", 2) for line in lines}) == 1


def test_without_rules_anybody_may_listen_and_nobody_bind() -> None:
    assert parse_config("", "x.toml").rules == (EVERYBODY,)
    assert not EVERYBODY.admin
    assert parse_config("rule = []", "x.toml").rules == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[agnet]", "x.toml: there is no table 'agnet'; did you mean 'agent'?"),
        ("[interfaces]", "x.toml: there is no table 'interfaces'; did you mean 'interface'?"),
        (
            '[agent]\nsocet = "/x"',
            "x.toml: [agent]: there is no key 'socet'; did you mean 'socket'?",
        ),
        ("agent = 3", "x.toml: [agent]: this must be a table, not 3"),
        ("[interface]", "x.toml: interface can be there several times: write [[interface]]"),
        (
            "[[interface]]",
            "x.toml: [[interface]] 1: name is missing: of the interface, in the agent's namespace",
        ),
        (
            '[[interface]]\nname = "a"\n[[interface]]\nname = "a"',
            "x.toml: there are several [[interface]] named 'a'",
        ),
        (
            '[[interface]]\nname = "a"\n[[interface]]\nname = "b"\nmode = "fast"',
            'x.toml: [[interface]] 2: mode must be auto, native, generic or zerocopy, not "fast"',
        ),
        (
            '[[interface]]\nname = "a"\nmemory = "1000"',
            "x.toml: [[interface]] 1: memory must be a size from 1 MiB to 64 TiB, "
            'e.g. "64M", in steps of 4096, not "1000"',
        ),
        (
            '[[interface]]\nname = "a"\nlinear_bytes = 1000',
            "x.toml: [[interface]] 1: linear_bytes must be a whole number from 0 to 90, not 1000",
        ),
        (
            "[agent]\nmode = 660",
            'x.toml: [agent]: mode must be permissions in octal, in quotes, such as "0660", '
            "not 660",
        ),
        ('[agent]\nsocket = "x"', 'x.toml: [agent]: socket must be an absolute path, not "x"'),
        (
            f'[agent]\nsocket = "/{"x" * 107}"',
            "x.toml: [agent]: socket must be a path of at most 107 bytes, see unix(7), "
            f'not "/{"x" * 107}"',
        ),
        ("[agent]\nseccomp = 1", "x.toml: [agent]: seccomp must be true or false, not 1"),
        (
            "[agent]\nlinger = true",
            "x.toml: [agent]: linger must be seconds, from 0 to 3600, not true",
        ),
        ("[agent]\nowner = -1", "x.toml: [agent]: owner must be a name or a number, not -1"),
        ('[agent]\nnetns = ""', 'x.toml: [agent]: netns must be some text, not ""'),
        (
            "[agent]\nsocket = 1979-05-27",
            "x.toml: [agent]: socket must be an absolute path, not 1979-05-27",
        ),
        (
            "[limits]\nbacklog = 0",
            "x.toml: [limits]: backlog must be a whole number from 1 to 65536, not 0",
        ),
        ("[[rule]]", "x.toml: [[rule]] 1: it names neither users nor groups"),
        (
            '[[rule]]\nusers = "alice"',
            'x.toml: [[rule]] 1: users must be a list such as ["alice", 1000], not "alice"',
        ),
        (
            '[[rule]]\nusers = ["a"]\ninterfaces = []',
            'x.toml: [[rule]] 1: interfaces must be a list such as ["eth1"], not []',
        ),
        (
            '[[rule]]\nusers = ["a"]\nports = ["9-3"]',
            "x.toml: [[rule]] 1: ports must be a list of ports from 0 to 65535 and ranges such "
            'as "5000-5999", not ["9-3"]',
        ),
        ("x =", "x.toml: Invalid value (at end of document)"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "x.toml")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("x = " + 10000 * "[", "too many brackets within brackets"),
        ("x = " + 5000 * "9", "a number of too many digits"),
        ("[limits]\nblocks = 0x" + 5000 * "f", "a number of too many digits"),
    ],
    ids=["brackets", "decimal", "hexadecimal"],
)
def test_what_python_has_no_room_for_is_one_line_too(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        parse_config(text, "x.toml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    with pytest.raises(ConfigError, match=r"cannot read .*none\.toml: No such file"):
        load_config(missing)
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'[agent]\nnetns = "\xe9"\n')
    with pytest.raises(ConfigError, match=r"latin\.toml is not UTF-8"):
        load_config(latin)


def test_the_command_line_wins() -> None:
    config = parse_config(FULL, "x.toml")
    changed = override(config, interfaces=["eth2", "eth3"], socket="/tmp/s", mode="0666", user=None)
    assert [each.name for each in changed.interfaces] == ["eth2", "eth3"]
    assert changed.agent.socket == "/tmp/s"
    assert changed.agent.mode == "0666"
    assert changed.agent.user == "nobody"
    assert override(config).interfaces == config.interfaces
    assert override(Config(), interfaces=["eth1"]).interfaces == (InterfaceOptions(name="eth1"),)
    with pytest.raises(ConfigError, match="--socket must be an absolute path"):
        override(config, socket="relative")
