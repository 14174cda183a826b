# SPDX-License-Identifier: Apache-2.0
"""A driver that resets the link when it is given a program: the receiver waits for it."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from devmemtcp.agent import Region, Runtime, carrier, datapath
from devmemtcp.pyxdp import attach

from .traffic import PATIENCE, PORT, dial


def test_it_is_waited_for(veth: Any) -> None:
    near, far = veth.right, veth.left
    far.set_link(state="down")
    back = threading.Timer(0.3, far.set_link, kwargs={"state": "up"})
    back.start()
    with near.enter():
        assert carrier.await_carrier(near.ifname, PATIENCE)
    back.join()


def test_for_so_long_and_then_it_is_told(veth: Any, caplog: pytest.LogCaptureFixture) -> None:
    veth.left.set_link(state="down")
    with veth.right.enter():
        assert not carrier.await_carrier(veth.right.ifname, 0.05)
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert f"{veth.right.ifname} has no carrier" in record.message


def test_an_interface_that_has_gone_is_no_wait(veth: Any) -> None:
    with veth.right.enter(), pytest.raises(OSError, match="no interface"):
        carrier.await_carrier("gone0", PATIENCE)


def test_a_runtime_is_ready_when_the_link_is_back(
    veth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = veth.right, veth.left
    order: list[str] = []

    def link_is_back() -> None:
        order.append("link")
        far.set_link(state="up")

    def attach_and_reset(*args: Any, **options: Any) -> Any:
        attached = attach(*args, **options)
        far.set_link(state="down")
        timer.start()
        return attached

    timer = threading.Timer(0.3, link_is_back)
    monkeypatch.setattr(datapath, "attach", attach_and_reset)
    with Region(4 << 20) as region, Runtime(near.ifname, region, netns=near.netns) as rt:
        order.append("ready")
        with rt.listen((near.ip4, PORT)) as listener, dial(far, listener.address):
            listener.accept(PATIENCE).close()
        timer.join()
    assert order == ["link", "ready"]
