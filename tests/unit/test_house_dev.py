# SPDX-License-Identifier: Apache-2.0
"""./dev, seen from outside: what it says and the code it exits with.

Nothing here sets the checkout up: that would replace the .venv that runs the tests.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..slowness import SLOWNESS

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534


def dev(*args: str, script: Path = ROOT / "dev", **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script, *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=60 * SLOWNESS,
        **kwargs,
    )


@pytest.fixture
def bare() -> Iterator[Path]:
    """A checkout that was never set up, on a machine without sudo and with no package installed.

    Not below tmp_path, which only its owner may enter.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "checkout").mkdir()
        for file in ("dev", "pyproject.toml", "meson.build", "meson_options.txt"):
            shutil.copy(ROOT / file, folder / "checkout")
        shutil.copy(ROOT / "requirements.lock", folder / "checkout")
        (folder / "bin").mkdir()
        for tool in ("bash", "cat", "dirname", "env", "flock", "readlink", "sha256sum"):
            found = shutil.which(tool)
            assert found is not None
            (folder / "bin" / tool).symlink_to(found)
        (folder / "bin/dpkg-query").symlink_to("/bin/false")
        yield folder


def as_a_user(folder: Path) -> dict[str, Any]:
    """Arguments of run(): the bare machine, and no privilege."""
    who = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    return {"env": {"PATH": str(folder / "bin")}, "cwd": "/", **who}


def test_an_unknown_verb_is_one_line_and_exit_code_2() -> None:
    done = dev("lnit")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"dev: unknown verb 'lnit'.*\n", done.stderr)


def test_setup_takes_no_argument() -> None:
    done = dev("setup", "extra")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"dev: setup takes no argument, not 'extra'\n", done.stderr)


def verbs() -> set[str]:
    """As the script has them."""
    return set(re.findall(r"^verb_(\w+)\(\)", (ROOT / "dev").read_text(), re.MULTILINE))


def test_help_lists_each_verb_and_no_other() -> None:
    done = dev("help")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(re.findall(r"^  (\w+)\b", done.stdout, re.MULTILINE)) == verbs() | {"help"}


@pytest.fixture
def quiet(bare: Path) -> tuple[Path, dict[str, Any]]:
    """A checkout on a machine where whatever is installed, built or run leaves a trace."""
    for tool in ("apt-get", "sudo", "meson", "ninja", "python3", "clang"):
        (bare / "bin" / tool).write_text(f"#!/bin/sh\ntouch '{bare}/trace'\n")
        (bare / "bin" / tool).chmod(0o755)
    return bare / "checkout/dev", as_a_user(bare)


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_help_of_a_verb_does_nothing(quiet: tuple[Path, dict[str, Any]], verb: str) -> None:
    script, machine = quiet
    done = dev(verb, "--help", script=script, **machine)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"./dev {verb}")
    assert not (script.parents[1] / "trace").exists()
    assert not (script.parent / ".venv").exists()


def test_help_of_a_verb_has_the_options_of_its_program() -> None:
    for verb, option in (("fuzz", "--replay"), ("box", "--offline"), ("bench", "tcp-rx")):
        done = dev(verb, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert option in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["test", "--hlep"], r"dev: test: .*--hlep"),
        (["test", "tests/unit/test_nothing.py"], r"dev: test: no file tests/unit/test_nothing.py"),
        (["test", "--vm", "--nic", "e1000"], r"vm: no NIC 'e1000'.*"),
        (["hostile", "--seconds", "5", "--hlep"], r"dev: hostile: unrecognized arguments: --hlep"),
        (["hostile", "--seconds", "x"], r"dev: --seconds takes a number, not 'x'"),
        (["box", "--offlien"], r"box: unrecognized arguments: --offlien.*"),
        (["wheel", "--otu", "x"], r"wheel: unrecognized arguments: --otu x.*"),
        (["storm", "--frames", "0"], r"storm: .*--frames: at least 1, not 0.*"),
    ],
)
def test_a_bad_option_is_one_line_before_anything_is_made(words: list[str], said: str) -> None:
    done = dev(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"{said}\n", done.stderr)


def test_what_stands_behind_the_verb_keeps_its_own_help(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import sys; print(sys.argv[1])\n")
    assert dev("python", str(tmp_path / "program.py"), "--help").stdout == "--help\n"
    assert "no command" in dev("vm", "--kernel", "6.1", "--").stderr


def test_python_imports_this_checkout_and_what_lies_beside_a_program(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("import devmemtcp.agent\n")
    (tmp_path / "program.py").write_text("import beside, sys; print(sys.argv[1])\n")
    done = dev("python", str(tmp_path / "program.py"), "yes", cwd="/")
    assert (done.returncode, done.stdout) == (0, "yes\n")


def test_missing_packages_without_sudo_are_one_line_and_exit_code_2(bare: Path) -> None:
    if os.geteuid() == 0:
        os.chown(bare / "checkout", NOBODY, NOBODY)
    done = dev("setup", script=bare / "checkout/dev", **as_a_user(bare))
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"dev: .*no sudo.* apt-get install clang .*libxdp-dev.*\n", done.stderr)


def test_a_symlink_leads_to_the_checkout(bare: Path) -> None:
    (bare / "link").symlink_to(bare / "checkout/dev")
    (bare / "checkout").chmod(0o555)
    done = dev("run", script=bare / "link", **as_a_user(bare))
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"dev: {bare}/checkout is not set up.*\n", done.stderr)


def test_a_build_in_another_users_checkout_is_one_line_and_exit_code_2(bare: Path) -> None:
    dev_of_bare = bare / "checkout/dev"
    text = dev_of_bare.read_text()
    for build in ("prepare_wheel_tools", "build_native_tests", "build_sanitised_package"):
        dev_of_bare.write_text(text.replace('\nmain "$@"\n', f"\n{build}\n"))
        (bare / "checkout").chmod(0o555)
        done = dev(script=dev_of_bare, **as_a_user(bare))
        assert (done.returncode, done.stdout) == (2, "")
        assert re.fullmatch(rf"dev: {bare}/checkout is not open to this user.*\n", done.stderr)


def test_what_needs_root_finds_the_tools_of_root(bare: Path) -> None:
    dev_of_bare = bare / "checkout/dev"
    text = dev_of_bare.read_text()
    assert text.endswith('\nmain "$@"\n')
    dev_of_bare.write_text(text.replace('\nmain "$@"\n', "\nexec_as_root ethtool --version\n"))
    sudo = bare / "bin/sudo"
    sudo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    sudo.chmod(0o755)
    done = dev(script=dev_of_bare, **as_a_user(bare))
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    (path,) = (word for word in said if word.startswith("PATH="))
    assert path.split(":")[0] == f"PATH={bare}/bin"
    assert "/usr/sbin" in path.split(":")
    assert said[-2:] == ["ethtool", "--version"]
