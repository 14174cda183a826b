# SPDX-License-Identifier: Apache-2.0
"""`./dev vm` without a guest: what it takes, what it fetches, and how it ends."""

from __future__ import annotations

import io
import lzma
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..slowness import SLOWNESS
from ..vm import __main__ as command_line
from ..vm import apt, cache, initramfs, kernels, machine, matrix, nics, outcome, qemu, tier
from ..vm.failure import BadUsage, Failure, TimedOut

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


# ---- the command line ----


def test_everything_after_the_dashes_is_the_command() -> None:
    options = command_line.parse(["--nic", "igb", "--cpus=1", "--", "ls", "--kernel", "-l", "--"])
    assert options.command == ["ls", "--kernel", "-l", "--"]
    assert (options.nic, options.cpus, options.kernel) == ("igb", 1, "6.12")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "no command"),
        (["--"], "no command"),
        (["--kernel", "5.10", "--", "true"], "no kernel '5.10'; there are 6.1, 6.12, 7.3"),
        (["--nic", "e1000", "--", "true"], "no NIC 'e1000'; there are veth, virtio, igb, vmxnet3"),
        (["--cpus", "0", "--", "true"], "--cpus: at least 1, not 0"),
        (["--memory", "16", "--", "true"], "less than 256"),
        (["--console", "/nowhere/x", "--", "true"], "--console /nowhere/x: no file can be there"),
        (["--timeout", "soon", "--", "true"], "--timeout: invalid"),
        (["--results", "/nowhere/at/all", "--", "true"], "no such folder"),
        (["--kernal", "6.1", "--", "true"], "no option --kernal; ./dev vm --help"),
        (["uname", "-r"], "no option -r; the command stands behind --"),
    ],
)
def test_bad_usage_is_one_line(words: list[str], what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.vm", *words],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("vm: ")
    assert done.stderr.count("\n") == 1
    assert what in done.stderr


def test_help_says_what_is_taken_unasked_and_how_the_nics_are_called() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.vm", "--help"],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        check=True,
    )
    for word in ("6.12", "veth", "2", "2048", "1200"):
        assert f"default: {word}" in " ".join(done.stdout.split())
    assert "NETIF and NETPEER" in done.stdout


# ---- the cache ----


def test_the_cache_is_where_the_specification_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache.folder() == Path("/elsewhere/devmemtcp/vm")
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache.folder() == Path("/home/somebody/.cache/devmemtcp/vm")
    monkeypatch.setenv(cache.VARIABLE, "/chosen")
    assert cache.folder() == Path("/chosen")


def fill_and_fail(place: Path) -> None:
    with cache.new(place) as unfinished:
        (unfinished / "half").touch()
        raise OSError("disk is full")


def test_what_is_half_done_never_gets_its_name(tmp_path: Path) -> None:
    place = tmp_path / "kernels/6.1"
    with cache.new(place) as unfinished:
        (unfinished / "old").touch()
    with pytest.raises(OSError, match="disk is full"):
        fill_and_fail(place)
    assert [path.name for path in place.iterdir()] == ["old"]
    assert list(place.parent.iterdir()) == [place]


# ---- kernels ----


def shown(monkeypatch: pytest.MonkeyPatch, packages: dict[str, list[str]]) -> apt.Suite:
    monkeypatch.setattr(apt.Suite, "depends", lambda _, name: packages[name])
    return apt.Suite("somewhere", Path("/nowhere"))


def test_a_metapackage_leads_to_one_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = "linux-image-6.1.0-50-amd64"
    suite = shown(monkeypatch, {"linux-image-amd64": [real], real: ["kmod", "linux-base"]})
    assert kernels._packages(suite) == [real]


def test_a_metapackage_leads_to_several_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    image, modules, binary, base = (
        f"linux-{part}-7.3.4-amd64" for part in ("image", "modules", "binary", "base")
    )
    packages = {
        "linux-image-amd64": ["linux-base-amd64", image, "linux-modules-amd64"],
        "linux-modules-amd64": ["linux-base-amd64", modules],
        "linux-base-amd64": [base],
        image: ["dracut", base, binary, modules],
        binary: [base],
        modules: [base],
        base: [],
    }
    suite = shown(monkeypatch, packages)
    assert kernels._packages(suite) == sorted([image, modules, binary, base])


def test_a_metapackage_of_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = shown(monkeypatch, {"linux-image-amd64": ["linux-base"]})
    with pytest.raises(Failure, match="depends on no kernel"):
        kernels._packages(suite)


def test_depends_are_names_without_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "Depends: dracut | initramfs-tools (>= 0.120), linux-base (>= 4.3~), kmod:any\n"
    monkeypatch.setattr(apt.Suite, "_environment", {})
    monkeypatch.setattr(apt.Suite, "_run", lambda *_: f"Package: it\n{line}Section: kernel\n")
    assert apt.Suite("trixie", Path()).depends("it") == ["dracut", "linux-base", "kmod"]


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """An archive whose metapackage gives this release; the packages that were downloaded."""
    asked: list[str] = []

    def holds(release: str) -> list[str]:
        def unpack(_: Path, root: Path) -> None:
            (root / "usr/lib/modules" / release / "kernel").mkdir(parents=True)
            (root / "usr/lib/modules" / release / "vmlinuz").touch()

        monkeypatch.setattr(kernels, "_packages", lambda _: [f"linux-image-{release}"])
        monkeypatch.setattr(apt.Suite, "download", lambda _, packages, to: asked.extend(packages))
        monkeypatch.setattr(apt, "unpack", unpack)
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: None)
        return asked

    return holds


def test_what_is_cached_is_not_fetched_again(
    archive: Callable[[str], list[str]], folder: Path
) -> None:
    said: list[str] = []
    asked = archive("6.12.1-amd64")
    kernel = kernels.fetch("6.12", said.append)
    assert kernel.release == "6.12.1-amd64"
    assert kernel.image == folder / "kernels/6.12/lib/modules/6.12.1-amd64/vmlinuz"
    archive("6.12.2-amd64")
    assert kernels.fetch("6.12", said.append) == kernel
    assert kernel.release == "6.12.1-amd64"
    assert kernels.fetch("6.12", said.append, again=True).release == "6.12.2-amd64"
    assert asked == ["linux-image-6.12.1-amd64", "linux-image-6.12.2-amd64"]
    assert said == ["fetching Linux 6.12 of Debian trixie"] * 2


def test_a_suite_that_has_moved_on_is_told(
    archive: Callable[[str], list[str]], folder: Path
) -> None:
    said: list[str] = []
    archive("7.4.1-amd64")
    assert kernels.fetch("7.3", said.append).release == "7.4.1-amd64"
    assert said[1] == "Debian trixie-backports has moved on from 7.3 to 7.4.1-amd64"
    assert cache.folder() == folder


# ---- what is booted ----


@pytest.fixture
def kernel(tmp_path: Path) -> kernels.Kernel:
    modules = tmp_path / "kernel/lib/modules/6.99.0"
    modules.mkdir(parents=True)
    (modules / "vmlinuz").touch()
    for name in ("fs/9p.ko.xz", "net/9pnet.ko.xz", "fs/netfs.ko", "virtio-pci.ko"):
        path = modules / name
        path.parent.mkdir(exist_ok=True)
        content = path.stem.encode()
        path.write_bytes(lzma.compress(content) if path.suffix == ".xz" else content)
    (modules / "modules.dep").write_text(
        "fs/9p.ko.xz: net/9pnet.ko.xz fs/netfs.ko\nnet/9pnet.ko.xz:\nfs/netfs.ko:\nvirtio-pci.ko:\n"
    )
    return kernels.Kernel("6.99", tmp_path / "kernel")


def test_modules_are_unpacked_and_come_after_what_they_need(kernel: kernels.Kernel) -> None:
    names = [path.name for path in initramfs._with_dependencies(kernel)]
    assert names == ["virtio-pci.ko", "netfs.ko", "9pnet.ko.xz", "9p.ko.xz"]


def test_the_archive_is_what_cpio_reads(kernel: kernels.Kernel, tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs busybox")
    words = {"command": ["a b", "$c"]}
    content = io.BytesIO(initramfs.build(kernel, words)).getvalue()
    where = tmp_path / "unpacked"
    where.mkdir()
    subprocess.run([busybox, "cpio", "-id"], input=content, cwd=where, check=True)
    assert (where / "words/command").read_text() == "'a b' '$c'\n"
    assert (where / "modules/03.ko").read_bytes() == b"9p.ko"
    assert (where / "bin/sh").readlink() == Path("busybox")
    assert os.access(where / "init", os.X_OK)


def test_a_pair_is_two_devices_on_one_hub() -> None:
    for name in nics.NAMES[1:]:
        words = nics.arguments(name)
        assert sum(word.startswith("hubport,hubid=0,") for word in words) == 2
        assert sum("netdev=hub" in word for word in words) == 2
    assert nics.arguments("veth") == []


# ---- how it ends, with a program in QEMU's place ----

EMULATOR = """
import os, re, sys, time
ports = {int(m[1]): int(m[2]) for m in re.finditer(r"id=port(\\d),fd=(\\d+)", " ".join(sys.argv))}
def tell(port, data): os.write(ports[port], data)
"""


def emulated(code: str) -> qemu.Qemu:
    return qemu.Qemu([sys.executable, "-c", EMULATOR + code])


@pytest.fixture
def some_busybox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the archive does not matter to a program that never looks at it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "busybox").touch(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def run(kernel: kernels.Kernel, code: str, timeout: float = 60.0 * SLOWNESS) -> int:
    task = machine.Task(["x"], ROOT, {}, timeout)
    return machine.run(machine.Machine(kernel), emulated(code), task)


@pytest.mark.usefixtures("some_busybox")
def test_output_errors_and_status_are_the_commands(
    kernel: kernels.Kernel, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run(kernel, "tell(1, b'\\xffout'); tell(2, b'err'); tell(3, b'42\\n')") == 42
    assert capfdbinary.readouterr() == (b"\xffout", b"err")


@pytest.mark.usefixtures("some_busybox")
def test_a_guest_that_ends_without_status_is_a_failure(kernel: kernels.Kernel) -> None:
    with pytest.raises(Failure, match="said last:\nno such machine") as raised:
        run(kernel, "print('no such machine'); sys.exit(1)")
    assert raised.value.status == 125
    assert "again" not in str(raised.value)


@pytest.mark.usefixtures("some_busybox")
def test_who_sees_qemu_crash_is_told_to_try_again(kernel: kernels.Kernel) -> None:
    with pytest.raises(Failure, match=r"\(QEMU died of SIGABRT, .*: run it again\)") as raised:
        run(kernel, "os.abort()")
    assert raised.value.status == 125


@pytest.mark.usefixtures("some_busybox")
def test_a_guest_that_takes_too_long_is_killed(kernel: kernels.Kernel) -> None:
    with pytest.raises(TimedOut, match=r"after 0\.1 s"):
        run(kernel, "time.sleep(600)", timeout=0.1)


@pytest.mark.usefixtures("some_busybox")
def test_a_killed_runner_takes_its_guest_along(kernel: kernels.Kernel, tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'pid')!r}, 'w').write(f'{{os.getpid()}}.'); time.sleep(600)"
    runner = os.fork()
    if runner == 0:
        run(kernel, code)
        os._exit(0)
    told = tmp_path / "pid"
    while not (told.exists() and told.read_text().endswith(".")):
        time.sleep(0.01)
    os.kill(runner, signal.SIGKILL)
    os.waitpid(runner, 0)
    guest = Path("/proc") / told.read_text().rstrip(".") / "stat"
    while guest.exists() and ") Z " not in guest.read_text():
        time.sleep(0.01)


def test_usage_and_other_failures_have_the_customary_statuses() -> None:
    assert [kind("").status for kind in (Failure, BadUsage, TimedOut)] == [125, 2, 124]


# ---- all guests, and what came of their tests ----

REPORT = """<testsuites><testsuite>
<testcase classname="tests.net.test_a" name="test_one"/>
<testcase classname="tests.net.test_a" name="test_2"><skipped message="needs netkit"/></testcase>
<testcase classname="tests.net.test_a" name="test_3"><skipped message="needs netkit"/></testcase>
<testcase classname="tests.net.test_b" name="test_4[x]">
<failure message="assert 1 == 2&#10;more"/></testcase>
<testcase classname="tests.net.test_b" name="test_5"><error message="no veth"/></testcase>
</testsuite></testsuites>"""


def test_an_outcome_is_what_the_report_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "xml").write_text(REPORT)
    (tmp_path / "console").write_text("[ 1.0] eth0: up\n[ 2.0] WARNING: CPU: 0 at net/x.c:1 f()\n")
    left = ["tests/net/test_soak.py", "tests/net/test_storm.py"]
    made = outcome.Outcome("6.12.1", "veth", seconds=61.7)
    made.read(tmp_path / "xml")
    made.listen(tmp_path / "console")
    assert outcome.finish([made], dict.fromkeys(left, "time")) == 1
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if "6.12.1" in line)
    assert row.replace("│", "").split() == ["6.12.1", "veth", "1", "2", "2", "1", "62"]
    assert "skipped: needs netkit (6.12.1 veth: 2)" in said
    assert "left to the host, time: tests/net/test_soak.py, tests/net/test_storm.py" in said
    assert "FAILED tests/net/test_b.py::test_4[x]: assert 1 == 2\n" in said
    assert "FAILED tests/net/test_b.py::test_5: no veth" in said
    assert "kernel: WARNING: CPU: 0 at net/x.c:1 f()" in said
    made.failed.clear()
    assert outcome.finish([made], {}) == 0


@pytest.mark.parametrize(
    ("said", "failures"),
    [
        ("[ 2.0] WARNING: CPU: 0 at net/x.c:1 f()", 0),
        ("[ 2.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", 0),
        ("[ 2.0] BUG: workqueue lockup - pool cpus=0 stuck for 30s!", 0),
        ("[ 2.0] BUG: KASAN: slab-use-after-free in f+0x1/0x2", 1),
        ("[ 2.0] BUG: kernel NULL pointer dereference, address: 0", 1),
        ("[ 2.0] Oops: general protection fault, probably for address 0x1", 1),
    ],
)
def test_a_bug_of_the_kernel_is_a_failure_and_a_warning_is_none(
    tmp_path: Path, said: str, failures: int
) -> None:
    (tmp_path / "console").write_text(f"{said}\n")
    made = outcome.Outcome("6.12.1", "veth")
    made.listen(tmp_path / "console")
    assert (len(made.complaints), len(made.failed)) == (1, failures)


def guests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends: dict[str, Any]) -> list[Any]:
    """What the matrix boots: by NIC the status that its guest ends with, what is raised, or the
    report that it leaves."""
    booted = []

    def run(made: machine.Machine, _: qemu.Qemu, task: machine.Task) -> int:
        booted.append((made.kernel.series, made.nic, task.command))
        end = ends[made.nic]
        if isinstance(end, Failure):
            raise end
        report = next(word for word in task.command if word.startswith("--junitxml="))
        left = end if isinstance(end, str) else "<testsuites><testcase name='x'/></testsuites>"
        if left:
            Path(report.partition("=")[2]).write_text(left)
        return 0 if isinstance(end, str) else int(end)

    def fetch(series: str, _: Callable[[str], None]) -> kernels.Kernel:
        (tmp_path / series / "lib/modules" / f"{series}.9").mkdir(parents=True)
        return kernels.Kernel(series, tmp_path / series)

    monkeypatch.setattr(machine, "run", run)
    monkeypatch.setattr(kernels, "fetch", fetch)
    monkeypatch.setattr(qemu, "fetch", lambda _: None)
    monkeypatch.setattr(matrix, "_collect", lambda *_: None)
    return booted


def test_each_kernel_is_booted_with_each_nic(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    booted = guests(monkeypatch, tmp_path, {"veth": 0, "igb": 0})
    words = ["--kernel", "6.1", "--kernel", "7.3", "--nic", "veth", "--nic", "igb", "-x"]
    assert matrix.run_all(words) == 0
    assert [guest[:2] for guest in booted] == [
        ("6.1", "veth"),
        ("6.1", "igb"),
        ("7.3", "veth"),
        ("7.3", "igb"),
    ]
    for _, nic, command in booted:
        assert set(tier.TESTS[nic]) < set(command)
        assert "-x" in command
        assert ("--deselect=tests/net/test_soak.py" in command) == (nic == "veth")
    assert "left to the host, about time" in capsys.readouterr().out


def test_tests_that_are_named_run_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    booted = guests(monkeypatch, tmp_path, {"veth": 0})
    assert matrix.run_all(["--kernel=6.1", "--nic=veth", "tests/net/test_demo.py", "-v"]) == 0
    assert booted[0][2][-2:] == ["tests/net/test_demo.py", "-v"]
    assert not any(word.startswith("--deselect") for word in booted[0][2])


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (TimedOut("too late"), "FAILED too late"),
        (3, "FAILED pytest ended with status 3"),
        (124, "FAILED pytest was stopped after 5400 s"),
        ("", "FAILED pytest has left no report"),
        ("<testsuites><testcase name='x'/>", "FAILED pytest's report is torn: no element found"),
        ("<testsuites></testsuites>", "FAILED no test was run"),
    ],
)
def test_a_guest_that_goes_wrong_fails_and_the_next_is_booted(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    end: object,
    told: str,
) -> None:
    booted = guests(monkeypatch, tmp_path, {"veth": end, "igb": 0})
    assert matrix.run_all(["--kernel=6.1", "--nic=veth", "--nic=igb"]) == 1
    assert len(booted) == 2
    assert told in capsys.readouterr().out


def test_what_is_left_to_the_host_exists() -> None:
    for place in tier.LEFT_TO_THE_HOST:
        path, _, test = place.partition("::")
        assert (ROOT / path).exists()
        assert f"def {test}(" in (ROOT / path).read_text() if test else True


def test_what_pytest_does_not_understand_is_told_before_a_guest_is_booted() -> None:
    with pytest.raises(BadUsage, match="for veth: ERROR: file or directory not found: tests/no"):
        matrix.run_all(["--nic=veth", "tests/no/such.py"])


@pytest.mark.parametrize("words", [["--kernel", "5.10"], ["--nic", "e1000"], ["--limit", "0"]])
def test_bad_usage_of_the_matrix_is_refused(words: list[str]) -> None:
    with pytest.raises(BadUsage):
        matrix.parse(words)
