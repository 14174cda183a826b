# SPDX-License-Identifier: Apache-2.0
"""Zero-copy mode where there is none: one line, and nothing is changed."""

from __future__ import annotations

import errno
import sys
from typing import Any

import pytest

from devmemtcp import xdp_prog
from devmemtcp.agent import Region, Runtime
from devmemtcp.agent import runtime as runtime_module
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.header_path import configure
from devmemtcp.pyxdp import BpfObject, attached_programs

from ..capability import DRIVERS_TELL

MIB = 1 << 20


def run(end: Any, *words: str) -> Any:
    command = [sys.executable, "-P", "-m", "devmemtcp.agent.cli", *words]
    return end.run(command, check=False, capture_output=True, text=True)


def test_a_driver_without_zero_copy_is_named(veth: Any) -> None:
    where = f"{veth.right.ip4}:5201"
    done = run(veth.right, "recv", "-i", veth.right.ifname, "--listen", where, "--mode", "zerocopy")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    if DRIVERS_TELL:
        assert f"veth, the driver of {veth.right.ifname}, has no zero-copy AF_XDP" in line
    else:
        assert f"veth refuses zero-copy on {veth.right.ifname}" in line
    assert "--mode auto" in line
    with veth.right.enter():
        assert not attached_programs(veth.right.ifindex)


@pytest.mark.parametrize("isolate", [False, True], ids=["inside", "isolated"])
def test_a_driver_that_refuses_the_socket_leaves_nothing(
    veth: Any, monkeypatch: pytest.MonkeyPatch, isolate: bool
) -> None:
    """Not every driver says beforehand; the bind is then the first to know."""
    monkeypatch.setattr(runtime_module, "check_interface", lambda *args, **options: None)
    with (
        Region(MIB) as region,
        pytest.raises(ConfigError, match=r"^veth refuses zero-copy on \w+ \(Operation") as told,
        Runtime(
            veth.right.ifname, region, netns=veth.right.netns, mode="zerocopy", isolate=isolate
        ),
    ):
        pass
    assert told.value.errno == errno.EOPNOTSUPP
    with veth.right.enter():
        assert not attached_programs(veth.right.ifindex)
    with Region(MIB) as region, Runtime(veth.right.ifname, region, netns=veth.right.netns) as rt:
        assert rt.lost_queues == {}  # nothing holds the queue


def test_the_program_for_chunks_loads_and_leaves_other_packets_alone() -> None:
    name = xdp_prog.PROGRAM_LINEAR
    path = str(xdp_prog.object_path("zerocopy"))
    with BpfObject.open(path, programs=[name]) as obj:
        configure(obj, "chunk", 64)
        obj.load()
        assert obj.programs[name].test_run(bytes(64)).retval == 2  # XDP_PASS
