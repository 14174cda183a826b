# SPDX-License-Identifier: Apache-2.0
"""How much of the C code the tests run: `./dev coverage`.

    coverage.py                 run what is below, print the table, judge
    coverage.py --missing       and the lines and branches that nothing has reached
    coverage.py --no-run        of what was run before

The build in build/coverage counts lines and branches. In it run the native tests, the inputs of
the fuzz targets' corpora, those tests in Python that drive the C core, and the scenarios against
the core. The table has a row for each file of stack/ and of agent/ itself, of which some is only
reached by tests that need an interface; exit code 1 if stack/ as a whole is below its promise.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .arguments import Arguments

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build/coverage"
PROFILES = BUILD / "profiles"
PROFILE = BUILD / "all.profdata"

PROMISED = {"lines": 90.0, "branches": 80.0}
"""Percent of stack/."""
PYTHON_TESTS = ("test_stack_*", "test_tcp_*", "test_netmem_*", "test_runtime_*", "test_devmem_*")
FORM = "plain"
"""Of the check whether a netmem is a page: of the three builds of the core, the one counted."""
FRAMES = frozenset({"csrc.c", "memory_csrc.c"})
"""What cffi compiles for Python is no part of the core."""


class Failed(Exception):
    """A test failed, so there is nothing to count."""


# ---- running ----


def _run(what: str, *command: str | Path, **environment: str) -> None:
    print(f"coverage: {what}", file=sys.stderr)
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | {"LLVM_PROFILE_FILE": f"{PROFILES}/%m.profraw"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise Failed(f"{done.stdout}\n{what}: exit code {done.returncode}")


def run_tests() -> None:
    """Run all of it. Raises Failed."""
    shutil.rmtree(PROFILES, ignore_errors=True)
    PROFILES.mkdir(parents=True)
    _run("native tests", "meson", "test", "-C", BUILD, "--no-rebuild", "--print-errorlogs")
    for program in sorted(BUILD.glob("tests/fuzz/fuzz_*")):
        if program.is_file():
            corpus = ROOT / "tests/fuzz/corpus" / program.name[5:]
            _run(f"corpus of {program.name}", program, corpus)
    unit = ROOT / "tests/unit"
    files = sorted(path for pattern in PYTHON_TESTS for path in unit.glob(f"{pattern}.py"))
    # Without site nothing reads the .pth file that leads to the editable install.
    packages = f"{BUILD / 'site'}:{sysconfig.get_path('purelib')}"
    suites: dict[str, list[str | Path]] = {
        "unit tests in Python": [*files],
        "scenarios against the core": [ROOT / "tests/scenario", "-k", "core"],
    }
    for what, tests in suites.items():
        _run(
            what,
            *(sys.executable, "-S", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
            *tests,
            PYTHONPATH=packages,
            PYTHONSAFEPATH="1",
        )
    _run(
        "merging",
        *("llvm-profdata", "merge", "-sparse", "-o", PROFILE),
        *PROFILES.glob("*.profraw"),
    )


# ---- counting ----


def _objects() -> Iterator[Path]:
    """Programs and libraries with the code to count, in one form of the check."""
    for program in sorted(BUILD.glob("tests/*/*")):
        if program.is_file() and not program.stem.endswith(("_static", "_off")):
            yield program
    yield from sorted(BUILD.glob(f"[as]*/_*_{FORM}.abi3.so"))


def _export(*options: str) -> Any:
    first, *rest = map(str, _objects())
    command = ["llvm-cov", "export", *options, f"-instr-profile={PROFILE}", first]
    for path in rest:
        command += ["-object", path]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout)["data"][0]


@dataclass
class Count:
    """Of one file, or several."""

    covered: int = 0
    total: int = 0

    @property
    def percent(self) -> float:
        """100 where there is nothing."""
        return 100 * self.covered / self.total if self.total else 100.0

    def __iadd__(self, other: Count) -> Count:
        self.covered += other.covered
        self.total += other.total
        return self


@dataclass
class File:
    """One C file, or header with code."""

    path: Path
    counts: dict[str, Count]
    missing_lines: list[int]
    missing_branches: list[tuple[int, str]]


def _file(data: Any) -> File:
    """One entry of llvm-cov's `files`."""
    summary = data["summary"]
    lines = {name: summary[name] for name in ("lines", "branches", "functions")}
    file = File(
        path=Path(data["filename"]).resolve().relative_to(ROOT),
        counts={name: Count(each["covered"], each["count"]) for name, each in lines.items()},
        missing_lines=[],
        missing_branches=[],
    )
    for line, _column, count, has_count, is_entry, is_gap in data.get("segments", []):
        if has_count and is_entry and not is_gap and not count:
            file.missing_lines.append(line)
    for line, _c, _l, _e, taken, not_taken, *_ in data.get("branches", []):
        if not taken or not not_taken:
            file.missing_branches.append((line, "true" if not taken else "false"))
    return file


def files() -> list[File]:
    """All of stack/ and of agent/'s C, by name."""
    found = []
    for data in _export()["files"]:
        path = Path(data["filename"]).resolve()
        if not path.is_relative_to(ROOT) or path.name in FRAMES:
            continue
        if path.parent in (ROOT / "agent", ROOT / "stack") and data["summary"]["lines"]["count"]:
            found.append(_file(data))
    return sorted(found, key=lambda file: file.path)


# ---- printing ----


def _row(name: str, counts: dict[str, Count]) -> str:
    cells = (f"{c.covered:>6}/{c.total:<5}{c.percent:>6.1f} %" for c in counts.values())
    return f"{name:<28}" + "".join(cells)


def show(of: list[File], *, missing: bool) -> dict[str, dict[str, Count]]:
    """The table; returns the totals of each folder."""
    totals: dict[str, dict[str, Count]] = {}
    print(f"{'':<28}{'lines':>14}{'':>6}{'branches':>13}{'':>6}{'functions':>14}")
    for file in of:
        print(_row(str(file.path), file.counts))
        total = totals.setdefault(file.path.parts[0], {name: Count() for name in file.counts})
        for name, count in file.counts.items():
            total[name] += count
        if missing and file.missing_lines:
            print("    lines:", *sorted(set(file.missing_lines)))
        if missing and file.missing_branches:
            print("    never:", *(f"{line}:{way}" for line, way in file.missing_branches))
    for folder, counts in totals.items():
        print(_row(f"{folder}/ in all", counts))
    return totals


def main() -> int:
    parser = Arguments("coverage", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--missing", action="store_true", help="show what nothing has reached")
    parser.add_argument("--no-run", action="store_true", help="count what was run before")
    args = parser.given()
    try:
        if not args.no_run:
            run_tests()
        counts = show(files(), missing=args.missing)["stack"]
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    short = [
        f"{name} {counts[name].percent:.1f} %, promised {least:.0f} %"
        for name, least in PROMISED.items()
        if counts[name].percent < least
    ]
    if short:
        print("stack/ is below its promise: " + "; ".join(short), file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
