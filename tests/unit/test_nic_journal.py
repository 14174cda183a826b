# SPDX-License-Identifier: Apache-2.0
"""The journal of a NIC: read as if an enemy had written it, or a kill had cut it off."""

from __future__ import annotations

import json
import logging
import os
import stat
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.nic.device import Identity
from devmemtcp.agent.nic.journal import Journal, journals
from devmemtcp.agent.nic.returned import refile_returned
from devmemtcp.agent.nic.setting import ChannelCount, Mtu, RssSpread
from devmemtcp.agent.nic.transaction import undo
from devmemtcp.netlink.link import Link

from .nic.emulated import EmulatedNic, State

NIC = EmulatedNic.identity
HEAD = b'{"version": 1, "ifname": "eth1", "perm": "52:54:00:12:34:56", "parent": null}\n'
LINES = (
    HEAD
    + b'{"was": "rss", "value": [0, 1]}\n'
    + b'{"was": "channels combined", "value": 2}\n'
    + b'{"to": "channels combined", "value": 4}\n'
    + b'{"was": "mtu", "value": 9000}\n'
    + b'{"to": "mtu", "value": 3498}\n'
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "nic"


def leave(run: Path, content: bytes) -> Path:
    """A journal as a killed run leaves it."""
    run.mkdir(mode=0o700, exist_ok=True)
    path = run / "7-3.journal"
    path.write_bytes(content)
    return path


def opened(run: Path) -> Journal:
    return Journal(NIC, "eth1", run)


def test_what_is_written_is_read(run: Path) -> None:
    with opened(run) as journal:
        journal.note_was(RssSpread(), (0, 1))
        journal.note_was(ChannelCount("combined"), 2)
        journal.note_to(ChannelCount("combined"), 4)
        journal.note_was(Mtu(), 9000)
        journal.note_to(Mtu(), 3498)
        assert journal.path.read_bytes() == LINES
        entries = journal.entries
    with opened(run) as again:
        assert again.entries == entries
        assert again.is_of(NIC)
        assert again.ifname == "eth1"
        again.note_was(Mtu(), 1)  # it has been changed before: the first value stays
        assert again.path.read_bytes() == LINES
    assert list(journals(7, run)) == [3]
    assert list(journals(8, run)) == []


def test_a_journal_that_says_nothing_goes(run: Path) -> None:
    with opened(run):
        assert run.exists()
    assert not run.exists()
    assert list(journals(7, run)) == []


def test_the_first_old_value_stays(run: Path) -> None:
    """Whatever came between: a driver may have changed it with another setting of ours."""
    leave(run, HEAD + b'{"was": "mtu", "value": 9000}\n')
    with opened(run) as journal:
        journal.note_was(Mtu(), 1400)
        journal.note_to(Mtu(), 1300)
    with opened(run) as journal:
        assert journal.entries["mtu"].was == 9000


def test_a_journal_that_was_cut_off_is_one_up_to_there(run: Path) -> None:
    for length in range(len(LINES)):
        path = leave(run, LINES[:length])
        whole = LINES[:length].count(b"\n")
        with opened(run) as journal:
            assert len(journal.entries) == {0: 0, 1: 0, 2: 1, 3: 2, 4: 2, 5: 3}[whole]
            journal.note_was(Mtu(), 9000)
            journal.note_to(Mtu(), 1300)
        text = path.read_bytes()
        assert [json.loads(line) for line in text.splitlines()]
        assert text.startswith(LINES[: LINES.rfind(b"\n", 0, length) + 1])


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        HEAD.strip().replace(b"1,", b"2,"),
        HEAD.strip().replace(b"eth1", b"../eth1"),
        HEAD.strip().replace(b"eth1", b"a name of more than 15"),
        HEAD.strip().replace(b'"52:54:00:12:34:56"', b"7"),
        b"[" * 100_000,
    ],
)
def test_what_is_no_journal_is_not_touched(run: Path, head: bytes) -> None:
    path = leave(run, head + b"\n" + LINES)
    with pytest.raises(ConfigError, match="is not a journal of this version"):
        opened(run)
    assert path.read_bytes() == head + b"\n" + LINES


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b'{"was": "mtu"}',
        b'{"was": "mtu", "value": 1, "more": 2}',
        b'{"was": "mtu", "value": "9000"}',
        b'{"was": "mtu", "value": true}',
        b'{"was": "mtu", "value": -1}',
        b'{"was": "mtu", "value": 1e3}',
        b'{"was": "mtu", "value": 99999999999999999999}',
        b'{"was": ["mtu"], "value": 1}',
        b'{"was": "firmware", "value": 1}',
        b'{"was": "rss", "value": 1}',
        b'{"was": "rss", "value": []}',
        b'{"was": "rss", "value": [0, "1"]}',
        b'{"was": "rss", "value": [0, -1]}',
        b'{"was": "feature rx-lro", "value": 1}',
        b'{"was": "rule tcp4 dst-port 80 queue 1", "value": 0}',
        b'{"was": "feature rx-gro", "value": true}\n{"was": "feature rx-gro", "value": false}',
        b'{"to": "mtu", "value": 1}',  # of which no old value is known
        b"\xff\xfe",
    ],
)
def test_a_garbled_line_is_skipped_and_said(
    run: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    leave(run, HEAD + line + b"\n" + b'{"was": "ring rx", "value": 512}\n')
    with caplog.at_level(logging.WARNING), opened(run) as journal:
        assert list(journal.entries)[-1] == "ring rx"
        assert {key: entry.was for key, entry in journal.entries.items()} in (
            {"ring rx": 512},
            {"feature rx-gro": True, "ring rx": 512},
        )
    assert "a line that no run writes" in caplog.text


@settings(max_examples=100)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@example(b'{"was": "mtu", "value": NaN}\n')
def test_no_content_sets_what_is_no_setting(content: bytes) -> None:
    with TemporaryDirectory() as directory:
        leave(Path(directory, "nic"), HEAD + content)
        nic = EmulatedNic(State())
        before = nic.snapshot()
        with opened(Path(directory, "nic")) as journal:
            undo(nic, journal)
        assert nic.snapshot() == before


def test_of_root_s_directory_others_are_told_to_be_root(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not to remove it: undo needs what lies there."""
    leave(run, LINES)
    of_root = list(run.lstat())
    of_root[stat.ST_UID] = 0
    monkeypatch.setattr(Path, "lstat", lambda self: os.stat_result(of_root))
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    for work in (opened, lambda directory: list(journals(NIC.netns, directory))):
        with pytest.raises(ConfigError, match=f"^{run} is root's alone: run it as root$"):
            work(run)


def test_only_a_plain_file_in_a_directory_of_ones_own(run: Path) -> None:
    path = leave(run, LINES)
    run.chmod(0o755)
    with pytest.raises(ConfigError, match="must be a directory of this user with mode 0700"):
        opened(run)
    run.chmod(0o700)
    path.rename(run / "elsewhere")
    path.symlink_to(run / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        opened(run)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="not a plain file"):
        opened(run)
    assert list(journals(7, run)) == [3]


def test_names_of_others_in_the_directory_are_none_of_ours(run: Path) -> None:
    leave(run, LINES).rename(run / "7-3.journal.bak")
    (run / "7-x.journal").touch()
    assert list(journals(7, run)) == []


def test_a_journal_is_of_one_nic(run: Path) -> None:
    """The index of one that is gone may be given again, if somebody asks for it."""
    leave(run, LINES)
    other = Identity(7, 3, "52:54:00:00:00:01")
    with Journal(other, "eth2", run) as journal:
        assert not journal.is_of(other)
        journal.begin_anew(other, "eth2")
        assert journal.is_of(other)
        assert journal.entries == {}
        journal.note_was(Mtu(), 1500)
    with Journal(other, "eth2", run) as journal:
        assert list(journal.entries) == ["mtu"]


PERM, PARENT = "52:54:00:12:34:56", "pci/0000:01:00.0"


def link(ifindex: int, perm: str | None = PERM, parent: str | None = PARENT) -> Link:
    return replace(EmulatedNic().link(), ifindex=ifindex, perm_address=perm, parent=parent)


def leave_of(run: Path, perm: str | None = PERM, parent: str | None = PARENT) -> bytes:
    """The journal of eth1 when its index was 3."""
    head = {"version": 1, "ifname": "eth1", "perm": perm, "parent": parent}
    content = json.dumps(head).encode() + b"\n" + LINES.removeprefix(HEAD)
    leave(run, content)
    return content


def test_a_nic_that_has_come_back_with_another_index_has_its_journal(run: Path) -> None:
    content = leave_of(run)
    (run / "7-9.journal").touch(0o600)  # of one that was killed before it had moved it
    others = [link(1, None, None), link(4, parent="pci/0000:02:00.0"), link(5, "52:54:00:00:00:01")]
    refile_returned(7, [*others, link(9)], run)
    assert [path.name for path in run.iterdir()] == ["7-9.journal"]
    assert (run / "7-9.journal").read_bytes() == content
    with Journal(Identity(7, 9, PERM, PARENT), "eth1", run) as journal:
        assert journal.is_of(Identity(7, 9, PERM, PARENT))
        assert journal.entries["mtu"].was == 9000
    refile_returned(7, [*others, link(9)], run)
    assert list(journals(7, run)) == [9]


@pytest.mark.parametrize(
    ("hardware", "links"),
    [
        ((PERM, PARENT), []),
        ((PERM, PARENT), [link(3), link(9)]),  # it is there
        ((PERM, PARENT), [link(8), link(9)]),  # ports of a switch: which of them was it?
        ((PERM, PARENT), [link(9, "52:54:00:00:00:01")]),  # another card in its slot
        ((PERM, PARENT), [link(9, parent="pci/0000:02:00.0")]),  # its address in another slot
        ((PERM, None), [link(9, parent=None)]),
        ((None, PARENT), [link(9, None)]),
        ((None, None), [link(9, None, None)]),
    ],
)
def test_a_journal_is_not_given_to_another_nic(
    run: Path, hardware: tuple[str | None, str | None], links: list[Link]
) -> None:
    leave_of(run, *hardware)
    refile_returned(7, links, run)
    assert list(journals(7, run)) == [3]
    with Journal(Identity(7, 3, *hardware), "eth1", run) as journal:
        assert not journal.is_of(Identity(7, 9, "52:54:00:00:00:01", PARENT))


def test_a_journal_is_not_written_over(run: Path) -> None:
    content = leave_of(run)
    (run / "7-9.journal").write_bytes(b"junk\n")
    refile_returned(7, [link(9)], run)
    assert (run / "7-3.journal").read_bytes() == content
    assert (run / "7-9.journal").read_bytes() == b"junk\n"


def test_a_journal_that_somebody_is_at_work_on_stays(run: Path) -> None:
    leave_of(run)
    with Journal(Identity(7, 3, PERM, PARENT), "eth1", run):
        refile_returned(7, [link(9)], run)
    assert list(journals(7, run)) == [3]
    with Journal(Identity(7, 9, PERM, PARENT), "eth1", run) as journal:
        journal.note_was(Mtu(), 1500)
        refile_returned(7, [link(9)], run)
    assert sorted(journals(7, run)) == [3, 9]


def test_a_line_that_there_is_no_room_for_is_not_begun(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full filesystem write(2) does a part, and says how much."""
    path = leave(run, LINES)
    write = os.write
    with opened(run) as journal:
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
        with pytest.raises(OSError, match="cannot write the journal: No space left"):
            journal.note_to(Mtu(), 1500)
        monkeypatch.undo()
        assert path.read_bytes() == LINES
        assert journal.entries["mtu"].to == [3498]
