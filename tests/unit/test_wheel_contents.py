# SPDX-License-Identifier: Apache-2.0
"""What `./dev wheel` would find wrong with a wheel: each promise, broken once."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest

from ..wheel import contents
from ..wheel.archives import ROOT
from ..wheel.broken import Broken, run

INFO = "devmemtcp-0.1.0.dist-info"


def whole() -> dict[str, bytes]:
    """The names that a wheel of this checkout has to have."""
    names = ["devmemtcp/py.typed", f"{INFO}/entry_points.txt", f"{INFO}/METADATA"]
    names += [f"{INFO}/licenses/{name}" for name in contents.LICENCES]
    for path in (path for folder in contents.PACKAGES for path in (ROOT / folder).rglob("*")):
        name = f"devmemtcp/{path.relative_to(ROOT)}"
        if path.suffix in (".py", ".pyi"):
            names.append(name)
        elif name.endswith(".bpf.c"):
            names.append(name[:-1] + "o")
    return dict.fromkeys(names, b"")


def wheel_of(files: dict[str, bytes], folder: Path) -> Path:
    made = folder / "devmemtcp-0.1.0-cp311-abi3-linux_x86_64.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return made


def test_a_whole_wheel_is_taken(tmp_path: Path) -> None:
    files = whole() | {"devmemtcp-0.1.0.data/data/devmemtcp/agent.toml": b""}
    assert str(len(files)) in contents.check_files(wheel_of(files, tmp_path))


@pytest.mark.parametrize(
    "missing",
    [
        "devmemtcp/py.typed",
        "devmemtcp/agent/_loop.pyi",
        "devmemtcp/agent/memory/udmabuf.py",
        "devmemtcp/xdp_prog/devmemtcp.bpf.o",
        "devmemtcp/pyxdp/freplace.bpf.o",
        f"{INFO}/licenses/LICENSES/BSD-2-Clause.txt",
    ],
)
def test_a_file_that_is_missing_is_named(missing: str, tmp_path: Path) -> None:
    files = whole()
    del files[missing]
    with pytest.raises(Broken, match=f"not in the wheel: {missing}$"):
        contents.check_files(wheel_of(files, tmp_path))


@pytest.mark.parametrize("stray", ["tests/conftest.py", "agent/cli.py", "devmemtcp/stack/wire.c"])
def test_a_file_that_has_no_business_there_is_named(stray: str, tmp_path: Path) -> None:
    with pytest.raises(Broken, match=f"has no business in the wheel: {stray}"):
        contents.check_files(wheel_of(whole() | {stray: b""}, tmp_path))


def test_a_trace_of_the_machine_is_found(tmp_path: Path) -> None:
    made = wheel_of({"a.so": b"\0", "b.bpf.o": b"\x7f" + os.fsencode(tmp_path) + b"/x.c"}, tmp_path)
    with pytest.raises(Broken, match=f"b.bpf.o names {tmp_path}"):
        contents.check_traces(made, [Path("/nowhere/else"), tmp_path])
    assert contents.check_traces(made, [Path("/nowhere/else")])


def shared_object(folder: Path, *options: str) -> bytes:
    made = folder / "made.so"
    run(["cc", "-shared", "-o", made, "-x", "c", os.devnull, *options])
    return made.read_bytes()


def test_a_library_that_nobody_was_told_of_is_named(tmp_path: Path) -> None:
    files = {"plain.so": shared_object(tmp_path)}
    with pytest.raises(Broken, match=r"lacks .*'libbpf.so.1'.*has nothing more"):
        contents.check_libraries(wheel_of(files, tmp_path))
    files["more.so"] = shared_object(tmp_path, "-Wl,--no-as-needed", "-ldl", "-lresolv")
    with pytest.raises(Broken, match=r"has .*'libresolv.so.2'"):
        contents.check_libraries(wheel_of(files, tmp_path))


def test_a_path_to_look_for_libraries_is_found(tmp_path: Path) -> None:
    files = {"a.so": shared_object(tmp_path, "-Wl,-rpath,/somewhere")}
    with pytest.raises(Broken, match=r"a\.so has a path where libraries are looked for"):
        contents.check_libraries(wheel_of(files, tmp_path))


def test_bpf_objects_of_this_build_name_no_folder_of_it() -> None:
    """BTF has the names of source files."""
    for folder in contents.PACKAGES:
        for built in (ROOT / "build/editable" / folder).glob("*.bpf.o"):
            assert str(ROOT).encode() not in built.read_bytes(), built


def test_a_program_that_fails_is_broken_with_its_last_words() -> None:
    assert run([sys.executable, "-c", "print('fine')"]) == "fine\n"
    assert run([sys.executable, "-c", "raise SystemExit(1)"], codes=(0, 1)) == ""
    with pytest.raises(Broken, match=r"ended with 1: .*ValueError: why"):
        run([sys.executable, "-c", "raise ValueError('why')"])
