# SPDX-License-Identifier: Apache-2.0
"""A virtual NIC around one stack, in virtual time.

``Bench`` owns the memory, hands packets to the stack as the XDP program and AF_XDP would (record
and headers in the header page, payload in device pages taken from the fill ring), and collects
what the stack sends. ``Peer`` is the far end of one connection; a test reads like a packet trace::

    c = bench.peer()
    c.inject("S", seq=0)
    c.expect("S.", seq=0, ack=1)
    c.inject(".", seq=1, ack=1)
    c.inject("P.", seq=1, data=b"hello")
    c.expect_acked(6)

Sequence numbers are relative: 0 is the SYN of the side in question. Each frame the stack sends is
held against the invariants that no answer may break (see ``Peer.receive``), whether the test looks
at it or not, and ``finish()`` demands that every buffer is home again.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import pytest

from devmemtcp.stack._stack import ffi, lib
from devmemtcp.stack.form import wanted

from ...rx_metadata import CSUM_VERIFIED, HEAD_MAX, INFO_LEN, MAGIC, META_LEN, MIN_LINEAR, RxInfo
from . import app as application
from . import wire
from .far_end import FarEnd
from .wire import Address, Segment

MS = 1_000_000
SECOND = 1000 * MS
PAGE = 4096
CHUNK_DATA = 3840
POISON = 0xEE

LOCAL4 = Address(bytes((192, 0, 2, 1)), 5000, b"\x02\x00\x00\x00\x00\xaa")
LOCAL6 = Address(bytes.fromhex("20010db8000000000000000000000001"), 5000, LOCAL4.mac)
PEER4 = bytes((192, 0, 2, 2))
PEER6 = bytes.fromhex("20010db8000000000000000000000002")

NO_DEADLINE = 0xFFFFFFFFFFFFFFFF
DEVICE_MEMORY = wanted() != "off"


def pattern(length: int, seed: int = 0) -> bytes:
    """Bytes in which a shift, a swap or a repetition of any run shows."""
    out = bytearray(length)
    state = seed * 2654435761 + 12345 & 0xFFFFFFFF
    for n in range(length):
        state = state * 1664525 + 1013904223 & 0xFFFFFFFF
        out[n] = state >> 24
    return bytes(out)


class Stats:
    """A snapshot of struct stack_stats; counters and levels by their C names."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> int:
        return int(getattr(self._raw, name))

    def drops(self, reason: str) -> int:
        """Segments dropped for enum drop ``DROP_<reason>``."""
        return int(self._raw.drops[getattr(lib, f"DROP_{reason}")])

    def dropped(self) -> int:
        """Segments dropped, for whatever reason."""
        return sum(self._raw.drops)


class Area:
    """One area of memory: device memory with a dmabuf id, or host memory (dmabuf id 0)."""

    def __init__(self, niovs: int, dmabuf_id: int) -> None:
        self.nr, self.dmabuf_id = niovs, dmabuf_id
        self.region = bytearray() if not dmabuf_id else bytearray(niovs * PAGE)
        self.pages = mmap.mmap(-1, niovs * PAGE)  # host memory; poison for device memory
        self.headers = mmap.mmap(-1, niovs * PAGE)
        self.nic_owned = bytearray(niovs)
        config = ffi.new("struct stack_area_config *")
        config.nr_niovs, config.dmabuf_id = niovs, dmabuf_id
        config.header_base = ffi.cast("uint8_t *", ffi.from_buffer(self.headers))
        if not dmabuf_id:
            config.data_base = ffi.cast("uint8_t *", ffi.from_buffer(self.pages))
        self.config = config
        size = lib.stack_area_size(config)
        assert size > 0, "the configuration of the area was refused"
        self.mem = mmap.mmap(-1, size)
        self.number = -1

    def write(self, niov: int, data: bytes) -> None:
        """What the NIC does to a buffer: its bytes, and rubbish behind them."""
        memory = self.region if self.dmabuf_id else self.pages
        at = niov * PAGE
        memory[at : at + PAGE] = data.ljust(PAGE, bytes((POISON,)))
        self.nic_owned[niov] = 0


class Bench:
    """One stack with its NIC, its application and its clock (``now``, nanoseconds).

    It begins with one area of device memory (dmabuf id 1; of host memory if not ``bound``, or where
    there is no other) that all queues use, and one application. ``linear``: payload bytes that
    the split leaves in the head.
    """

    def __init__(
        self,
        *,
        niovs: int = 512,
        pages: int = 64,
        queues: int = 1,
        flows: int = 64,
        listeners: int = 8,
        fill: int = 64,
        fill_min: int | None = None,
        mtu: int = 1500,
        rcv_wnd_max: int = 1 << 20,
        delack_ms: int = 40,
        ack_segments: int = 2,
        synack_retries: int = 7,
        user_timeout_ms: int = 120_000,
        fin_timeout_ms: int = 3000,
        time_wait_ms: int = 2000,
        pressure: str = "window",
        listen: bool = True,
        bound: bool | None = None,
        linear: int = 0,
        blocks: int = 64,
        areas: int = 8,
        apps: int = 8,
        max_niovs: int | None = None,
        cookie_key: bytes = bytes(range(32, 48)),
    ) -> None:
        self.now = 1000 * SECOND
        self.mtu = mtu
        self.delack_ms = delack_ms
        self.time_wait_ms = time_wait_ms
        self.nr_niovs, self.nr_pages, self.nr_queues = niovs, pages, queues
        self._tx_area = mmap.mmap(-1, pages * PAGE)
        config = ffi.new("struct stack_config *")
        config.max_niovs = niovs if max_niovs is None else max_niovs
        config.max_areas, config.max_apps, config.nr_pages = areas, apps, pages
        config.page_base = ffi.cast("uint8_t *", ffi.from_buffer(self._tx_area))
        config.nr_queues, config.max_flows, config.max_listeners = queues, flows, listeners
        config.fill_min = fill // 2 if fill_min is None else fill_min
        config.fill_max = fill
        config.mtu, config.rcv_wnd_max = mtu, rcv_wnd_max
        config.delack_ns = delack_ms * MS
        config.ack_segments = ack_segments
        config.synack_retries = synack_retries
        config.user_timeout_ms, config.fin_timeout_ms = user_timeout_ms, fin_timeout_ms
        config.time_wait_ms = time_wait_ms
        config.isn_key = bytes(range(16))
        config.flow_key, config.cookie_key = bytes(range(16, 32)), cookie_key
        self._config = config
        needed = lib.stack_size(config)
        assert needed > 0, "the configuration was refused"
        self._mem = mmap.mmap(-1, needed)
        self.stack = ffi.cast("struct stack *", ffi.from_buffer(self._mem))
        assert lib.stack_init(self.stack, config) == 0

        self.pressure = pressure
        self.linear = linear
        self.areas: dict[int, Area] = {}
        self._by_dmabuf: dict[int, Area] = {}
        self._attached: list[Area | None] = [None] * queues
        self._fill: list[deque[int]] = [deque() for _ in range(queues)]
        self._niovs = ffi.new("uint32_t[]", fill)
        self._frames = ffi.new("struct tx_frame[]", 64)
        self._packet = ffi.new("struct rx_packet *")
        self._batching = False
        self.hold_tx = False
        self.tx_pages: list[tuple[int, int]] = []  # queue, page
        self.peers: dict[tuple[bytes, int, bytes, int], Peer] = {}
        self.stray: list[Segment] = []
        self.answers_to_anybody = False
        self.nic_drops = 0
        self.events_pushed = 0
        self._next_port = 40000
        self.area = self.open_area(niovs, dmabuf_id=int(DEVICE_MEMORY if bound is None else bound))
        for queue in range(queues):
            self.attach(queue, self.area)
        self.apps: list[application.App] = []
        self.channels: dict[int, mmap.mmap] = {}
        self._app_mem: dict[int, mmap.mmap] = {}
        self.app = self.open_app(blocks=blocks)
        self.listener = self.listen() if listen else -1
        self._refill()

    # ---- set-up ----

    @property
    def region(self) -> bytearray:
        return self.area.region

    def open_area(self, niovs: int, dmabuf_id: int = 0) -> Area:
        """stack_area_open(); the area is used by no queue yet."""
        if dmabuf_id and not DEVICE_MEMORY:
            pytest.skip("this build has no device memory")
        area = Area(niovs, dmabuf_id)
        area.number = int(lib.stack_area_open(self.stack, ffi.from_buffer(area.mem), area.config))
        assert area.number >= 0, f"stack_area_open() says {area.number}"
        assert area.number not in self.areas
        self.areas[area.number] = area
        if dmabuf_id:
            self._by_dmabuf[dmabuf_id] = area
        return area

    def close_area(self, area: Area) -> int:
        """stack_area_close(); at 0 its memory is poisoned, which nobody must notice."""
        left = int(lib.stack_area_close(self.stack, area.number))
        if not left:
            del self.areas[area.number]
            area.mem[:] = bytes((POISON,)) * len(area.mem)
        return left

    def attach(self, queue: int, area: Area) -> None:
        assert lib.stack_queue_attach(self.stack, queue, area.number) == 0
        self._attached[queue] = area

    def detach(self, queue: int) -> None:
        """The queue's socket is closed: its fill ring goes home, and what it was sending."""
        area = self._attached[queue]
        assert area is not None
        for niov in self._fill[queue]:
            area.nic_owned[niov] = 0
        self._fill[queue].clear()
        self.tx_pages = [entry for entry in self.tx_pages if entry[0] != queue]
        self._attached[queue] = None
        lib.stack_queue_detach(self.stack, queue)

    def restart(self, queue: int, area: Area) -> None:
        """The queue goes over to another area."""
        self.detach(queue)
        self.attach(queue, area)
        self.turn()

    def area_info(self, area: Area) -> Any:
        info = ffi.new("struct area_info *")
        assert lib.stack_area_info(self.stack, area.number, info) == 0
        return info

    def queue_info(self, queue: int) -> Any:
        info = ffi.new("struct queue_info *")
        assert lib.stack_queue_info(self.stack, queue, info) == 0
        return info

    def app_config(
        self, events: int = 0, requests: int = 0, blocks: int = 64, conns: int = 0
    ) -> Any:
        """A struct stack_app_config without its channel; rings that cannot run full by default."""
        wanted = 2 * int(self._config.max_niovs) + 8 * int(self._config.max_flows)
        enough = 1 << (wanted - 1).bit_length()
        config = ffi.new("struct stack_app_config *")
        config.nr_events, config.nr_requests = events or enough, requests or enough
        config.nr_blocks, config.max_conns = blocks, conns
        return config

    def open_app(self, **kwargs: int) -> application.App:
        config = self.app_config(**kwargs)
        size = lib.stack_channel_size(self._config, config)
        assert size > 0, "the configuration of the application was refused"
        channel = mmap.mmap(-1, size)
        config.channel = ffi.cast("uint8_t *", ffi.from_buffer(channel))
        config.channel_size = size
        mem = mmap.mmap(-1, lib.stack_app_size(config))
        number = int(lib.stack_app_open(self.stack, ffi.from_buffer(mem), config))
        assert number >= 0, f"stack_app_open() says {number}"
        app = application.App(
            channel, lambda dmabuf_id: self._by_dmabuf[dmabuf_id].region, self.nic_may_write, number
        )
        self._app_mem[number] = mem
        self.channels[number] = channel
        self.apps.append(app)
        return app

    def close_app(self, app: application.App) -> None:
        """stack_app_close(); its memory is poisoned, which nobody must notice."""
        assert lib.stack_app_close(self.stack, app.number) == 0
        self.apps.remove(app)
        mem = self._app_mem.pop(app.number)
        mem[:] = bytes((POISON,)) * len(mem)
        self.turn()

    def listen(
        self,
        local: Address = LOCAL4,
        *,
        app: application.App | None = None,
        pressure: str | None = None,
        close_first: bool = False,
        backlog: int = 1024,
        family: int | None = None,
    ) -> int:
        """stack_listen(); returns the id, or a negative errno."""
        addr = ffi.new("struct stack_addr *")
        addr.ip = local.mapped
        addr.port = local.port
        addr.family = family or local.family
        flags = lib.LISTEN_CLOSE_FIRST if close_first else 0
        how = getattr(lib, f"PRESSURE_{(pressure or self.pressure).upper()}")
        number = (app or self.app).number
        return int(lib.stack_listen(self.stack, number, addr, flags, backlog, how))

    def unlisten(self, listener: int) -> int:
        return int(lib.stack_unlisten(self.stack, listener))

    def peer(self, **kwargs: Any) -> Peer:
        """A new far end with a port of its own."""
        if "port" not in kwargs:
            kwargs["port"] = self._next_port
            self._next_port += 1
        return Peer(self, **kwargs)

    def established(self, **kwargs: Any) -> Peer:
        """A connection after the handshake, nothing sent yet."""
        c = self.peer(**kwargs)
        c.connect()
        return c

    def close_wait(self, **kwargs: Any) -> Peer:
        """The peer has sent its FIN (at 1) and got it acknowledged."""
        c = self.established(**kwargs)
        c.inject("F.")
        c.expect_acked(2)
        assert c.state == "CLOSE_WAIT"
        return c

    def last_ack(self, **kwargs: Any) -> Peer:
        """Both FINs are out; ours (at 1) is not acknowledged."""
        c = self.close_wait(**kwargs)
        self.app.close(c.conn)
        self.turn()
        c.expect("F.", seq=1, ack=2)
        assert c.state == "LAST_ACK"
        return c

    def fin_wait_1(self, **kwargs: Any) -> Peer:
        """We closed first: our FIN is at 1, not acknowledged."""
        c = self.established(**kwargs)
        self.app.shutdown(c.conn)
        self.turn()
        c.expect("F.", seq=1, ack=1)
        assert c.state == "FIN_WAIT_1"
        return c

    def fin_wait_2(self, **kwargs: Any) -> Peer:
        """As fin_wait_1(), acknowledged."""
        c = self.fin_wait_1(**kwargs)
        c.inject(".", ack=2)
        assert c.state == "FIN_WAIT_2"
        return c

    def closing(self, **kwargs: Any) -> Peer:
        """The FINs crossed: the peer's is acknowledged, ours is not."""
        c = self.fin_wait_1(**kwargs)
        c.inject("F.", ack=1)
        c.expect_acked(2)
        assert c.state == "CLOSING"
        return c

    def time_wait(self, **kwargs: Any) -> Peer:
        """We closed first and the peer answered in order."""
        c = self.fin_wait_2(**kwargs)
        c.inject("F.", ack=2)
        c.expect_acked(2)
        assert c.state == "TIME_WAIT"
        return c

    # ---- the NIC ----

    def nic_may_write(self, niov: int, dmabuf_id: int = 1) -> bool:
        return bool(self._by_dmabuf[dmabuf_id].nic_owned[niov])

    def fill_level(self, queue: int = 0) -> int:
        """Buffers in the fill ring of ``queue``."""
        return len(self._fill[queue])

    def _refill(self) -> None:
        for queue, ring in enumerate(self._fill):
            area = self._attached[queue]
            room = int(self._config.fill_max) - len(ring)
            count = lib.stack_refill(self.stack, queue, self._niovs, room) if room > 0 else 0
            assert count <= max(room, 0), "more than the fill ring takes"
            assert area is not None or not count, "buffers for a queue without an area"
            for n in self._niovs[0:count]:
                assert area is not None
                assert n < area.nr, f"buffer {n} does not exist"
                assert not area.nic_owned[n], f"buffer {n} given to the NIC twice"
                area.nic_owned[n] = 1
                ring.append(n)

    def nic(
        self,
        headers: bytes,
        payload: bytes,
        *,
        trailer: bytes = b"",
        queue: int = 0,
        linear: int | None = None,
        record: Mapping[str, int] = MappingProxyType({}),
    ) -> bool:
        """One packet through header split; False when the fill ring ran dry (the NIC drops it).

        ``trailer``: bytes behind the payload, which the XDP program would have cut off.
        ``linear``: payload bytes to leave in the head, the bench's by default.
        ``record`` overrides fields of rx_info: magic, hdr_len, l3_off, l4_off, family, csum,
        grown, payload_len, queue, linear.
        """
        wanted = self.linear if linear is None else linear
        head = max(0, min(wanted, len(payload), HEAD_MAX - len(headers)))
        rest = payload[head:] + trailer
        grown = max(0, MIN_LINEAR - len(payload) + head)
        rest += bytes(grown)
        pieces = [rest[at : at + CHUNK_DATA] for at in range(0, len(rest), CHUNK_DATA)]
        area = self._attached[queue]
        assert area is not None, f"queue {queue} has no area"
        ring = self._fill[queue]
        if len(ring) < len(pieces):
            self.nic_drops += 1
            return False
        fields = {
            "magic": MAGIC,
            "hdr_len": len(headers),
            "l3_off": 14,
            "l4_off": 34,
            "family": 4,
            "csum": CSUM_VERIFIED,
            "grown": grown,
            "payload_len": len(payload),
            "queue": queue,
            "linear": head,
        } | dict(record)
        packet = self._packet
        packet.queue, packet.nr_chunks = queue, len(pieces)
        for n, piece in enumerate(pieces):
            niov = ring.popleft()
            area.write(niov, piece)
            packet.chunk[n].niov, packet.chunk[n].len = niov, len(piece)
        end = (packet.chunk[0].niov + 1) * PAGE
        front = headers + payload[:head]
        area.headers[end - PAGE : end] = bytes((POISON,)) * PAGE
        area.headers[end - len(front) : end] = front
        info = end - META_LEN
        area.headers[info : info + INFO_LEN] = RxInfo(**fields).pack()
        lib.stack_rx(self.stack, packet, self.now)
        if not self._batching:
            self.turn()
        return True

    def take_niov(self, queue: int = 0) -> int:
        """A buffer out of the fill ring, for a packet that the test makes by hand."""
        niov = self._fill[queue].popleft()
        area = self._attached[queue]
        assert area is not None
        area.nic_owned[niov] = 0
        return niov

    def discard(self, chunks: int, queue: int = 0) -> None:
        """A multi-buffer packet that came back truncated: its chunks go straight back."""
        packet = self._packet
        packet.queue, packet.nr_chunks = queue, chunks
        for n in range(chunks):
            niov = self.take_niov(queue)
            packet.chunk[n].niov, packet.chunk[n].len = niov, CHUNK_DATA
        lib.stack_rx_discard(self.stack, packet, lib.DROP_TRUNCATED)
        self.turn()

    def _transmit(self) -> int:
        total = 0
        for queue in range(self.nr_queues):
            while count := lib.stack_tx(self.stack, queue, self._frames, 64):
                for frame in self._frames[0:count]:
                    page = int(frame.page)
                    at = page * PAGE
                    assert page < self.nr_pages, "a page that does not exist"
                    assert frame.len <= PAGE, "frame crosses its page"
                    assert self._attached[queue] is not None, "sent on a queue without a socket"
                    self._deliver(bytes(self._tx_area[at : at + frame.len]), queue)
                    self.tx_pages.append((queue, page))
                total += count
        if not self.hold_tx:
            self.tx_complete()
        return total

    def tx_complete(self) -> None:
        """The completion ring: every frame that was sent is done with."""
        for _, page in self.tx_pages:
            lib.stack_tx_done(self.stack, page)
        self.tx_pages.clear()

    def _deliver(self, frame: bytes, queue: int) -> None:
        segment = wire.parse_frame(frame)
        assert segment.ip_len <= self.mtu, "larger than the MTU"
        key = (segment.dst.ip, segment.dst.port, segment.src.ip, segment.src.port)
        if peer := self.peers.get(key):
            strays = peer.roams or self._attached[peer.queue] is None
            assert queue == peer.queue or strays, "answered on another queue than it came in"
            peer.receive(segment)
        else:
            self.stray.append(segment)

    # ---- the loop and the clock ----

    def turn(self) -> None:
        """Turns of the caller's loop until nobody has anything left to do."""
        lib.stack_rx_end(self.stack, self.now)
        for _ in range(64):
            busy = lib.stack_requests(self.stack, self.now)
            lib.stack_timers(self.stack, self.now)
            self._refill()
            busy += self._transmit()
            for app in self.apps:
                self.events_pushed += lib.stack_events_pushed(self.stack, app.number)
                if not app.paused:
                    busy += app.poll()
            if not busy:
                break
        else:
            raise AssertionError("the loop does not come to rest")
        self.check()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Packets injected inside belong to one batch: one stack_rx_end() after all of them."""
        self._batching = True
        try:
            yield
        finally:
            self._batching = False
        self.turn()

    def advance(self, ms: float) -> None:
        """Let virtual time pass, stopping at each deadline on the way."""
        target = self.now + int(ms * MS)
        stuck = 0
        while (deadline := int(lib.stack_next_deadline(self.stack))) <= target:
            stuck = stuck + 1 if deadline <= self.now else 0
            assert stuck < 64, "a deadline in the past that no turn of the loop clears"
            self.now = max(self.now, deadline)
            self.turn()
        self.now = target
        self.turn()

    # ---- looking inside ----

    def check(self) -> None:
        verdict = lib.stack_check(self.stack)
        assert verdict == 0, self._explain(-verdict - 1)

    def _explain(self, buffer: int) -> str:
        record = ffi.new("struct frag_record *")
        if lib.stack_frag(self.stack, buffer, record):
            return f"stack_check() names buffer {buffer}, which does not exist"
        state = ffi.string(ffi.cast("enum frag_state", record.state))
        return (
            f"stack_check(): area {record.area} index {record.index} state {state}"
            f" owner {record.owner:#x} refs {record.refs}"
        )

    def stats(self) -> Stats:
        raw = ffi.new("struct stack_stats *")
        lib.stack_stats(self.stack, raw)
        return Stats(raw)

    def flows(self) -> list[Any]:
        """Every live flow's flow_info."""
        out: list[Any] = []
        slot = 0
        while True:
            info = ffi.new("struct flow_info *")
            slot = lib.stack_flow(self.stack, slot + 1, info)
            if slot < 0:
                return out
            out.append(info)

    def in_flight(self) -> int:
        """Device buffers that are neither in a pool nor in a fill ring."""
        now = self.stats()
        return now.niovs_queued + now.niovs_ooo + now.niovs_lent

    # ---- the end ----

    def finish(self) -> None:
        """Close everything; every buffer must come home, every frame have been for a peer."""
        for app in self.apps:
            app.paused = app.hold = False
        self.tx_complete()
        self.hold_tx = False
        self.turn()
        for app in self.apps:
            for conn in tuple(app.conns.values()):
                if conn.held and not conn.done:
                    app.give_back(conn)
                app.abort(conn)
                self.turn()
        for _ in range(10_000):
            if not self.stats().flows_now:
                break
            deadline = int(lib.stack_next_deadline(self.stack))
            assert deadline != NO_DEADLINE, "a connection is left and no timer will ever end it"
            self.now = max(self.now, deadline)
            self.turn()
        self.turn()
        assert not any(app.conns for app in self.apps), "connections never seen closed"
        self.assert_home()
        assert not self.stray or self.answers_to_anybody, (
            f"frames to nobody: {[str(s) for s in self.stray]}"
        )

    def assert_home(self) -> None:
        """No connection, no token, nothing queued or in transmission; the pool has it all."""
        self.check()
        now = self.stats()
        assert now.flows_now == 0
        assert now.tokens_outstanding == 0
        assert (now.niovs_queued, now.niovs_ooo, now.niovs_lent) == (0, 0, 0)
        assert (now.host_queued, now.host_ooo) == (0, 0)
        assert now.niovs_fill + now.host_fill == sum(map(len, self._fill))
        home = now.niovs_free + now.niovs_fill + now.host_free + now.host_fill
        assert home == sum(area.nr for area in self.areas.values())
        assert now.pages_free == self.nr_pages
        assert now.rcv_wnd_promised == 0


MakeBench = Callable[..., Bench]


class Peer(FarEnd):
    """The far end of one connection of a bench."""

    def __init__(
        self,
        bench: Bench,
        *,
        port: int,
        isn: int = 0x10000000,
        local: Address | None = None,
        ip: bytes | None = None,
        family: int = 4,
        mss: int | None = 1460,
        ws: int | None = 7,
        sackok: bool = True,
        ts: int | None = 1000,
        win: int = 65535,
        queue: int = 0,
        app: application.App | None = None,
    ) -> None:
        self.bench = bench
        self.app = app or bench.app
        local = local or (LOCAL4 if family == 4 else LOCAL6)
        addr = Address(ip or (PEER4 if local.family == 4 else PEER6), port)
        super().__init__(addr, local, isn=isn, mss=mss, ws=ws, sackok=sackok, ts=ts, win=win)
        self.queue = queue
        self.roams = False  # its segments come by any queue; old ones are answered elsewhere
        self.conn_: application.Conn | None = None
        key = (self.addr.ip, port, self.local.ip, self.local.port)
        if before := bench.peers.get(key):
            assert not before.inbox, f"the previous peer still had mail: {before.mail()}"
        bench.peers[key] = self

    @property
    def mtu(self) -> int:
        return self.bench.mtu

    # ---- the application's side of this connection ----

    @property
    def conn(self) -> application.Conn:
        """The connection as the application has it (also after it was closed)."""
        if self.conn_ is None:
            wanted = ((self.addr.ip, self.addr.port), (self.local.ip, self.local.port))
            for conn in (*self.app.conns.values(), *reversed(self.app.past)):
                if (conn.peer, conn.local) == wanted:
                    self.conn_ = conn
                    break
            else:
                raise AssertionError("the application was never told of this connection")
        return self.conn_

    @property
    def accepted(self) -> bool:
        """Whether the application knows this 4-tuple as an open connection."""
        wanted = ((self.addr.ip, self.addr.port), (self.local.ip, self.local.port))
        return any((c.peer, c.local) == wanted for c in self.app.conns.values())

    @property
    def data(self) -> bytes:
        return bytes(self.conn.data)

    @property
    def info(self) -> Any:
        """flow_info of this connection, or None."""
        for info in self.bench.flows():
            if info.peer.port == self.addr.port and bytes(info.peer.ip) == self.addr.mapped:
                return info
        return None

    @property
    def state(self) -> str:
        info = self.info
        return lib_state(info.state) if info is not None else "CLOSED"

    # ---- sending ----

    def tsval(self) -> int:
        """A timestamp clock of 1 kHz."""
        assert self.ts_base is not None
        return (self.ts_base + self.bench.now // MS) & 0xFFFFFFFF

    def inject(
        self,
        flags: str,
        seq: int | None = None,
        ack: int | None = None,
        data: bytes = b"",
        *,
        win: int | None = None,
        ts: tuple[int, int] | int | bool | None = True,
        sack: tuple[tuple[int, int], ...] = (),
        opts: bytes | None = None,
        urg: int = 0,
        doff: int | None = None,
        reserved: int = 0,
        ip_options: bytes = b"",
        vlan: int | None = None,
        tos: int = 0,
        trailer: bytes = b"",
        raw_ack: int | None = None,
        linear: int | None = None,
        record: Mapping[str, int] = MappingProxyType({}),
    ) -> bool:
        """Send a segment; ``seq`` and ``ack`` default to the next in order.

        ``ts``: True for what the connection calls for, None for none, a number or pair to choose.
        ``opts`` replaces the whole option list, ``record`` fields of the record. ``linear``: bytes
        of the payload that the split leaves in the head. Returns False when the NIC had no buffer.
        """
        seq = self.seq if seq is None else seq
        if "." in flags:
            ack = self.ack if ack is None else ack
            wire_ack = self.irs + ack if raw_ack is None else raw_ack
        else:
            wire_ack = raw_ack or 0
        if opts is None:
            opts = self.options(flags, ts, sack, wire_ack)
        win = self.win if win is None else win
        headers, l3_off, l4_off = wire.build_headers(
            self.addr, self.local,
            flags=flags, seq=self.isn + seq, ack=wire_ack, win=win, opts=opts, payload=data,
            urg=urg, doff=doff, reserved=reserved, ip_options=ip_options, vlan=vlan, tos=tos,
        )  # fmt: skip
        self.note_sent(flags, seq, ack, len(data), win)
        fields = {"l3_off": l3_off, "l4_off": l4_off, "family": self.local.family} | dict(record)
        return self.bench.nic(
            headers, data, trailer=trailer, queue=self.queue, linear=linear, record=fields
        )

    def connect(self) -> None:
        """The three-way handshake, and its invariants."""
        self.inject("S", seq=0)
        self.expect("S.", seq=0, ack=1)
        self.inject(".", seq=1, ack=1)
        if not self.app.paused:
            assert self.conn is not None
            self.silent()

    # ---- judging ----

    def drain(self) -> list[Segment]:
        """Everything that came in; the acknowledgment number follows it."""
        return [self.take() for _ in range(len(self.inbox))]

    def expect(self, flags: str, **want: Any) -> Segment:
        """The next segment has these flags (PSH aside) and these values.

        Names: seq, ack, win, data, length, sack (relative pairs), ts, tsval, tsecr, mss, ws,
        sackok.
        """
        s = self.take()
        got: dict[str, Any] = {
            "seq": s.rseq,
            "ack": s.rack,
            "win": s.win,
            "data": s.data,
            "length": len(s.data),
            "sack": list(s.rsack),
            "ts": s.ts,
            "tsval": s.ts and s.tsval,
            "tsecr": s.ts and s.tsecr,
            "mss": s.mss,
            "ws": s.ws,
            "sackok": s.sackok,
        }
        assert s.flags - {"P"} == frozenset(flags) - {"P"}, f"flags [{flags}] wanted, got {s}"
        for name, value in want.items():
            assert got[name] == value, f"{name}={value} wanted, got {s}"
        return s

    def silent(self) -> None:
        """Nothing was sent (and nothing left unread)."""
        assert not self.inbox, f"unexpected: {self.mail()}"

    def expect_acked(self, ack: int) -> Segment:
        """The last ACK, at once or by the delayed-ACK timer, is of everything below ``ack``."""
        if not self.inbox or self.inbox[-1].rack != ack:
            self.bench.advance(self.bench.delack_ms)
        assert self.inbox, f"no ACK of {ack}"
        last = self.drain()[-1]
        assert last.rack == ack, f"ACK of {ack} wanted, got {last}"
        assert "R" not in last.flags
        return last

    def send_stream(self, data: bytes, size: int = 1448, flags: str = ".") -> None:
        """``data`` in order, in segments of ``size`` bytes, each in a batch of its own."""
        for at in range(0, len(data), size):
            assert self.inject(flags, data=data[at : at + size])

    @property
    def window(self) -> int:
        """Bytes that the stack's window still takes beyond what it acknowledged."""
        return self.edge - self.max_ack


def lib_state(number: int) -> str:
    """Name of an enum tcp_state without its prefix."""
    name = str(ffi.string(ffi.cast("enum tcp_state", number)))
    return name.removeprefix("TCP_")
