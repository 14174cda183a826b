# SPDX-License-Identifier: Apache-2.0
"""./dev box: what it writes, but for what only mmdebstrap, mke2fs and qemu-img can."""

from __future__ import annotations

import json
import os
import struct
import tarfile
from pathlib import Path

import pytest

from ..box import __main__ as box
from ..box import disk, system, wheels
from ..vm.apt import MIRROR_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
GIB = 1 << 30


def test_the_provider_is_told_what_it_gets() -> None:
    told = json.loads(box.metadata(20))
    assert told == {"provider": "libvirt", "format": "qcow2", "virtual_size": 20}


def test_a_box_is_its_description_and_its_disk(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/disk").write_bytes(b"QFI\xfb")
    box.pack(tmp_path / "work/disk", "{}", tmp_path / "a.box")
    with tarfile.open(tmp_path / "a.box") as tar:
        assert tar.getnames() == ["metadata.json", "box.img"]
        image = tar.extractfile("box.img")
        assert image is not None
        assert image.read() == b"QFI\xfb"


def test_a_box_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with pytest.raises(FileNotFoundError):
        box.pack(tmp_path / "work/disk", "{}", tmp_path / "a.box")
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def test_what_a_killed_run_left_is_gone_and_two_runs_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box, "WORK", tmp_path / "box")
    (tmp_path / "box/work/root/etc").mkdir(parents=True)
    with box.workshop() as folder:
        assert list(folder.iterdir()) == []
        with pytest.raises(SystemExit, match="another run"), box.workshop():
            pass
        (folder / "root").mkdir()
    assert list((tmp_path / "box").iterdir()) == []


def test_the_partition_fills_the_disk_behind_the_boot_loader() -> None:
    sector = disk.partition_table(20 * GIB)
    assert len(sector) == disk.SECTOR - 440
    assert sector[-2:] == b"\x55\xaa"
    active, _, kind, _, first, count = struct.unpack_from("<B3sB3sII", sector, 6)
    assert (active, kind, first) == (0x80, 0x83, 2048)
    assert (first + count) * disk.SECTOR == 20 * GIB
    assert not any(sector[6 + 16 : -2]), "there is one partition"


def laid_over(folder: Path, **kwargs: Path | None) -> Path:
    system.write_files(folder / "over", "the-uuid", wheels=kwargs.get("wheels"))
    return folder / "over"


def test_the_kernel_is_told_the_file_system_that_is_made(tmp_path: Path) -> None:
    over = laid_over(tmp_path)
    assert " root=UUID=the-uuid " in (over / "boot/grub/grub.cfg").read_text()
    assert (over / "etc/fstab").read_text().startswith("UUID=the-uuid / ")


def test_vagrant_can_log_in_and_become_root(tmp_path: Path) -> None:
    over = laid_over(tmp_path)
    key = (over / "home/vagrant/.ssh/authorized_keys").read_text().split()
    assert key[0] == "ssh-rsa"
    assert key[2:] == ["vagrant", "insecure", "public", "key"]
    assert "NOPASSWD" in (over / "etc/sudoers.d/vagrant").read_text()


def test_only_a_box_that_has_wheels_keeps_pip_from_the_index(tmp_path: Path) -> None:
    assert not (laid_over(tmp_path) / "etc/pip.conf").exists()
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/a.whl").touch()
    over = laid_over(tmp_path / "offline", wheels=tmp_path / "wheels")
    assert "no-index = true" in (over / "etc/pip.conf").read_text()
    assert (over / system.WHEELS / "a.whl").exists()


def test_wheels_are_those_of_the_guest_s_python() -> None:
    markers = "b==2 ; python_full_version < '3.12'\nb==3 ; python_version >= '3.12'\n"
    lock = "# a comment\n\na==1\n" + markers
    assert wheels.wanted(lock, "3.11") == ["a==1", "b==2"]
    assert wheels.wanted(lock, "3.13") == ["a==1", "b==3"]


def test_the_lock_file_can_be_asked_for_the_guest_s_python() -> None:
    pins = wheels.wanted((ROOT / "requirements.lock").read_text(), system.PYTHON)
    names = [pin.split("==")[0] for pin in pins]
    assert len(names) == len(set(names)) > 40


@pytest.fixture
def apt_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with what `apt-get indextargets` is to say; and no mirror by environment."""
    script = tmp_path / "bin/apt-get"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\ncat {tmp_path}/targets\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    monkeypatch.delenv(MIRROR_VARIABLE, raising=False)
    return tmp_path / "targets"


def mirrors() -> list[str]:
    return [line.split("] ")[1] for line in system.sources()]


def test_mirrors_are_this_machine_s(apt_says: Path) -> None:
    apt_says.write_text("Debian|http://near/debian/\nDebian-Security|http://near/security/\n")
    assert mirrors() == [
        "http://near/debian/ trixie main",
        "http://near/debian/ trixie-updates main",
        "http://near/security/ trixie-security main",
    ]


def test_mirrors_are_debian_s_where_this_machine_has_none(
    apt_says: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apt_says.write_text("Ubuntu|http://near/ubuntu/\n")
    assert mirrors()[0] == "http://deb.debian.org/debian trixie main"
    assert mirrors()[2] == "http://deb.debian.org/debian-security trixie-security main"
    monkeypatch.setenv(MIRROR_VARIABLE, "http://chosen/debian")
    assert mirrors()[0] == "http://chosen/debian trixie main"
