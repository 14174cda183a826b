# SPDX-License-Identifier: Apache-2.0
"""The journal of a run: what a later run removes, and what it never touches.

Namespaces are stood for by files in a directory of the test's own.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devmemtcp.agent import journal
from devmemtcp.agent.errors import ConfigError

from ..slowness import SLOWNESS

DEAD = 4194305  # above PID_MAX_LIMIT: no process ever has it


class Namespaces:
    """Stands in for devmemtcp.agent.namespaces."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory

    def exists(self, name: str) -> bool:
        return (self.directory / name).exists()

    def create(self, name: str) -> None:
        (self.directory / name).touch(exist_ok=False)

    def remove(self, name: str) -> None:
        (self.directory / name).unlink()

    def names(self) -> set[str]:
        return {path.name for path in self.directory.iterdir()}


@pytest.fixture
def namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Namespaces:
    stand_in = Namespaces(tmp_path / "netns")
    monkeypatch.setattr(journal, "namespaces", stand_in)
    return stand_in


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def leave(run: Path, content: bytes, name: str = f"{DEAD}.journal") -> Path:
    """A journal as a killed run leaves it."""
    run.mkdir(mode=0o700, exist_ok=True)
    path = run / name
    path.write_bytes(content)
    return path


def test_a_run_removes_what_it_made(namespaces: Namespaces, run: Path) -> None:
    namespaces.create("somebody-elses")
    with journal.Journal(run) as mine:
        near, far = mine.make_netns("near"), mine.make_netns("far")
        assert namespaces.names() == {near, far, "somebody-elses"}
        assert run.stat().st_mode & 0o777 == 0o700
        assert mine.path.stat().st_mode & 0o777 == 0o600
    assert namespaces.names() == {"somebody-elses"}
    assert not run.exists()


def test_a_name_is_written_before_the_thing_is_made(
    namespaces: Namespaces, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def create(name: str) -> None:
        written.append((run / f"{os.getpid()}.journal").read_text())
        raise OSError("the run is killed here")

    monkeypatch.setattr(namespaces, "create", create)
    with journal.Journal(run) as mine, pytest.raises(OSError, match="killed here"):
        mine.make_netns("near")
    assert written == [f"netns devmemtcp-{os.getpid()}-near\n"]


def test_what_is_there_already_is_not_taken_over(namespaces: Namespaces, run: Path) -> None:
    foreign = f"devmemtcp-{os.getpid()}-near"
    namespaces.create(foreign)
    with journal.Journal(run) as mine:
        with pytest.raises(FileExistsError):
            mine.make_netns("near")
        assert mine.path.read_text() == ""
    assert namespaces.names() == {foreign}


def test_only_two_sides_exist(namespaces: Namespaces, run: Path) -> None:
    with journal.Journal(run) as mine, pytest.raises(ValueError, match="near or far"):
        mine.make_netns("../../etc")


def make_and_wait(run: Path, ready: Any) -> None:
    with journal.Journal(run) as mine:
        mine.make_netns("near")
        ready.set()
        signal.pause()


def test_a_live_run_is_left_alone_and_a_killed_one_undone(
    namespaces: Namespaces, run: Path
) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=make_and_wait, args=(run, ready))
    process.start()
    try:
        assert ready.wait(60 * SLOWNESS)
        name = f"devmemtcp-{process.pid}-near"
        assert journal.sweep(run) == []
        assert namespaces.names() == {name}
    finally:
        process.kill()
        process.join()
    assert namespaces.names() == {name}
    assert journal.sweep(run) == [name]
    assert namespaces.names() == set()
    assert not run.exists()


def test_the_lock_counts_and_not_the_pid(namespaces: Namespaces, run: Path) -> None:
    """A pid may be used again: this test's own is alive, but does not hold the lock."""
    name = f"devmemtcp-{os.getpid()}-near"
    namespaces.create(name)
    path = leave(run, f"netns {name}\n".encode(), f"{os.getpid()}.journal")
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert journal.sweep(run) == []
    assert journal.sweep(run) == [name]


def test_what_was_never_made_is_no_error(namespaces: Namespaces, run: Path) -> None:
    leave(run, f"netns devmemtcp-{DEAD}-near\n".encode())
    assert journal.sweep(run) == []
    assert not run.exists()


def test_a_failed_removal_is_tried_again(
    namespaces: Namespaces, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"devmemtcp-{DEAD}-near"
    namespaces.create(name)
    path = leave(run, f"netns {name}\n".encode())

    def refuse(name: str) -> None:
        raise PermissionError(1, "not now")

    with monkeypatch.context() as patch:
        patch.setattr(namespaces, "remove", refuse)
        assert journal.sweep(run) == []
        assert path.exists()
    assert journal.sweep(run) == [name]


@pytest.mark.parametrize(
    "line",
    [
        b"netns default",
        b"netns ../../etc/passwd",
        b"netns devmemtcp-1-near",  # another pid than the file's
        b"netns devmemtcp-%d-near/../victim" % DEAD,
        b"netns devmemtcp-%d-middle" % DEAD,
        b" netns devmemtcp-%d-near" % DEAD,
        b"netns  devmemtcp-%d-near" % DEAD,
        b"netns devmemtcp-%d-near\0" % DEAD,
        b"netns devmemtcp-%d-near\r" % DEAD,
        b"veth devmemtcp-%d-near" % DEAD,
        b"\xff\xfe",
    ],
)
def test_a_garbled_line_does_no_harm(namespaces: Namespaces, run: Path, line: bytes) -> None:
    present = {"default", "victim", "devmemtcp-1-near", f"devmemtcp-{DEAD}-near"}
    for name in present:
        namespaces.create(name)
    leave(run, line + b"\n")
    assert journal.sweep(run) == []
    assert namespaces.names() == present


@settings(
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(content=st.binary(max_size=300))
def test_no_content_removes_anything_else(
    namespaces: Namespaces, run: Path, content: bytes
) -> None:
    path = leave(run, content)
    journal.sweep(run)
    assert not path.exists()


def test_a_good_line_counts_between_garbled_ones(namespaces: Namespaces, run: Path) -> None:
    name = f"devmemtcp-{DEAD}-far"
    namespaces.create(name)
    leave(run, b"\x00\x01\n" + f"netns {name}\n".encode() + b"netns devmem")
    assert journal.sweep(run) == [name]


def test_what_is_not_a_journal_is_left_alone(namespaces: Namespaces, run: Path) -> None:
    name = f"devmemtcp-{DEAD}-near"
    namespaces.create(name)
    line = f"netns {name}\n".encode()
    leave(run, line, "notes.txt")
    target = leave(run, line, "0.journal")  # no process has pid 0
    (run / f"{DEAD}.journal").symlink_to(target)
    os.mkfifo(run / f"{DEAD + 1}.journal")
    (run / f"{DEAD + 2}.journal").mkdir()
    before = set(run.iterdir())
    assert journal.sweep(run) == []
    assert set(run.iterdir()) == before
    assert namespaces.names() == {name}


@pytest.mark.parametrize("mode", [0o777, 0o750])
def test_a_directory_that_others_can_enter_is_refused(
    namespaces: Namespaces, run: Path, mode: int
) -> None:
    run.mkdir()
    run.chmod(mode)
    with pytest.raises(ConfigError, match="0700"):
        journal.sweep(run)
    with pytest.raises(ConfigError, match="0700"):
        journal.Journal(run)


def test_a_symlink_for_the_directory_is_refused(namespaces: Namespaces, run: Path) -> None:
    elsewhere = run.with_name("elsewhere")
    elsewhere.mkdir(mode=0o700)
    run.symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="0700"):
        journal.Journal(run)
