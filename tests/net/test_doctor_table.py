# SPDX-License-Identifier: Apache-2.0
"""The doctor is right about what it runs on. tests/hw looks at NICs with this.

What is the kernel's alone follows from its release, as docs/kernels.md has it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from devmemtcp.agent.doctor import host
from devmemtcp.agent.doctor.examine import examine
from devmemtcp.agent.doctor.floors import FLOORS
from devmemtcp.agent.doctor.record import State

from ..doctor_table import differences

if TYPE_CHECKING:
    from tests.net.veth import Veth


def test_the_doctor_is_right_about_this_kernel_and_driver(veth: Veth) -> None:
    with veth.right.enter():
        report = examine(veth.right.ifname, region_size=64 << 20, try_zero_copy=False)
    found = {check.name: check for check in report.checks}
    release, lacks = host.release(), host.lacking()
    for floor in FLOORS:
        if floor.config not in lacks:
            there = found[floor.check].state is State.OK
            assert there == (release >= floor.since), floor.feature
    wrong = differences(dataclasses.asdict(report), release)
    if wrong is None:
        pytest.skip(f"nobody has written down what is right for {found['driver'].found} here")
    assert wrong == []
