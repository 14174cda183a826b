# SPDX-License-Identifier: Apache-2.0
"""Who can read payload: what is concluded from which evidence."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from devmemtcp.agent import Region
from devmemtcp.agent.readability import FileId, Where, descriptors_of, judge, mappings_of

GOOD = {
    "pid": 7,
    "bindings": 1,
    "signal": 11,
    "mappings": 0,
    "descriptors": 0,
    "host_queues": 0,
    "linear_bytes": 0,
}


@pytest.mark.parametrize(
    ("where", "evidence", "reason"),
    [
        ("isolated", {"bindings": 0}, "no region is bound"),
        ("isolated", {"signal": 0}, "read a device page and was not stopped"),
        ("inside", {"mappings": 1, "descriptors": 1}, "share a process"),
        ("isolated", {"mappings": 1}, "1 mappings, 0 descriptors"),
        ("agent", {"signal": 0, "descriptors": 2}, "0 mappings, 2 descriptors"),
        ("isolated", {"host_queues": 3}, "3 queues are on host memory"),
        ("agent", {"signal": 0, "host_queues": 1}, "1 queues are on host memory"),
        ("isolated", {"linear_bytes": 64}, "the first 64 bytes of each packet's payload"),
    ],
)
def test_whatever_is_missing_is_the_reason(
    where: Where, evidence: dict[str, int], reason: str
) -> None:
    judged = judge(GOOD | evidence, where)
    assert not judged
    assert reason in judged.reason


@pytest.mark.parametrize(
    ("where", "number", "reason"),
    [("isolated", 11, "its child .* died of SIGSEGV"), ("agent", 0, "as the agent says of itself")],
)
def test_proved_is_said_with_what_it_rests_on(where: Where, number: int, reason: str) -> None:
    judged = judge(GOOD | {"signal": number}, where)
    assert judged.proved
    assert (judged.signal, judged.mappings, judged.descriptors) == (number, 0, 0)
    assert re.search(rf"process 7 has no mapping and no descriptor .*{reason}", judged.reason)


def test_mappings_and_descriptors_are_counted() -> None:
    with Region(1 << 20) as region:
        file = FileId.of(region.fd)
        assert (mappings_of(file), descriptors_of(file)) == (0, 1)
        with region.map():
            assert mappings_of(file) == 1
            before, copy = descriptors_of(file), os.dup(region.fd)
            assert descriptors_of(file) == before + 1
            os.close(copy)
        assert (mappings_of(file), descriptors_of(file)) == (0, 1)


def test_a_view_of_a_region_is_left_out_of_core_dumps() -> None:
    with Region(1 << 20) as region, region.map() as view:
        smaps = Path("/proc/self/smaps").read_text()
        mine = smaps[smaps.index(f"{view.address:x}-") :]
        flags = mine[mine.index("VmFlags:") :].splitlines()[0].split()
    assert "dd" in flags
