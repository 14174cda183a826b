# SPDX-License-Identifier: Apache-2.0
"""Two NICs that somebody has connected, in place of a veth pair.

Each is moved into a namespace of its own for the length of a test, so that nothing else on the
machine uses it, and comes back with the MTU and the state that it had. When the tests are killed,
the next run removes the namespaces, and the kernel itself puts the NICs back where they were.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from pyroute2 import IPRoute, NetlinkError, NetNS

from devmemtcp.netlink.ethtool import Ethtool

from ..net.veth import Veth, join, two_namespaces
from ..slowness import SLOWNESS

_IFF_UP = 1
_BACK_SECONDS = 10.0 * SLOWNESS


def await_there(ifname: str) -> int:
    """The index of an interface that may be on its way back from a namespace that has gone."""
    deadline = time.monotonic() + _BACK_SECONDS
    while True:
        try:
            return socket.if_nametoindex(ifname)
        except OSError:
            assert time.monotonic() < deadline, f"there is no interface {ifname}"
            time.sleep(0.02)


def _put_back(ifname: str, name: str, home: int, mtu: int, up: bool) -> None:
    """Out of the namespace, as it was."""
    with NetNS(name) as away:
        (index,) = away.link_lookup(ifname=ifname)
        away.link("set", index=index, net_ns_fd=home)
    with IPRoute() as here:
        (index,) = here.link_lookup(ifname=ifname)
        here.link("set", index=index, mtu=mtu, state="up" if up else "down")


def _set_mtu(end: NetNS, ifname: str, mtu: int) -> None:
    try:
        end.link("set", index=end.link_lookup(ifname=ifname)[0], mtu=mtu)
    except NetlinkError as error:
        pytest.skip(f"{ifname} cannot have an MTU of {mtu}: {error}")


def _set_queues(undo: ExitStack, ifname: str, wanted: int) -> None:
    """Have so many queues, until the end."""
    ethtool = undo.enter_context(Ethtool())
    there = ethtool.channels_get(ifname)
    if (there.combined_count or there.rx_count) == wanted:
        return
    if wanted > (there.combined_max or 0):
        pytest.skip(f"{ifname} cannot have {wanted} queues")
    ethtool.channels_set(ifname, combined=wanted)
    undo.callback(ethtool.channels_set, ifname, combined=there.combined_count)


@contextmanager
def nic_pair(near: str, far: str, *, mtu: int = 1500, queues: int = 1) -> Iterator[Veth]:
    """What arrives at `near` is received (the pair's right end), `far` sends.

    Skips the test when the NICs cannot have that MTU or so many queues.
    """
    with ExitStack() as undo:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, home)
        names = undo.enter_context(two_namespaces())
        with IPRoute() as here:
            for ifname, name in ((far, names[0]), (near, names[1])):
                index = await_there(ifname)
                _set_queues(undo, ifname, queues)
                was: Any = here.link("get", index=index)[0]
                before = was.get_attr("IFLA_MTU"), bool(was["flags"] & _IFF_UP)
                here.link("set", index=index, net_ns_fd=name)
                undo.callback(_put_back, ifname, name, home, *before)
                with NetNS(name) as end:
                    _set_mtu(end, ifname, mtu)
        yield join(names, (far, near))
