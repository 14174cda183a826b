# SPDX-License-Identifier: Apache-2.0
"""The rules of docs/ARCHITECTURE.md and CONTRIBUTING.md that a program can check."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What each folder may import, apart from itself and the standard library.
MAY_IMPORT = {
    "xdp_prog": set[str](),
    "pyxdp": set[str](),  # BPF objects are found by name, not imported
    "netlink": {"pyroute2"},
    "stack": set[str](),
    "agent": {"devmemtcp.netlink", "devmemtcp.pyxdp", "devmemtcp.stack", "devmemtcp.xdp_prog"}
    | {"matplotlib", "pyroute2", "rich", "typer"},
}
STUBS_MAY_IMPORT = {"_cffi_backend", "cffi"}  # the types of what cffi makes
# No clock, no I/O, no allocator: the C core gets none of their headers.
STACK_MAY_INCLUDE = {"assert", "errno", "limits", "stdatomic", "stdbool", "stddef", "stdint"} | {
    "arpa/inet",  # byte order
    "linux/types",
    "string",
}
STACK_BUDGET = 4400  # lines of code

BPF_LICENCE = "GPL-2.0-only OR BSD-2-Clause"
SOURCE_SUFFIXES = {".build", ".c", ".h", ".lock", ".py", ".pyi", ".sh", ".toml", ".yaml"}
SOURCE_NAMES = {"dev", "run", "meson_options.txt"}


def tracked(*patterns: str) -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a git checkout: the rule is about tracked files")
    # Root may read a checkout that belongs to somebody else.
    git = [
        "git",
        "-c",
        f"safe.directory={ROOT}",
        "-C",
        str(ROOT),
        "ls-files",
        "-z",
        "--",
        *patterns,
    ]
    names = subprocess.run(git, check=True, capture_output=True, text=True).stdout
    paths = [ROOT / name for name in names.split("\0") if name]
    return [path for path in paths if path.exists() and not path.is_symlink()]


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, as written or as meant by its leading dots."""
    package = ["devmemtcp", *path.parent.relative_to(ROOT).parts]
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*home, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_below(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_dependencies_form_a_star(folder: str) -> None:
    allowed = MAY_IMPORT[folder] | {f"devmemtcp.{folder}", "devmemtcp.__version__"}
    allowed |= set(sys.stdlib_module_names)
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in tracked(f"{folder}/*.py", f"{folder}/*.pyi")
        for module in imported(path)
        if not is_below(module, allowed | (STUBS_MAY_IMPORT if path.suffix == ".pyi" else set()))
    ]
    assert wrong == []


def stack_core(*patterns: str) -> list[Path]:
    """The core alone, without the glue that cffi compiles (csrc.c and the like)."""
    return [path for path in tracked(*patterns) if not path.name.endswith("csrc.c")]


def test_the_stack_includes_neither_io_nor_clock_nor_allocator() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} includes <{header}.h>"
        for path in stack_core("stack/*.c", "stack/*.h")
        for header in re.findall(r"#\s*include\s*<(.+)\.h>", path.read_text())
        if header not in STACK_MAY_INCLUDE
    ]
    assert wrong == []


def lines_of_code(path: Path) -> int:
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
    return sum(bool(line.strip()) for line in text.splitlines())


def test_the_stack_keeps_its_budget() -> None:
    assert sum(map(lines_of_code, stack_core("stack/*.c"))) <= STACK_BUDGET


@pytest.mark.parametrize("folder", [*MAY_IMPORT, "src/devmemtcp"])
def test_meson_build_lists_every_module(folder: str) -> None:
    for path in tracked(f"{folder}/*.py", f"{folder}/*.pyi"):
        listed = (path.parent / "meson.build").read_text()
        assert f"'{path.name}'" in listed, f"{path.relative_to(ROOT)} is not in its meson.build"


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_no_folder_can_be_imported_by_its_bare_name(name: str) -> None:
    spec = importlib.util.find_spec(name)
    assert spec is None, "the checkout is on sys.path: use ./dev test, or set PYTHONSAFEPATH=1"


def test_every_source_file_names_its_licence() -> None:
    wrong = []
    for path in tracked():
        if path.suffix not in SOURCE_SUFFIXES and path.name not in SOURCE_NAMES:
            continue
        head = "\n".join(path.read_text().splitlines()[:3])
        is_bpf = path.name.endswith(".bpf.c") or (path.parent.name, path.suffix) == (
            "xdp_prog",
            ".h",
        )
        licence = BPF_LICENCE if is_bpf else "Apache-2.0"
        if not re.search(rf"SPDX-License-Identifier: {licence}( \*/)?$", head, re.MULTILINE):
            wrong.append(f"{path.relative_to(ROOT)}: not {licence}")
    assert wrong == []
