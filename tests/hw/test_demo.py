# SPDX-License-Identifier: Apache-2.0
"""`devmemtcp demo` over the NICs: lent for its length, in each mode that their driver has."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from devmemtcp.agent.zerocopy import zero_copy_refusals
from devmemtcp.netlink.link import Links
from devmemtcp.pyxdp.features import features

from ..capability import DRIVERS_TELL
from ..net.test_demo import COMMAND, assert_proved, report_of
from .nic_pair import await_there

SIZE = 4 << 20
_MEND = re.compile(r"need Linux .*; `(ethtool -K (\S+) (\S+) off)`")
"""Of kernels without multi-buffer: what the demo says is to be set for generic mode."""


@pytest.fixture
def demo(nics: tuple[str, str]) -> Iterator[Callable[..., dict[str, Any]]]:
    """Run it over the NICs, where necessary after what it asks for itself."""
    for name in nics:
        await_there(name)
    near, far = nics
    with ExitStack() as undo:

        def run(*args: str) -> dict[str, Any]:
            words = [*COMMAND, "--json", "--size", str(SIZE), "-i", near, "--peer", far, *args]
            process = subprocess.run(words, capture_output=True, text=True)
            if mend := _MEND.search(process.stderr + process.stdout):
                command, ifname, feature = mend.groups()
                subprocess.run(shlex.split(command), check=True)
                undo.callback(subprocess.run, ["ethtool", "-K", ifname, feature, "on"], check=True)
                process = subprocess.run(words, capture_output=True, text=True)
            return report_of(process)

        yield run


def state_of(names: tuple[str, str]) -> list[tuple[int, bool]]:
    with Links() as links:
        return [(link.mtu, link.up) for link in map(links.get, names)]


@pytest.mark.parametrize("mode", ["auto", "native", "generic", "zerocopy"])
def test_every_byte_lands_in_the_device_region(
    demo: Callable[..., dict[str, Any]], nics: tuple[str, str], mode: str
) -> None:
    near = nics[0]
    can = features(near)
    if mode == "zerocopy":
        for refusal in zero_copy_refusals(can, can.mtu):
            pytest.skip(str(refusal))
    if mode == "native" and can.native_xdp is False:
        pytest.skip(f"{can.driver} has no native XDP")
    before = state_of(nics)
    report = demo("--mode", mode)
    if not DRIVERS_TELL and "refuses zero-copy" in report.get("error", ""):
        assert state_of(nics) == before
        pytest.skip(report["error"])
    assert_proved(report, SIZE)
    assert report["interface"] == near
    assert report["mode"] == mode or mode == "auto"
    assert state_of(nics) == before
