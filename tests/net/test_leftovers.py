# SPDX-License-Identifier: Apache-2.0
"""What is left behind is found: the tests that find nothing would otherwise say nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from tempfile import mkstemp
from typing import Any

import pytest

from devmemtcp.agent import Region, Runtime

from ..faults.leftovers import Leftovers, nothing_left


def test_what_a_runtime_has_is_found_and_gone_when_it_is_closed(veth: Any) -> None:
    near = veth.right
    with nothing_left(near, veth.left) as leftovers:
        with (
            Region(4 << 20) as region,
            Runtime(near.ifname, region, netns=near.netns, mode="native", isolate=True) as rt,
        ):
            rt.listen((near.ip4, 5201))
            found = leftovers.found()
        for kind in (
            *("BPF link", "BPF map", "BPF prog", "process", "mapping of /memfd:devmemtcp-channel"),
            f"XDP program on {near.ifname} in {near.netns}",
            f"XDP socket in {near.netns}",
            f"TCP socket in {near.netns}",
        ):
            assert any(kind in each for each in found), (kind, found)


def test_each_kind_of_thing_is_found(veth: Any) -> None:
    near = veth.right
    leftovers = Leftovers(near)
    orphan = near.popen(["sh", "-c", "sleep 60 >/dev/null & echo $!"], stdout=subprocess.PIPE)
    near.run(["ip", "link", "add", "left0", "type", "veth"])
    near.run(["ip", "link", "set", near.ifname, "mtu", "1400", "promisc", "on"])
    near.run(["tc", "qdisc", "add", "dev", near.ifname, "clsact"])
    fd = os.memfd_create("devmemtcp-left")
    shared = Path("/dev/shm", f"devmemtcp-left-{os.getpid()}")
    shared.touch()
    found = "\n".join(leftovers.found())
    shared.unlink()
    os.close(fd)
    os.kill(int(orphan.communicate()[0]), 9)
    for what in (
        *("process", "sleep 60", "link left0 in", "MTU 1400 in", f"{near.ifname} promiscuous"),
        *("qdisc clsact on", "descriptor of /memfd:devmemtcp-left", f"file {shared}"),
    ):
        assert what in found


def test_a_temporary_file_is_found(veth: Any) -> None:
    with pytest.raises(AssertionError, match=r"left behind: file .*mine"), nothing_left(veth.right):
        os.close(mkstemp("mine")[0])
