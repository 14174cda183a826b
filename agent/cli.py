# SPDX-License-Identifier: Apache-2.0
"""The command line: verbs, options, and what becomes of errors.

stdout belongs to the result: a table, or with --json exactly one JSON document,
also for a failure. Everything said on the way goes to stderr. Exit codes:

    0    all is well
    1    it was tried and failed
    2    it cannot work as asked for; nothing was changed
    130  Ctrl-C (128 + the signal's number for other signals)

The verbs import what they need when they run, so that --help needs nothing.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from devmemtcp.agent import agent_cli, netdev_cli
from devmemtcp.agent import bench as bench_verbs
from devmemtcp.agent.doctor import verb as doctor_verb
from devmemtcp.agent.document import failure
from devmemtcp.agent.nic import verbs as nic_verbs
from devmemtcp.agent.options import (
    DEFAULT_PERIOD,
    CsumChoice,
    Debug,
    Json,
    MemoryChoice,
    MemoryKind,
    NicMode,
    NicModeChoice,
    Pattern,
    RegionSize,
)
from devmemtcp.agent.terminal import Formatter, printable
from devmemtcp.agent.verb import finish
from devmemtcp.netlink.constants import AGENT_SOCKET

if TYPE_CHECKING:
    from rich.table import Table

    from devmemtcp.agent.demo import Progress

app = typer.Typer(
    name="devmemtcp",
    help="Devmem TCP without the special NIC: TCP payload lands in device memory over AF_XDP.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench_verbs.app, name="bench")
app.add_typer(netdev_cli.app, name="netdev")
app.add_typer(nic_verbs.app, name="nic")
app.command("agent")(agent_cli.agent)
app.command("status")(agent_cli.status)
app.command("doctor")(doctor_verb.doctor)


class PressureChoice(StrEnum):
    """What happens when the application is slower than the sender."""

    WINDOW = "window"
    DROP = "drop"


@app.callback()
def _global(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=lambda on: _show_version(on),
            help="Show the version.",
        ),
    ] = False,
) -> None:
    """Options before the verb."""


def _show_version(wanted: bool) -> None:
    if wanted:
        from devmemtcp import __version__

        print(f"devmemtcp {__version__}")
        raise typer.Exit()


@app.command()
def demo(
    size: Annotated[str, typer.Option(metavar="SIZE", help="Bytes to send, e.g. 64M, 1G.")] = "1G",
    mtu: Annotated[int, typer.Option(help="Bytes of an IP packet on the link.")] = 1500,
    interface: Annotated[
        str | None,
        typer.Option("--interface", "-i", metavar="IF", help="Receive on this NIC, not a veth."),
    ] = None,
    peer: Annotated[
        str | None,
        typer.Option(metavar="IF", help="Send on this NIC, which a wire connects to it."),
    ] = None,
    mode: NicMode = NicModeChoice.AUTO,
    region_size: RegionSize = "64M",
    memory: MemoryKind = MemoryChoice.MEMFD,
    pattern: Pattern = DEFAULT_PERIOD,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Send a stream between two namespaces into device memory and check every byte of it.

    Makes two network namespaces and a veth pair, and removes them again. Two NICs take the veth's
    place with -i and --peer: they are moved into the namespaces, and back again. Needs root.
    """
    from devmemtcp.agent.demo import run_demo
    from devmemtcp.agent.errors import ConfigError
    from devmemtcp.agent.sizes import parse_size

    total = parse_size(size, what="--size", minimum=1)
    if (interface is None) != (peer is None):
        raise ConfigError(
            "-i and --peer go together: the NIC that receives, and the one that sends"
        )
    with _progress(total) as progress:
        report = run_demo(
            nics=None if interface is None or peer is None else (interface, peer),
            size=total,
            mtu=mtu,
            mode=mode.value,
            region_size=parse_size(region_size, what="--region-size"),
            memory=memory.value,
            pattern=pattern,
            progress=progress,
        )
    for line in report.failures:
        logging.error("%s", line)
    show = partial(_show, title="devmemtcp demo")
    finish(report, as_json, show, exit_code=0 if report.ok else 1)


@app.command()
def recv(
    interface: Annotated[
        str, typer.Option("--interface", "-i", metavar="IF", help="Interface to receive on.")
    ],
    listen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDR:PORT", help="Where to listen; :PORT is every address. Repeatable."
        ),
    ] = None,
    close_first: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDR:PORT",
            help="Listen here, too, but half-close as soon as the first bytes arrive. Repeatable.",
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write each connection's bytes to DIR/<peer port>; when that file exists, "
            "to <peer port>.1, .2, ...",
        ),
    ] = None,
    validate: Annotated[
        int | None,
        typer.Option(metavar="N", help="Check for bytes 1 ... N-1 and a newline, repeated."),
    ] = None,
    region_size: RegionSize = "64M",
    memory: MemoryKind = MemoryChoice.MEMFD,
    mode: NicMode = NicModeChoice.AUTO,
    rx_csum: Annotated[
        CsumChoice, typer.Option(help="Verify TCP checksums, or trust the NIC and the link.")
    ] = CsumChoice.VERIFY,
    pressure: Annotated[
        PressureChoice,
        typer.Option(help="When buffers run low: close the window, or drop as the kernel does."),
    ] = PressureChoice.WINDOW,
    connections: Annotated[
        int | None,
        typer.Option(metavar="N", help="End after N connections. Default: run until stopped."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Allow the interface of the default route.")
    ] = False,
    agent: Annotated[
        bool, typer.Option("--agent", help="Receive through the agent; needs no privilege.")
    ] = False,
    agent_socket: Annotated[
        str | None, typer.Option(metavar="PATH", help="The agent's socket; implies --agent.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Receive TCP streams of an interface into device memory.

    SIGUSR1 stops consuming, SIGUSR2 resumes. SIGINT and SIGTERM end it: exit code 0 when
    every connection had ended cleanly.
    """
    from devmemtcp.agent.endpoint import parse_listen
    from devmemtcp.agent.recv import RecvOptions, receive
    from devmemtcp.agent.sizes import parse_size

    report = receive(
        RecvOptions(
            interface=interface,
            listen=tuple(parse_listen(text) for text in listen or ()),
            close_first=tuple(parse_listen(text) for text in close_first or ()),
            output_dir=output_dir,
            validate=validate,
            region_size=parse_size(region_size, what="--region-size"),
            memory=memory.value,
            mode=mode.value,
            rx_csum=rx_csum.value,
            pressure=pressure.value,
            connections=connections,
            force=force,
            agent=agent_socket or (AGENT_SOCKET if agent else None),
        )
    )
    show = partial(_show, title="devmemtcp recv")
    finish(report, as_json, show, exit_code=report.exit_code)


@app.command()
def send(
    peer: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where to send to.")],
    size: Annotated[str, typer.Option(metavar="SIZE", help="Bytes to send, e.g. 64M, 1G.")],
    pattern: Pattern = DEFAULT_PERIOD,
    congestion: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Congestion control. Default: cubic if there is one."),
    ] = None,
    connect_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to try to connect.")
    ] = 10.0,
    die_with_parent: Annotated[int | None, typer.Option(hidden=True)] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Send a byte pattern over plain kernel TCP and wait for the acknowledged end."""
    from devmemtcp.agent.endpoint import split_endpoint
    from devmemtcp.agent.process import die_with_parent as tie_to_parent
    from devmemtcp.agent.send import send as send_stream
    from devmemtcp.agent.sizes import parse_size

    if die_with_parent is not None:
        tie_to_parent(die_with_parent)
    result = send_stream(
        split_endpoint(peer),
        parse_size(size, what="--size"),
        pattern=pattern,
        congestion=congestion,
        connect_timeout=connect_timeout,
    )
    finish(result, as_json, partial(_show, title="devmemtcp send"))


@contextmanager
def _progress(total: int) -> Iterator[Progress]:
    """A progress bar on stderr, when that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda received: None
        return
    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("received", total=total)
        yield lambda received: bar.update(task, completed=received)


def _show(report: Any, title: str) -> None:
    """A report (a dataclass) for people."""
    from rich.console import Console

    Console().print(_table(dataclasses.asdict(report), title))


def _table(values: dict[str, Any], title: str) -> Table:
    """One row a value; rows that say nothing are left out."""
    from rich.table import Table

    from devmemtcp.agent.terminal import cell

    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            continue  # the connections: each had its line when it ended
        if value not in (None, "", [], {}):
            words = (_WORDS.get(word, word) for word in name.split("_"))
            table.add_row(" ".join(words), cell(_words_of(value)))
    return table


_WORDS = {"cpu": "CPU", "gbps": "(Gb/s)", "mss": "MSS", "mtu": "MTU"}


def _words_of(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return "\n".join(f"{name} {count:,}" for name, count in value.items())
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return str(value)


def main() -> NoReturn:
    """Entry point of `devmemtcp`: run a verb and turn what it raises into one line and a code."""
    _open_what_is_closed()
    log = logging.StreamHandler(sys.stderr)
    log.setFormatter(Formatter("devmemtcp: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[log])
    signal.signal(signal.SIGTERM, _on_term)
    try:
        exit_code = _run()
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads the result any more (`| head`). What the buffer still holds must not
        # fail again when the interpreter flushes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        exit_code = 128 + signal.SIGPIPE
    except OSError as error:  # of stdout: what a verb raises is worded in _run()
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"devmemtcp: error: cannot write the result: {error.strerror}", file=sys.stderr)
        exit_code = 1
    sys.exit(exit_code)


def _open_what_is_closed() -> None:
    """Who was started with `>&-` writes to nowhere, and not to what is opened next."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _run() -> int:
    """Run the verb that the command line names; returns the exit code.

    Raises BrokenPipeError when nobody reads stdout.
    """
    command = typer.main.get_command(app)
    _show_flags_alone(command)
    try:
        # Not app(): that would take a broken pipe of any kind, a connection's too, for stdout's.
        with command.make_context(_called_as(), sys.argv[1:]) as context:
            command.invoke(context)
        return 0
    except typer.Exit as end:
        return end.exit_code
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich turns one into this
            raise end.__context__ from None
        raise
    except (KeyboardInterrupt, typer.Abort):
        return _failed("interrupted", 128 + signal.SIGINT)
    except _Terminated:
        return _failed("terminated", 128 + signal.SIGTERM)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads_stdout():
            raise
        if "--debug" in sys.argv:
            logging.exception("traceback of the error below")
        return _failed(*_worded(error))


def _show_flags_alone(command: Any) -> None:
    """A flag takes no value: some versions of typer show `<bool>` there, as if it did."""
    for option in command.get_params(typer.Context(command)):
        if getattr(option, "is_flag", False):
            option.metavar = ""
    for verb in _verbs(command).values():
        _show_flags_alone(verb)


def _called_as() -> str:
    """What the user types before the verb; ./dev, which is called by that name, says so."""
    return os.environ.get("DEVMEMTCP_CALLED_AS", "devmemtcp")


def _verb_called() -> str:
    """The same with the verb, which the error of an option without its value does not know."""
    path, verbs = _called_as(), _verbs(typer.main.get_command(app))
    for word in sys.argv[1:]:
        if word not in verbs:
            break
        path, verbs = f"{path} {word}", _verbs(verbs[word])
    return path


def _verbs(command: object) -> dict[str, Any]:
    """Of a verb that has verbs of its own."""
    return getattr(command, "commands", {})


def _nobody_reads_stdout() -> bool:
    """Whether the other end of the pipe, if stdout is one, is closed; see poll(2)."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


class _Terminated(BaseException):
    """SIGTERM came: not an Exception, as little as KeyboardInterrupt is one."""


def _on_term(number: int, frame: FrameType | None) -> NoReturn:
    """End by unwinding: what was made is undone on the way."""
    raise _Terminated


def _worded(error: Exception) -> tuple[str, int]:
    """One line for people, and the exit code."""
    # typer's own errors are click's, from click or from the copy inside newer versions of typer.
    if callable(usage := getattr(error, "format_message", None)):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else _verb_called()
        return f"{_plain(usage())} (see '{command} --help')", 2

    from devmemtcp.agent.errors import ConfigError, Unsupported
    from devmemtcp.agent.signals import Stopped

    if isinstance(error, Stopped):
        return str(error), 128 + error.number
    if isinstance(error, (ConfigError, Unsupported)):
        return str(error), 2
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{where}", 2 if isinstance(error, PermissionError) else 1
    return f"{type(error).__name__}: {error} (--debug shows where)", 1


def _plain(text: str) -> str:
    """What typer says of a wrong value, without the words of the validator inside it."""
    text = text.replace("Value error, ", "").replace("Input should be", "it must be")
    return re.sub(r", unable to parse string as an? \w+", "", text).rstrip(".")


def _failed(text: str, exit_code: int) -> int:
    """Say what is wrong: one line on stderr, and a JSON document if that was asked for."""
    line = " ".join(text.split())
    print(f"devmemtcp: error: {printable(line)}", file=sys.stderr)
    if "--json" in sys.argv:
        print(failure(line, exit_code))
    return exit_code


if __name__ == "__main__":
    main()
