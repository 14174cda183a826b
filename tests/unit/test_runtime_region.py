# SPDX-License-Identifier: Apache-2.0
"""Regions, their views, and reading fragments through them."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devmemtcp.agent import ConfigError, Frag, FragBatch, Region, RegionView, Runtime
from devmemtcp.agent._loop import ffi

from ..huge_pages import huge_pages

MIB = 1 << 20


def batch(*pieces: tuple[int, int]) -> FragBatch:
    """A batch of (offset, size) pieces with tokens 1, 2, ..."""
    frags = ffi.new("struct app_frag[]", max(1, len(pieces)))
    for index, (offset, size) in enumerate(pieces):
        frags[index] = {"offset": offset, "len": size, "token": index + 1}
    return FragBatch(frags, len(pieces))


def pattern(period: int, size: int, phase: int = 0) -> bytes:
    one = bytes([*range(1, period), 10])
    return (one * (size // period + 2))[phase:][:size]


@pytest.fixture
def region() -> Iterator[Region]:
    with Region(MIB) as made:
        yield made


@pytest.fixture
def view(region: Region) -> Iterator[RegionView]:
    with region.map() as made:
        yield made


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (0, "too small"),
        (MIB - 4096, "too small"),
        (MIB + 1, f"multiple of the page .*take {MIB + 4096}"),
        (MIB + 2048, "multiple of the page"),
        (1 << 46, "more than this machine's memory"),
        (1 << 64, "more than this machine's memory"),
    ],
)
def test_a_size_that_cannot_be_is_refused_with_one_that_can(size: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Region(size)


def test_a_region_can_neither_shrink_nor_grow(region: Region) -> None:
    seals = fcntl.fcntl(region.fd, fcntl.F_GET_SEALS)
    assert seals & fcntl.F_SEAL_SHRINK
    assert seals & fcntl.F_SEAL_GROW
    for size in (4096, 2 * MIB):
        with pytest.raises(PermissionError):
            os.ftruncate(region.fd, size)


def test_a_view_shows_the_region_and_cannot_be_written(region: Region, view: RegionView) -> None:
    os.pwrite(region.fd, b"payload", 8192)
    assert bytes(view[8192 : 8192 + 7]) == b"payload"
    assert len(view) == view.size == len(view.memory) == MIB
    assert view.memory.readonly
    with pytest.raises(TypeError, match="read-only"):
        view.memory[0] = 1


def test_a_view_outlives_its_region(region: Region, view: RegionView) -> None:
    os.pwrite(region.fd, b"kept", 0)
    region.close()
    region.close()
    assert region.fd == -1
    assert bytes(view[:4]) == b"kept"


def test_a_batch_lists_its_fragments() -> None:
    made = batch((0, 10), (4096, 3840))
    assert list(made) == [Frag(0, 10, 1), Frag(4096, 3840, 2)]
    assert len(made) == 2
    assert made.nbytes == 3850
    assert made
    assert not batch()


@given(
    period=st.integers(2, 256),
    sizes=st.lists(st.integers(1, 4096), min_size=1, max_size=6),
    start=st.integers(0, 255),
)
def test_the_pattern_goes_on_across_fragments(period: int, sizes: list[int], start: int) -> None:
    phase = start % period
    stream = pattern(period, sum(sizes), phase)
    with Region(MIB) as region, region.map() as view:
        position, pieces = 0, []
        for index, size in enumerate(sizes):
            os.pwrite(region.fd, stream[position : position + size], index * 8192)
            pieces.append((index * 8192, size))
            position += size
        assert batch(*pieces).check_pattern(view, period, phase) == (
            0,
            (phase + sum(sizes)) % period,
        )


def test_each_wrong_byte_is_counted_once(region: Region, view: RegionView) -> None:
    data = bytearray(pattern(7, 10000))
    for position in (0, 4095, 4096, 9999):
        data[position] ^= 0x80
    os.pwrite(region.fd, data, 100)
    assert batch((100, 5000), (5100, 5000)).check_pattern(view, 7) == (4, 10000 % 7)


@pytest.mark.parametrize(("period", "phase"), [(1, 0), (257, 0), (7, 7)])
def test_a_pattern_that_cannot_be_is_refused(view: RegionView, period: int, phase: int) -> None:
    with pytest.raises(ValueError, match="Invalid argument"):
        batch((0, 1)).check_pattern(view, period, phase)


def test_fragments_are_written_in_order(region: Region, view: RegionView, tmp_path: Path) -> None:
    # More pieces than one writev() takes.
    pieces = [(4096 * (index % 256) + index // 256, 1) for index in range(2500)]
    os.pwrite(region.fd, os.urandom(MIB), 0)
    expected = b"".join(bytes(view[at : at + 1]) for at, _ in pieces)
    with open(tmp_path / "out", "wb") as out:
        assert batch(*pieces).write_to(out.fileno(), view) == 2500
    assert (tmp_path / "out").read_bytes() == expected


def test_a_full_pipe_does_not_lose_what_it_took(region: Region, view: RegionView) -> None:
    os.pwrite(region.fd, os.urandom(MIB), 0)
    reader, writer = os.pipe2(os.O_NONBLOCK)
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        with pytest.raises(BlockingIOError):
            batch((0, 4096), (4096, 4096)).write_to(writer, view)
        assert os.read(reader, 8192) == bytes(view[0:4096])
    finally:
        os.close(reader)
        os.close(writer)


def test_fragments_are_copied_into_a_buffer(region: Region, view: RegionView) -> None:
    os.pwrite(region.fd, b"abc", 0)
    os.pwrite(region.fd, b"def", 4096)
    room = bytearray(b"........")
    assert batch((0, 3), (4096, 3)).copy_to(room, view) == 6
    assert room == b"abcdef.."
    with pytest.raises(ValueError, match="do not fit"):
        batch((0, 9)).copy_to(room, view)


@pytest.mark.parametrize(
    "piece", [(MIB, 1), (MIB - 1, 2), (0, MIB + 1), (2**64 - 1, 2), (2**63, 4096)]
)
def test_a_fragment_outside_the_view_is_never_read(
    view: RegionView, piece: tuple[int, int]
) -> None:
    outside = batch((0, 1), piece)
    assert outside.device_bytes(view) == 1
    with pytest.raises(ValueError, match="not inside the view"):
        outside.check_pattern(view, 7)
    with pytest.raises(ValueError, match="not inside the view"):
        outside.write_to(os.open("/dev/null", os.O_WRONLY), view)
    with pytest.raises(ValueError, match=r"not inside the view|do not fit"):
        outside.copy_to(bytearray(2 * MIB), view)


def test_a_closed_view_is_never_read(region: Region) -> None:
    view = region.map()
    view.close()
    with pytest.raises(ValueError, match="it is closed"):
        batch((0, 1)).check_pattern(view, 7)


def test_a_hugetlb_region_is_of_huge_pages_and_no_runtime_takes_it() -> None:
    with (
        huge_pages(4 * MIB),
        Region(2 * MIB, memory="hugetlb") as region,
        region.map() as view,
    ):
        os.posix_fallocate(region.fd, 0, 2 * MIB)
        assert bytes(view[:1]) == b"\0"
        # The reason: no piece of 4 KiB of such a file can be mapped.
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            mmap.mmap(region.fd, 4096, flags=mmap.MAP_SHARED, offset=4096)
        with pytest.raises(ConfigError, match="hugetlb region cannot lie"), Runtime("lo", region):
            pass


def test_huge_pages_that_are_not_there_are_missed_at_once() -> None:
    free = int(Path("/proc/sys/vm/nr_hugepages").read_text())
    with pytest.raises(ConfigError, match="free huge pages"):
        Region((free + 64) * 2 * MIB, memory="hugetlb")


def test_a_hugetlb_region_has_whole_huge_pages() -> None:
    with pytest.raises(ConfigError, match=r"multiple of the page \(2097152 bytes\)"):
        Region(3 * MIB, memory="hugetlb")
