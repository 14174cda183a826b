# SPDX-License-Identifier: Apache-2.0
"""Headers that come by a slot of a map: the loop takes those of this packet, or none.

This file is NIC and XDP program: it numbers packets, fills slots, and does both wrongly.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devmemtcp.agent._loop import ffi, lib

from ..rx_metadata import MAGIC, META_LEN, REF_SIZE, SLOT_SIZE, RxInfo, Slot, SlotRef
from .loop_machine import NIOVS, PAGE, Machine, Nic, Peer, received, until

HEADERS_SLOT = 1
SLOTS = 8
BUSY = 2**64 - 1


class SlotNic(Nic):
    """Heads go to slots, by the packet's number; `spoil` may change them before they are seen."""

    def __init__(self, machine: Machine, slots: mmap.mmap) -> None:
        self.slots = slots
        self.number = SLOTS * 5
        self.spoil: Callable[[int, Slot], tuple[bytes, Slot]] | None = None
        super().__init__(machine)

    def put_head(self, end: int, info: RxInfo, headers: bytes) -> None:
        self.number += 1
        ref, slot = SlotRef(MAGIC, 0, self.number).pack(), Slot(self.number, info, headers)
        if self.spoil is not None:
            ref, slot = self.spoil(self.number, slot)
        at = self.number % SLOTS * SLOT_SIZE
        self.slots[at : at + SLOT_SIZE] = slot.pack()
        self.memory[end - META_LEN : end] = ref.rjust(META_LEN, b"\xee")

    def lost(self) -> int:
        stack, _ = self.stats()  # the array is no owner of its memory
        return int(stack.drops[lib.DROP_NO_HEAD])

    def refused(self) -> int:
        """Drops of any other kind."""
        return int(sum(self.stats()[0].drops)) - self.lost()


def machine_with(slots: mmap.mmap) -> Machine:
    return Machine(1, header_path=HEADERS_SLOT, heads=ffi.from_buffer(slots), nr_heads=SLOTS)


@pytest.fixture
def nic() -> Iterator[SlotNic]:
    slots = mmap.mmap(-1, SLOTS * SLOT_SIZE)
    machine = machine_with(slots)
    assert machine.listen(machine.open_app()) >= 0
    made = SlotNic(machine, slots)
    machine.start()
    yield made
    machine.close()
    made.close()


@pytest.fixture
def peer(nic: SlotNic) -> Peer:
    return Peer(nic)


def test_heads_are_found_wherever_they_are(nic: SlotNic, peer: Peer) -> None:
    for size in range(1, 3 * SLOTS + 1):
        peer.deliver(size)
        nic.arrived()
        assert until(lambda: len(nic.rx) == 0)
    assert until(lambda: received(nic) == 3 * SLOTS * (3 * SLOTS + 1) // 2)
    assert (nic.lost(), nic.refused()) == (0, 0)
    assert lib.loop_check(nic.loop) == 0


Spoiler = Callable[[int, Slot], tuple[bytes, Slot]]


def named(number: int, magic: int = MAGIC) -> bytes:
    return SlotRef(magic, 0, number).pack()


SPOILED: dict[str, Spoiler] = {
    "the slot has a later packet": lambda n, slot: (named(n), slot._replace(seq=n + SLOTS)),
    "the slot has an earlier packet": lambda n, slot: (named(n), slot._replace(seq=n - SLOTS)),
    "the slot is being written": lambda n, slot: (named(n), slot._replace(seq=BUSY)),
    "the slot was given up": lambda n, slot: (named(n), slot._replace(seq=0)),
    "another slot is named": lambda n, slot: (named(n + 1), slot),
    "no slot is named": lambda n, slot: (named(n, magic=0), slot),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_slot_that_is_another_packets_is_not_believed(
    nic: SlotNic, peer: Peer, spoil: Spoiler
) -> None:
    nic.spoil = spoil
    nic.deliver(peer.segment("A"), (10,))
    nic.arrived()
    assert until(lambda: nic.lost() == 1)
    nic.spoil = None
    peer.deliver(10)  # the same bytes again, as a sender would
    nic.arrived()
    assert until(lambda: received(nic) == 10)
    assert (nic.lost(), nic.refused()) == (1, 0)
    assert until(lambda: nic.stats()[0].niovs_fill == len(nic.fill))  # the buffer was given back
    assert lib.loop_check(nic.loop) == 0


def test_a_packet_of_several_chunks_goes_back_whole(nic: SlotNic, peer: Peer) -> None:
    nic.spoil = SPOILED["the slot has a later packet"]
    nic.deliver(peer.segment("A"), (3840, 3840, 5))
    nic.arrived()
    assert until(lambda: nic.lost() == 1)
    stack = nic.stats()[0]
    assert (stack.niovs_fill, stack.niovs_lent) == (len(nic.fill), 0)
    assert stack.niovs_free + stack.niovs_fill == NIOVS


def test_what_an_earlier_packet_left_in_a_slot_is_not_looked_at(nic: SlotNic, peer: Peer) -> None:
    """Headers get shorter by timestamps, and behind them are those of before."""
    options = [("Timestamp", (1, 2)), ("NOP", None), ("NOP", None)]
    for size in range(1, SLOTS + 1):
        nic.deliver(peer.segment("A", options=options), (size,))
        peer.seq += size
    nic.arrived()
    assert until(lambda: received(nic) == SLOTS * (SLOTS + 1) // 2)
    for _ in range(SLOTS):
        peer.deliver(7)
    nic.arrived()
    assert until(lambda: received(nic) == SLOTS * (SLOTS + 1) // 2 + 7 * SLOTS)
    assert (nic.lost(), nic.refused()) == (0, 0)


GARBAGE = st.one_of(
    st.binary(min_size=SLOT_SIZE - 8, max_size=SLOT_SIZE - 8),
    st.builds(  # what may get further
        lambda info, head: (info.pack() + head).ljust(SLOT_SIZE - 8, b"\xff"),
        st.builds(
            RxInfo,
            magic=st.just(MAGIC),
            hdr_len=st.integers(0, 255),
            l3_off=st.integers(0, 255),
            l4_off=st.integers(0, 255),
            family=st.sampled_from((4, 6)),
            csum=st.integers(0, 4),
            grown=st.integers(0, 255),
            payload_len=st.integers(0, 2**32 - 1),
            queue=st.integers(0, 2**16 - 1),
            linear=st.integers(0, 255),
            zero=st.just(0),
        ),
        st.binary(max_size=144),
    ),
)


@settings(max_examples=60)
@given(st.lists(GARBAGE, min_size=1, max_size=2 * SLOTS))
def test_garbage_with_the_right_number_harms_nobody(garbage: list[bytes]) -> None:
    slots = mmap.mmap(-1, SLOTS * SLOT_SIZE)
    machine = machine_with(slots)
    app = machine.open_app()
    assert machine.listen(app) >= 0
    nic = SlotNic(machine, slots)
    machine.start()
    try:
        peer = Peer(nic)
        contents = iter(garbage)
        for _ in garbage:
            niov = nic.take_buffer()
            nic.number += 1
            at = nic.number % SLOTS * SLOT_SIZE
            slots[at : at + SLOT_SIZE] = struct.pack("=Q", nic.number) + next(contents)
            end = (niov + 1) * PAGE
            nic.memory[end - REF_SIZE : end] = named(nic.number)
            nic.receive(niov, 100)
            nic.arrived()
            assert until(lambda: len(nic.rx) == 0)
        peer.deliver(10)
        nic.arrived()
        assert until(lambda: received(nic) == 10)
        assert lib.loop_check(nic.loop) == 0
    finally:
        machine.close()
        nic.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"header_path": HEADERS_SLOT},
        {"header_path": HEADERS_SLOT, "heads": ffi.NULL, "nr_heads": SLOTS},
        {"header_path": HEADERS_SLOT, "nr_heads": 0},
        {"header_path": HEADERS_SLOT, "nr_heads": SLOTS - 1},
        {"header_path": 77, "nr_heads": SLOTS},
    ],
)
def test_a_path_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    slots = ctypes.create_string_buffer(SLOTS * SLOT_SIZE)
    config = {"notice_fd": -1, "cpu": -1, "heads": ffi.from_buffer(slots), **wrong}
    out = ffi.new("struct loop **")
    stack = ffi.new("struct stack_config *", {"nr_queues": 1})
    opened = lib.loop_open(out, ffi.new("struct loop_config *", config), stack)
    assert (opened, out[0]) == (-errno.EINVAL, ffi.NULL)
