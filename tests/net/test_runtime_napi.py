# SPDX-License-Identifier: Apache-2.0
"""A veth in native mode: NAPI on a core of one's choice, and packets and windows that suit it."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest
from pyroute2 import NetNS

from devmemtcp.agent import ConfigError, Region, Runtime, Unsupported, napi
from devmemtcp.agent.bench.conditions import set_offloads
from devmemtcp.agent.netdev import NetNs
from devmemtcp.netlink.constants import NapiThreaded
from devmemtcp.netlink.errors import Unsupported as NoFamily
from devmemtcp.netlink.netdev import Netdev
from devmemtcp.netlink.records import Napi

from ..capability import auto_is_generic, since
from .test_runtime_e2e import exchange, receiver
from .traffic import MIB, PATIENCE, PORT, dial

CPU = max(os.sched_getaffinity(0))
in_threads = since(6, 17, "NETDEV_A_NAPI_THREADED")


def instances(end: Any) -> list[Napi]:
    with Netdev(netns=end.netns) as netdev:
        return netdev.napi_get(ifindex=end.ifindex)


@in_threads
@pytest.mark.parametrize("isolate", [False, True])
def test_napi_is_polled_on_the_core_that_was_asked_for(veth: Any, isolate: bool) -> None:
    data = random.Random(3).randbytes(2 * MIB)
    with receiver(veth.right, mode="native", isolate=isolate, napi_cpu=CPU) as (rt, view):
        (instance,) = instances(veth.right)
        assert instance.threaded == NapiThreaded.ENABLED
        assert instance.pid is not None
        assert os.sched_getaffinity(instance.pid) == {CPU}
        with rt.listen((veth.right.ip4, PORT)) as listener:
            assert exchange(rt, view, listener, veth.left, data)[0] == data
    assert instances(veth.right) == []


@in_threads
def test_every_queue_has_its_thread_there(netns_pair: Callable[..., Any]) -> None:
    end = netns_pair(queues=2).right
    with receiver(end, mode="native", napi_cpu=CPU):
        threads = [each.pid for each in instances(end)]
        assert len(set(threads)) == 2
        assert all(os.sched_getaffinity(pid) == {CPU} for pid in threads if pid)


@in_threads
def test_napi_that_was_there_before_is_left_as_it_was(veth: Any) -> None:
    netns = NetNs(f"/run/netns/{veth.right.netns}")
    with contextlib.closing(netns), netns.entered():
        set_offloads(veth.right.ifname, {"gro": True})  # with it, a veth has NAPI of its own
    assert [each.threaded for each in instances(veth.right)] == [NapiThreaded.DISABLED]
    with receiver(veth.right, mode="native", napi_cpu=CPU):
        assert [each.threaded for each in instances(veth.right)] == [NapiThreaded.ENABLED]
    assert [each.threaded for each in instances(veth.right)] == [NapiThreaded.DISABLED]


def test_a_kernel_that_cannot_says_so(veth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_family() -> Netdev:
        raise NoFamily("the kernel has no netlink family 'netdev'")

    monkeypatch.setattr(napi, "Netdev", no_family)
    with (
        Region(4 * MIB) as region,
        pytest.raises(Unsupported, match=r"since Linux 6\.17"),
        Runtime(veth.right.ifname, region, netns=veth.right.netns, mode="native", napi_cpu=CPU),
    ):
        pass


@pytest.mark.parametrize("mode", [pytest.param("auto", marks=auto_is_generic), "generic"])
def test_without_napi_there_is_nothing_to_move(veth: Any, mode: Any) -> None:
    with (
        Region(4 * MIB) as region,
        pytest.raises(ConfigError, match=f"NAPI of {veth.right.ifname} cannot be moved"),
    ):
        Runtime(
            veth.right.ifname, region, netns=veth.right.netns, mode=mode, napi_cpu=CPU
        ).__enter__()
    with NetNS(veth.right.netns) as netlink:
        (link,) = netlink.get_links(veth.right.ifindex)
    assert not link.get_attr("IFLA_XDP").get_attr("IFLA_XDP_ATTACHED")


@pytest.mark.parametrize(
    ("options", "packets"),
    [
        ({"mode": "native"}, 208),
        ({"mode": "native", "rcv_wnd": 1 * MIB}, 699),
        pytest.param({}, 2796, marks=auto_is_generic),
    ],
)
def test_the_window_of_a_native_veth_fits_into_its_ring(
    veth: Any, options: dict[str, Any], packets: int
) -> None:
    with receiver(veth.right, **options) as (rt, _view):
        limit = rt._datapath.config.rcv_wnd_max
    assert limit // 1500 == packets


@pytest.mark.parametrize(
    ("mtu", "mode", "mss"),
    [
        (1500, "native", 1406),
        (1500, "generic", 1448),
        (1400, "native", 1348),
        (9000, "native", 8948),
    ],
)
def test_the_mss_lets_a_native_veth_make_two_buffers_of_a_page(
    netns_pair: Callable[..., Any], mtu: int, mode: Any, mss: int
) -> None:
    veth = netns_pair(mtu=mtu)
    with (
        receiver(veth.right, mode=mode) as (rt, _view),
        rt.listen((veth.right.ip4, PORT)) as listener,
        dial(veth.left, (veth.right.ip4, PORT)) as sock,
        listener.accept(timeout=PATIENCE),
    ):
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) == mss
