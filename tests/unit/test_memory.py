# SPDX-License-Identifier: Apache-2.0
"""Kinds of device memory: what each is, what it lacks here, and what is said of that.

The kernel of the machine decides which can be made: tests of the others are skipped with the
provider's own words.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from devmemtcp.agent import ConfigError, Region, Unsupported, XdpError
from devmemtcp.agent._loop import ffi
from devmemtcp.agent.memory import PROVIDERS, Memory, dma_buf, dma_heap, survey, udmabuf
from devmemtcp.agent.memory.dma_heap import DmaHeap
from devmemtcp.agent.memory.memfd import Hugetlb
from devmemtcp.agent.memory.provider import check_free_memory
from devmemtcp.agent.memory.udmabuf import Udmabuf
from devmemtcp.agent.readability import dma_bufs_of, holders
from devmemtcp.pyxdp import Umem

from ..huge_pages import huge_pages

MIB = 1 << 20
DMA_BUFS: tuple[Memory, ...] = ("udmabuf", "dma-heap")


@pytest.fixture
def dmabuf(request: pytest.FixtureRequest) -> Iterator[Region]:
    """A region of the kind that the test is parametrised with."""
    try:
        region = Region(4 * MIB, memory=request.param)
    except (Unsupported, PermissionError) as error:
        pytest.skip(str(error))
    with region:
        yield region


of_both = pytest.mark.parametrize("dmabuf", DMA_BUFS, indirect=True)
of_udmabuf = pytest.mark.parametrize("dmabuf", ["udmabuf"], indirect=True)
of_dma_heap = pytest.mark.parametrize("dmabuf", ["dma-heap"], indirect=True)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


# ---- real ones ----


@of_both
def test_a_dma_buf_has_its_size_and_a_view_that_is_of_it(dmabuf: Region) -> None:
    assert os.lseek(dmabuf.dmabuf_fd, 0, os.SEEK_END) == dmabuf.size
    assert not os.get_inheritable(dmabuf.dmabuf_fd)
    with dmabuf.map() as view:
        assert len(view) == 4 * MIB
        assert bytes(view[:16]) == bytes(16)
        maps = Path("/proc/self/maps").read_text().splitlines()
        (mine,) = (line for line in maps if line.startswith(f"{view.address:x}-"))
        assert "/dmabuf:" in mine


@of_udmabuf
def test_what_is_written_to_the_memfd_is_read_through_the_dma_buf(dmabuf: Region) -> None:
    with dmabuf.map() as view, view.cpu_access():
        for at in (0, 12345, 4 * MIB - 5):
            os.pwrite(dmabuf.fd, b"bytes", at)
            assert bytes(view[at : at + 5]) == b"bytes"


@of_udmabuf
def test_the_dma_buf_outlives_its_files_and_keeps_the_bytes(dmabuf: Region) -> None:
    os.pwrite(dmabuf.fd, b"kept", 4096)
    with dmabuf.map() as view:
        dmabuf.close()
        dmabuf.close()
        assert (dmabuf.fd, dmabuf.dmabuf_fd) == (-1, -1)
        with view.cpu_access():
            assert bytes(view[4096:4100]) == b"kept"


@of_both
def test_af_xdp_cannot_pin_a_dma_buf(dmabuf: Region) -> None:
    """Why a region has a memfd, too, and why dma-heap memory is refused."""
    with mmap.mmap(dmabuf.dmabuf_fd, dmabuf.size, flags=mmap.MAP_SHARED) as pages:
        start = ffi.from_buffer(pages)
        with pytest.raises(XdpError, match="Bad address"):
            Umem(int(ffi.cast("uintptr_t", start)), dmabuf.size)
        ffi.release(start)


@of_dma_heap
def test_a_dma_heap_is_not_received_into(dmabuf: Region) -> None:
    assert dmabuf.fd == -1
    with pytest.raises(ConfigError, match=r"dma-heap memory cannot be received into.* udmabuf"):
        dmabuf.check_receivable()
    dmabuf.close()
    with pytest.raises(ConfigError, match="the region is closed"):
        dmabuf.check_receivable()


@of_both
def test_dma_bufs_of_a_process_are_counted(dmabuf: Region) -> None:
    assert dma_bufs_of() == (0, 1)
    with dmabuf.map():
        mapped, opened = dma_bufs_of()
        assert mapped == 1
        assert opened >= 2  # the view has one of its own, and Python's mmap another
        (me,) = holders(dmabuf.dmabuf_fd).holders
        assert (me.pid, me.mappings) == (os.getpid(), 1)
    assert dma_bufs_of() == (0, 1)


@pytest.mark.parametrize("memory", PROVIDERS)
def test_nothing_stays_open(memory: Memory) -> None:
    with huge_pages(4 * MIB) if memory == "hugetlb" else nullcontext():
        before = open_files()
        try:
            with Region(4 * MIB, memory=memory) as region, region.map():
                assert open_files() > before
        except (ConfigError, PermissionError, Unsupported) as error:
            assert open_files() == before
            pytest.skip(str(error))
        assert open_files() == before


# ---- what is said of them ----


def test_the_survey_says_of_each_kind_what_it_is() -> None:
    states = survey()
    assert [state.name for state in states] == list(PROVIDERS)
    assert states[0].usable
    assert all(state.found and state.means for state in states)


@pytest.mark.parametrize("memory", PROVIDERS)
def test_the_survey_is_right(memory: Memory) -> None:
    (state,) = (state for state in survey() if state.name == memory)
    try:
        with Region(2 * MIB, memory=memory) as region:
            assert state.usable == (region.fd >= 0)
    except (ConfigError, PermissionError, Unsupported):
        assert not state.usable


def test_a_kernel_without_it_is_said_to_be_one(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    for provider, says in (
        (Udmabuf(nothing), f"no {nothing}: this kernel is built without CONFIG_UDMABUF"),
        (DmaHeap(nothing), "built without CONFIG_DMABUF_HEAPS_SYSTEM"),
    ):
        assert not provider.state().usable
        assert says in provider.state().means
        with pytest.raises(Unsupported, match="take --memory memfd"):
            provider.alloc(MIB)
    state = Hugetlb(nothing).state()
    assert not state.usable
    assert "no huge pages of 2 MiB" in state.means


@pytest.fixture
def small_limits(tmp_path: Path) -> Udmabuf:
    """A device that opens and is none, with the limits of Linux 6.12."""
    (tmp_path / "size_limit_mb").write_text("64\n")
    (tmp_path / "list_limit").write_text("1024\n")
    return Udmabuf(Path("/dev/null"), tmp_path)


def test_the_limit_of_udmabuf_is_told_before_it_bites(
    small_limits: Udmabuf, tmp_path: Path
) -> None:
    before = open_files()
    with pytest.raises(ConfigError) as caught:
        small_limits.alloc(64 * MIB + 4096)
    mend = f"echo 65 > {tmp_path}/size_limit_mb"
    assert str(caught.value) == (
        "a udmabuf may have 64 MiB here, and the region 67112960 bytes; take less, or raise the "
        f"limit: `{mend}`"
    )
    assert open_files() == before
    subprocess.run(mend, shell=True, check=True)
    with pytest.raises(OSError, match="Inappropriate ioctl"):  # as far as the kernel, which is new
        small_limits.alloc(64 * MIB + 4096)
    assert open_files() == before


def test_the_limits_of_udmabuf_are_in_the_survey(small_limits: Udmabuf, tmp_path: Path) -> None:
    state = small_limits.state()
    assert state.usable
    assert "up to 64 MiB a dma-buf, and 1024 pieces" in state.found
    assert state.mend == f"echo 1024 > {tmp_path}/size_limit_mb"
    (tmp_path / "size_limit_mb").write_text("2147483647\n")  # Linux 7.3
    assert small_limits.state().mend is None


def test_a_udmabuf_that_tells_no_limits_is_used_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "udmabuf").touch()
    told = Udmabuf(tmp_path / "udmabuf", tmp_path / "nowhere")
    assert (told.state().usable, told.state().mend) == (True, None)
    assert "limits are not told" in told.state().found
    with pytest.raises(OSError, match="Inappropriate ioctl"):  # beyond the limit's check
        told.alloc(MIB)


def test_a_group_without_a_name_is_told_by_its_number(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "udmabuf").touch()
    if os.geteuid():
        pytest.skip("only root gives a file away")
    os.chown(tmp_path / "udmabuf", -1, 54321)
    monkeypatch.setattr(os, "access", lambda *_: False)
    state = Udmabuf(tmp_path / "udmabuf", tmp_path).state()
    assert (state.usable, state.means) == (False, "its group, 54321, or root may open it")


def test_a_larger_udmabuf_is_made_once_the_limit_has_been_raised() -> None:
    limit = Path("/sys/module/udmabuf/parameters/size_limit_mb")
    if not limit.exists():
        pytest.skip("this kernel is built without CONFIG_UDMABUF")
    before = limit.read_text()
    try:
        limit.write_text("8")
        with pytest.raises(ConfigError, match="echo 12 >"):
            Region(12 * MIB, memory="udmabuf")
        limit.write_text("12")
        Region(12 * MIB, memory="udmabuf").close()
    except PermissionError:
        pytest.skip(f"needs root: {limit}")
    finally:
        if os.access(limit, os.W_OK):
            limit.write_text(before)


def test_free_huge_pages_are_counted_without_those_that_are_promised(tmp_path: Path) -> None:
    for word, value in (("nr", 8), ("free", 5), ("resv", 5)):
        (tmp_path / f"{word}_hugepages").write_text(f"{value}\n")
    state = Hugetlb(tmp_path).state()
    assert (state.usable, state.mend) == (False, "sysctl vm.nr_hugepages=40")
    assert state.found == "0 free huge pages of 2 MiB, of 8"
    (tmp_path / "resv_hugepages").write_text("4\n")
    assert Hugetlb(tmp_path).state().usable


def test_memory_that_is_not_free_is_not_allocated_at_once() -> None:
    """A dma-heap that is asked for it takes every page there is, and the kernel panics."""
    with pytest.raises(ConfigError, match="bytes of memory available; take less"):
        check_free_memory(1 << 50)
    check_free_memory(MIB)


# ---- what does not need the kernel's ----


@pytest.mark.parametrize(
    ("header", "macro", "number"),
    [
        ("linux/udmabuf.h", "UDMABUF_CREATE", udmabuf._CREATE),
        ("linux/dma-heap.h", "DMA_HEAP_IOCTL_ALLOC", dma_heap._ALLOC),
        ("linux/dma-buf.h", "DMA_BUF_IOCTL_SYNC", dma_buf._SYNC),
    ],
)
def test_numbers_are_the_kernels(header: str, macro: str, number: int) -> None:
    source = (
        f'#include <sys/ioctl.h>\n#include <{header}>\n_Static_assert({macro} == {number}, "");'
    )
    subprocess.run(["cc", "-x", "c", "-fsyntax-only", "-"], input=source, text=True, check=True)


def test_reads_are_bracketed_only_where_there_is_a_dma_buf(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from devmemtcp.agent import region as module

    calls: list[tuple[str, int]] = []

    def record(name: str) -> Callable[[int], Any]:
        return lambda fd: calls.append((name, fd))

    monkeypatch.setattr(module, "begin_cpu_access", record("begin"))
    monkeypatch.setattr(module, "end_cpu_access", record("end"))
    with Region(MIB) as region:
        with region.map() as view, view.cpu_access():
            pass
        assert calls == []
        region.dmabuf_fd = os.dup(region.fd)
        with (
            pytest.raises(BufferError, match="in the middle"),
            region.map() as view,
            view.cpu_access(),
        ):
            raise BufferError(f"in the middle, after {calls}")
    begin, end = calls
    assert (begin[0], end[0]) == ("begin", "end")
    assert begin[1] == end[1] != region.dmabuf_fd


def test_a_sync_that_is_interrupted_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def ioctl(fd: int, number: int, flags: bytes) -> None:
        asked.append(flags)
        if len(asked) < 3:
            raise (InterruptedError(4, "") if len(asked) == 1 else BlockingIOError(11, ""))

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    dma_buf.begin_cpu_access(0)
    assert asked == [b"\x01" + bytes(7)] * 3  # DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ
    dma_buf.end_cpu_access(0)
    assert asked[3] == b"\x05" + bytes(7)
