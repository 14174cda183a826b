# SPDX-License-Identifier: Apache-2.0
"""The static key of the check: up while any loop of the process has device memory, and no longer.

In the forms without a key nobody ever sees one; test_netmem_forms.py runs this in each form that
has device memory.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from devmemtcp.agent._loop import FORM, ffi, lib

from .loop_machine import Machine, Nic

pytestmark = pytest.mark.skipif(FORM == "off", reason="this build has no device memory")


def key() -> int:
    info = ffi.new("struct netmem_info *")
    lib.netmem_info(info)
    users: int = info.key
    return users


def raised(wanted: bool) -> bool:
    """Whether the key is as is wanted; there is one in the static form only."""
    return (key() > 0) == (wanted and FORM == "static")


@pytest.fixture
def machines() -> Iterator[list[Machine]]:
    """Two loops that run."""
    assert raised(False)
    made = [Machine(1), Machine(1)]
    for machine in made:
        machine.open_app()
        machine.start()
    yield made
    for machine in made:
        machine.close()
    assert raised(False), "whatever was left open"


def close_area(nic: Nic) -> None:
    nic.detach()
    nic.close()
    assert lib.loop_area_close(nic.loop, nic.area) == 0


def test_host_memory_needs_no_key(machines: list[Machine]) -> None:
    nic = Nic(machines[0], dmabuf_id=0)
    assert raised(False)
    close_area(nic)


def test_the_key_is_up_from_the_first_device_area_to_the_last(machines: list[Machine]) -> None:
    for _ in range(3):
        first = Nic(machines[0])
        assert raised(True)
        second = Nic(machines[1])
        close_area(first)
        assert raised(True), "the other loop has one yet"
        close_area(second)
        assert raised(False)


def test_a_loop_that_is_closed_takes_its_users_along(machines: list[Machine]) -> None:
    third = Machine(1)
    nic = Nic(third)
    assert raised(True)
    third.close()  # the area is open, and its buffers in the fill ring
    assert raised(False)
    nic.close()


def test_an_area_that_is_refused_leaves_the_key_as_it_was(machines: list[Machine]) -> None:
    memory = ffi.new("uint8_t[4096]")
    config = ffi.new(
        "struct stack_area_config *",
        {"nr_niovs": 1 << 18, "dmabuf_id": 1, "header_base": memory},
    )
    assert lib.loop_area_open(machines[0].loop, config, 0) == -errno.ENOSPC
    assert raised(False)


def test_code_changes_while_loops_turn_and_others_ask(machines: list[Machine]) -> None:
    """Everybody calls the stack at once: one that were not kept out would sooner or later die of
    half an instruction."""
    done = threading.Event()

    def ask(machine: Machine) -> None:
        while not done.is_set():
            machine.stats()
            os.write(machine.apps[0].wake, bytes(8))

    askers = [threading.Thread(target=ask, args=(machine,)) for machine in machines]
    for asker in askers:
        asker.start()
    try:
        for round_ in range(100):
            nic = Nic(machines[round_ % 2])
            assert raised(True)
            close_area(nic)
            assert raised(False)
    finally:
        done.set()
        for asker in askers:
            asker.join()
    maps = Path("/proc/self/maps").read_text().splitlines()
    assert [line for line in maps if " rwx" in line and "_loop_" in line] == []
    assert [lib.loop_check(machine.loop) for machine in machines] == [0, 0]


def test_a_child_waits_for_none_of_its_parent_s_loops(machines: list[Machine]) -> None:
    """It has copies of them, and no thread that would answer."""
    nic = Nic(machines[0])
    child = os.fork()
    if child == 0:
        own = Machine(1)
        Nic(own)
        own.close()
        os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)
    close_area(nic)
