# SPDX-License-Identifier: Apache-2.0
"""Zero-copy mode without a driver: the loop on chunks that headers and payload share."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from devmemtcp.agent import Region, zerocopy
from devmemtcp.agent._loop import ffi, lib
from devmemtcp.agent.daemon.backend import LiveBackend
from devmemtcp.agent.datapath_config import AttachMode
from devmemtcp.agent.errors import Unsupported, XdpError
from devmemtcp.agent.head_ranges import HeadRanges
from devmemtcp.agent.zerocopy import is_bare_virtio, refused
from devmemtcp.netlink.extack import Refused
from devmemtcp.pyxdp import BindFlags

from ..huge_pages import huge_pages
from .channel_config import CONFIG
from .loop_machine import (
    CONTD,
    EVENT_FRAG,
    EVENT_HEAD,
    EVENTS,
    NIOVS,
    PAGE,
    App,
    Machine,
    Nic,
    Peer,
    received,
    record,
    until,
)

HEADERS_CHUNK, SLOT = 2, 192  # enum header_path, struct rx_slot
FIRST_HEAD = 100
NR_HEADS = FIRST_HEAD + NIOVS
EVENT = struct.Struct("=IIQIIII")  # struct event: kind, flow, offset, len, token, arg, unused


class Heads:
    """The map `heads`, as the program writes it."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, NR_HEADS * SLOT)
        view = ffi.from_buffer(self.memory)
        self.config = {"header_path": HEADERS_CHUNK, "heads": view, "nr_heads": NR_HEADS}

    def fill(self, chunk: int, info: bytes, head: bytes) -> None:
        at = (FIRST_HEAD + chunk) * SLOT + 8
        self.memory[at : at + len(info) + len(head)] = info + head


class ChunkNic(Nic):
    """A driver in zero-copy mode: aligned chunks, whole frames in them."""

    tx_base = NIOVS * PAGE
    first_head = FIRST_HEAD

    def __init__(self, machine: Machine, heads: Heads, **options: Any) -> None:
        self.heads = heads
        super().__init__(machine, **options)

    def take_buffer(self) -> int:
        entry = self.fill.pop()
        assert entry is not None, "the fill ring is empty"
        niov, rest = divmod(entry[0], PAGE)
        assert rest == 0, "a fill address must be that of a chunk"
        assert niov < NIOVS
        assert niov not in self.held, "a buffer was given twice"
        self.held.add(niov)
        return niov

    def receive(self, niov: int, size: int, *, options: int = 0, offset: int = 310) -> None:
        self.held.remove(niov)
        self.rx.push(niov * PAGE + offset, size, options)

    def deliver(self, packet: Any, sizes: tuple[int, ...] = ()) -> None:
        headers = bytes(packet)
        niov, size = self.take_buffer(), sum(sizes)
        self.heads.fill(niov, record(headers, size, self.queue).pack(), headers)
        self.receive(niov, size, offset=256 + len(headers))


@pytest.fixture
def heads() -> Heads:
    return Heads()


@pytest.fixture
def machine(heads: Heads) -> Iterator[Machine]:
    made = Machine(2, **heads.config)
    made.open_app()
    yield made
    made.close()


@pytest.fixture
def nic(machine: Machine, heads: Heads) -> Iterator[ChunkNic]:
    assert machine.listen(machine.apps[0]) >= 0
    made = ChunkNic(machine, heads)
    machine.start()
    yield made
    machine.stop()
    made.close()


@pytest.fixture
def peer(nic: ChunkNic) -> Peer:
    return Peer(nic)


def frags(app: App) -> list[tuple[int, int]]:
    """Offset and length of each fragment so far."""
    with mmap.mmap(app.channel, 0) as channel:
        (head,) = struct.unpack_from("=I", channel, EVENT_HEAD)
        events = [EVENT.unpack_from(channel, EVENTS + EVENT.size * i) for i in range(head)]
    return [(offset, size) for kind, _, offset, size, *_ in events if kind == EVENT_FRAG]


def test_payload_is_where_the_descriptor_says(nic: ChunkNic, machine: Machine, peer: Peer) -> None:
    """Behind the headers, in the chunk that the driver has written."""
    chunk = nic.fill.peek() // PAGE
    peer.deliver(1000)
    nic.arrived()
    assert until(lambda: received(nic) == 1000)
    assert frags(machine.apps[0]) == [(chunk * PAGE + 256 + 54, 1000)]


def test_packets_find_their_headers_in_any_order(nic: ChunkNic, peer: Peer) -> None:
    """Slots belong to chunks: neither order nor frames that get lost in between matter."""
    first = peer.segment("A")
    peer.seq += 100
    second = peer.segment("A")
    peer.seq += 200
    a, lost, b = (nic.take_buffer() for _ in range(3))
    for niov, packet, size in ((a, first, 100), (b, second, 200), (lost, first, 77)):
        nic.heads.fill(niov, record(bytes(packet), size, 0).pack(), bytes(packet))
    nic.receive(b, 200)
    nic.receive(a, 100)
    nic.arrived()
    assert until(lambda: received(nic) == 300)
    assert nic.stats()[0].rx_ooo_segments > 0
    assert lib.loop_check(nic.loop) == 0


@pytest.mark.parametrize(
    ("address", "size", "comes_back"),
    [
        (NIOVS * PAGE, 100, False),  # a transmission page
        ((1 << 48) + 256, 100, False),  # as an unaligned chunk would have it
        ((1 << 64) - PAGE, 100, False),
        ("given", 4096 - 310 + 1, True),  # runs into the next chunk
        ("given", 2**32 - 1, True),
        ("given", 2**32 - 310, True),
    ],
)
def test_a_descriptor_that_is_not_within_a_chunk_is_not_a_packet(
    nic: ChunkNic, peer: Peer, address: int | str, size: int, comes_back: bool
) -> None:
    niov = nic.take_buffer()
    nic.rx.push(niov * PAGE + 310 if address == "given" else int(address), size, 0)
    peer.deliver(10)  # what follows is taken as ever
    nic.arrived()
    assert until(lambda: received(nic) == 10)
    stack, loop = nic.stats()
    assert loop.rx_bad_descs == 1
    assert lib.loop_check(nic.loop) == 0
    assert stack.niovs_fill == len(nic.fill) + (0 if comes_back else 1)


def test_a_chunk_that_comes_twice_counts_once(nic: ChunkNic, peer: Peer) -> None:
    """A driver that gives a buffer of ours to us again: it is not the driver's to give."""
    niov = nic.take_buffer()
    headers = bytes(peer.segment("A"))
    nic.heads.fill(niov, record(headers, 50, 0).pack(), headers)
    nic.rx.push(niov * PAGE + 310, 50, 0)
    nic.rx.push(niov * PAGE + 310, 50, 0)
    peer.seq += 50
    peer.deliver(10)
    nic.arrived()
    assert until(lambda: received(nic) == 60)
    stack, _ = nic.stats()  # the array is no owner of its memory
    assert stack.drops[lib.DROP_RECORD] == 1
    assert lib.loop_check(nic.loop) == 0


def test_a_slot_that_makes_no_sense_is_a_drop(nic: ChunkNic, peer: Peer) -> None:
    headers = bytes(peer.segment("A"))
    good = record(headers, 50, 0)
    spoilt = [
        good._replace(magic=0),
        good._replace(hdr_len=255, linear=255),
        good._replace(hdr_len=0),
        good._replace(payload_len=51),
        good._replace(payload_len=2**32 - 1),
    ]
    for info in spoilt:
        niov = nic.take_buffer()
        nic.heads.fill(niov, info.pack(), headers)
        nic.receive(niov, 50)
    peer.deliver(10)
    nic.arrived()
    assert until(lambda: received(nic) == 10)
    stack, _ = nic.stats()
    assert stack.drops[lib.DROP_RECORD] + stack.drops[lib.DROP_MALFORMED] == len(spoilt)


def test_each_buffer_of_a_packet_has_an_offset_of_its_own(
    nic: ChunkNic, machine: Machine, peer: Peer
) -> None:
    """Without XDP_USE_SG no driver sends more than one; if one does, nothing goes wrong."""
    niov, other = nic.take_buffer(), nic.take_buffer()
    headers = bytes(peer.segment("A"))
    nic.heads.fill(niov, record(headers, 90, 0).pack(), headers)
    nic.receive(niov, 50, options=CONTD)
    nic.receive(other, 40, offset=256)
    nic.arrived()
    assert until(lambda: received(nic) == 90)
    assert frags(machine.apps[0]) == [(niov * PAGE + 310, 50), (other * PAGE + 256, 40)]


def test_a_sleeping_driver_is_woken_once_and_an_awake_one_is_not(
    nic: ChunkNic, machine: Machine, peer: Peer
) -> None:
    """It takes frames and buffers by itself; only XDP_RING_NEED_WAKEUP asks for a call."""
    before = nic.stats()[1].tx_kicks
    peer.deliver(10)
    peer.deliver(10)
    nic.arrived()
    assert until(lambda: len(nic.tx) > 0)
    assert nic.stats()[1].tx_kicks == before  # though frames are in the ring
    nic.tx.sleeps(True)
    peer.deliver(10)
    peer.deliver(10)
    nic.arrived()
    assert until(lambda: nic.stats()[1].tx_kicks > before)
    assert nic.stats()[1].tx_kick_retries == 0
    nic.fill.sleeps(True)
    peer.deliver(10)
    nic.arrived()
    assert until(lambda: nic.stats()[1].rx_wakeups > 0)


@pytest.mark.parametrize("first", [FIRST_HEAD + 1, 2**32 - 1])
def test_a_queue_without_a_slot_for_each_buffer_is_refused(
    nic: ChunkNic, machine: Machine, first: int
) -> None:
    nic.detach()
    nic.first_head = first
    assert nic.attach() == -errno.EINVAL
    nic.first_head = FIRST_HEAD
    assert nic.attach() == 0


def test_a_loop_for_chunks_needs_their_slots() -> None:
    for change in ({"heads": ffi.NULL}, {"nr_heads": 0}, {"header_path": 3}):
        with pytest.raises(AssertionError):
            Machine(1, **{**Heads().config, **change})


# ---- where things lie ----


@pytest.fixture
def tx() -> Iterator[int]:
    fd = os.memfd_create("tx")
    os.ftruncate(fd, 16 * PAGE)
    yield fd
    os.close(fd)


def layout(region: Region, tx: int) -> Any:
    made = ffi.new("struct mosaic *")
    niovs = region.size // PAGE
    assert lib.mosaic_open(made, lib.MOSAIC_CHUNKS, niovs, 16, 0) == 0
    assert lib.mosaic_map(made, region.fd, tx) == 0
    return made


def check_layout(region: Region, tx: int) -> None:
    made = layout(region, tx)
    niovs = region.size // PAGE
    try:
        assert made.size == lib.mosaic_size(lib.MOSAIC_CHUNKS, niovs, 16) == (niovs + 16) * PAGE
        umem = ffi.buffer(made.base, made.size)
        for niov in (0, 1, niovs - 1):
            umem[niov * PAGE : niov * PAGE + 4] = struct.pack("=I", niov)
        umem[niovs * PAGE : niovs * PAGE + 3] = b"TX0"
        with region.map() as view:
            for niov in (0, 1, niovs - 1):
                assert view[niov * PAGE : niov * PAGE + 4] == struct.pack("=I", niov)
        assert os.pread(tx, 3, 0) == b"TX0"
        low = int(ffi.cast("uintptr_t", made.base))
        assert mapped(low, made.size) == lib.mosaic_mappings(lib.MOSAIC_CHUNKS, niovs) == 2
        assert lib.mosaic_read_probe(made, 1) == 0
        assert lib.mosaic_seal(made) == 0
        for niov in (0, niovs - 1):
            assert lib.mosaic_read_probe(made, niov) == signal.SIGSEGV
    finally:
        lib.mosaic_close(made)


def mapped(low: int, size: int) -> int:
    """Mappings of files within an address range."""
    found = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        found += low <= start and end <= low + size and "memfd" in line
    return found


def test_chunks_are_the_region_and_transmission_pages_follow(tx: int) -> None:
    with Region(256 * PAGE) as region:
        check_layout(region, tx)


def test_huge_pages_can_be_laid_out_as_chunks_alone(tx: int) -> None:
    with huge_pages(4 << 20), Region(4 << 20, memory="hugetlb") as region:
        check_layout(region, tx)
        pairs = ffi.new("struct mosaic *")
        assert lib.mosaic_open(pairs, lib.MOSAIC_PAIRS, region.size // PAGE, 16, 0) == 0
        assert lib.mosaic_map(pairs, region.fd, tx) == -errno.EINVAL
        lib.mosaic_close(pairs)


# ---- the map's entries, and refusals ----


def test_ranges_of_heads_do_not_overlap_and_come_back() -> None:
    ranges = HeadRanges(100)
    assert [ranges.take(40), ranges.take(30), ranges.take(30)] == [0, 40, 70]
    with pytest.raises(OSError, match="1 buffers in one piece"):
        ranges.take(1)
    ranges.give_back(40)
    with pytest.raises(OSError, match="31 buffers in one piece") as full:
        ranges.take(31)
    assert full.value.errno == errno.ENOSPC
    assert [ranges.take(10), ranges.take(20)] == [40, 50]
    ranges.give_back(0)
    assert ranges.take(40) == 0
    with pytest.raises(ValueError, match="not in list"):
        ranges.give_back(1)


@pytest.mark.parametrize(
    ("mode", "driver", "buffers", "size"),
    [
        ("native", "igb", 4096, 4096),
        ("zerocopy", "virtio_net", 4096, 4096),
        ("zerocopy", "igb", 1000, 64),  # of two queues, as the fill ring's share is
        ("zerocopy", "igb", 4095, 128),
        ("zerocopy", "igb", 1 << 14, 1024),
        ("zerocopy", "igb", 1 << 17, 2048),
    ],
)
def test_the_rx_ring_of_igb_is_full_before_its_driver_has_no_buffers(
    mode: AttachMode, driver: str, buffers: int, size: int
) -> None:
    assert replace(CONFIG, mode=mode, driver=driver).rx_ring(buffers) == size


def test_a_driver_that_refuses_is_named_with_what_to_do() -> None:
    unsupported = Unsupported(f"eth1 cannot bind AF_XDP with {BindFlags.ZEROCOPY!r}")
    told = refused("eth1", "mlx4_en", unsupported)
    assert str(told) == (
        "mlx4_en refuses zero-copy on eth1 (Operation not supported); "
        "receive in copy mode, which --mode auto chooses"
    )
    assert told.errno == errno.EOPNOTSUPP
    told = refused("eth1", "virtio_net", XdpError(errno.EINVAL, "cannot bind"))
    assert "\n" not in str(told)
    assert "iommu_platform=on,disable-legacy=on" in str(told)
    assert told.errno == errno.EINVAL


@pytest.mark.parametrize("platform", [True, False])
@pytest.mark.parametrize("bus", ["pci", "platform"])
def test_a_virtio_device_says_whether_its_dma_is_the_platforms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bus: str, platform: bool
) -> None:
    """VIRTIO_F_ACCESS_PLATFORM is bit 33; sysfs writes bit 0 first. Names are not looked at."""
    device = tmp_path / bus / "devices/0000:00:03.0/virtio0"
    device.mkdir(parents=True)
    (device / "features").write_text("1" * 33 + str(int(platform)) + "1" * 30 + "\n")
    monkeypatch.setattr(zerocopy, "bus_info", {"eth1": "0000:00:03.0", "veth1": ""}.__getitem__)
    assert is_bare_virtio("eth1", tmp_path) is not platform
    assert not is_bare_virtio("veth1", tmp_path)
    monkeypatch.undo()
    assert not is_bare_virtio("nowhere", tmp_path)


@pytest.mark.parametrize("mode", ["zerocopy", "native"])
def test_an_agent_takes_huge_pages_in_zero_copy_mode_alone(
    monkeypatch: pytest.MonkeyPatch, mode: AttachMode
) -> None:
    """As a Runtime does; the size of pages is feigned, as few machines have huge ones free."""
    interface = SimpleNamespace(
        options=SimpleNamespace(memory=64 << 20), config=SimpleNamespace(mode=mode)
    )
    backend = LiveBackend.__new__(LiveBackend)
    backend._interfaces = {1: cast("Any", interface)}
    refusal = nullcontext() if mode == "zerocopy" else pytest.raises(Refused, match="zero-copy")
    with Region(2 << 20) as region, monkeypatch.context() as feigned, refusal:
        huge = SimpleNamespace(st_blksize=2 << 20, st_size=2 << 20)
        feigned.setattr(os, "fstat", lambda _: huge)
        backend.check_dmabuf(1, region.fd)
