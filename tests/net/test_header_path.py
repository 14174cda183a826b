# SPDX-License-Identifier: Apache-2.0
"""Headers go by 160 bytes of XDP metadata where the kernel takes as many, else by a slot.

`DEVMEMTCP_HEADER_PATH=slot ./dev test tests/net` is all of them by slots.
"""

from __future__ import annotations

import platform
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devmemtcp.agent import ConfigError, Runtime
from devmemtcp.agent.datapath import Datapath
from devmemtcp.agent.header_path import VARIABLE, header_path, path_by
from devmemtcp.pyxdp import BpfObject

from ..rx_metadata import Slot
from .test_runtime_e2e import exchange, receiver
from .traffic import MIB, PORT


@pytest.mark.usefixtures("_clean_slate")
def test_the_path_is_the_one_that_this_kernel_has_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    major, minor = (int(number) for number in platform.release().split(".")[:2])
    assert header_path() == ("metadata" if (major, minor) >= (6, 8) else "slot")


@pytest.mark.usefixtures("_clean_slate")
def test_a_kernel_that_takes_less_metadata_has_slots(bpf_object: Callable[[str], Path]) -> None:
    with BpfObject.open(str(bpf_object("no_metadata"))) as program:
        program.load()
        assert path_by(program.programs["probe_metadata"]) == "slot"


def test_a_path_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "pigeon")
    with pytest.raises(ConfigError, match=r"'pigeon'.*metadata, slot"):
        header_path()


def slots_written(rt: Runtime) -> int:
    """Packets that have a slot now."""
    datapath = rt._datapath
    assert isinstance(datapath, Datapath)
    heads = datapath._object.maps["heads"]
    slots = (heads.get(struct.pack("=I", index)) for index in range(heads.max_entries))
    return sum(raw is not None and Slot.unpack(raw).seq > 0 for raw in slots)


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_a_stream_by_slots_arrives_whole(
    veth: Any, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv(VARIABLE, "slot")
    data = random.Random(2).randbytes(2 * MIB + 1)
    with (
        receiver(veth.right, size=4 * MIB, mode=mode) as (rt, view),
        rt.listen((veth.right.ip4, PORT)) as listener,
    ):
        got, answer, _ = exchange(rt, view, listener, veth.left, data)
        assert (got, answer) == (data, b"got %d bytes" % len(data))
        stats = rt.stats()
        assert stats.steer["redirect"] == stats.stack["rx_segments"]
        assert (stats.drops["NO_HEAD"], stats.drops["RECORD"]) == (0, 0)
        assert 0 < slots_written(rt) <= stats.steer["redirect"]
