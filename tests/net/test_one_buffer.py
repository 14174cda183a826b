# SPDX-License-Identifier: Apache-2.0
"""A kernel without multi-buffer AF_XDP, and a driver without native XDP: each packet must fit.

Played on a veth that passes for a NIC of such a driver.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest

from devmemtcp.agent import Region, Runtime, datapath, netdev, preflight
from devmemtcp.agent.errors import Unsupported
from devmemtcp.pyxdp import Features, Mode, attached_programs
from devmemtcp.pyxdp.features import features

from .test_runtime_e2e import exchange
from .traffic import PORT, assert_clean


@pytest.fixture
def _old(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_an_e1000e(name: str, **how: Any) -> Features:
        return replace(features(name, **how), driver="e1000e", multi_buffer=False)

    monkeypatch.setattr(netdev, "features", of_an_e1000e)
    monkeypatch.setattr(preflight, "features", of_an_e1000e)
    monkeypatch.setitem(datapath._MODES, None, Mode.GENERIC)  # native was refused


@pytest.mark.usefixtures("_old")
def test_what_gro_would_merge_is_refused_with_the_way_out(veth: Any) -> None:
    near, far = veth.right, veth.left
    near.run(["ethtool", "-K", near.ifname, "gro", "on"])  # as NICs have it
    far.run(["ethtool", "-K", far.ifname, "tso", "off", "gso", "off"])  # as a wire has it
    with Region(4 << 20) as region:
        for mode in ("auto", "generic"):
            with (
                pytest.raises(Unsupported, match="generic mode loses what GRO merges") as caught,
                Runtime(near.ifname, region, mode=mode, netns=near.netns),
            ):
                pass
            with near.enter():
                assert attached_programs(near.ifname) == []
        near.run(shlex.split(str(caught.value).split("`")[1]))
        data = bytes(range(251)) * 4000
        with region.map() as view, Runtime(near.ifname, region, netns=near.netns) as rt:
            with rt.listen((near.ip4, PORT)) as listener:
                assert exchange(rt, view, listener, far, data).got == data
            assert rt.mode == "generic"
            assert sum(sock.rx_dropped for sock in rt.stats().sockets) == 0
            assert_clean(rt)
