# SPDX-License-Identifier: Apache-2.0
"""features(): what is asked, what is tried, and what stays unknown."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from devmemtcp.pyxdp import (
    BpfObject,
    Features,
    Mode,
    Umem,
    XdpAct,
    XdpError,
    XskSocket,
    attach,
    features,
)

if TYPE_CHECKING:
    from tests.net.veth import Veth


def unknown(found: Features) -> set[str]:
    return {field.name for field in dataclasses.fields(found) if getattr(found, field.name) is None}


def test_a_veth_is_described(
    netns_pair: Callable[..., Veth], bpf_object: Callable[[str], Path]
) -> None:
    right = netns_pair(mtu=2000, queues=3).right
    path = bpf_object("pyxdp")
    with (
        right.enter(),
        BpfObject.open(path, programs=["drop"]).load() as opened,
        attach(opened.programs["drop"], right.ifname, mode=Mode.GENERIC),
    ):
        found = features(right.ifname, disruptive=True)
    assert (found.ifindex, found.ifname, found.mtu) == (right.ifindex, right.ifname, 2000)
    assert (found.driver, found.rx_queues, found.tx_queues) == ("veth", 3, 3)
    assert [(item.name, item.mode) for item in found.programs] == [("drop", Mode.GENERIC)]
    assert found.native_xdp is not False
    assert found.xdp_features is None or found.xdp_features & XdpAct.BASIC
    assert found.af_xdp is True
    assert found.need_wakeup is True
    assert found.unaligned_chunks is True
    assert found.zero_copy is False
    assert unknown(found) <= found.reasons.keys()


def test_an_interface_is_found_by_an_altname_and_has_its_own(veth: Veth) -> None:
    veth.right.run(["ip", "link", "property", "add", "dev", "veth1", "altname", "alt0"])
    with veth.right.enter():
        found = features("alt0")
    assert (found.ifindex, found.ifname) == (veth.right.ifindex, "veth1")


def test_what_a_driver_does_not_have_or_tell_has_a_reason(veth: Veth) -> None:
    with veth.right.enter():
        found = features("lo")
    assert found.driver is None
    assert found.rx_queues is None
    assert found.native_xdp is not True
    assert unknown(found) <= found.reasons.keys()


def test_a_queue_in_use_is_unknown_not_unable(veth: Veth) -> None:
    with (
        veth.right.enter(),
        Umem.allocate(4096) as umem,
        XskSocket(veth.right.ifname, 0, umem),
    ):
        found = features(veth.right.ifname)
    assert found.af_xdp is None
    assert "already" in found.reasons["af_xdp"]


def test_its_own_sockets_are_waited_for(veth: Veth, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow kernel releases a queue later than a socket would wait for one of somebody else's."""
    late: list[threading.Timer] = []

    class ReleasedLate(XskSocket):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if not late:
                late.append(threading.Timer(0.8, os.close, [os.dup(self.fd)]))
                late[0].start()

    monkeypatch.setattr(sys.modules[features.__module__], "XskSocket", ReleasedLate)
    with veth.right.enter():
        found = features(veth.right.ifname)
    late[0].join()
    assert found.af_xdp
    assert not unknown(found) & {"need_wakeup", "unaligned_chunks", "multi_buffer"}


def test_a_queue_that_is_not_there_cannot_be_bound(veth: Veth) -> None:
    with veth.right.enter():
        found = features(veth.right.ifname, queue=5)
    assert found.af_xdp is False
    assert "no queue 5" in found.reasons["af_xdp"]


def test_an_interface_is_looked_up_in_the_threads_namespace(veth: Veth) -> None:
    with veth.left.enter(), pytest.raises(XdpError) as caught:
        features(veth.right.ifname)
    assert caught.value.errno == errno.ENODEV


UNPRIVILEGED = """
import sys
from devmemtcp.pyxdp import features
found = features(sys.argv[1])
print(found.driver, found.af_xdp, found.reasons["af_xdp"])
"""


def test_without_privilege_the_rest_is_still_told(veth: Veth) -> None:
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    command = [*drop, sys.executable, "-c", UNPRIVILEGED, veth.right.ifname]
    done = veth.right.run(command, stdout=subprocess.PIPE, text=True)
    assert done.stdout.startswith("veth None")
    assert "CAP_NET_RAW" in done.stdout
