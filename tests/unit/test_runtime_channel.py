# SPDX-License-Identifier: Apache-2.0
"""The application's half of the channel, against a stack that the tests play."""

from __future__ import annotations

import errno
import gc
import os
import random
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devmemtcp.agent import Frag, HostFrag, NotInDeviceMemoryError, Region
from devmemtcp.agent._loop import ffi, lib
from devmemtcp.agent.devmem_abi import Kind, Reason
from devmemtcp.agent.socket import AppHalf, Connection, Listener, Received

from ..slowness import SLOWNESS
from .app.fake_stack import (
    ABORT,
    ACCEPT,
    APP_WAITS,
    BINDING,
    BLOCK,
    BLOCKS,
    CLOSE,
    CLOSED,
    DATA,
    DONTNEED,
    EOF,
    EVENT_HEAD,
    EVENT_TAIL,
    FLOW,
    FRAG,
    GENERATION,
    HEAD,
    LINEAR,
    LISTENER,
    MAGIC,
    NR_BLOCKS,
    NR_CONNS,
    NR_EVENTS,
    NR_REQUESTS,
    REGION,
    REPLY_MAX,
    REQUEST_HEAD,
    REQUEST_TAIL,
    RESET,
    SEND,
    SENT,
    SHUTDOWN,
    STACK_WAITS,
    UNBOUND,
    WHOLE,
    FakeStack,
)


@pytest.fixture
def stack() -> Iterator[FakeStack]:
    made = FakeStack()
    yield made
    made.close()


@pytest.fixture(scope="module")
def region() -> Iterator[Region]:
    with Region(REGION) as made:
        yield made


@pytest.fixture
def app(stack: FakeStack, region: Region) -> AppHalf:
    app = stack.open()
    app.add_region(BINDING, region)
    return app


@pytest.fixture
def listener(stack: FakeStack, app: AppHalf) -> Listener:
    made = Listener(app, LISTENER, ("192.0.2.1", 5201), False, lambda _: None)
    app.listeners[LISTENER] = made
    assert lib.app_listener(app.handle, LISTENER, 1) == 0
    return made


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
        stack.frag(token, token, 4096 * token, flow=flows[token % 3])
    for index, conn in enumerate(conns):
        got = conn.recv_frags(timeout=0)
        expected = [token for token in range(1, 31) if token % 3 == index]
        assert list(got) == [
            Frag(4096 * token, token, ours, BINDING) for ours, token in enumerate(expected, 1)
        ]
        assert got.nbytes == sum(expected)


def test_a_batch_is_no_larger_than_asked(stack: FakeStack, conn: Connection) -> None:
    for token in range(1, 6):
        stack.frag(1, token)
    assert [len(conn.recv_frags(2, timeout=0)) for _ in range(3)] == [2, 2, 1]
    with pytest.raises(TimeoutError):
        conn.recv_frags(timeout=0)
    with pytest.raises(ValueError, match="at least 1"):
        conn.recv_frags(0)


def test_the_end_of_the_stream_comes_after_its_bytes_and_stays(
    stack: FakeStack, conn: Connection
) -> None:
    stack.frag(7, 1)
    stack.push(EOF, FLOW)
    assert conn.recv_frags().nbytes == 7
    assert not conn.recv_frags()
    assert not conn.recv_frags()


def test_a_reset_comes_after_the_bytes_that_arrived(stack: FakeStack, conn: Connection) -> None:
    stack.frag(7, 1)
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
    stack.frag(1, 1)  # the old one's: nobody's
    stack.frag(2, 2, flow=FLOW + GENERATION)
    assert again.recv_frags(timeout=0).nbytes == 2
    assert again.peer == ("192.0.2.10", 40000)
    assert rejected(app) == 1


# ---- events that make no sense ----


def frag(**wrong: int) -> dict[str, int]:
    """A good event but for what is wrong with it."""
    return {"kind": FRAG, "flow": FLOW, "size": 1, "token": 1, "arg": BINDING} | wrong


def data(**wrong: int) -> dict[str, int]:
    return {"kind": DATA, "flow": FLOW, "size": 1, "token": 1, "arg": LINEAR | HEAD << 8} | wrong


@pytest.mark.parametrize(
    "event",
    [
        frag(size=0),
        frag(token=0),
        frag(offset=REGION),
        frag(size=2, offset=REGION - 1),
        frag(size=REGION + 1),
        frag(size=2, offset=2**64 - 1),
        frag(arg=0),
        frag(flow=FLOW + 1),
        frag(flow=FLOW + GENERATION),
        frag(flow=0),
        frag(flow=0xFFFFFFFF),
        data(size=0),
        data(token=0),
        data(token=NR_BLOCKS + 1, offset=NR_BLOCKS * BLOCK),
        data(token=2),
        data(offset=1, size=BLOCK),
        data(offset=BLOCK),
        data(offset=2**64 - 1),
        data(arg=0 | HEAD << 8),
        data(arg=3 | HEAD << 8),
        data(arg=LINEAR | 3 << 8),
        {"kind": ACCEPT, "flow": FLOW, "arg": LISTENER},
        {"kind": ACCEPT, "flow": 0, "arg": LISTENER},
        {"kind": ACCEPT, "flow": GENERATION + NR_CONNS, "arg": LISTENER},
        {"kind": SENT, "flow": FLOW, "arg": 1},
        {"kind": 0, "flow": FLOW},
        {"kind": 99, "flow": FLOW},
    ],
)
def test_an_event_that_makes_no_sense_is_counted_and_changes_nothing(
    stack: FakeStack, app: AppHalf, conn: Connection, event: dict[str, int]
) -> None:
    stack.push(**event)
    stack.frag(5, 9)
    assert [len(conn.recv_frags(timeout=0)), rejected(app)] == [1, 1]
    assert not stack.requests()


def test_bytes_after_the_end_are_not_taken(
    stack: FakeStack, app: AppHalf, conn: Connection
) -> None:
    stack.push(EOF, FLOW)
    stack.frag(1, 1)
    assert not conn.recv_frags(timeout=0)
    assert rejected(app) == 1


def test_an_index_that_cannot_be_ends_the_channel(stack: FakeStack, conn: Connection) -> None:
    stack.put(EVENT_HEAD, stack.get(EVENT_HEAD) + NR_EVENTS + 1)
    with pytest.raises(OSError, match="does not keep to the channel's rules"):
        conn.recv_frags()


def test_capacities_are_not_looked_at_twice(stack: FakeStack, conn: Connection) -> None:
    struct.pack_into("=4I", stack.memory, 4, 1 << 24, 1 << 24, 1 << 24, 1 << 18)
    stack.frag(3, 1)
    assert conn.recv_frags(timeout=0).nbytes == 3


@pytest.mark.parametrize(
    "header",
    [
        (0, NR_EVENTS, NR_REQUESTS, NR_CONNS, NR_BLOCKS),
        (MAGIC, NR_EVENTS + 1, NR_REQUESTS, NR_CONNS, NR_BLOCKS),
        (MAGIC, NR_EVENTS, 0, NR_CONNS, NR_BLOCKS),
        (MAGIC, NR_EVENTS, NR_REQUESTS, 0, NR_BLOCKS),
        (MAGIC, NR_EVENTS, NR_REQUESTS, NR_CONNS, 0),
        (MAGIC, NR_EVENTS, NR_REQUESTS, NR_CONNS, NR_BLOCKS + 1),  # more than the file holds
        (MAGIC, 1 << 24, NR_REQUESTS, NR_CONNS, NR_BLOCKS),
        (MAGIC, 1 << 25, NR_REQUESTS, NR_CONNS, NR_BLOCKS),
    ],
)
def test_a_header_that_does_not_hold_together_is_refused(
    stack: FakeStack, header: tuple[int, ...]
) -> None:
    gc.collect()  # earlier tests' channels
    before = len(os.listdir("/proc/self/fd"))
    struct.pack_into("=5I", stack.memory, 0, *header)
    with pytest.raises(OSError, match="cannot open the channel") as caught:
        stack.open()
    assert caught.value.errno == errno.EPROTO
    assert len(os.listdir("/proc/self/fd")) == before


@settings(max_examples=200, deadline=None)
@given(
    events=st.lists(
        st.tuples(
            st.integers(0, 9),
            st.sampled_from([FLOW, FLOW + 1, FLOW + GENERATION, 0, GENERATION, 0xFFFFFFFF]),
            st.sampled_from([0, 4096, REGION - 1, REGION, 2**64 - 1]),
            st.sampled_from([0, 1, 3840, REGION, 2**32 - 1]),
            st.sampled_from([0, 1, 2, 2**32 - 1]),
            st.sampled_from([0, 1, LISTENER, BINDING, LINEAR | HEAD << 8, WHOLE, 2**32 - 1]),
        ),
        max_size=60,
    )
)
def test_no_sequence_of_events_yields_a_fragment_outside_its_memory(
    events: list[tuple[int, ...]],
) -> None:
    stack = FakeStack()
    app = stack.open()
    try:
        lib.app_region(app.handle, BINDING, REGION, -1)
        lib.app_listener(app.handle, LISTENER, 1)
        stack.accept(FLOW)
        for event in events:
            stack.push(*event)
        out = ffi.new("struct app_frag[]", 64)
        flow = ffi.new("uint32_t *")
        addresses = ffi.new("struct stack_addr[2]")
        while lib.app_accept(app.handle, LISTENER, flow, addresses, addresses + 1) > 0:
            count = lib.app_take(app.handle, flow[0], out, 64)
            for frag in out[0 : max(0, count)]:
                size = {BINDING: REGION, 0: NR_BLOCKS * BLOCK}.get(frag.dmabuf_id, 2**65)
                assert frag.token
                assert frag.len
                assert frag.offset + frag.len <= size
            lib.app_dontneed(app.handle, flow[0], out, max(0, count))
            lib.app_finish(app.handle, flow[0], 0)
        assert stack.get(EVENT_TAIL) == stack.get(EVENT_HEAD)
    finally:
        app.close()
        stack.close()


ROOM = NR_EVENTS + NR_BLOCKS
"""Pieces that the application's half has room for."""


def lend_too_many(stack: FakeStack, app: AppHalf) -> int:
    """As many again as there is room for; returns how many those are."""
    token = 0
    while token < 2 * ROOM:
        while stack.get(EVENT_HEAD) - stack.get(EVENT_TAIL) < NR_EVENTS and token < 2 * ROOM:
            token += 1
            stack.frag(1, token)
        before = stack.get(EVENT_TAIL)
        app.ready()
        if stack.get(EVENT_TAIL) == before:
            break
    return token


def test_what_there_is_no_room_for_stays_in_the_ring(
    stack: FakeStack, app: AppHalf, conn: Connection
) -> None:
    """A stack that lends more than it may cannot make us allocate, or lose an event."""
    lent = lend_too_many(stack, app)
    assert lent == ROOM + NR_EVENTS
    assert app.ready() == [conn]
    got: list[int] = []
    while len(got) < lent:
        batch = conn.recv_frags(100, timeout=0)
        assert conn.dontneed(batch) == len(batch)
        got += stack.returned()
    assert got == list(range(1, lent + 1))


def test_a_ring_that_cannot_be_emptied_does_not_keep_others_from_emptying_it(
    stack: FakeStack, app: AppHalf, listener: Listener, conn: Connection
) -> None:
    """The waiting thread must not spin with the lock: it waits for what this one gives back."""
    stack.accept(FLOW + 1)
    other = listener.accept(timeout=0)
    left = lend_too_many(stack, app)
    ended: list[int] = []
    waits = threading.Thread(
        target=lambda: ended.append(len(other.recv_frags(timeout=30 * SLOWNESS)))
    )
    waits.start()
    while not stack.get(APP_WAITS):
        os.sched_yield()
    start = time.monotonic()
    while left:
        left -= conn.dontneed(conn.recv_frags(NR_EVENTS, timeout=0))
        stack.requests()
    stack.push(EOF, other.id)
    stack.wake_app()
    waits.join()
    assert ended == [0]
    assert time.monotonic() - start < 10


# ---- the three kinds of bytes ----


def mixed(stack: FakeStack) -> None:
    """Two packets of linear and device bytes, one of host bytes alone."""
    stack.data(b"ab", LINEAR)
    stack.frag(100, 11, 4096)
    stack.data(b"whole", WHOLE, UNBOUND)
    stack.data(b"cde", LINEAR)
    stack.frag(200, 12, 8192)


def test_a_batch_has_all_kinds_in_the_streams_order(stack: FakeStack, conn: Connection) -> None:
    mixed(stack)
    batch = conn.recv_frags(timeout=0)
    assert list(batch.pieces()) == [
        HostFrag(b"ab", 1, Kind.LINEAR, Reason.HEAD),
        (4096, 100, 2, BINDING),
        HostFrag(b"whole", 3, Kind.DATA, Reason.UNBOUND),
        HostFrag(b"cde", 4, Kind.LINEAR, Reason.HEAD),
        (8192, 200, 5, BINDING),
    ]
    with pytest.raises(NotInDeviceMemoryError, match="2 bytes are in host memory"):
        list(batch)
    assert batch.nbytes == 310
    assert conn.received == Received(device=300, linear=5, data=5, unbound=5, head=5)
    assert (conn.bytes_device, conn.bytes_linear, conn.bytes_data) == (300, 5, 5)
    assert conn.dontneed(batch) == 5
    assert stack.requests() == [
        (BLOCKS, FLOW, 1, 1),
        (DONTNEED, FLOW, 11, 1),
        (BLOCKS, FLOW, 2, 2),
        (DONTNEED, FLOW, 12, 1),
    ]
    conn.close()
    assert conn.received.device == 300


def test_a_batch_gives_its_tokens_back_at_the_end_of_a_block(
    stack: FakeStack, conn: Connection
) -> None:
    for token in (71, 72):
        stack.frag(1, token)
    with conn.recv_frags() as batch:
        assert len(batch) == 2
        assert not stack.requests()
    assert stack.returned() == [71, 72]
    stack.frag(1, 73)
    with conn.recv_frags():
        conn.close()  # gives all back
    stack.push(EOF, FLOW)


def test_all_kinds_are_read_through_the_batch(
    stack: FakeStack, conn: Connection, region: Region
) -> None:
    os.pwrite(region.fd, b"D" * 300, 4096)
    os.pwrite(region.fd, b"E" * 300, 8192)
    mixed(stack)
    batch = conn.recv_frags(timeout=0)
    expected = b"ab" + b"D" * 100 + b"wholecde" + b"E" * 200
    copied = bytearray(310)
    reader, writer = os.pipe()
    try:
        with region.map() as view:
            assert batch.copy_to(copied, view) == 310
            assert batch.write_to(writer, view) == 310
            assert batch.device_bytes(view) == 300
        assert bytes(copied) == os.read(reader, 1000) == expected
    finally:
        os.close(reader)
        os.close(writer)
    mixed(stack)
    copied = bytearray(1000)
    assert conn.gather_into(copied) == 310
    assert bytes(copied[:310]) == expected
    assert len(stack.requests()) == 4  # it keeps nothing


def test_a_batch_is_of_one_binding(stack: FakeStack, conn: Connection) -> None:
    for token, binding in enumerate((BINDING, BINDING, 9, BINDING), 1):
        stack.push(FRAG, FLOW, 4096, 1, token, binding)
    ids = [[frag[3] for frag in conn.recv_frags(timeout=0)] for _ in range(3)]
    assert ids == [[BINDING, BINDING], [9], [BINDING]]


def test_a_strict_connection_refuses_host_bytes_and_says_why(
    stack: FakeStack, conn: Connection
) -> None:
    conn.strict = True
    stack.frag(100, 11, 4096)
    stack.data(b"whole", WHOLE, UNBOUND)
    stack.data(b"ab", LINEAR)
    assert conn.recv_frags(timeout=0).nbytes == 100
    for call in (conn.recv_frags, lambda: conn.gather_into(bytearray(9))):
        with pytest.raises(NotInDeviceMemoryError, match="without a binding") as caught:
            call()
        assert caught.value.reason is Reason.UNBOUND
        assert caught.value.errno == errno.ENODEV
    conn.strict = False
    assert conn.gather_into(bytearray(5)) == 5
    conn.strict = True
    with pytest.raises(NotInDeviceMemoryError, match="with the headers") as caught:
        conn.recv_frags()
    assert caught.value.reason is Reason.HEAD


def test_a_binding_without_a_region_cannot_be_copied_from(
    stack: FakeStack, app: AppHalf, conn: Connection
) -> None:
    stack.push(FRAG, FLOW, 4096, 3, 1, BINDING + 1)
    with pytest.raises(OSError, match="no mapping") as caught:
        conn.gather_into(bytearray(3))
    assert caught.value.errno == errno.EADDRNOTAVAIL
    with Region(REGION) as other:
        os.pwrite(other.fd, b"xyz", 4096)
        app.add_region(BINDING + 1, other)
    got = bytearray(3)
    assert conn.gather_into(got) == 3  # its descriptor is not needed any more
    assert got == b"xyz"
    app.remove_region(BINDING + 1)
    stack.push(FRAG, FLOW, 1 << 40, 3, 1, BINDING + 1)
    assert [frag[0] for frag in conn.recv_frags()] == [1 << 40]


@settings(max_examples=300, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4096)), min_size=1, max_size=40),
    rooms=st.lists(st.integers(1, 9000), min_size=1, max_size=8),
    seed=st.integers(0, 2**32),
)
def test_gathered_bytes_are_those_of_the_stream(
    sizes: list[tuple[int, int]], rooms: list[int], seed: int
) -> None:
    rng, stack = random.Random(seed), FakeStack(nr_blocks=64)
    app = stack.open()
    try:
        with Region(REGION) as region:
            app.add_region(BINDING, region)
            lib.app_listener(app.handle, LISTENER, 1)
            stack.accept(FLOW)
            conn = Listener(app, LISTENER, ("192.0.2.1", 1), False, lambda _: None).accept()
            sent = bytearray()
            for number, (kind, size) in enumerate(sizes, 1):
                data = rng.randbytes(size)
                sent += data
                if kind:
                    stack.data(data, kind)
                else:
                    os.pwrite(region.fd, data, 4096 * number)
                    stack.frag(size, number, 4096 * number)
            stack.push(EOF, FLOW)
            got, turn = bytearray(), 0
            while True:
                room = bytearray(rooms[turn % len(rooms)])
                turn += 1
                if not (count := conn.gather_into(room, timeout=0)):
                    break
                got += room[:count]
            assert got == sent
            kept = conn.info()
            assert kept is not None
            assert (kept.tokens, kept.queued) == (0, 0)
            assert sum(b for kind, _, _, b in stack.requests()) == len(sizes)
    finally:
        app.close()
        stack.close()


# ---- requests ----


def lend(stack: FakeStack, conn: Connection, *tokens: int) -> list[int]:
    """Fragments that the stack calls so; returns what the application calls them."""
    for token in tokens:
        stack.frag(1, token)
    return [frag[2] for frag in conn.recv_frags(timeout=0)]


def test_neighbouring_tokens_are_one_request(stack: FakeStack, conn: Connection) -> None:
    ours = lend(stack, conn, 5, 6, 7, 9, 1, 2, 4)
    assert ours == [1, 2, 3, 4, 5, 6, 7]
    assert conn.dontneed(ours) == 7
    assert stack.requests() == [
        (DONTNEED, FLOW, 5, 3),
        (DONTNEED, FLOW, 9, 1),
        (DONTNEED, FLOW, 1, 2),
        (DONTNEED, FLOW, 4, 1),
    ]
    assert conn.dontneed([]) == 0
    assert conn.dontneed(ours) == 0  # unknown by now
    assert not stack.requests()


def test_a_request_names_no_more_tokens_than_the_stack_takes() -> None:
    stack = FakeStack(nr_events=4096)
    app = stack.open()
    lib.app_listener(app.handle, LISTENER, 1)
    stack.accept(FLOW)
    conn = Listener(app, LISTENER, ("192.0.2.1", 1), False, lambda _: None).accept()
    for token in range(1, 2501):
        stack.frag(1, token)
    assert conn.dontneed(conn.recv_frags(4096)) == 2500
    assert stack.requests() == [
        (DONTNEED, FLOW, 1, 1024),
        (DONTNEED, FLOW, 1025, 1024),
        (DONTNEED, FLOW, 2049, 452),
    ]
    app.close()
    stack.close()


def test_tokens_are_the_lowest_free_ones(stack: FakeStack, conn: Connection) -> None:
    assert lend(stack, conn, 100, 200, 300) == [1, 2, 3]
    assert conn.dontneed([2]) == 1
    assert lend(stack, conn, 400, 500) == [2, 4]
    assert conn.dontneed([3, 2, 9]) == 2
    assert stack.returned() == [200, 300, 400]


def test_the_stack_is_woken_only_when_it_sleeps_and_once(
    stack: FakeStack, conn: Connection
) -> None:
    lend(stack, conn, 1, 2, 3)
    conn.dontneed([1])
    assert not stack.woken()
    stack.put(STACK_WAITS, 1)
    conn.dontneed([2])
    conn.dontneed([3])
    assert stack.woken() == 1
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
    stack.frag(1, 1)
    conn.close()
    assert stack.requests() == [(ABORT, FLOW, 0, 0)]
    stack.frag(1, 2)  # was on its way
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
    stack.frag(1, 1)
    assert conn.recv_frags(timeout=0).nbytes == 1  # accepted ones live on


def fill_requests(stack: FakeStack, conn: Connection) -> int:
    """No request fits any more; returns a token that is not given back yet."""
    for number in range(NR_REQUESTS // 64):
        for token in lend(stack, conn, *range(1 + 128 * number, 129 + 128 * number, 2)):
            conn.dontneed([token])
    assert stack.get(REQUEST_HEAD) - stack.get(REQUEST_TAIL) == NR_REQUESTS
    return lend(stack, conn, 1000, 2000)[0]


def test_a_full_request_ring_fails_when_the_stack_is_dead(
    stack: FakeStack, conn: Connection
) -> None:
    last = fill_requests(stack, conn)
    stack.die()
    with pytest.raises(OSError, match="eth1 is gone"):
        conn.dontneed([last])


def test_a_full_request_ring_is_not_waited_for_for_ever(stack: FakeStack, conn: Connection) -> None:
    last = fill_requests(stack, conn)
    for token in (last, last + 1):
        with pytest.raises(OSError, match="does not keep to the channel's rules"):
            conn.dontneed([token])


def test_a_full_request_ring_waits_for_the_stack(stack: FakeStack, conn: Connection) -> None:
    last = fill_requests(stack, conn)
    taken: list[tuple[int, int, int, int]] = []

    def run_stack() -> None:
        select.select([stack.wake], [], [])
        taken.extend(stack.requests())

    thread = threading.Thread(target=run_stack)
    thread.start()
    assert conn.dontneed([last]) == 1
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


def test_replies_are_not_overwritten_before_the_stack_has_taken_them(
    stack: FakeStack, conn: Connection
) -> None:
    """Acknowledged ones neither: what a stack says is one thing, what it has read another."""
    chunks = [bytes([number]) * REPLY_MAX for number in range(1, 6)]
    for chunk in chunks[:4]:  # all the room there is
        assert conn.send(chunk) == REPLY_MAX
        stack.push(SENT, FLOW, arg=REPLY_MAX)
    taken: list[bytes] = []

    def run_stack() -> None:
        select.select([stack.wake], [], [])
        replies = stack.replies()  # before it says that it has taken them
        taken.extend(replies[at : at + size] for _, _, at, size in stack.requests())

    thread = threading.Thread(target=run_stack)
    thread.start()
    assert conn.send(chunks[4]) == REPLY_MAX
    thread.join()
    assert b"".join(taken) == b"".join(chunks[:4])
    assert b"".join(stack.reply(at, size) for _, _, at, size in stack.requests()) == chunks[4]


def test_many_peers_that_do_not_read_do_not_fill_the_stacks_pages() -> None:
    """A reply that is not acknowledged holds pages there: too many, and others must wait."""
    stack = FakeStack(nr_conns=128)
    app = stack.open()
    lib.app_listener(app.handle, LISTENER, 1)
    listener = Listener(app, LISTENER, ("192.0.2.1", 1), False, lambda _: None)
    conns, waiting, queued = [], [], 0
    for slot in range(1, 128):
        stack.accept(GENERATION + slot)
        conns.append(listener.accept(timeout=0))
    for conn in conns:
        try:
            queued += conn.send(bytes(REPLY_MAX), timeout=0)
        except TimeoutError as full:
            queued += full.args[1]
            waiting.append(conn)
        stack.requests()
    assert queued <= 4 << 20
    assert waiting
    stack.push(SENT, conns[0].id, arg=REPLY_MAX)
    assert waiting[-1].send(b"x", timeout=0) == 1
    app.close()
    stack.close()


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
    deadline = time.monotonic() + 60 * SLOWNESS
    while not stack.get(APP_WAITS):
        assert time.monotonic() < deadline, "nobody went to sleep"


def test_the_application_says_that_it_sleeps_and_wakes_up(
    stack: FakeStack, conn: Connection
) -> None:
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(conn.recv_frags().nbytes))
    thread.start()
    await_sleep(stack)
    stack.frag(11, 1)
    stack.wake_app()
    thread.join()
    assert got == [11]
    assert stack.get(APP_WAITS) == 0
    with pytest.raises(BlockingIOError):
        os.read(stack.events, 8)  # it has been read


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
            conn.dontneed(batch)
        got[conn.id] = total

    threads = [threading.Thread(target=wait, args=(conn,)) for conn in conns]
    for thread in threads:
        thread.start()
    order = random.Random(1)
    for token in range(1, 401):
        await_sleep(stack)
        stack.frag(1, token, flow=order.choice(flows))
        stack.wake_app()
        while stack.get(EVENT_TAIL) != stack.get(EVENT_HEAD):
            pass
        stack.requests()
    for flow in flows:
        stack.push(EOF, flow)
    stack.wake_app()  # if anyone sleeps: who is awake looks before
    for thread in threads:
        thread.join(60 * SLOWNESS)
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


def test_a_wait_does_not_end_early(stack: FakeStack, app: AppHalf) -> None:
    """Wherever in a millisecond it begins, and however often it looks at the time."""
    done = threading.Event()

    def nudge() -> None:
        while not done.wait(0.0005):
            stack.wake_app()

    nudger = threading.Thread(target=nudge)
    nudger.start()
    try:
        for _ in range(50):
            start = time.monotonic()
            assert not app.wait(timeout=0.003)
            assert time.monotonic() - start >= 0.003
    finally:
        done.set()
        nudger.join()


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
    stack.frag(1, 1, flow=FLOW + 1)
    stack.push(EOF, FLOW)
    assert app.ready() == app.ready() == [other, one]
    other.recv_frags()
    assert app.ready() == [one]  # an end stays
    one.close()
    assert app.ready() == []


def test_what_has_arrived_can_be_read_when_the_stack_is_dead(
    stack: FakeStack, conn: Connection, listener: Listener
) -> None:
    stack.frag(4, 1)
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
        thread.join(60 * SLOWNESS)
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
    threads[0].join(10 * SLOWNESS)
    await_sleep(stack)
    listener.close()
    threads[1].join(10 * SLOWNESS)
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
    thread.join(60 * SLOWNESS)
    assert [error.errno for error in errors] == [errno.ENXIO]
    with pytest.raises(OSError, match="the runtime is closed"):
        conn.recv_frags()
    conn.close()
