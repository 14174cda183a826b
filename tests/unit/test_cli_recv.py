# SPDX-License-Identifier: Apache-2.0
"""The loop of `recv` with a scripted runtime: files, outcomes, exit codes, signals."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from devmemtcp.agent.endpoint import Endpoint
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.readability import Unreadable
from devmemtcp.agent.recv import (
    RESULTS_KEPT,
    OutputDirectory,
    Receiver,
    RecvOptions,
    RecvReport,
)
from devmemtcp.agent.signals import Signals
from devmemtcp.agent.socket import Connection, Listener

ADDRESS = Endpoint("192.0.2.1", 5201)
VIEW: Any = SimpleNamespace(size=1 << 20)


class Batch:
    """Fragments: here the bytes themselves."""

    def __init__(self, *frags: bytes) -> None:
        self.frags = frags
        self.nbytes = sum(map(len, frags))

    def __len__(self) -> int:
        return len(self.frags)

    def write_to(self, fd: int, view: Any) -> int:
        return os.write(fd, b"".join(self.frags))

    def check_pattern(self, view: Any, period: int, phase: int) -> tuple[int, int]:
        wrong = 0
        for byte in b"".join(self.frags):
            wrong += byte != (10 if phase == period - 1 else phase + 1)
            phase = (phase + 1) % period
        return wrong, phase


class FullDisk(Batch):
    def write_to(self, fd: int, view: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Conn(Connection):
    """Plays `events` one at a time: a batch, or an exception to raise."""

    def __init__(self, port: int, *events: Any, number: int = 0) -> None:
        self.id = number or port
        self.peer, self.local = ("192.0.2.2", port), tuple(ADDRESS)  # type: ignore[assignment]
        self.events = list(events)
        self.given_back: list[Any] = []
        self.end = ""
        self.files_at_end: dict[str, bytes] = {}
        self.directory: Path | None = None

    def recv_frags(self, max_frags: int = 1024, timeout: float | None = None) -> Any:
        assert timeout == 0, "the loop must not wait for one connection"
        event = self.events.pop(0)
        if isinstance(event, BaseException):
            raise event
        return event

    def dontneed(self, frags: Any) -> int:
        self.given_back.append(frags)
        return len(frags)

    def _ended(self, how: str) -> None:
        self.end = self.end or how
        if self.directory:
            self.files_at_end = {p.name: p.read_bytes() for p in self.directory.iterdir()}

    def close(self) -> None:
        self._ended("close")

    def abort(self) -> None:
        self._ended("abort")


class Backlog(Listener):
    def __init__(self, conns: list[Conn]) -> None:
        self.conns = conns
        self.closed = False

    def accept(self, timeout: float | None = None) -> Connection:
        assert timeout == 0
        return self.conns.pop(0)

    def close(self) -> None:
        self.closed = True


class Script:
    """A runtime whose peers have all connected already."""

    ifname, mode = "veth0", "generic"
    unreadable = Unreadable(True, 11, 0, 0, "proved")

    def __init__(self, *conns: Conn) -> None:
        self.backlog = Backlog(list(conns))
        self.conns = conns
        self.polls = 0
        self.at_poll: dict[int, Any] = {}
        self.tokens = [0]
        """What stats() says from one call to the next; the last stays."""

    def listen(self, address: Endpoint, *, close_first: bool, pressure: str) -> Listener:
        return self.backlog

    def poll(self, timeout: float | None = None, *, wake_fd: int = -1) -> list[Any]:
        assert wake_fd >= 0
        self.polls += 1
        self.at_poll.get(self.polls, lambda: None)()
        waiting = [self.backlog] if self.backlog.conns and not self.backlog.closed else []
        accepted = [c for c in self.conns if c not in self.backlog.conns]
        return [*waiting, *(c for c in accepted if c.events and not c.end)]

    def stats(self) -> Any:
        tokens = self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]
        return SimpleNamespace(
            tokens_outstanding=tokens, drops={"OLD_SEQ": 0}, steer={"redirect": 3}, sockets=()
        )


@pytest.fixture
def signals() -> Iterator[Signals]:
    with Signals() as each:
        yield each


def run(script: Script, signals: Signals, **options: Any) -> RecvReport:
    options = {"connections": len(script.conns)} | options
    for conn in script.conns:
        conn.directory = options.get("output_dir")
    settings = RecvOptions(interface="veth0", listen=(ADDRESS,), **options)
    receiver = Receiver(script, VIEW, settings, signals)  # type: ignore[arg-type]
    receiver.listen()
    return receiver.run()


END = Batch()


def test_tokens_on_their_way_back_are_not_outstanding(signals: Signals) -> None:
    script = Script(Conn(4001, Batch(b"ab"), END))
    script.tokens = [2, 1, 0]
    assert run(script, signals).tokens_outstanding == 0


def test_tokens_that_never_come_back_are_told(
    signals: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devmemtcp.agent.recv.RETURN_SECONDS", 0.05)
    script = Script(Conn(4001, Batch(b"ab"), END))
    script.tokens = [2]
    assert run(script, signals).tokens_outstanding == 2


def test_a_file_is_complete_before_the_connection_is_closed(
    signals: Signals, tmp_path: Path
) -> None:
    conns = [
        Conn(4001, Batch(b"ab", b"c"), Batch(b"d"), END),
        Conn(4002, Batch(b"x"), END),
        Conn(4003, END),
    ]
    open_files = os.listdir("/proc/self/fd")
    report = run(Script(*conns), signals, output_dir=tmp_path)
    assert os.listdir("/proc/self/fd") == open_files
    assert conns[0].files_at_end["4001"] == b"abcd"
    assert conns[1].files_at_end["4002"] == b"x"
    assert conns[2].files_at_end["4003"] == b""
    assert [conn.end for conn in conns] == ["close"] * 3
    assert [len(conn.given_back) for conn in conns] == [2, 1, 0]
    assert (report.bytes, report.frags, report.outcomes) == (5, 4, {"complete": 3})
    assert (report.ok, report.exit_code) == (True, 0)
    assert report.steer == {"redirect": 3}
    assert report.drops == {}


def test_no_file_is_overwritten(signals: Signals, tmp_path: Path) -> None:
    (tmp_path / "4001").write_bytes(b"of an earlier run")
    conns = [Conn(4001, Batch(b"1"), END, number=n) for n in (1, 2)]
    report = run(Script(*conns), signals, output_dir=tmp_path)
    assert (tmp_path / "4001").read_bytes() == b"of an earlier run"
    assert [result.file for result in report.connections] == [
        str(tmp_path / "4001.1"),
        str(tmp_path / "4001.2"),
    ]


def test_the_pattern_goes_on_from_batch_to_batch(signals: Signals) -> None:
    conn = Conn(4001, Batch(b"\1\2"), Batch(b"\3\n\1"), END)
    report = run(Script(conn), signals, validate=4)
    assert (report.validated, report.wrong_bytes, report.exit_code) == (True, 0, 0)


def test_wrong_bytes_are_counted_and_fail(signals: Signals) -> None:
    good, bad = Conn(4001, Batch(b"\1\2"), END), Conn(4002, Batch(b"\1\1"), Batch(b"\3\3"), END)
    report = run(Script(good, bad), signals, validate=4)
    assert (report.validated, report.wrong_bytes, report.exit_code) == (False, 2, 1)
    assert [result.validated for result in report.connections] == [True, False]
    assert report.outcomes == {"complete": 2}


def test_a_reset_fails_but_does_not_stop_the_others(signals: Signals, tmp_path: Path) -> None:
    conns = [
        Conn(4001, Batch(b"a"), ConnectionResetError(errno.ECONNRESET, "reset")),
        Conn(4002, Batch(b"b"), Batch(b"c"), END),
    ]
    report = run(Script(*conns), signals, output_dir=tmp_path)
    assert report.outcomes == {"reset": 1, "complete": 1}
    assert report.exit_code == 1
    assert (tmp_path / "4002").read_bytes() == b"bc"


def test_a_full_disk_resets_that_connection(signals: Signals, tmp_path: Path) -> None:
    conns = [Conn(4001, FullDisk(b"a"), END), Conn(4002, Batch(b"b"), END)]
    report = run(Script(*conns), signals, output_dir=tmp_path)
    assert report.outcomes == {"write failed": 1, "complete": 1}
    assert [conn.end for conn in conns] == ["abort", "close"]
    assert report.exit_code == 1


def test_no_more_files_resets_that_connection(
    signals: Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: OutputDirectory, port: int) -> tuple[int, Path]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(OutputDirectory, "create", refuse)
    conn = Conn(4001, Batch(b"a"), END)
    report = run(Script(conn), signals, output_dir=tmp_path)
    assert (conn.end, report.outcomes, report.exit_code) == ("abort", {"write failed": 1}, 1)


def test_no_more_connections_are_taken_than_asked_for(signals: Signals) -> None:
    script = Script(Conn(4001, END), Conn(4002, END), Conn(4003, END))
    report = run(script, signals, connections=2)
    assert report.accepted == 2
    assert script.backlog.closed
    assert [conn.peer[1] for conn in script.backlog.conns] == [4003]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_the_normal_end_of_an_endless_run(signals: Signals, number: int) -> None:
    script = Script(Conn(4001, Batch(b"a"), END))
    script.at_poll[5] = lambda: os.kill(os.getpid(), number)
    report = run(script, signals, connections=None)
    assert (report.outcomes, report.exit_code) == ({"complete": 1}, 0)


@pytest.mark.parametrize("connections", [None, 1])
def test_a_signal_that_cuts_something_off_counts(
    signals: Signals, connections: int | None, tmp_path: Path
) -> None:
    conn = Conn(4001, Batch(b"a"))
    script = Script(conn)
    script.at_poll[4] = lambda: os.kill(os.getpid(), signal.SIGTERM)
    report = run(script, signals, connections=connections, output_dir=tmp_path)
    assert (report.outcomes, report.exit_code) == ({"interrupted": 1}, 143)
    assert conn.end == "abort"


def test_what_waits_to_be_accepted_is_cut_off_too(signals: Signals) -> None:
    conns = [Conn(4001), Conn(4002)]
    os.kill(os.getpid(), signal.SIGTERM)
    report = run(Script(*conns), signals, connections=None)
    assert [conn.end for conn in conns] == ["abort", "abort"]
    assert (report.accepted, report.outcomes, report.exit_code) == (2, {"interrupted": 2}, 143)


def test_a_signal_before_the_wanted_connections_counts(signals: Signals) -> None:
    script = Script(Conn(4001, Batch(b"a"), END))
    script.at_poll[4] = lambda: os.kill(os.getpid(), signal.SIGINT)
    report = run(script, signals, connections=2)
    assert (report.outcomes, report.exit_code) == ({"complete": 1}, 130)


def test_pausing_consumes_nothing(
    signals: Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn = Conn(4001, Batch(b"a"), Batch(b"b"), END)
    script = Script(conn)
    script.at_poll[2] = lambda: os.kill(os.getpid(), signal.SIGUSR1)
    held: list[int] = []
    wait = signals.wait

    def waiting() -> None:
        held.append(len(conn.events))
        os.kill(os.getpid(), signal.SIGUSR2)
        wait()

    monkeypatch.setattr(signals, "wait", waiting)
    report = run(script, signals, output_dir=tmp_path)
    assert held == [2], "the batch of the poll that was interrupted, then nothing"
    assert report.exit_code == 0
    assert (tmp_path / "4001").read_bytes() == b"ab"


def test_a_paused_run_can_be_stopped(signals: Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(Conn(4001, Batch(b"a")))
    script.at_poll[1] = lambda: os.kill(os.getpid(), signal.SIGUSR1)
    wait = signals.wait

    def waiting() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        wait()

    monkeypatch.setattr(signals, "wait", waiting)
    assert run(script, signals, connections=None).exit_code == 143


def test_results_of_an_endless_run_do_not_grow(
    signals: Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devmemtcp.agent.recv.RESULTS_KEPT", 2)
    report = run(Script(*(Conn(port, END) for port in range(4001, 4006))), signals)
    assert [result.peer for result in report.connections] == ["192.0.2.2:4004", "192.0.2.2:4005"]
    assert (report.outcomes, report.connections_omitted) == ({"complete": 5}, 3)
    assert RESULTS_KEPT >= 1000


def test_output_directory_that_is_not_writable(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give it up")
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from devmemtcp.agent.recv import ConfigError, OutputDirectory\n"
        "os.setuid(65534)\n"
        "try:\n"
        "    OutputDirectory(Path('/usr'))\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert output.stdout == "output directory /usr is not writable by this user\n"


def test_output_directory_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        OutputDirectory(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not a directory"):
        OutputDirectory(tmp_path / "file")


@pytest.mark.parametrize("where", ["/proc", "/sys"])
def test_output_directory_must_take_files(where: str) -> None:
    with pytest.raises(ConfigError, match=r"takes no files|is not writable"):
        OutputDirectory(Path(where))


def test_output_directory_is_left_as_it_was(tmp_path: Path) -> None:
    OutputDirectory(tmp_path)
    assert not list(tmp_path.iterdir())


# ---- Signals on their own ----


def test_the_last_of_pause_and_resume_wins(signals: Signals) -> None:
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    signals.update()
    assert signals.paused
    os.kill(os.getpid(), signal.SIGUSR2)
    signals.wait()
    assert not signals.paused


def test_a_second_stop_interrupts_what_is_stuck(signals: Signals) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    signals.update()
    assert signals.stop == signal.SIGTERM


def test_handlers_come_back() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with Signals():
        assert signal.getsignal(signal.SIGUSR1) != before[2]
    after = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    assert after == before
    assert signal.set_wakeup_fd(-1) == -1
