# SPDX-License-Identifier: Apache-2.0
"""A copy of the checkout with all mutants in it, and what is built there.

Only what differs is written, so that a second run compiles what has changed. The core is linked
into the native tests, into the fuzz targets that try given inputs, and into the extension that the
tests in Python drive.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.mutation.schema import ROOT, Schema

HOME = ROOT / "build/mutants"
COPY = HOME / "checkout"
BUILD = HOME / "build"
RESULTS = HOME / "results.jsonl"
"""One line a mutant: its name, and the test that has noticed it or null."""
EXTENSION = BUILD / "stack/_stack_plain.abi3.so"

FILES = ("frag_tracker.c", "assembler.c", "tcp_input.c", "tcp_ack.c")
HEADER = ("seq.h", "tcp_input.c")
"""The one that is mutated, and a file that includes it."""

NATIVE = ("seq", "assembler", "frag_tracker_plain", "flow", "tcp_state", "page_pool_plain")
"""Tests in C that take no time."""
WALKS = ("tcp_fuzzish_plain", "hostile_plain")
"""Those that take a second."""
CORPORA = ("assembler", "stack", "requests")

_FOLDERS = ("agent", "jump_label", "netlink", "pyxdp", "src", "stack", "tests", "xdp_prog")
_TOP = ("meson.build", "meson_options.txt")


def _write(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _copy(folder: Path, replaced: dict[Path, bytes]) -> None:
    for path in folder.rglob("*"):
        if path.is_symlink():
            link = COPY / path.relative_to(ROOT)
            if not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(os.readlink(path))
        elif path.is_file() and "__pycache__" not in path.parts:
            _write(COPY / path.relative_to(ROOT), replaced.pop(path, b"") or path.read_bytes())


def build() -> Schema:
    """Make or renew it. Raises CalledProcessError."""
    schema = Schema()
    stack = ROOT / "stack"
    replaced = {stack / name: schema.rewrite(stack / name).encode() for name in FILES}
    header, through = HEADER
    replaced[stack / header] = schema.rewrite(stack / header, through=stack / through).encode()
    texts = b"".join(replaced.values()).decode()
    assert all(f"MUTANT({mutant.number})" in texts for mutant in schema.mutants)
    listed = (stack / "meson.build").read_text()
    assert "  'application.c',\n" in listed
    listed = listed.replace("  'application.c',\n", "  'mutant.c',\n  'application.c',\n")
    replaced[stack / "meson.build"] = listed.encode()
    for folder in _FOLDERS:
        _copy(ROOT / folder, replaced)
    assert not replaced
    for name in _TOP:
        _write(COPY / name, (ROOT / name).read_bytes())
    _write(COPY / "stack/mutant.c", (Path(__file__).parent / "mutant.c").read_bytes())
    if not (BUILD / "build.ninja").exists():
        shutil.rmtree(BUILD, ignore_errors=True)
        subprocess.run(
            [
                *("meson", "setup", BUILD, COPY, "-Dnative_tests=true", "-Dfuzz_targets=replay"),
                *("-Dbuildtype=debugoptimized", "-Db_ndebug=false", "-Db_lundef=false"),
            ],
            env=os.environ | {"CC": "clang", "CFLAGS": "-w"},
            stdout=subprocess.DEVNULL,
            check=True,
        )
    programs = [f"tests/c/test_{name}" for name in (*NATIVE, *WALKS)]
    programs += [f"tests/fuzz/fuzz_{name}" for name in CORPORA]
    targets = [*programs, str(EXTENSION.relative_to(BUILD))]
    done = subprocess.run(
        ["ninja", "-C", BUILD, *targets], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout)
    return schema


def _tests(names: tuple[str, ...]) -> list[list[str]]:
    return [[str(BUILD / f"tests/c/test_{name}")] for name in names]


def quick_commands() -> list[list[str]]:
    """Programs that exit with 0 as long as they notice nothing."""
    return _tests(NATIVE) + [
        [str(BUILD / f"tests/fuzz/fuzz_{name}"), str(ROOT / "tests/fuzz/corpus" / name)]
        for name in CORPORA
    ]


def slow_commands() -> list[list[str]]:
    """More of them."""
    return _tests(WALKS)
