# SPDX-License-Identifier: Apache-2.0
"""page_pool and frag tracker through cffi, against a model of sets and counters."""

import errno
from collections import Counter
from collections.abc import Iterable
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from devmemtcp.stack._memory import ffi, lib

NR_NIOVS = 90
NR_PAGES = 12
RING = 16
REGION_BASE = 0x200000
DMA_MAP, DMA_SYNC_DEV, ALLOW_UNREADABLE = 1, 2, 8
DEVICE_FLAGS = DMA_MAP | DMA_SYNC_DEV | ALLOW_UNREADABLE
BIDIRECTIONAL, TO_DEVICE, FROM_DEVICE = 0, 1, 2


class Kind(IntEnum):
    HOST_PAGE = 0
    NET_IOV = 1


class State(IntEnum):
    FREE = 0
    FILL = 1
    RECEIVED = 2
    OOO = 3
    LENT = 4
    RETURNED = 5
    TX = 6


# From most to least exposed: the state a net_iov with several parts shows.
EXPOSURE = (State.LENT, State.OOO, State.RECEIVED)


def new_memory(niovs: int = NR_NIOVS, pages: int = NR_PAGES, ring: int = RING) -> Any:
    memory = lib.memory_new(niovs, pages, ring, REGION_BASE)
    assert memory != ffi.NULL
    return ffi.gc(memory, lib.memory_free)


@pytest.fixture
def memory() -> Any:
    return new_memory()


def record(memory: Any, buffer: int) -> Any:
    out = ffi.new("struct memory_record *")
    assert lib.memory_record(memory, buffer, out) == 0
    return out


def pool_stats(memory: Any, kind: Kind) -> Any:
    out = ffi.new("struct memory_pool_stats *")
    lib.memory_pool_stats(memory, kind, out)
    return out


def netmem(memory: Any, buffer: int) -> Any:
    out = ffi.new("struct memory_netmem *")
    lib.memory_netmem(memory, buffer, out)
    return out


def test_first_allocations_ascend(memory: Any) -> None:
    numbers = [lib.memory_alloc(memory, Kind.NET_IOV) for _ in range(NR_NIOVS)]
    assert numbers == list(range(NR_NIOVS))
    assert lib.memory_alloc(memory, Kind.NET_IOV) == -errno.ENOMEM
    assert lib.memory_alloc(memory, Kind.HOST_PAGE) == NR_NIOVS


def test_a_net_iov_is_no_page(memory: Any) -> None:
    niov = netmem(memory, 3)
    assert niov.is_net_iov
    assert not niov.has_page
    assert not niov.has_address
    assert niov.ref_count == 1
    assert niov.dma_addr == 3 * 8192 + 4096
    page = netmem(memory, NR_NIOVS + 3)
    assert not page.is_net_iov
    assert page.has_page
    assert page.has_address
    assert page.dma_addr == 3 * 4096


def test_asking_for_the_page_of_a_net_iov_warns_once(memory: Any) -> None:
    count, hits = lib.memory_warning_count(), lib.memory_warning_hits()
    assert lib.memory_to_page(memory, NR_NIOVS)
    assert lib.memory_warning_hits() == hits
    for _ in range(3):
        assert not lib.memory_to_page(memory, 0)
    assert lib.memory_warning_hits() == hits + 3
    # Other tests of this process may have been the site's first.
    assert lib.memory_warning_count() - count in (0, 1)
    count = lib.memory_warning_count()
    assert not lib.memory_to_page(memory, 0)
    assert lib.memory_warning_count() == count


def test_records_name_every_buffer(memory: Any) -> None:
    for n in range(NR_NIOVS + NR_PAGES):
        entry = record(memory, n)
        index = n if n < NR_NIOVS else n - NR_NIOVS
        assert entry.kind == (Kind.NET_IOV if n < NR_NIOVS else Kind.HOST_PAGE)
        assert entry.index == index
        assert entry.offset == 4096 * index + (REGION_BASE if n < NR_NIOVS else 0)
        assert (entry.state, entry.owner) == (State.FREE, 0)
    out = ffi.new("struct memory_record *")
    assert lib.memory_record(memory, NR_NIOVS + NR_PAGES, out) == -errno.ENOENT


@pytest.mark.parametrize(
    ("expected", "flags", "order", "direction", "max_len"),
    [
        (0, DEVICE_FLAGS, 0, FROM_DEVICE, 4096),
        (0, DEVICE_FLAGS, 0, BIDIRECTIONAL, 4096),
        (errno.EINVAL, DEVICE_FLAGS | 16, 0, FROM_DEVICE, 4096),
        (errno.EINVAL, DEVICE_FLAGS, 0, TO_DEVICE, 4096),
        (errno.EINVAL, DEVICE_FLAGS, 0, FROM_DEVICE, 0),
        (errno.EINVAL, DMA_SYNC_DEV | ALLOW_UNREADABLE, 0, FROM_DEVICE, 4096),
        (errno.EOPNOTSUPP, DMA_MAP | ALLOW_UNREADABLE, 0, FROM_DEVICE, 4096),
        (errno.EOPNOTSUPP, DMA_MAP | DMA_SYNC_DEV, 0, FROM_DEVICE, 4096),
        (errno.E2BIG, DEVICE_FLAGS, 1, FROM_DEVICE, 4096),
    ],
)
def test_pool_parameters(
    memory: Any, expected: int, flags: int, order: int, direction: int, max_len: int
) -> None:
    assert lib.memory_try_pool(memory, flags, order, 0, direction, max_len) == -expected


def test_sizes_of_nothing_are_refused() -> None:
    assert lib.memory_new(0, 1, 0, 0) == ffi.NULL
    assert lib.memory_new(1, 0, 0, 0) == ffi.NULL
    assert lib.memory_new(1, 1, 0, 100) == ffi.NULL


def test_destroying_waits_for_what_is_in_use(memory: Any) -> None:
    buffer = lib.memory_alloc(memory, Kind.NET_IOV)
    assert lib.memory_destroy_pool(memory, Kind.NET_IOV) == 1
    lib.memory_put(memory, buffer, True)
    assert lib.memory_destroy_pool(memory, Kind.NET_IOV) == 0
    assert pool_stats(memory, Kind.NET_IOV).in_provider == NR_NIOVS


class MemoryMachine(RuleBasedStateMachine):
    """The data path's life of buffers: what the stack does, in any order that is legal."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = new_memory()
        self.fill: list[int] = []
        self.parts: dict[int, Counter[State]] = {}
        self.owner: dict[int, int] = {}
        self.tx: dict[int, int] = {}

    def pick(self, data: st.DataObject, buffers: Iterable[int]) -> int:
        buffer: int = data.draw(st.sampled_from(sorted(buffers)))
        return buffer

    def with_part(self, *states: State) -> list[int]:
        return [n for n, parts in self.parts.items() if any(parts[state] for state in states)]

    def end_part(self, buffer: int, state: State, direct: bool) -> None:
        """What dropping a part and its reference comes to, in the model and in the core."""
        parts = self.parts[buffer]
        ended = State.RETURNED if state is State.LENT else State.FREE
        parts[state] -= 1
        lib.memory_move(self.memory, buffer, state, ended)
        if not parts.total():
            del self.parts[buffer], self.owner[buffer]
            if ended is State.RETURNED:
                assert record(self.memory, buffer).state == State.RETURNED
                lib.memory_track(self.memory, buffer, State.FREE, 0)
        lib.memory_put(self.memory, buffer, direct)

    @rule(wanted=st.integers(1, 64))
    def refill(self, wanted: int) -> None:
        free = NR_NIOVS - len(self.fill) - len(self.parts)
        for i in range(wanted):
            buffer = lib.memory_alloc(self.memory, Kind.NET_IOV)
            if i >= free:
                assert buffer == -errno.ENOMEM
                return
            assert 0 <= buffer < NR_NIOVS
            assert buffer not in self.fill
            assert buffer not in self.parts
            lib.memory_track(self.memory, buffer, State.FILL, 0)
            self.fill.append(buffer)

    @precondition(lambda self: self.fill)
    @rule(
        count=st.integers(1, 30),
        to=st.sampled_from([State.RECEIVED, State.OOO]),
        flow=st.integers(1, 9),
    )
    def receive(self, count: int, to: State, flow: int) -> None:
        for buffer in self.fill[:count]:
            lib.memory_track(self.memory, buffer, to, flow)
            self.parts[buffer] = Counter({to: 1})
            self.owner[buffer] = flow
        del self.fill[:count]

    @precondition(lambda self: self.fill)
    @rule(direct=st.booleans())
    def drop_packet(self, direct: bool) -> None:
        buffer = self.fill.pop(0)
        lib.memory_track(self.memory, buffer, State.FREE, 0)
        lib.memory_put(self.memory, buffer, direct)

    @precondition(lambda self: self.parts)
    @rule(data=st.data(), state=st.sampled_from(EXPOSURE))
    def split(self, data: st.DataObject, state: State) -> None:
        buffer = self.pick(data, self.parts)
        lib.memory_ref(self.memory, buffer)
        lib.memory_split(self.memory, buffer, state)
        self.parts[buffer][state] += 1

    @precondition(lambda self: self.with_part(State.OOO))
    @rule(data=st.data())
    def fill_hole(self, data: st.DataObject) -> None:
        buffer = self.pick(data, self.with_part(State.OOO))
        lib.memory_move(self.memory, buffer, State.OOO, State.RECEIVED)
        self.parts[buffer] += Counter({State.RECEIVED: 1})
        self.parts[buffer][State.OOO] -= 1

    @precondition(lambda self: self.with_part(State.RECEIVED))
    @rule()
    def deliver_everything(self) -> None:
        for buffer in self.with_part(State.RECEIVED):
            for _ in range(self.parts[buffer][State.RECEIVED]):
                lib.memory_move(self.memory, buffer, State.RECEIVED, State.LENT)
            self.parts[buffer][State.LENT] += self.parts[buffer][State.RECEIVED]
            self.parts[buffer][State.RECEIVED] = 0

    @precondition(lambda self: self.with_part(State.LENT))
    @rule(data=st.data(), direct=st.booleans())
    def return_token(self, data: st.DataObject, direct: bool) -> None:
        self.end_part(self.pick(data, self.with_part(State.LENT)), State.LENT, direct)

    @precondition(lambda self: self.with_part(State.LENT))
    @rule(direct=st.booleans())
    def return_all_tokens(self, direct: bool) -> None:
        for buffer in self.with_part(State.LENT):
            for _ in range(self.parts[buffer][State.LENT]):
                self.end_part(buffer, State.LENT, direct)

    @precondition(lambda self: self.with_part(State.OOO, State.RECEIVED))
    @rule(data=st.data(), direct=st.booleans())
    def discard_queued(self, data: st.DataObject, direct: bool) -> None:
        buffer = self.pick(data, self.with_part(State.OOO, State.RECEIVED))
        state = State.OOO if self.parts[buffer][State.OOO] else State.RECEIVED
        self.end_part(buffer, state, direct)

    @rule(flow=st.integers(0, 9))
    def transmit(self, flow: int) -> None:
        buffer = lib.memory_alloc(self.memory, Kind.HOST_PAGE)
        if len(self.tx) == NR_PAGES:
            assert buffer == -errno.ENOMEM
            return
        assert buffer >= NR_NIOVS
        assert buffer not in self.tx
        lib.memory_track(self.memory, buffer, State.TX, flow)
        self.tx[buffer] = flow

    @precondition(lambda self: self.tx)
    @rule(data=st.data(), direct=st.booleans())
    def transmitted(self, data: st.DataObject, direct: bool) -> None:
        buffer = self.pick(data, self.tx)
        del self.tx[buffer]
        lib.memory_track(self.memory, buffer, State.FREE, 0)
        lib.memory_put(self.memory, buffer, direct)

    @invariant()
    def everything_is_accounted_for(self) -> None:
        assert lib.memory_check(self.memory) == 0
        in_use = {Kind.NET_IOV: len(self.fill) + len(self.parts), Kind.HOST_PAGE: len(self.tx)}
        for kind, total in ((Kind.NET_IOV, NR_NIOVS), (Kind.HOST_PAGE, NR_PAGES)):
            stats = pool_stats(self.memory, kind)
            assert lib.memory_available(self.memory, kind) == total - in_use[kind]
            assert lib.memory_inflight(self.memory, kind) == total - stats.in_provider
            assert stats.in_cache + stats.in_ring + stats.in_provider == total - in_use[kind]

    @invariant()
    def states_are_the_models(self) -> None:
        expected = dict.fromkeys(self.fill, (State.FILL, 0, 1))
        expected |= {buffer: (State.TX, flow, 1) for buffer, flow in self.tx.items()}
        for buffer, parts in self.parts.items():
            shown = next(state for state in EXPOSURE if parts[state])
            expected[buffer] = (shown, self.owner[buffer], parts.total())
        for buffer in range(NR_NIOVS + NR_PAGES):
            entry = record(self.memory, buffer)
            if buffer in expected:
                assert (entry.state, entry.owner, entry.refs) == expected[buffer]
            else:
                assert (entry.state, entry.owner) == (State.FREE, 0)

    @invariant()
    def counts_are_the_models(self) -> None:
        shown = Counter(
            next(state for state in EXPOSURE if parts[state]) for parts in self.parts.values()
        )
        shown[State.FILL] = len(self.fill)
        shown[State.FREE] = NR_NIOVS - shown.total()
        for state in State:
            assert lib.memory_count(self.memory, Kind.NET_IOV, state) == shown[state]
        assert lib.memory_count(self.memory, Kind.HOST_PAGE, State.TX) == len(self.tx)

    def teardown(self) -> None:
        """Whatever was done: with every buffer put, nothing is in flight."""
        for buffer in list(self.parts):
            for state, count in list(self.parts[buffer].items()):
                for _ in range(count):
                    self.end_part(buffer, state, True)
        for buffer in [*self.fill, *self.tx]:
            lib.memory_track(self.memory, buffer, State.FREE, 0)
            lib.memory_put(self.memory, buffer, True)
        assert lib.memory_check(self.memory) == 0
        for kind in Kind:
            assert lib.memory_destroy_pool(self.memory, kind) == 0
            assert lib.memory_inflight(self.memory, kind) == 0


MemoryMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMemory = MemoryMachine.TestCase
