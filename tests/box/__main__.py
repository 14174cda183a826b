# SPDX-License-Identifier: Apache-2.0
"""`./dev box`: a Debian box for Vagrant's libvirt provider, of Debian's packages alone.

Everything is made below /var/cache/devmemtcp/box, which only root may enter, and which the next
run empties if this one was killed. ./dev runs it in a mount and a PID namespace of its own, so
that what mmdebstrap mounts and starts ends with it in any case.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..arguments import Arguments
from .disk import compress, make_disk
from .system import PYTHON, SUITE, make_root, write_files
from .wheels import download

_ROOT = Path(__file__).resolve().parents[2]
_LOCKS = (_ROOT / "requirements.lock", _ROOT / "tests/fuzz/requirements.lock")
WORK = Path("/var/cache/devmemtcp/box")
_GIB = 1 << 30
_SIZE = 20
"""GiB that the guest's disk seems to have; the box is as large as what is in it."""


def _say(text: str) -> None:
    print(f"box: {text}", file=sys.stderr, flush=True)


def metadata(size: int) -> str:
    """What the libvirt provider wants to know of a box; `size` is in GiB."""
    return json.dumps({"provider": "libvirt", "format": "qcow2", "virtual_size": size}) + "\n"


@contextmanager
def workshop() -> Iterator[Path]:
    """An empty folder, for one run at a time; emptied again afterwards."""
    WORK.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(WORK, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit("box: another run of ./dev box is not done yet") from None
    folder = WORK / "work"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        os.close(handle)


def pack(image: Path, description: str, box: Path) -> None:
    """As a file that is there whole or not at all."""
    (image.parent / "metadata.json").write_text(description)
    unfinished = box.with_name(f".{box.name}.{os.getpid()}")
    try:
        with tarfile.open(unfinished, "w") as tar:  # the image is compressed already
            tar.add(image.parent / "metadata.json", "metadata.json")
            tar.add(image, "box.img")
        unfinished.rename(box)
    finally:
        unfinished.unlink(missing_ok=True)


def make_box(box: Path, packages: list[str], *, offline: bool) -> None:
    """Write the box. Raises CalledProcessError."""
    with workshop() as work:
        wheels = None
        if offline:
            _say("downloading the wheels of requirements.lock")
            wheels = work / "wheels"
            for lock in _LOCKS:
                download(lock, PYTHON, wheels)
        identity = str(uuid.uuid4())
        overlay = work / "overlay"
        write_files(overlay, identity, wheels=wheels)
        _say(f"making a root of Debian {SUITE}")
        make_root(work / "root", overlay, packages if offline else [])
        _say("making a disk of it")
        make_disk(work / "root", identity, _SIZE * _GIB, work / "raw.img")
        compress(work / "raw.img", work / "box.img")
        pack(work / "box.img", metadata(_SIZE), box)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Arguments("box", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--output", type=Path, default=Path("devmemtcp.box"), help="default: %(default)s"
    )
    parser.add_argument(
        "--offline",
        action="store_true",
        help="with the packages and wheels of ./dev, for a guest without a network",
    )
    parser.add_argument("--packages", nargs="*", default=[], help=argparse.SUPPRESS)
    return parser.given(arguments)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    """Exit code: 0 when the box was written, 1 when a program failed, 2 for wrong arguments."""
    options = _parse(arguments)
    box = options.output.absolute()
    if platform.machine() != "x86_64":
        _say(f"boxes are for x86-64 alone: kernel and boot loader; this is {platform.machine()}")
        return 2
    if not box.parent.is_dir():
        _say(f"no folder {box.parent} for --output")
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    began = time.monotonic()
    try:
        make_box(box, options.packages, offline=options.offline)
    except subprocess.CalledProcessError as error:
        _say(f"{error.cmd[0]} failed with {error.returncode}")
        return 1
    except KeyboardInterrupt:
        _say("interrupted; nothing is left")
        return 130
    if "SUDO_UID" in os.environ:
        os.chown(box, int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))
    megabytes = box.stat().st_size / 1e6
    _say(f"wrote {box}, {megabytes:.0f} MB, in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
