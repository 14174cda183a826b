# SPDX-License-Identifier: Apache-2.0
"""What the doctor must find, by kernel and driver. tests/hw looks at NICs with it.

What is the kernel's alone follows from its release, as docs/kernels.md has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from devmemtcp.agent.doctor import host
from devmemtcp.agent.doctor.examine import examine
from devmemtcp.agent.doctor.floors import FLOORS
from devmemtcp.agent.doctor.record import State

if TYPE_CHECKING:
    from tests.net.veth import Veth


class Expected(NamedTuple):
    """Of one driver in one kernel."""

    native: bool
    zero_copy: bool
    auto: str
    usable: str
    """Modes, with blanks between them."""


TABLE = {
    ("veth", (6, 1)): Expected(True, False, "native", "native"),
    ("veth", (6, 12)): Expected(True, False, "generic", "native generic"),
    ("veth", (6, 18)): Expected(True, False, "generic", "native generic"),
    ("veth", (7, 3)): Expected(True, False, "generic", "native generic"),
    ("virtio_net", (6, 1)): Expected(True, False, "native", "native"),
    ("virtio_net", (6, 12)): Expected(True, False, "native", "native generic"),
    ("virtio_net", (7, 3)): Expected(True, True, "native", "native generic zerocopy"),
    ("igb", (6, 1)): Expected(True, False, "native", "native"),
    ("igb", (6, 12)): Expected(True, False, "native", "native generic"),
    ("igb", (7, 3)): Expected(True, True, "native", "native generic zerocopy"),
    ("vmxnet3", (6, 1)): Expected(False, False, "generic", ""),
    ("vmxnet3", (6, 12)): Expected(True, False, "native", "native generic"),
    ("vmxnet3", (7, 3)): Expected(True, False, "native", "native generic"),
}


def test_the_doctor_is_right_about_this_kernel_and_driver(veth: Veth) -> None:
    with veth.right.enter():
        report = examine(veth.right.ifname, region_size=64 << 20, try_zero_copy=False)
    found = {check.name: check for check in report.checks}
    release, lacks = host.release(), host.lacking()
    for floor in FLOORS:
        if floor.config not in lacks:
            there = found[floor.check].state is State.OK
            assert there == (release >= floor.since), floor.feature
    key = found["driver"].found, release
    if key not in TABLE:
        pytest.skip(f"nobody has written down what is right for {key}")
    expected = TABLE[key]
    assert (found["native XDP"].state is State.OK) == expected.native
    assert (found["zero-copy"].mend is not None) == expected.zero_copy
    assert [mode.mode for mode in report.modes if mode.chosen] == [expected.auto]
    assert [mode.mode for mode in report.modes if mode.usable] == expected.usable.split()
    assert report.ok == bool(expected.usable)
