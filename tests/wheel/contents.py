# SPDX-License-Identifier: Apache-2.0
"""What is in the files, and what must not be."""

from __future__ import annotations

import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from .archives import ROOT
from .broken import Broken, run

SYSTEM_LIBRARIES = frozenset({"libbpf.so.1", "libxdp.so.1", "libseccomp.so.2"})
"""docs/packaging.md says why they are not in the wheel."""
_C_LIBRARY = re.compile(r"(libc|libm|ld-linux[-\w]*)\.so\.\d+")
LICENCES = ("LICENSE", "LICENSES/BSD-2-Clause.txt", "LICENSES/GPL-2.0-only.txt")
PACKAGES = ("agent", "netlink", "pyxdp", "stack", "xdp_prog")


def check_sdist(sdist: Path) -> str:
    """It has all files of git. Raises Broken for one more or less.

    src/devmemtcp has a symbolic link a folder, for type checkers and editors: what links to folders
    meson-python leaves out, and no build needs them.
    """
    with tarfile.open(sdist) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()} - {"PKG-INFO", ""}
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "-z"]
    names = run(git).split("\0")[:-1]
    wanted = {name for name in names if not (ROOT / name).is_symlink()}
    _same("the sdist", found, wanted)
    return f"{len(found)} files, all that git has"


def check_files(wheel: Path) -> str:
    """It has code, types, BPF objects and licences. Raises Broken for one more or less."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    (info,) = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    wanted = {"devmemtcp/py.typed", f"{info}/entry_points.txt"}
    wanted |= {f"{info}/licenses/{name}" for name in LICENCES}
    for folder in PACKAGES:
        for path in (ROOT / folder).rglob("*"):
            name = f"devmemtcp/{path.relative_to(ROOT)}"
            if path.suffix in (".py", ".pyi"):
                wanted.add(name)
            elif path.name.endswith(".bpf.c"):
                wanted.add(name.removesuffix(".c") + ".o")
    if missing := wanted - names:
        raise Broken(f"not in the wheel: {', '.join(sorted(missing))}")
    strays = [n for n in names if not re.match(r"devmemtcp/|devmemtcp-[^/]+\.(dist-info|data)/", n)]
    sources = [name for name in names if name.endswith((".c", ".build", "meson_options.txt"))]
    if strays or sources:
        raise Broken(f"has no business in the wheel: {', '.join(sorted(strays + sources))}")
    return f"{len(names)} files: code, types, BPF objects, licences"


def check_traces(wheel: Path, places: Iterable[Path]) -> str:
    """No file of it names one of these folders. Raises Broken."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            for place in places:
                if str(place).encode() in data:
                    raise Broken(f"{name} names {place}")
    return "no file names a folder of it"


def check_libraries(wheel: Path) -> str:
    """What its extensions need besides C's own. Raises Broken unless it is SYSTEM_LIBRARIES."""
    needed: set[str] = set()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".so"):
                dynamic = run(["readelf", "--dynamic", "--wide", archive.extract(name, folder)])
                if "PATH)" in dynamic:
                    raise Broken(f"{name} has a path where libraries are looked for")
                needed |= set(re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic))
    found = {name for name in needed if not _C_LIBRARY.fullmatch(name)}
    _same("what the wheel needs of the system", found, SYSTEM_LIBRARIES)
    return ", ".join(sorted(found))


def metadata(wheel: Path) -> bytes:
    """Its METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        return archive.read(name)


def _same(what: str, found: Iterable[str], wanted: Iterable[str]) -> None:
    missing, more = set(wanted) - set(found), set(found) - set(wanted)
    if missing or more:
        raise Broken(
            f"{what}: lacks {sorted(missing) or 'nothing'}, has {sorted(more) or 'nothing'} more"
        )
