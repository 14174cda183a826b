# SPDX-License-Identifier: Apache-2.0
"""The application's half of the channel, against a stack that this file plays.

The offsets and numbers below are channel.h's, written down a second time on purpose: what is
shared between processes may not change by accident.
"""

from __future__ import annotations

import errno
import gc
import mmap
import os
import random
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devmemtcp.agent._loop import ffi, lib
from devmemtcp.agent.socket import AppHalf, Connection, Listener

HEADER, EVENT, REQUEST, CONN, REPLIES = 512, 32, 16, 64, 256 * 1024
MAGIC = 0x64766D31
EVENT_HEAD, EVENT_TAIL, REQUEST_HEAD, REQUEST_TAIL, APP_WAITS, STACK_WAITS = range(64, 448, 64)
ACCEPT, FRAG, EOF, RESET, SENT, CLOSED = range(1, 7)
DONTNEED, SEND, SHUTDOWN, CLOSE, ABORT = range(1, 6)
NR_EVENTS = NR_REQUESTS = 256
NR_CONNS = 32
REGION = 1 << 20
GENERATION = 1 << 20
REPLY_MAX = 64 * 1024
LISTENER = 3


class FakeStack:
    """The other side: it formats the channel, pushes events and pops requests."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("channel")
        self.requests_at = HEADER + NR_EVENTS * EVENT
        self.conns_at = self.requests_at + NR_REQUESTS * REQUEST
        self.replies_at = self.conns_at + NR_CONNS * CONN
        os.ftruncate(self.fd, self.replies_at + REPLIES)
        self.memory = mmap.mmap(self.fd, 0)
        struct.pack_into("=4I", self.memory, 0, MAGIC, NR_EVENTS, NR_REQUESTS, NR_CONNS)
        self.event = os.eventfd(0, os.EFD_NONBLOCK)
        self.wake = os.eventfd(0, os.EFD_NONBLOCK)
        self.alive, self.life = os.pipe()

    def close(self) -> None:
        for fd in (self.fd, self.event, self.wake, self.alive):
            os.close(fd)
        self.die()

    def die(self) -> None:
        if self.life >= 0:
            os.close(self.life)
            self.life = -1

    def get(self, at: int) -> int:
        value: int = struct.unpack_from("=I", self.memory, at)[0]
        return value

    def put(self, at: int, value: int) -> None:
        struct.pack_into("=I", self.memory, at, value & 0xFFFFFFFF)

    def push(
        self, kind: int, flow: int, offset: int = 0, size: int = 0, token: int = 0, arg: int = 0
    ) -> None:
        head = self.get(EVENT_HEAD)
        at = HEADER + (head % NR_EVENTS) * EVENT
        struct.pack_into("=IIQIIII", self.memory, at, kind, flow, offset, size, token, arg, 0)
        self.put(EVENT_HEAD, head + 1)

    def wake_app(self) -> None:
        """What the loop does after pushing."""
        if self.get(APP_WAITS):
            self.put(APP_WAITS, 0)
            os.eventfd_write(self.event, 1)

    def accept(self, flow: int, listener: int = LISTENER, peer: str = "192.0.2.9") -> None:
        mapped = ip_address(f"::ffff:{peer}").packed
        local = ip_address("::ffff:192.0.2.1").packed
        at = self.conns_at + (flow % GENERATION) * CONN
        struct.pack_into(
            "=16s16sHHHHI", self.memory, at, local, mapped, 5201, 40000, 4, listener, flow
        )
        self.push(ACCEPT, flow, arg=listener)

    def requests(self) -> list[tuple[int, int, int, int]]:
        """Everything asked since the last call: (kind, flow, a, b)."""
        head, tail = self.get(REQUEST_HEAD), self.get(REQUEST_TAIL)
        found = []
        while tail != head:
            at = self.requests_at + (tail % NR_REQUESTS) * REQUEST
            found.append(struct.unpack_from("=4I", self.memory, at))
            tail = (tail + 1) & 0xFFFFFFFF
        self.put(REQUEST_TAIL, tail)
        return found

    def reply(self, at: int, size: int) -> bytes:
        return bytes(self.memory[self.replies_at + at : self.replies_at + at + size])

    def open(self) -> AppHalf:
        return AppHalf(
            self.fd,
            REGION,
            event=self.event,
            wake=self.wake,
            life=self.alive,
            ended=lambda: OSError(errno.ENXIO, "eth1 is gone"),
        )


@pytest.fixture
def stack() -> Iterator[FakeStack]:
    made = FakeStack()
    yield made
    made.close()


@pytest.fixture
def app(stack: FakeStack) -> AppHalf:
    return stack.open()


@pytest.fixture
def listener(stack: FakeStack, app: AppHalf) -> Listener:
    made = Listener(app, LISTENER, ("192.0.2.1", 5201), False, lambda _: None)
    app.listeners[LISTENER] = made
    assert lib.app_listener(app.handle, LISTENER, 1) == 0
    return made


FLOW = GENERATION + 1


@pytest.fixture
def conn(stack: FakeStack, listener: Listener) -> Connection:
    stack.accept(FLOW)
    return listener.accept(timeout=0)


def rejected(app: AppHalf) -> int:
    stats = ffi.new("struct app_stats *")
    lib.app_stats(app.handle, stats)
    count: int = stats.events_rejected
    return count


# ---- events ----


def test_a_connection_comes_with_its_addresses(conn: Connection, listener: Listener) -> None:
    assert conn.id == FLOW
    assert conn.local == ("192.0.2.1", 5201)
    assert conn.peer == ("192.0.2.9", 40000)
    assert conn.listener is listener
    with pytest.raises(TimeoutError):
        listener.accept(timeout=0)


def test_fragments_are_sorted_by_connection(stack: FakeStack, listener: Listener) -> None:
    flows = [GENERATION + slot for slot in range(1, 4)]
    for flow in flows:
        stack.accept(flow)
    conns = [listener.accept(timeout=0) for _ in flows]
    for token in range(1, 31):
        stack.push(FRAG, flows[token % 3], offset=4096 * token, size=token, token=token)
    for index, conn in enumerate(conns):
        got = conn.recv_frags(timeout=0)
        expected = [token for token in range(1, 31) if token % 3 == index]
        assert [(frag.token, frag.size, frag.offset) for frag in got] == [
            (token, token, 4096 * token) for token in expected
        ]
        assert got.nbytes == sum(expected)


def test_a_batch_is_no_larger_than_asked(stack: FakeStack, conn: Connection) -> None:
    for token in range(1, 6):
        stack.push(FRAG, FLOW, size=1, token=token)
    assert [len(conn.recv_frags(2, timeout=0)) for _ in range(3)] == [2, 2, 1]
    with pytest.raises(TimeoutError):
        conn.recv_frags(timeout=0)
    with pytest.raises(ValueError, match="at least 1"):
        conn.recv_frags(0)


def test_the_end_of_the_stream_comes_after_its_bytes_and_stays(
    stack: FakeStack, conn: Connection
) -> None:
    stack.push(FRAG, FLOW, size=7, token=1)
    stack.push(EOF, FLOW)
    assert conn.recv_frags().nbytes == 7
    assert not conn.recv_frags()
    assert not conn.recv_frags()


def test_a_reset_comes_after_the_bytes_that_arrived(stack: FakeStack, conn: Connection) -> None:
    stack.push(FRAG, FLOW, size=7, token=1)
    stack.push(RESET, FLOW, arg=errno.ETIMEDOUT)
    assert conn.recv_frags().nbytes == 7
    for _ in range(2):
        with pytest.raises(ConnectionResetError) as caught:
            conn.recv_frags()
        assert caught.value.errno == errno.ETIMEDOUT
    with pytest.raises(ConnectionResetError):
        conn.send(b"late")


def test_a_slot_is_used_again_by_another_generation(
    stack: FakeStack, app: AppHalf, listener: Listener, conn: Connection
) -> None:
    conn.close()
    stack.push(CLOSED, FLOW)
    stack.accept(FLOW + GENERATION, peer="192.0.2.10")
    again = listener.accept(timeout=0)
    stack.push(FRAG, FLOW, size=1, token=1)  # the old one's: nobody's
    stack.push(FRAG, FLOW + GENERATION, size=2, token=2)
    assert again.recv_frags(timeout=0).nbytes == 2
    assert again.peer == ("192.0.2.10", 40000)
    assert rejected(app) == 1


# ---- events that make no sense ----


@pytest.mark.parametrize(
    "event",
    [
        {"kind": FRAG, "flow": FLOW, "size": 0, "token": 1},
        {"kind": FRAG, "flow": FLOW, "size": 1, "token": 0},
        {"kind": FRAG, "flow": FLOW, "size": 1, "token": 1, "offset": REGION},
        {"kind": FRAG, "flow": FLOW, "size": 2, "token": 1, "offset": REGION - 1},
        {"kind": FRAG, "flow": FLOW, "size": REGION + 1, "token": 1},
        {"kind": FRAG, "flow": FLOW, "size": 2, "token": 1, "offset": 2**64 - 1},
        {"kind": FRAG, "flow": FLOW + 1, "size": 1, "token": 1},
        {"kind": FRAG, "flow": FLOW + GENERATION, "size": 1, "token": 1},
        {"kind": FRAG, "flow": 0, "size": 1, "token": 1},
        {"kind": FRAG, "flow": 0xFFFFFFFF, "size": 1, "token": 1},
        {"kind": ACCEPT, "flow": FLOW, "arg": LISTENER},
        {"kind": ACCEPT, "flow": 0, "arg": LISTENER},
        {"kind": ACCEPT, "flow": GENERATION + NR_CONNS, "arg": LISTENER},
        {"kind": ACCEPT, "flow": GENERATION + 2, "arg": 256},
        {"kind": SENT, "flow": FLOW, "arg": 1},
        {"kind": 0, "flow": FLOW},
        {"kind": 99, "flow": FLOW},
    ],
)
def test_an_event_that_makes_no_sense_is_counted_and_changes_nothing(
    stack: FakeStack, app: AppHalf, conn: Connection, event: dict[str, int]
) -> None:
    stack.push(**event)
    stack.push(FRAG, FLOW, size=5, token=9)
    assert [frag.token for frag in conn.recv_frags(timeout=0)] == [9]
    assert rejected(app) == 1
    assert not stack.requests()


def test_bytes_after_the_end_are_not_taken(
    stack: FakeStack, app: AppHalf, conn: Connection
) -> None:
    stack.push(EOF, FLOW)
    stack.push(FRAG, FLOW, size=1, token=1)
    assert not conn.recv_frags(timeout=0)
    assert rejected(app) == 1


def test_an_index_that_cannot_be_ends_the_channel(stack: FakeStack, conn: Connection) -> None:
    stack.put(EVENT_HEAD, stack.get(EVENT_HEAD) + NR_EVENTS + 1)
    with pytest.raises(OSError, match="does not keep to the channel's rules"):
        conn.recv_frags()


def test_capacities_are_not_looked_at_twice(stack: FakeStack, conn: Connection) -> None:
    struct.pack_into("=3I", stack.memory, 4, 1 << 24, 1 << 24, 1 << 24)
    stack.push(FRAG, FLOW, size=3, token=1)
    assert conn.recv_frags(timeout=0).nbytes == 3


@pytest.mark.parametrize(
    "header",
    [
        (0, NR_EVENTS, NR_REQUESTS, NR_CONNS),
        (MAGIC, NR_EVENTS + 1, NR_REQUESTS, NR_CONNS),
        (MAGIC, NR_EVENTS, 0, NR_CONNS),
        (MAGIC, NR_EVENTS, NR_REQUESTS, 0),
        (MAGIC, 1 << 24, NR_REQUESTS, NR_CONNS),  # more than the file holds
        (MAGIC, 1 << 25, NR_REQUESTS, NR_CONNS),
    ],
)
def test_a_header_that_does_not_hold_together_is_refused(
    stack: FakeStack, header: tuple[int, ...]
) -> None:
    gc.collect()  # earlier tests' channels
    before = len(os.listdir("/proc/self/fd"))
    struct.pack_into("=4I", stack.memory, 0, *header)
    with pytest.raises(OSError, match="cannot open the channel") as caught:
        stack.open()
    assert caught.value.errno == errno.EPROTO
    assert len(os.listdir("/proc/self/fd")) == before


@settings(max_examples=200, deadline=None)
@given(
    events=st.lists(
        st.tuples(
            st.integers(0, 8),
            st.sampled_from([FLOW, FLOW + 1, FLOW + GENERATION, 0, GENERATION, 0xFFFFFFFF]),
            st.sampled_from([0, 4096, REGION - 1, REGION, 2**64 - 1]),
            st.sampled_from([0, 1, 3840, REGION, 2**32 - 1]),
            st.sampled_from([0, 1, 2, 2**32 - 1]),
            st.sampled_from([0, 1, LISTENER, 255, 256, 2**32 - 1]),
        ),
        max_size=60,
    )
)
def test_no_sequence_of_events_yields_a_fragment_outside_the_region(
    events: list[tuple[int, ...]],
) -> None:
    stack = FakeStack()
    app = stack.open()
    try:
        stack.accept(FLOW)
        for event in events:
            stack.push(*event)
        out = ffi.new("struct app_frag[]", 64)
        flow = ffi.new("uint32_t *")
        addresses = ffi.new("struct stack_addr[2]")
        for number in range(256):
            while lib.app_accept(app.handle, number, flow, addresses, addresses + 1) > 0:
                count = lib.app_take(app.handle, flow[0], out, 64)
                for frag in out[0 : max(0, count)]:
                    assert frag.token
                    assert frag.len
                    assert frag.offset + frag.len <= REGION
                lib.app_dontneed(app.handle, flow[0], out, max(0, count))
                lib.app_finish(app.handle, flow[0], 0)
        assert stack.get(EVENT_TAIL) == stack.get(EVENT_HEAD)
    finally:
        app.close()
        stack.close()


def test_fragments_nobody_takes_stay_in_the_ring_when_there_are_no_nodes(
    stack: FakeStack, app: AppHalf, conn: Connection
) -> None:
    """A stack that lends more than there is cannot make us allocate, or lose an event."""
    token = 0
    for _ in range(2):
        for _ in range(NR_EVENTS):
            token += 1
            stack.push(FRAG, FLOW, size=1, token=token)
        assert app.ready() == [conn]
    seen: list[int] = []
    while len(seen) < token:
        seen += [frag.token for frag in conn.recv_frags(100, timeout=0)]
    assert seen == list(range(1, token + 1))


def test_a_ring_that_cannot_be_emptied_does_not_keep_others_from_emptying_it(
    stack: FakeStack, app: AppHalf, listener: Listener, conn: Connection
) -> None:
    """The waiting thread must not spin with the lock: it waits for what this one takes."""
    stack.accept(FLOW + 1)
    other = listener.accept(timeout=0)
    for _ in range(2):
        for token in range(1, NR_EVENTS + 1):
            stack.push(FRAG, FLOW, size=1, token=token)
        assert app.ready() == [conn]
    ended: list[int] = []
    waits = threading.Thread(target=lambda: ended.append(len(other.recv_frags(timeout=30))))
    waits.start()
    while not stack.get(APP_WAITS):
        os.sched_yield()
    start = time.monotonic()
    taken = 0
    while taken < 2 * NR_EVENTS:
        taken += len(conn.recv_frags(NR_EVENTS, timeout=0))
    stack.push(EOF, other.id)
    stack.wake_app()
    waits.join()
    assert ended == [0]
    assert time.monotonic() - start < 10


# ---- requests ----


def test_neighbouring_tokens_are_one_request(stack: FakeStack, conn: Connection) -> None:
    assert conn.dontneed([5, 6, 7, 9, 1, 2, 4]) == 7
    assert stack.requests() == [
        (DONTNEED, FLOW, 5, 3),
        (DONTNEED, FLOW, 9, 1),
        (DONTNEED, FLOW, 1, 2),
        (DONTNEED, FLOW, 4, 1),
    ]
    assert conn.dontneed([]) == 0
    assert not stack.requests()


def test_a_request_names_no_more_tokens_than_the_stack_takes(
    stack: FakeStack, conn: Connection
) -> None:
    assert conn.dontneed(range(1, 2501)) == 2500
    assert stack.requests() == [
        (DONTNEED, FLOW, 1, 1024),
        (DONTNEED, FLOW, 1025, 1024),
        (DONTNEED, FLOW, 2049, 452),
    ]


def test_a_batch_gives_its_own_tokens_back(stack: FakeStack, conn: Connection) -> None:
    for token in (3, 4, 5, 8):
        stack.push(FRAG, FLOW, size=1, token=token)
    assert conn.dontneed(conn.recv_frags()) == 4
    assert stack.requests() == [(DONTNEED, FLOW, 3, 3), (DONTNEED, FLOW, 8, 1)]


def test_the_stack_is_woken_only_when_it_sleeps_and_once(
    stack: FakeStack, conn: Connection
) -> None:
    conn.dontneed([1])
    with pytest.raises(BlockingIOError):
        os.eventfd_read(stack.wake)
    stack.put(STACK_WAITS, 1)
    conn.dontneed([2])
    conn.dontneed([3])
    assert os.eventfd_read(stack.wake) == 1
    assert stack.get(STACK_WAITS) == 0


def test_closing_says_so_once(stack: FakeStack, app: AppHalf, conn: Connection) -> None:
    stack.push(EOF, FLOW)
    assert app.ready() == [conn]
    conn.close()
    conn.close()
    assert stack.requests() == [(CLOSE, FLOW, 0, 0)]
    assert app.ready() == []


def test_closing_before_all_was_read_resets(
    stack: FakeStack, app: AppHalf, conn: Connection
) -> None:
    stack.push(FRAG, FLOW, size=1, token=1)
    conn.close()
    assert stack.requests() == [(ABORT, FLOW, 0, 0)]
    stack.push(FRAG, FLOW, size=1, token=2)  # was on its way
    assert app.ready() == []
    assert rejected(app) == 0
    with pytest.raises(OSError, match="is closed") as caught:
        conn.recv_frags()
    assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError, match="is closed"):
        conn.dontneed([1])


def test_abort_and_shutdown_are_requests_of_their_own(stack: FakeStack, conn: Connection) -> None:
    conn.shutdown()
    conn.shutdown()
    with pytest.raises(BrokenPipeError):
        conn.send(b"x")
    conn.abort()
    assert stack.requests() == [(SHUTDOWN, FLOW, 0, 0), (ABORT, FLOW, 0, 0)]


def test_closing_a_listener_resets_who_was_not_accepted(
    stack: FakeStack, app: AppHalf, listener: Listener, conn: Connection
) -> None:
    stack.accept(FLOW + 1)
    listener.close()
    assert stack.requests() == [(ABORT, FLOW + 1, 0, 0)]
    stack.accept(FLOW + 2)  # its handshake was under way
    assert app.ready() == []
    assert stack.requests() == [(ABORT, FLOW + 2, 0, 0)]
    with pytest.raises(OSError, match="is closed"):
        listener.accept()
    stack.push(FRAG, FLOW, size=1, token=1)
    assert conn.recv_frags(timeout=0).nbytes == 1  # accepted ones live on


def test_a_full_request_ring_fails_when_the_stack_is_dead(
    stack: FakeStack, conn: Connection
) -> None:
    for token in range(1, 2 * NR_REQUESTS, 2):
        conn.dontneed([token])
    stack.die()
    with pytest.raises(OSError, match="eth1 is gone"):
        conn.dontneed([1000])


def test_a_full_request_ring_is_not_waited_for_for_ever(stack: FakeStack, conn: Connection) -> None:
    for token in range(1, 2 * NR_REQUESTS, 2):
        conn.dontneed([token])
    for _ in range(2):
        with pytest.raises(OSError, match="does not keep to the channel's rules"):
            conn.dontneed([1000])


def test_a_full_request_ring_waits_for_the_stack(stack: FakeStack, conn: Connection) -> None:
    for token in range(1, 2 * NR_REQUESTS, 2):
        conn.dontneed([token])
    taken: list[tuple[int, int, int, int]] = []

    def run_stack() -> None:
        select.select([stack.wake], [], [])
        taken.extend(stack.requests())

    thread = threading.Thread(target=run_stack)
    thread.start()
    assert conn.dontneed([1000]) == 1
    thread.join()
    assert len(taken) == NR_REQUESTS
    assert stack.requests() == [(DONTNEED, FLOW, 1000, 1)]


# ---- replies ----


def test_a_reply_lies_in_shared_memory_until_it_is_acknowledged(
    stack: FakeStack, conn: Connection
) -> None:
    assert conn.send(b"hello") == 5
    assert conn.send(b", world") == 7
    (kind, flow, at, size), second = stack.requests()
    assert (kind, flow, size) == (SEND, FLOW, 5)
    assert second == (SEND, FLOW, at + 5, 7)
    assert stack.reply(at, 12) == b"hello, world"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 30_000), min_size=1, max_size=12), st.integers(0, 2**32))
def test_replies_of_all_sizes_arrive_whole_with_few_bytes_outstanding(
    sizes: list[int], seed: int
) -> None:
    stack, rng = FakeStack(), random.Random(seed)
    app = stack.open()
    try:
        lib.app_listener(app.handle, LISTENER, 1)
        stack.accept(FLOW)
        conn = Listener(app, LISTENER, ("192.0.2.1", 1), False, lambda _: None).accept()
        sent, got, unacked = b"", b"", 0
        for size in sizes:
            data = rng.randbytes(size)
            while data:
                try:
                    done = conn.send(data, timeout=0)
                except TimeoutError as full:
                    done = full.args[1]
                sent, data = sent + data[:done], data[done:]
                for _, _, at, length in stack.requests():
                    got += stack.reply(at, length)
                    unacked += length
                assert unacked <= REPLY_MAX
                if data or rng.random() < 0.5:
                    acked = rng.randint(1, unacked) if unacked else 0
                    stack.push(SENT, FLOW, arg=acked)
                    unacked -= acked
        assert got == sent
    finally:
        app.close()
        stack.close()


def test_one_connection_cannot_take_all_room_and_closing_gives_it_back(
    stack: FakeStack, listener: Listener
) -> None:
    for round_ in range(1, 5):
        flows = [GENERATION * round_ + slot for slot in range(1, 5)]
        for flow in flows:
            stack.accept(flow)
        conns = [listener.accept(timeout=0) for _ in flows]
        for conn in conns:
            with pytest.raises(TimeoutError) as full:
                conn.send(bytes(REPLY_MAX + 1), timeout=0)
            assert full.value.args[1] == REPLY_MAX
            conn.close()
            stack.requests()
        for flow in flows:
            stack.push(CLOSED, flow)


def test_a_sender_that_waits_goes_on_when_the_peer_acknowledges(
    stack: FakeStack, conn: Connection
) -> None:
    sent: list[int] = []
    thread = threading.Thread(target=lambda: sent.append(conn.send(bytes(REPLY_MAX + 10))))
    thread.start()
    await_sleep(stack)
    stack.push(SENT, FLOW, arg=REPLY_MAX)
    stack.wake_app()
    thread.join()
    assert sent == [REPLY_MAX + 10]


# ---- waiting ----


def await_sleep(stack: FakeStack) -> None:
    deadline = time.monotonic() + 60
    while not stack.get(APP_WAITS):
        assert time.monotonic() < deadline, "nobody went to sleep"


def test_the_application_says_that_it_sleeps_and_wakes_up(
    stack: FakeStack, conn: Connection
) -> None:
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(conn.recv_frags().nbytes))
    thread.start()
    await_sleep(stack)
    stack.push(FRAG, FLOW, size=11, token=1)
    stack.wake_app()
    thread.join()
    assert got == [11]
    assert stack.get(APP_WAITS) == 0
    with pytest.raises(BlockingIOError):
        os.eventfd_read(stack.event)  # it has been read


def test_of_many_waiting_threads_each_gets_its_own(stack: FakeStack, listener: Listener) -> None:
    count = 8
    flows = [GENERATION + slot for slot in range(1, count + 1)]
    for flow in flows:
        stack.accept(flow)
    conns = [listener.accept(timeout=0) for _ in flows]
    got: dict[int, int] = {}

    def wait(conn: Connection) -> None:
        total = 0
        while batch := conn.recv_frags():
            total += batch.nbytes
        got[conn.id] = total

    threads = [threading.Thread(target=wait, args=(conn,)) for conn in conns]
    for thread in threads:
        thread.start()
    order = random.Random(1)
    for token in range(1, 401):
        await_sleep(stack)
        stack.push(FRAG, order.choice(flows), size=1, token=token)
        stack.wake_app()
        while stack.get(EVENT_TAIL) != stack.get(EVENT_HEAD):
            pass
    for flow in flows:
        stack.push(EOF, flow)
    stack.wake_app()  # if anyone sleeps: who is awake looks before
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert sum(got.values()) == 400


def test_waiting_ends_in_time(conn: Connection, listener: Listener, app: AppHalf) -> None:
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        conn.recv_frags(timeout=0.05)
    with pytest.raises(TimeoutError):
        listener.accept(timeout=0.05)
    assert not app.wait(timeout=0.05)
    assert 0.15 <= time.monotonic() - start < 30


def test_another_descriptor_ends_a_wait(stack: FakeStack, app: AppHalf) -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"x")
        assert not app.wait(timeout=None, extra_fd=reader)
    finally:
        os.close(reader)
        os.close(writer)


def test_what_is_ready_is_said_until_it_is_taken(
    stack: FakeStack, app: AppHalf, listener: Listener
) -> None:
    stack.accept(FLOW)
    stack.accept(FLOW + 1)
    assert app.ready() == app.ready() == [listener]
    one, other = listener.accept(), listener.accept()
    assert app.ready() == []
    stack.push(FRAG, FLOW + 1, size=1, token=1)
    stack.push(EOF, FLOW)
    assert app.ready() == app.ready() == [other, one]
    other.recv_frags()
    assert app.ready() == [one]  # an end stays
    one.close()
    assert app.ready() == []


def test_what_has_arrived_can_be_read_when_the_stack_is_dead(
    stack: FakeStack, conn: Connection, listener: Listener
) -> None:
    stack.push(FRAG, FLOW, size=4, token=1)
    stack.die()
    assert conn.recv_frags().nbytes == 4
    for call in (conn.recv_frags, listener.accept):
        with pytest.raises(OSError, match="eth1 is gone") as caught:
            call()
        assert caught.value.errno == errno.ENXIO
    conn.close()


def test_a_waiting_thread_learns_that_the_stack_has_died(
    stack: FakeStack, conn: Connection
) -> None:
    errors: list[OSError] = []

    def wait() -> None:
        try:
            conn.recv_frags()
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    await_sleep(stack)
    stack.die()
    for thread in threads:
        thread.join(60)
    assert [error.errno for error in errors] == [errno.ENXIO] * 3


def test_closing_ends_the_wait_of_another_thread(
    stack: FakeStack, listener: Listener, conn: Connection
) -> None:
    errors: list[int | None] = []

    def wait(call: Callable[[], object]) -> None:
        try:
            call()
        except OSError as error:
            errors.append(error.errno)

    threads = [
        threading.Thread(target=wait, args=(call,)) for call in (conn.recv_frags, listener.accept)
    ]
    for thread in threads:
        thread.start()
    await_sleep(stack)
    conn.close()
    threads[0].join(10)
    await_sleep(stack)
    listener.close()
    threads[1].join(10)
    assert errors == [errno.EBADF, errno.EBADF]


def test_the_channel_may_be_closed_below_a_waiting_thread(
    stack: FakeStack, app: AppHalf, conn: Connection
) -> None:
    errors: list[OSError] = []

    def wait() -> None:
        try:
            conn.recv_frags()
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    await_sleep(stack)
    app.close()
    stack.die()
    thread.join(60)
    assert [error.errno for error in errors] == [errno.ENXIO]
    with pytest.raises(OSError, match="the runtime is closed"):
        conn.recv_frags()
    conn.close()
