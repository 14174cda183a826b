# SPDX-License-Identifier: Apache-2.0
"""The header split on a real veth, into a real UMEM made of host and device pages.

Every page of both regions is compared with what must be there, down to the bytes
that nobody may have touched: no payload in a host page, no header in a device
page, and nothing of either beyond the length that the descriptor gives.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from devmemtcp import xdp_prog
from devmemtcp.pyxdp import (
    XDP_PKT_CONTD,
    BindFlags,
    BpfObject,
    Desc,
    Mode,
    Umem,
    XskMap,
    XskSocket,
    attach,
)

from ..rx_metadata import (
    CSUM_PARTIAL,
    CSUM_VERIFIED,
    META_LEN,
    MIN_LINEAR,
    Metadata,
    RxInfo,
    linear_len,
)

if TYPE_CHECKING:
    from .veth import Veth, VethEnd

PAGE = 4096
CHUNKS = 1024
CHUNK_ROOM = PAGE - 256  # XDP_PACKET_HEADROOM is not used for payload
PORT = 5001
TIMEOUT = 30.0  # seconds for a packet on its way through a veth
STREAM_TIMEOUT = 90.0  # seconds for a whole stream: each segment is taken apart in Python
VETH_RING = 256  # packets that wait for NAPI on a veth with native XDP; more are lost

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_PROT_NONE, _MAP_FIXED, _MAP_NORESERVE = 0, 0x10, 0x4000


def _mmap(address: int | None, size: int, prot: int, flags: int, fd: int, offset: int) -> int:
    mapped = _libc.mmap(address, size, prot, flags, fd, offset)
    if mapped == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    return int(mapped)


class Mosaic:
    """UMEM whose pages come in turn from a host memfd and from a device memfd.

    ``host`` and ``device`` are mappings of the whole memfds, page for page; the
    device pages of the UMEM itself cannot be read once :meth:`close_eyes` was called.
    """

    def __init__(self, chunks: int) -> None:
        self.chunks = chunks
        self.size = chunks * 2 * PAGE
        self._undo = ExitStack()
        reserve = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self.address = _mmap(None, self.size, _PROT_NONE, reserve, -1, 0)
        self._undo.callback(_libc.munmap, self.address, self.size)
        self.host = self._lay("host", 0)
        self.device = self._lay("device", PAGE)

    def _lay(self, name: str, start: int) -> mmap.mmap:
        fd = os.memfd_create(name)
        try:
            os.ftruncate(fd, self.chunks * PAGE)
            prot, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED
            for page in range(self.chunks):
                at = self.address + start + page * 2 * PAGE
                _mmap(at, PAGE, prot, flags, fd, page * PAGE)
            return self._undo.enter_context(mmap.mmap(fd, self.chunks * PAGE))
        finally:
            os.close(fd)

    def close_eyes(self) -> None:
        for chunk in range(self.chunks):
            at = self.address + self.device_page(chunk)
            if _libc.mprotect(at, PAGE, _PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")

    def device_page(self, chunk: int) -> int:
        """UMEM address of the chunk's device page."""
        return (2 * chunk + 1) * PAGE

    def fill_address(self, chunk: int) -> int:
        """What goes into the fill ring for data to begin at the device page."""
        return self.device_page(chunk) - 256

    def close(self) -> None:
        self._undo.close()


@dataclass(frozen=True)
class Segment:
    """A packet as it was received: ``payload`` is all of it, ``linear`` bytes included."""

    info: RxInfo
    headers: bytes
    payload: bytes
    chunks: int


class Receiver:
    """A queue's socket on a mosaic, and a shadow of all its memory."""

    def __init__(self, mosaic: Mosaic, xsk: XskSocket, listen: Callable[[int], None]) -> None:
        self.listen = listen  # with so many bytes of payload left in the head
        self._mosaic = mosaic
        self._xsk = xsk
        self._descs: list[Desc] = []
        poison = random.Random(0).randbytes(PAGE)
        mosaic.host[:] = poison * mosaic.chunks
        mosaic.device[:] = poison * mosaic.chunks
        self._host = bytearray(mosaic.host)
        self._device = bytearray(mosaic.device)
        assert xsk.fill.push(map(mosaic.fill_address, range(mosaic.chunks))) == mosaic.chunks

    def receive(self) -> Segment:
        """The next segment, checked against the layout; its chunks are recycled."""
        descs = [self._next()]
        while descs[-1].options & XDP_PKT_CONTD:
            descs.append(self._next())
        pages = [self._page_of(desc) for desc in descs]
        assert all(desc.len == CHUNK_ROOM for desc in descs[:-1])
        assert descs[-1].len <= CHUNK_ROOM

        data = b"".join(
            self._mosaic.device[page : page + desc.len]
            for page, desc in zip(pages, descs, strict=True)
        )
        end = pages[0] + PAGE
        head = Metadata.unpack(self._mosaic.host[end - META_LEN : end])
        info = head.info
        data_len = info.payload_len - info.linear
        assert len(data) == data_len + info.grown
        self._xsk.fill.push(self._mosaic.fill_address(page // PAGE) for page in pages)
        self._expect(pages, head, data[:data_len])
        return Segment(info, head.headers, head.linear + data[:data_len], len(descs))

    def _expect(self, pages: list[int], head: Metadata, data: bytes) -> None:
        """Enter into the shadow what this segment may have changed, and nothing else."""
        self._host[pages[0] + PAGE - META_LEN : pages[0] + PAGE] = head.expected()
        data += bytes(head.info.grown)
        for number, page in enumerate(pages):
            piece = data[number * CHUNK_ROOM :][:CHUNK_ROOM]
            self._device[page : page + len(piece)] = piece

    def check_memory(self) -> None:
        for name, memory, expected in (
            ("host", self._mosaic.host, self._host),
            ("device", self._mosaic.device, self._device),
        ):
            seen = memory[:]
            if seen != expected:
                place = next(
                    i for i, (a, b) in enumerate(zip(seen, expected, strict=True)) if a != b
                )
                pytest.fail(f"{name} page {place // PAGE} was written at byte {place % PAGE}")

    def _next(self) -> Desc:
        if not self._descs:
            if not select.select([self._xsk], [], [], TIMEOUT)[0]:
                pytest.fail(f"no packet within {TIMEOUT} s: {self._xsk.statistics()}")
            self._descs = self._xsk.rx.pop(64)
        return self._descs.pop(0)

    def _page_of(self, desc: Desc) -> int:
        """Offset in the device region. Data must begin exactly where a device page does."""
        base, offset = desc.addr & (1 << 48) - 1, desc.addr >> 48
        chunk = base // (2 * PAGE)
        assert base == self._mosaic.fill_address(chunk)
        assert base + offset == self._mosaic.device_page(chunk)
        return chunk * PAGE


def load() -> BpfObject:
    path = xdp_prog.object_path()
    assert isinstance(path, Path)
    return BpfObject.open(path, programs=[xdp_prog.PROGRAM_FRAGS]).load()


@contextmanager
def receiver(end: VethEnd, mode: Mode) -> Iterator[Receiver]:
    """The program on this end of the veth, all its port PORT steered to a mosaic."""
    with ExitStack() as undo:
        undo.enter_context(end.enter())
        obj = undo.enter_context(load())
        mosaic = Mosaic(CHUNKS)
        undo.callback(mosaic.close)
        umem = undo.enter_context(
            Umem(mosaic.address, mosaic.size, unaligned=True, fill_size=2 * CHUNKS)
        )
        flags = BindFlags.COPY | BindFlags.USE_SG
        try:
            xsk = XskSocket(end.ifname, 0, umem, rx_size=2 * CHUNKS, bind_flags=flags)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            pytest.skip("needs AF_XDP with multi-buffer packets (Linux 6.6)")
        undo.enter_context(xsk)
        mosaic.close_eyes()

        def listen(linear: int) -> None:
            value = xdp_prog.listener_value(linear=linear)
            for ip in (end.ip4, end.ip6):
                obj.maps["listeners"].set(xdp_prog.listener_key(ip, PORT), value)

        rx = Receiver(mosaic, xsk, listen)
        rx.listen(0)
        obj.maps["mac"].set(bytes(4), xdp_prog.mac_value(bytes.fromhex(end.mac.replace(":", ""))))
        xsks = obj.maps["xsks"]
        assert isinstance(xsks, XskMap)
        xsks.set_socket(0, xsk)
        undo.enter_context(attach(obj.programs[xdp_prog.PROGRAM_FRAGS], end.ifname, mode=mode))
        yield rx
        rx.check_memory()


def packet_socket(end: VethEnd) -> socket.socket:
    with end.enter():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sock.bind((end.ifname, 0))
    return sock


MODES = pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC], ids=lambda mode: mode.value)
MTUS = pytest.mark.parametrize("mtu", [1500, 9000, 65535])


def lengths(longest: int) -> Iterator[int]:
    """Payloads from nothing to the longest, on and around each chunk's end."""
    yield from range(MIN_LINEAR + 2)
    yield from (100, 1000, longest - 1, longest)
    for end in range(CHUNK_ROOM, longest, CHUNK_ROOM):
        yield from (end - 1, end, end + 1)


def crafted(ip: Packet, length: int, sequence: int) -> tuple[bytes, bytes]:
    """(frame, payload) with complete checksums; every other segment carries TCP options."""
    payload = random.Random(sequence).randbytes(length)
    options = [("NOP", None), ("NOP", None), ("Timestamp", (sequence, 1))] if sequence & 1 else []
    segment = TCP(sport=4000, dport=PORT, seq=sequence, flags="A", options=options)
    return bytes(ip / segment / Raw(payload)), payload


@MODES
@MTUS
def test_sweep(netns_pair: Callable[..., Veth], mode: Mode, mtu: int) -> None:
    veth = netns_pair(mtu=mtu)
    ether = Ether(dst=veth.right.mac, src=veth.left.mac)
    stacks = [
        (ether / IP(src=veth.left.ip4, dst=veth.right.ip4), mtu - 20 - 32),
        (ether / IPv6(src=veth.left.ip6, dst=veth.right.ip6), mtu - 40 - 32),
    ]
    with receiver(veth.right, mode) as rx, packet_socket(veth.left) as sender:
        sequence = 0
        for ip, longest in stacks:
            for length in lengths(longest):
                frame, payload = crafted(ip, length, sequence)
                sequence += 1
                sender.send(frame)
                segment = rx.receive()
                hdr_len = len(frame) - length
                assert segment.headers == frame[:hdr_len], length
                assert segment.payload == payload, length
                assert segment.chunks == max(1, -(-length // CHUNK_ROOM)), length
                assert segment.info.csum == CSUM_VERIFIED
                assert segment.info.grown == max(0, MIN_LINEAR - length)


def lengths_around(linear: int, longest: int) -> Iterator[int]:
    """Payloads on and around what stays in the head and what must be left behind it."""
    yield from {0, 1, max(linear, 1) - 1, linear, linear + 1, longest}
    yield from (linear + MIN_LINEAR - 1, linear + MIN_LINEAR)
    for end in range(CHUNK_ROOM + linear, longest, 2 * CHUNK_ROOM):
        yield from (end - 1, end, end + 1)


@MODES
@MTUS
def test_linear_sweep(netns_pair: Callable[..., Veth], mode: Mode, mtu: int) -> None:
    """The head's payload bytes are in the host page, the device page begins behind them."""
    veth = netns_pair(mtu=mtu)
    ether = Ether(dst=veth.right.mac, src=veth.left.mac)
    stacks = [
        (ether / IP(src=veth.left.ip4, dst=veth.right.ip4), mtu - 20 - 32),
        (ether / IPv6(src=veth.left.ip6, dst=veth.right.ip6), mtu - 40 - 32),
    ]
    with receiver(veth.right, mode) as rx, packet_socket(veth.left) as sender:
        sequence = 0
        for linear in (*range(0 if mtu == 1500 else 60, 65), xdp_prog.LINEAR_MAX):
            rx.listen(linear)
            for ip, longest in stacks:
                for length in lengths_around(linear, longest):
                    frame, payload = crafted(ip, length, sequence)
                    sequence += 1
                    sender.send(frame)
                    segment = rx.receive()
                    hdr_len = len(frame) - length
                    stays = linear_len(linear, hdr_len, length)
                    assert segment.info.linear == stays, (linear, length)
                    assert segment.headers == frame[:hdr_len], (linear, length)
                    assert segment.payload == payload, (linear, length)
                    assert segment.chunks == max(1, -(-(length - stays) // CHUNK_ROOM)), length
                    assert segment.info.csum == CSUM_VERIFIED


@MODES
def test_padding_stays_out_of_device_pages(veth: Veth, mode: Mode) -> None:
    ip = IP(src=veth.left.ip4, dst=veth.right.ip4) / TCP(dport=PORT, flags="A") / Raw(b"x")
    frame = bytes(Ether(dst=veth.right.mac, src=veth.left.mac) / ip) + b"\xee" * 5
    with receiver(veth.right, mode) as rx, packet_socket(veth.left) as sender:
        sender.send(frame)
        segment = rx.receive()
        assert segment.payload == b"x"
        assert segment.info.grown == MIN_LINEAR - 1


class Peer:
    """The least of a TCP receiver that makes the kernel at the other end send a stream.

    Its window is smaller than the pool and, in segments, than half of the veth's ring: even
    with all of it sent twice, nothing is lost on the way.
    """

    ISS = 1000
    WSCALE = 5

    def __init__(self, sender: socket.socket, rx: Receiver, mss: int) -> None:
        self._sender = sender
        self._rx = rx
        self._mss = mss
        self._window = min(CHUNKS * 1024, VETH_RING // 2 * mss) >> self.WSCALE

    def receive(self, size: int) -> Iterator[tuple[int, Segment]]:
        """Accept a connection; yield (position in the stream, segment) for ``size`` bytes."""
        syn = self._rx.receive()
        start = Ether(syn.headers)[TCP].seq + 1
        options = [("MSS", self._mss), ("WScale", self.WSCALE)]
        self._reply(syn, start, flags="SA", seq=self.ISS, options=options)
        received = 0
        while received < size:
            segment = self._rx.receive()
            if segment.payload:
                position = (Ether(segment.headers)[TCP].seq - start) % 2**32
                yield position, segment
                received = max(received, position + len(segment.payload))
                self._reply(segment, start + received, flags="A", seq=self.ISS + 1)

    def _reply(self, to: Segment, ack: int, **fields: Any) -> None:
        got = Ether(to.headers)
        ports = {"sport": got[TCP].dport, "dport": got[TCP].sport}
        tcp = TCP(**ports, ack=ack % 2**32, window=self._window)
        for name, value in fields.items():
            setattr(tcp, name, value)
        reply = Ether(dst=got.src, src=got.dst) / IP(src=got[IP].dst, dst=got[IP].src) / tcp
        self._sender.send(bytes(reply))


@MODES
@MTUS
def test_stream_of_the_kernel(netns_pair: Callable[..., Veth], mode: Mode, mtu: int) -> None:
    veth = netns_pair(mtu=mtu)
    stream = random.Random(mtu).randbytes(2 << 20)
    with veth.left.enter():
        client = socket.socket()

    def send() -> None:
        client.connect((veth.right.ip4, PORT))
        client.sendall(stream)

    thread = threading.Thread(target=send)
    with client, receiver(veth.right, mode) as rx, packet_socket(veth.right) as replies:
        client.settimeout(STREAM_TIMEOUT)
        thread.start()
        longest = expected = 0
        for position, segment in Peer(replies, rx, mtu - 40).receive(len(stream)):
            # Behind: sent again, as the kernel does when an acknowledgement takes long.
            assert position <= expected, "a segment is missing"
            assert segment.payload == stream[position : position + len(segment.payload)]
            assert (
                segment.info.hdr_len
                == segment.info.l4_off + Ether(segment.headers)[TCP].dataofs * 4
            )
            assert segment.info.csum == CSUM_PARTIAL
            expected = max(expected, position + len(segment.payload))
            longest = max(longest, len(segment.payload))
        thread.join(TIMEOUT)
        assert not thread.is_alive()
        assert expected == len(stream)
        if mode is Mode.GENERIC:
            assert longest > mtu or mtu > 9000, "GSO packets should come whole"
        else:
            assert longest == mtu - 40 or mtu > 9000
