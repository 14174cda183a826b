# SPDX-License-Identifier: Apache-2.0
"""The mosaic: what lies where in it, and what is left of it when it is sealed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devmemtcp.agent import Region
from devmemtcp.agent._loop import ffi, lib

PAGE = 4096
NIOVS, PAGES = 256, 16


@pytest.fixture
def region() -> Iterator[Region]:
    with Region(NIOVS * PAGE) as made:
        yield made


@pytest.fixture
def tx() -> Iterator[int]:
    """The file of the transmission pages."""
    fd = os.memfd_create("tx")
    os.ftruncate(fd, PAGES * PAGE)
    yield fd
    os.close(fd)


@pytest.fixture
def mosaic(region: Region, tx: int) -> Iterator[Any]:
    made = ffi.new("struct mosaic *")
    assert lib.mosaic_open(made, lib.MOSAIC_PAIRS, NIOVS, PAGES, 0) == 0
    assert lib.mosaic_map(made, region.fd, tx) == 0
    yield made
    lib.mosaic_close(made)


def address(pointer: Any) -> int:
    return int(ffi.cast("uintptr_t", pointer))


def mappings(low: int, size: int) -> list[list[str]]:
    """The lines of /proc/self/maps that lie in [low, low + size), as words."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if start < low + size and end > low:
            found.append(line.split())
    return found


def mapped_files() -> list[str]:
    return [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()]


def mark(mosaic: Any) -> None:
    """Name every page, through the UMEM."""
    whole = ffi.buffer(mosaic.base, mosaic.size)
    for niov in range(NIOVS):
        whole[8192 * niov : 8192 * niov + 4] = b"H%03d" % niov
        whole[8192 * niov + PAGE : 8192 * niov + PAGE + 4] = b"D%03d" % niov
    for page in range(PAGES):
        at = 2 * NIOVS * PAGE + page * PAGE
        whole[at : at + 4] = b"T%03d" % page


def names(base: Any, count: int) -> list[bytes]:
    memory = ffi.buffer(base, count * PAGE)
    return [bytes(memory[PAGE * i : PAGE * i + 4]) for i in range(count)]


def test_host_and_device_pages_take_turns(region: Region, tx: int, mosaic: Any) -> None:
    size = lib.mosaic_size(lib.MOSAIC_PAIRS, NIOVS, PAGES)
    assert mosaic.size == size == (2 * NIOVS + PAGES) * PAGE
    mark(mosaic)
    for niov in range(NIOVS):
        assert os.pread(region.fd, 4, PAGE * niov) == b"D%03d" % niov
    for page in range(PAGES):
        assert os.pread(tx, 4, PAGE * page) == b"T%03d" % page

    assert lib.mosaic_seal(mosaic) == 0
    assert names(mosaic.headers, NIOVS) == [b"H%03d" % i for i in range(NIOVS)]
    assert not mosaic.data


def test_host_memory_can_be_read_and_mapped_again(tx: int) -> None:
    made = ffi.new("struct mosaic *")
    assert lib.mosaic_open(made, lib.MOSAIC_PAIRS, NIOVS, PAGES, 1) == 0
    assert lib.mosaic_map(made, -1, tx) == 0
    mark(made)
    assert lib.mosaic_seal(made) == 0
    assert names(made.headers, NIOVS) == [b"H%03d" % i for i in range(NIOVS)]
    assert names(made.data, NIOVS) == [b"D%03d" % i for i in range(NIOVS)]
    assert lib.mosaic_read_probe(made, 0) == signal.SIGSEGV  # there, not everywhere

    assert lib.mosaic_map(made, -1, tx) == 0
    assert names(made.base, 2)[1] == b"D000"
    lib.mosaic_close(made)


def test_sealing_leaves_a_reservation_that_faults(mosaic: Any) -> None:
    base, size = address(mosaic.base), mosaic.size
    assert len(mappings(base, size)) == lib.mosaic_mappings(lib.MOSAIC_PAIRS, NIOVS)
    assert lib.mosaic_read_probe(mosaic, 5) == 0  # before: it can be read
    assert lib.mosaic_seal(mosaic) == 0

    assert lib.mosaic_read_probe(mosaic, 0) == signal.SIGSEGV
    assert lib.mosaic_read_probe(mosaic, NIOVS - 1) == signal.SIGSEGV
    assert {line[1] for line in mappings(base, size)} == {"---p"}  # no gap, no access
    assert len(mappings(base, size)) == 1
    assert not [name for name in mapped_files() if "devmemtcp-region" in name]


def test_proc_mem_finds_no_payload_behind_the_reservation(mosaic: Any) -> None:
    """FOLL_FORCE goes past the protection of a mapping: there must be nothing behind it."""
    at = address(mosaic.base) + PAGE
    ffi.buffer(mosaic.base, mosaic.size)[PAGE : PAGE + 6] = b"secret"
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        memory.seek(at)
        assert memory.read(6) == b"secret"
        assert lib.mosaic_seal(mosaic) == 0
        memory.seek(at)
        with contextlib.suppress(OSError):  # not even zeros
            assert memory.read(6) == bytes(6)


def test_closing_gives_everything_back(region: Region, tx: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for readable in (0, 1):
        made = ffi.new("struct mosaic *")
        assert lib.mosaic_open(made, lib.MOSAIC_PAIRS, NIOVS, PAGES, readable) == 0
        assert lib.mosaic_map(made, region.fd, tx) == 0
        base, size = address(made.base), made.size
        assert lib.mosaic_seal(made) == 0
        lib.mosaic_close(made)
        assert len(os.listdir("/proc/self/fd")) == before
        assert not [name for name in mapped_files() if "devmemtcp-host" in name]
        assert not [line for line in mappings(base, size) if line[1] == "---p"]


def test_files_that_are_none_are_refused_without_a_trace(region: Region, tx: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    made = ffi.new("struct mosaic *")
    assert lib.mosaic_open(made, lib.MOSAIC_PAIRS, 0, PAGES, 0) < 0
    assert lib.mosaic_open(made, lib.MOSAIC_PAIRS, NIOVS, 0, 0) < 0
    assert len(os.listdir("/proc/self/fd")) == before
    assert lib.mosaic_open(made, lib.MOSAIC_PAIRS, NIOVS, PAGES, 0) == 0
    base, size = address(made.base), made.size
    for files in ((-1, tx), (region.fd, -1)):
        assert lib.mosaic_map(made, *files) < 0
        assert len(mappings(base, size)) == 1  # the reservation, as before
    lib.mosaic_close(made)
    assert len(os.listdir("/proc/self/fd")) == before
