# SPDX-License-Identifier: Apache-2.0
"""The wheel in a fresh virtual environment, and what a user does there first."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .archives import ROOT
from .broken import Broken, run

_IMPORT_ALL = """
import pkgutil, sys, devmemtcp
broken = []
for module in pkgutil.walk_packages(devmemtcp.__path__, "devmemtcp."):
    try:
        __import__(module.name)
    except Exception as error:
        broken.append(f"{module.name}: {error}")
assert not broken, broken
print(devmemtcp.__file__)
print(sum(name.startswith("devmemtcp.") for name in sys.modules))
"""


def install(wheel: Path, folder: Path, python: str) -> Path:
    """The folder, with the wheel and what it depends on in a virtual environment. Raises Broken.

    `python` is the interpreter that makes it.
    """
    folder.mkdir()
    run([python, "-m", "venv", folder / "venv"], cwd=folder, env=_environment())
    # The lock has pins without hashes, so it serves as constraints, too.
    pip = ("-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _use(folder, "python", *pip, "-c", ROOT / "requirements.lock", wheel)
    return folder


def _use(
    folder: Path, name: str, *args: str | Path, root: bool = False, codes: Sequence[int] = (0,)
) -> str:
    """What a program of the environment prints. Raises Broken for another exit code."""
    command = ["sudo"] if root and os.geteuid() else []
    return run(
        [*command, folder / "venv/bin" / name, *args], cwd=folder, env=_environment(), codes=codes
    )


def _environment() -> dict[str, str]:
    """Without the traces that ./dev leaves in its own."""
    return {k: v for k, v in os.environ.items() if k in ("HOME", "LANG", "PATH", "PIP_INDEX_URL")}


def imports(folder: Path) -> str:
    """Every module can be imported, and is the environment's."""
    where, count = _use(folder, "python", "-I", "-c", _IMPORT_ALL).split()
    if not Path(where).is_relative_to(folder):
        raise Broken(f"devmemtcp came from {where}")
    return f"{count} modules"


def types(folder: Path) -> str:
    """The README's program passes mypy --strict on what is installed."""
    program = folder / "readme.py"
    program.write_text(_readme_program())
    python = folder / "venv/bin/python"
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", python)
    run([*mypy, "--cache-dir", folder / "mypy", program], cwd=folder)
    return "the README's program, by mypy --strict"


def _readme_program() -> str:
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    if not found:
        raise Broken("README.md has no program")
    return found[1]


def readme_import(folder: Path) -> str:
    """The README's import lines."""
    lines = [line for line in _readme_program().splitlines() if line.startswith(("from", "import"))]
    _use(folder, "python", "-I", "-c", "\n".join(lines))
    return "; ".join(lines)


def version(folder: Path) -> str:
    """The command says the version that the metadata has."""
    said = _use(folder, "devmemtcp", "--version").strip()
    script = "from importlib.metadata import version; print('devmemtcp', version('devmemtcp'))"
    if said != _use(folder, "python", "-I", "-c", script).strip():
        raise Broken(f"devmemtcp --version says {said!r}")
    return said


def doctor(folder: Path) -> str:
    """It has its checks, whatever they find."""
    found = json.loads(_use(folder, "devmemtcp", "doctor", "--json", root=True, codes=(0, 1)))
    return f"{len(found['checks'])} checks"


def demo(folder: Path) -> str:
    """A stream through everything that is in the wheel."""
    found = json.loads(_use(folder, "devmemtcp", "demo", "--size", "64M", "--json", root=True))
    if not (found["validated"] and found["unreadable"]):
        raise Broken(f"the demo says {found}")
    return f"{found['bytes_device']:,} bytes into device memory, {found['mode']} mode, validated"


USES: dict[str, Callable[[Path], str]] = {
    "all modules import": imports,
    "README's import": readme_import,
    "types": types,
    "devmemtcp --version": version,
    "devmemtcp doctor": doctor,
    "devmemtcp demo": demo,
}
"""What is tried, by its name; each returns what was seen, or raises Broken."""
