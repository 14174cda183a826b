# SPDX-License-Identifier: Apache-2.0
"""Headers go by 160 bytes of XDP metadata where the kernel takes as many, else by a slot."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from devmemtcp.agent.header_path import header_path, path_by
from devmemtcp.pyxdp import BpfObject


@pytest.mark.usefixtures("_clean_slate")
def test_the_path_is_the_one_that_this_kernel_has_room_for() -> None:
    major, minor = (int(number) for number in platform.release().split(".")[:2])
    assert header_path() == ("metadata" if (major, minor) >= (6, 8) else "slot")


@pytest.mark.usefixtures("_clean_slate")
def test_a_kernel_that_takes_less_metadata_has_slots(bpf_object: Callable[[str], Path]) -> None:
    with BpfObject.open(str(bpf_object("no_metadata"))) as program:
        program.load()
        assert path_by(program.programs["probe_metadata"]) == "slot"
