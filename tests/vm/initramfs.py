# SPDX-License-Identifier: Apache-2.0
"""The little that a guest needs until it sees the host's files: busybox and a few modules.

The format is "newc" of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import lzma
import shlex
import shutil
import stat
from pathlib import Path

from .failure import Failure
from .kernels import Kernel

_BOOT = Path(__file__).with_name("boot.sh")
_MODULES = ("virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay")
_APPLETS = ("cat", "cp", "insmod", "mkdir", "mount", "sh", "switch_root")


def build(kernel: Kernel, words: dict[str, list[str]]) -> bytes:
    """An archive that starts boot.sh; each of ``words`` is a file below /words, quoted for sh."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise Failure("no busybox: install busybox-static")
    archive = _Archive()
    for folder in ("bin", "dev", "lower", "modules", "proc", "root", "sys", "upper", "words"):
        archive.add(folder, stat.S_IFDIR | 0o755)
    archive.add("bin/busybox", stat.S_IFREG | 0o755, Path(busybox).read_bytes())
    for applet in _APPLETS:
        archive.add(f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox")
    archive.add("init", stat.S_IFREG | 0o755, _BOOT.read_bytes())
    for number, module in enumerate(_with_dependencies(kernel)):
        content = module.read_bytes()
        if module.suffix == ".xz":  # not every kernel unpacks modules itself
            content = lzma.decompress(content)
        archive.add(f"modules/{number:02}.ko", stat.S_IFREG | 0o644, content)
    for name, quoted in words.items():
        archive.add(f"words/{name}", stat.S_IFREG | 0o644, f"{shlex.join(quoted)}\n".encode())
    return archive.finish()


def _with_dependencies(kernel: Kernel) -> list[Path]:
    """Files of modules in an order to load them in; none for what is built in."""
    needs: dict[str, list[str]] = {}
    files: dict[str, str] = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        files[Path(file).name.partition(".")[0].replace("-", "_")] = file
        needs[file] = others.split()
    order: list[str] = []
    for path in (files[name] for name in _MODULES if name in files):
        # depmod names first what must be loaded last
        order += [one for one in (*reversed(needs[path]), path) if one not in order]
    return [kernel.modules / path for path in order]


class _Archive:
    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0

    def add(self, name: str, mode: int, content: bytes = b"") -> None:
        self._inode += 1
        links = 2 if stat.S_ISDIR(mode) else 1
        path = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(path), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields) + path
        self._parts += [_padded(header), _padded(content)]

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return b"".join(self._parts)


def _padded(part: bytes) -> bytes:
    return part + b"\0" * (-len(part) % 4)
