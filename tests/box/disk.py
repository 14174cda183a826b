# SPDX-License-Identifier: Apache-2.0
"""A disk that boots, of a folder of files: a partition table, GRUB before it, ext4 in it.

Nothing is mounted and no loop device is needed: mke2fs fills a file system from a folder, at an
offset of the image, and GRUB's core stands in the gap before the first partition:

    sector 0             1 ... 2047           2048 ...
    | boot.img, table |  core.img  ...     |  ext4                                      |
            loads it ---^     `-- reads /boot/grub/grub.cfg, /vmlinuz and /initrd.img --^

boot.img and core.img are made to find each other there unless grub-install says otherwise.
"""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

SECTOR = 512
START = 2048
"""Of the file system, in sectors."""
_BOOT_CODE = 440
"""Bytes; the partition table follows."""
_MODULES = ("biosdisk", "part_msdos", "ext2", "normal", "linux", "boot", "echo", "ls", "test")
_GRUB = "usr/lib/grub/i386-pc"


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def partition_table(size: int) -> bytes:
    """What follows the boot code in sector 0: one bootable partition of Linux, to the end."""
    chs = b"\xfe\xff\xff"  # "use the LBA fields"
    entry = struct.pack("<B3sB3sII", 0x80, chs, 0x83, chs, START, size // SECTOR - START)
    return bytes(6) + entry + bytes(3 * len(entry)) + b"\x55\xaa"


def _write_boot_loader(root: Path, image: Path, size: int) -> None:
    _run(
        *("chroot", root, "grub-mkimage", "--format=i386-pc", "--output=/core.img"),
        *("--prefix=(hd0,msdos1)/boot/grub", *_MODULES),
    )
    core = (root / "core.img").read_bytes()
    (root / "core.img").unlink()
    if len(core) > (START - 1) * SECTOR:
        raise OverflowError(f"GRUB's core of {len(core)} bytes reaches into the partition")
    boot = (root / _GRUB / "boot.img").read_bytes()
    with image.open("r+b") as disk:
        disk.write(boot[:_BOOT_CODE] + partition_table(size) + core)


def make_disk(root: Path, uuid: str, size: int, raw: Path) -> None:
    """A raw image of `size` bytes, a whole number of MiB, sparse. Raises CalledProcessError."""
    raw.touch()
    os.truncate(raw, size)
    _write_boot_loader(root, raw, size)
    kib = (size - START * SECTOR) // 1024
    _run(
        *("mke2fs", "-q", "-t", "ext4", "-U", uuid, "-L", "root", "-d", root),
        *("-E", f"offset={START * SECTOR}", raw, f"{kib}k"),
    )


def compress(raw: Path, image: Path) -> None:
    """As qcow2, which is what the libvirt provider takes. Raises CalledProcessError."""
    _run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, image)
