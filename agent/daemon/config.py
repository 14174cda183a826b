# SPDX-License-Identifier: Apache-2.0
"""The agent's configuration: one TOML file, whose options the command line may override.

    [agent]                              socket, user, namespace, log
    [limits]                             what one application may have
    [[interface]]                        one table an interface
    [[rule]]                             who may do what; each rule only adds

Every option is a field below: its default, what it accepts and what it is for stand in one place,
and `format_config()` prints them all in a form that `load_config()` reads again.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

from devmemtcp.agent.daemon import option_values as values
from devmemtcp.agent.daemon.option_values import PortRange
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.tcp_timeouts import DAY, TcpTimeouts
from devmemtcp.netlink.constants import AGENT_SOCKET
from devmemtcp.netlink.emulation import HDS_THRESH_MAX
from devmemtcp.xdp_prog import LINEAR_MAX

DEFAULT_FILE = Path("/etc/devmemtcp/agent.toml")
"""Read when it exists and no other was named."""


def _option(check: values.Check, default: Any = MISSING, *, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"check": check, "help": help})


@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """[agent]: what the process is."""

    socket: str = _option(values.path, AGENT_SOCKET, help="where applications connect")
    owner: str | int | None = _option(
        values.principal, None, help="of the socket's file, a user's name or number"
    )
    group: str | int | None = _option(
        values.principal, None, help="of the socket's file, a group's name or number"
    )
    mode: str = _option(values.mode, "0600", help="of the socket's file, octal: who may connect")
    user: str | int | None = _option(
        values.principal, None, help="become this user once all is set up; a name or a number"
    )
    netns: str | None = _option(
        values.text, None, help="network namespace: a name below /run/netns, or a path"
    )
    linger: float = _option(
        values.seconds(3600), 1.0, help="seconds that connections get to end when the agent does"
    )
    max_clients: int = _option(
        values.number(1, 65536), 256, help="control connections at a time, all users together"
    )
    seccomp: bool = _option(values.boolean, True, help="allow only the system calls it needs")
    log_level: Literal["debug", "info", "warning", "error"] = _option(
        values.choice("debug", "info", "warning", "error"),
        "info",
        help="least weight of a message: debug, info, warning, error",
    )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """[limits]: what one application, or one user, may have."""

    listeners: int = _option(
        values.number(1, 256),
        64,
        help="addresses that one user listens on, on an interface; root has no limit",
    )
    backlog: int = _option(
        values.number(1, 65536), 1024, help="connections of a listener that were not accepted yet"
    )
    blocks: int = _option(
        values.number(16, 65536), 2048, help="of 4096 bytes, for what was received in host memory"
    )
    channels: int = _option(
        values.number(1, 256),
        32,
        help="applications of one user on an interface; root has no limit",
    )
    clients: int = _option(
        values.number(1, 65536), 64, help="control connections of one user; root has no limit"
    )


@dataclass(frozen=True, kw_only=True)
class InterfaceOptions:
    """[[interface]]: one that the agent takes, and the NIC that it emulates on it."""

    name: str = _option(values.text, help="of the interface, in the agent's namespace")
    mode: Literal["auto", "native", "generic", "zerocopy"] = _option(
        values.choice("auto", "native", "generic", "zerocopy"),
        "auto",
        help="native or generic XDP, or zerocopy; auto: one of the first two, as suits the driver",
    )
    rx_csum: Literal["verify", "trust"] = _option(
        values.choice("verify", "trust"),
        "verify",
        help="verify TCP checksums, or trust the NIC and the link",
    )
    linear_bytes: int = _option(
        values.number(0, LINEAR_MAX), 0, help="payload bytes that the split leaves with the headers"
    )
    memory: int = _option(
        values.size(1 << 20), 256 << 20, help="device memory of all bindings, in bytes"
    )
    host_memory: int = _option(
        values.size(1 << 20), 4 << 20, help="host memory of each queue without a binding, in bytes"
    )
    max_connections: int = _option(
        values.number(1, (1 << 20) - 1), 4096, help="embryos and TIME-WAIT included"
    )
    rcv_wnd: int | None = _option(
        values.size(1 << 16, 1 << 30),
        None,
        help="largest window of a connection, in bytes; by default 4 MiB, or what the ring of a "
        "veth in native mode can hold",
    )
    synack_retries: int = _option(
        values.number(0, 255),
        TcpTimeouts.synack_retries,
        help="SYN-ACKs sent again to who does not answer; 7 last three minutes",
    )
    user_timeout: float = _option(
        values.seconds(DAY),
        TcpTimeouts.user_timeout,
        help="seconds that a peer may owe an ACK of what it was sent",
    )
    fin_timeout: float = _option(
        values.seconds(DAY),
        TcpTimeouts.fin_timeout,
        help="seconds in FIN-WAIT-2 once the application has closed",
    )
    cpu: int | None = _option(
        values.number(0, 8191), None, help="that the loop runs on; by default any"
    )
    napi_cpu: int | None = _option(
        values.number(0, 8191),
        None,
        help="that NAPI of a veth in native mode runs on; by default the sender's",
    )
    busy_poll: bool = _option(values.boolean, False, help="never sleep")
    spin_us: int = _option(
        values.number(0, 1_000_000), 0, help="microseconds to poll the rings before each sleep"
    )
    force: bool = _option(values.boolean, False, help="take the interface of the default route")
    tcp_data_split: Literal["auto", "off", "on"] = _option(
        values.choice("auto", "off", "on"),
        "on",
        help="of the emulated NIC, at the start; `bind-rx` wants on",
    )
    hds_thresh: int = _option(
        values.number(0, HDS_THRESH_MAX),
        0,
        help="of the emulated NIC, at the start; `bind-rx` wants 0",
    )


@dataclass(frozen=True, kw_only=True)
class Rule:
    """[[rule]]: users and groups, and what they may do beyond asking.

    A caller to whom several rules apply may do what any of them allows. Root may do everything,
    without a rule.
    """

    users: tuple[str | int, ...] = _option(
        values.principals, (), help='names or numbers; "*" is everybody who can connect'
    )
    groups: tuple[str | int, ...] = _option(values.principals, (), help="names or numbers")
    interfaces: tuple[str, ...] = _option(
        values.texts, ("*",), help='that they may use; "*" is all of them'
    )
    ports: tuple[PortRange, ...] = _option(
        values.ports, (PortRange(1024, 65535),), help='that they may listen on: 80, "5000-5999"'
    )
    admin: bool = _option(
        values.boolean, False, help="what the kernel wants CAP_NET_ADMIN for: `bind-rx`, `ethtool`"
    )


EVERYBODY = Rule(users=("*",))
"""Holds when no rule was written: as in the kernel, anybody may listen on a port that is free."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole of it."""

    agent: AgentOptions = AgentOptions()
    limits: Limits = Limits()
    interfaces: tuple[InterfaceOptions, ...] = ()
    rules: tuple[Rule, ...] = (EVERYBODY,)


_TABLES: dict[str, type[Any]] = {"agent": AgentOptions, "limits": Limits}
_ARRAYS: dict[str, type[Any]] = {"interface": InterfaceOptions, "rule": Rule}

_Table = TypeVar("_Table")


def load_config(path: Path) -> Config:
    """Read and check a file. Raises ConfigError, with the file, the table and the key."""
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8, which TOML is") from error
    return parse_config(text, str(path))


def parse_config(text: str, where: str) -> Config:
    """Read and check TOML; `where` stands in front of each message. Raises ConfigError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: {error}") from error
    except RecursionError:
        raise ConfigError(f"{where}: there are too many brackets within brackets") from None
    except ValueError:  # int(): TOML itself knows no limit
        raise ConfigError(f"{where}: there is a number of too many digits") from None
    _refuse_unknown(document, [*_TABLES, *_ARRAYS], where, "table")
    tables = {
        name: _read(kind, document.get(name, {}), f"{where}: [{name}]")
        for name, kind in _TABLES.items()
    }
    arrays = {
        name: tuple(
            _read(kind, table, f"{where}: [[{name}]] {number}")
            for number, table in enumerate(_array(document, name, where), 1)
        )
        for name, kind in _ARRAYS.items()
    }
    config = Config(
        agent=tables["agent"],
        limits=tables["limits"],
        interfaces=arrays["interface"],
        rules=arrays["rule"] if "rule" in document else (EVERYBODY,),
    )
    _check_whole(config, where)
    return config


def _array(document: Mapping[str, Any], name: str, where: str) -> list[Any]:
    found = document.get(name, [])
    if not isinstance(found, list):
        raise ConfigError(f"{where}: {name} can be there several times: write [[{name}]]")
    return found


def _read(kind: type[_Table], table: object, where: str) -> _Table:
    """One table as its dataclass."""
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: this must be a table, not {values.shown(table)}")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    _refuse_unknown(table, fields, where, "key")
    for name, field in fields.items():
        if field.default is MISSING and name not in table:
            raise ConfigError(f"{where}: {name} is missing: {field.metadata['help']}")
    return kind(
        **{
            name: _checked(fields[name].metadata["check"], value, f"{where}: {name}")
            for name, value in table.items()
        }
    )


def _checked(check: values.Check, value: object, what: str) -> object:
    try:
        return check(value)
    except ConfigError as error:  # from a part that words its own messages
        raise ConfigError(f"{what}: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{what} must be {error}, not {values.shown(value)}") from None


def _refuse_unknown(found: Iterable[str], known: Iterable[str], where: str, what: str) -> None:
    known = list(known)
    for name in found:
        if name not in known:
            nearest = get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{where}: there is no {what} {name!r}; did you mean {nearest!r}?")


def _check_whole(config: Config, where: str) -> None:
    names = [interface.name for interface in config.interfaces]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{where}: there are several [[interface]] named {name!r}")
    for number, rule in enumerate(config.rules, 1):
        if not rule.users and not rule.groups:
            raise ConfigError(f"{where}: [[rule]] {number}: it names neither users nor groups")


def override(config: Config, *, interfaces: Iterable[str] = (), **options: object) -> Config:
    """The configuration with what the command line says instead.

    `interfaces`: only these, each as its table says or with the defaults. `options`: fields of
    `AgentOptions`, those that are None left as they are. Raises ConfigError.
    """
    checks = {field.name: field.metadata["check"] for field in dataclasses.fields(AgentOptions)}
    given = {
        name: _checked(checks[name], value, _option_name(name))
        for name, value in options.items()
        if value is not None
    }
    tables = {interface.name: interface for interface in config.interfaces}
    chosen = tuple(tables.get(n, InterfaceOptions(name=n)) for n in dict.fromkeys(interfaces))
    return dataclasses.replace(
        config,
        agent=dataclasses.replace(config.agent, **given),  # type: ignore[arg-type]
        interfaces=chosen or config.interfaces,
    )


def _option_name(field: str) -> str:
    """What a field of [agent] is called on the command line."""
    name = field.replace("_", "-")
    return f"--socket-{name}" if field in ("owner", "group", "mode") else f"--{name}"


# ---- printing ----


def format_config(config: Config) -> str:
    """Every option, its value and what it is for, as TOML that `parse_config()` reads again.

    Without an interface, what one can have stands in comments.
    """
    parts = [
        *_table("[agent]", config.agent),
        *_table("[limits]", config.limits),
        *(line for each in config.interfaces for line in _table("[[interface]]", each)),
        *([] if config.interfaces else _interface_in_comments()),
        *(line for each in config.rules for line in _table("[[rule]]", each)),
    ]
    # Without any, the rule for everybody would come back.
    head = [] if config.rules else ["rule = []", ""]
    return "\n".join([*head, *parts])


def _interface_in_comments() -> list[str]:
    *lines, end = _table("[[interface]]", InterfaceOptions(name="eth1"))
    aligned = (line[2:].replace(" #", "   #", 1) if line[0] == "#" else line for line in lines)
    return [*(f"# {line}" for line in aligned), end]


def _table(title: str, table: Any) -> list[str]:
    lines = [title]
    for field in dataclasses.fields(table):
        value = getattr(table, field.name)
        entry = f"# {field.name} =" if value is None else f"{field.name} = {_toml(value)}"
        lines.append(f"{entry:<40} # {field.metadata['help']}")
    return [*lines, ""]


def _toml(value: object) -> str:
    match value:
        case PortRange(first, last):
            return str(first) if first == last else f'"{first}-{last}"'
        case tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case str():
            # A basic string is escaped as JSON's, which leaves DEL alone.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool():
            return "true" if value else "false"
        case _:
            return str(value)
