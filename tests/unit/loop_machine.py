# SPDX-License-Identifier: Apache-2.0
"""A loop in a thread, with this file as its NIC: rings in ordinary memory, no kernel, no privilege.

What a kernel never does, or seldom, can so be done on purpose.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from devmemtcp.agent._loop import ffi, lib

from ..rx_metadata import CSUM_VERIFIED, INFO_LEN, MAGIC, META_LEN, RxInfo
from ..slowness import SLOWNESS

PAGE = 4096
NIOVS, PAGES, RING = 1024, 64, 512
CHUNK = 3840
CONTD = 1  # XDP_PKT_CONTD
PATIENCE = 60.0 * SLOWNESS
LOOP_BATCH = 128
# channel.h: offsets, and kind and flow of an event
EVENT_HEAD, APP_WAITS, EVENTS = 64, 320, 512
REQUEST_HEAD, REQUEST_CLOSE = 192, 4
EVENT, EVENT_FRAG = struct.Struct("=II24x"), 2


class Ring(ctypes.Structure):
    """struct xsk_ring_prod and struct xsk_ring_cons of libxdp are laid out alike."""

    _fields_ = (
        ("cached_prod", ctypes.c_uint32),
        ("cached_cons", ctypes.c_uint32),
        ("mask", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("producer", ctypes.POINTER(ctypes.c_uint32)),
        ("consumer", ctypes.POINTER(ctypes.c_uint32)),
        ("ring", ctypes.c_void_p),
        ("flags", ctypes.POINTER(ctypes.c_uint32)),
    )


class FakeRing:
    """A ring, and the kernel's side of it."""

    def __init__(self, entry: struct.Struct, *, we_produce: bool) -> None:
        self._entry = entry
        self._memory = ctypes.create_string_buffer(entry.size * RING)
        self._indices = (ctypes.c_uint32 * 3)()
        base = ctypes.addressof(self._indices)
        pointer = ctypes.POINTER(ctypes.c_uint32)
        self.struct = Ring(
            cached_cons=RING if we_produce else 0,
            mask=RING - 1,
            size=RING,
            producer=ctypes.cast(base, pointer),
            consumer=ctypes.cast(base + 4, pointer),
            ring=ctypes.addressof(self._memory),
            flags=ctypes.cast(base + 8, pointer),
        )

    def cdata(self, kind: str) -> Any:
        return ffi.cast(f"struct {kind} *", ctypes.addressof(self.struct))

    def push(self, *values: int) -> None:
        self._entry.pack_into(self._memory, (self._indices[0] % RING) * self._entry.size, *values)
        self._indices[0] += 1

    def pop(self) -> tuple[int, ...] | None:
        if self._indices[0] == self._indices[1]:
            return None
        at = (self._indices[1] % RING) * self._entry.size
        value = self._entry.unpack_from(self._memory, at)
        self._indices[1] += 1
        return value

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """What is pushed inside the `with` block is seen at its end, and then all of it."""
        seen = self._indices
        self._indices = (ctypes.c_uint32 * 3)(*seen)
        yield
        seen[0], self._indices = self._indices[0], seen

    def peek(self) -> int:
        """The first value of the entry that pop() would take."""
        at = (self._indices[1] % RING) * self._entry.size
        return int(self._entry.unpack_from(self._memory, at)[0])

    def sleeps(self, sleeps: bool) -> None:
        """Set XDP_RING_NEED_WAKEUP, or clear it."""
        self._indices[2] = int(sleeps)

    def __len__(self) -> int:
        return (self._indices[0] - self._indices[1]) & 0xFFFFFFFF


ADDRESS, DESC = struct.Struct("=Q"), struct.Struct("=QII")


class App:
    """What the loop shares with one application, and our ends of the pipes."""

    def __init__(self, stack: Any, **changes: int) -> None:
        self.geometry = {"nr_events": 1024, "nr_requests": 1024, "nr_blocks": 16}
        config = ffi.new("struct stack_app_config *", self.geometry)
        self.channel = os.memfd_create("channel", os.MFD_ALLOW_SEALING)
        os.ftruncate(self.channel, lib.stack_channel_size(stack, config))
        fcntl.fcntl(self.channel, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        (self._wake, self.wake), (self.event, self._event), (self.alive, self._life) = (
            os.pipe2(os.O_NONBLOCK) for _ in range(3)
        )
        self.number = -1

    def open(self, loop: Any) -> int:
        """Join the loop, which has duplicates of its ends from then on."""
        fds = {"channel_fd": self.channel, "wake_fd": self._wake, "event_fd": self._event}
        config = {**fds, "life_fd": self._life, **self.geometry}
        self.number = lib.loop_app_open(loop, ffi.new("struct loop_app_config *", config))
        for fd in (self._wake, self._event, self._life):
            os.close(fd)
        return self.number

    def woken(self) -> bool:
        """Whether the loop has written to the pipe of events, which is emptied."""
        try:
            return bool(os.read(self.event, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        for fd in (self.channel, self.wake, self.event, self.alive):
            os.close(fd)


class Machine:
    """A loop in a thread, the pages that it sends from, and its applications."""

    def __init__(self, queues: int, **changes: Any) -> None:
        """`changes`: of `struct loop_config`."""
        self.pages = mmap.mmap(-1, PAGES * PAGE)
        self.notice = os.eventfd(0, os.EFD_NONBLOCK)
        stack = {
            "max_niovs": 4 * NIOVS,
            "max_areas": 4,
            "max_apps": 4,
            "nr_pages": PAGES,
            "page_base": ffi.from_buffer("uint8_t[]", self.pages),
            "nr_queues": queues,
            "max_flows": 16,
            "max_listeners": 4,
            "fill_min": 200,
            "fill_max": RING,
            "mtu": 1500,
            "rcv_wnd_max": 1 << 20,
            "delack_ns": 40_000_000,
            "ack_segments": 2,
            "time_wait_ms": 1000,
        }
        self.config = ffi.new("struct stack_config *", stack)
        config = ffi.new("struct loop_config *", {"notice_fd": self.notice, "cpu": -1, **changes})
        out = ffi.new("struct loop **")
        assert lib.loop_open(out, config, self.config) == 0
        self.loop = out[0]
        self.result: int | None = None
        self.apps: list[App] = []
        self._thread = threading.Thread(target=self._run)

    def open_app(self) -> App:
        app = App(self.config)
        self.apps.append(app)
        assert app.open(self.loop) >= 0
        return app

    def _run(self) -> None:
        self.result = lib.loop_run(self.loop)

    def start(self) -> None:
        self._thread.start()

    def policy(self) -> int:
        """How the loop's thread is scheduled."""
        assert self._thread.native_id is not None
        return os.sched_getscheduler(self._thread.native_id)

    def stop(self) -> None:
        if self._thread.ident is not None:
            lib.loop_stop(self.loop, 0)
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive()

    def close(self) -> None:
        self.stop()
        lib.loop_close(self.loop)
        for app in self.apps:
            app.close()
        os.close(self.notice)

    def listen(self, app: App, port: int = 5201) -> int:
        local = ffi.new("struct stack_addr *", (bytes(10) + b"\xff\xff\xc0\0\2\1", port, 4))
        result: int = lib.loop_listen(self.loop, app.number, local, 0, 8, lib.PRESSURE_WINDOW)
        return result

    def stats(self) -> tuple[Any, Any]:
        stack, loop = ffi.new("struct stack_stats *"), ffi.new("struct loop_stats *")
        lib.loop_stats(self.loop, stack, loop)
        return stack, loop


def record(headers: bytes, payload_len: int, queue: int) -> RxInfo:
    """The XDP program's, of a TCP segment over IPv4."""
    return RxInfo(
        magic=MAGIC,
        hdr_len=len(headers),
        l3_off=14,
        l4_off=34,
        family=4,
        csum=CSUM_VERIFIED,
        grown=0,
        payload_len=payload_len,
        queue=queue,
        linear=0,
    )


class Nic:
    """One queue, on an area of its own: what the kernel would do, and where."""

    tx_base = 2 * NIOVS * PAGE
    """UMEM address of the transmission pages, which follow the buffers."""
    first_head = 0

    def __init__(self, machine: Machine, queue: int = 0, *, dmabuf_id: int = 1) -> None:
        self.machine = machine
        self.loop = machine.loop
        self.queue = queue
        self.memory = mmap.mmap(-1, 2 * NIOVS * PAGE)
        host = ffi.from_buffer("uint8_t[]", self.memory)
        data = ffi.NULL if dmabuf_id else host + NIOVS * PAGE
        area = {
            "nr_niovs": NIOVS,
            "dmabuf_id": dmabuf_id,
            "header_base": host,
            "data_base": data,
        }
        config = ffi.new("struct stack_area_config *", area)
        self.area = lib.loop_area_open(self.loop, config, self.tx_base)
        assert self.area >= 0
        self.kicks, self.socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.kicks.setblocking(False)
        assert self.attach() == 0

    def attach(self) -> int:
        """Fresh rings, as with a new socket."""
        self.fill = FakeRing(ADDRESS, we_produce=True)
        self.rx = FakeRing(DESC, we_produce=False)
        self.tx = FakeRing(DESC, we_produce=True)
        self.comp = FakeRing(ADDRESS, we_produce=False)
        self.held: set[int] = set()  # buffers out of the fill ring, not yet in the RX ring
        rings = {
            "rx": self.rx.cdata("xsk_ring_cons"),
            "fill": self.fill.cdata("xsk_ring_prod"),
            "tx": self.tx.cdata("xsk_ring_prod"),
            "completion": self.comp.cdata("xsk_ring_cons"),
            "fd": self.socket.fileno(),
            "first_head": self.first_head,
        }
        queue = ffi.new("struct loop_queue *", rings)
        result: int = lib.loop_queue_attach(self.loop, self.queue, self.area, queue)
        return result

    def detach(self) -> None:
        assert lib.loop_queue_stop(self.loop, self.queue) == 0
        assert lib.loop_queue_detach(self.loop, self.queue) == 0

    def close(self) -> None:
        self.kicks.close()
        self.socket.close()

    def stats(self) -> tuple[Any, Any]:
        return self.machine.stats()

    # ---- the kernel's part ----

    def arrived(self) -> None:
        """Wake the loop. (Its socket cannot do it: the rings are not the socket's.)"""
        os.write(self.machine.apps[0].wake, bytes(8))

    def take_buffer(self) -> int:
        """The net_iov of the next fill ring entry."""
        entry = self.fill.pop()
        assert entry is not None, "the fill ring is empty"
        niov, rest = divmod(entry[0] + 256, 2 * PAGE)
        assert rest == PAGE, "a fill address must be 256 bytes before a device page"
        assert niov < NIOVS
        assert niov not in self.held, "a buffer was given twice"
        self.held.add(niov)
        return niov

    def receive(self, niov: int, size: int, *, options: int = 0, offset: int = 256) -> None:
        """Put a filled buffer into the RX ring, as unaligned chunk mode does."""
        self.held.remove(niov)
        base = niov * 2 * PAGE + PAGE - 256
        self.rx.push(base | offset << 48, size, options)

    def deliver(self, packet: Any, sizes: tuple[int, ...] = ()) -> None:
        """A packet whose payload has these sizes, a chunk each; headers only by default."""
        headers = bytes(packet)
        niovs = [self.take_buffer() for _ in sizes or (0,)]
        info = record(headers, sum(sizes), self.queue)
        self.put_head((niovs[0] + 1) * PAGE, info, headers)
        for niov, size in zip(niovs, sizes or (0,), strict=True):
            last = niov == niovs[-1]
            self.receive(niov, size, options=0 if last else CONTD)

    def put_head(self, end: int, info: RxInfo, headers: bytes) -> None:
        """Into the header page that ends there."""
        self.memory[end - META_LEN : end - META_LEN + INFO_LEN] = info.pack()
        self.memory[end - len(headers) : end] = headers

    def send(self) -> list[Any]:
        """Everything in the TX ring, completed, as scapy packets."""
        sent = []
        while entry := self.tx.pop():
            address, size, _ = entry
            at = address - self.tx_base
            sent.append(Ether(self.machine.pages[at : at + size]))
            self.comp.push(address)
        return sent

    def kicked(self) -> bool:
        """Whether there was a kick, taken out of the socket."""
        try:
            self.kicks.recv(1)
        except BlockingIOError:
            return False
        return True

    def settled(self) -> bool:
        """Every net_iov is in the pool or in the fill ring, and the invariants hold."""
        stack, _ = self.stats()
        whole = stack.niovs_free + stack.niovs_fill == NIOVS
        return bool(whole and lib.loop_check(self.loop) == 0)


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > deadline:
            return value
        os.sched_yield()
    return value


class Peer:
    """A TCP sender that has done its handshake."""

    def __init__(self, nic: Nic, *, port: int = 40000, listening: int = 5201) -> None:
        self.nic = nic
        self.port, self.listening = port, listening
        self.seq, self.ack = 1000, 0
        nic.deliver(self.segment("S", options=[("MSS", 1460), ("WScale", 7)]))
        nic.arrived()
        (synack,) = until(nic.send)
        assert synack[TCP].flags == "SA"
        self.seq += 1
        self.ack = synack[TCP].seq + 1
        nic.deliver(self.segment("A"))
        nic.arrived()

    def segment(self, flags: str, **options: Any) -> Any:
        return (
            Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01")
            / IP(src="192.0.2.2", dst="192.0.2.1")
            / TCP(
                sport=self.port,
                dport=self.listening,
                seq=self.seq,
                ack=self.ack,
                flags=flags,
                window=65535,
                **options,
            )
        )

    def deliver(self, *sizes: int) -> None:
        self.nic.deliver(self.segment("A"), sizes)
        self.seq += sum(sizes)


def received(nic: Nic) -> int:
    stack, _ = nic.stats()
    return int(stack.rx_payload_bytes)
