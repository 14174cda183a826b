# SPDX-License-Identifier: Apache-2.0
"""closed_ports: the bit of a port is down as long as anybody listens on it, at whatever address."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from devmemtcp import xdp_prog
from devmemtcp.agent import Region, Runtime

PORT = 5400
SAME_WORD = PORT + 256  # ports are looked up in network byte order: next to each other there
SECOND_IP4 = "10.77.0.99"


@pytest.fixture
def runtime(veth: Any) -> Iterator[Runtime]:
    veth.left.run(["ip", "address", "add", f"{SECOND_IP4}/24", "dev", veth.left.ifname])
    with Region(4 << 20) as region, Runtime(veth.left.ifname, region, netns=veth.left.netns) as rt:
        yield rt


def is_open(rt: Runtime, port: int) -> bool:
    """As the program sees it."""
    word, all_but_one = xdp_prog.closed_word(port, {port})
    value = rt._datapath._object.maps["closed_ports"].get(word)  # type: ignore[union-attr]
    assert value is not None
    return not int.from_bytes(value, sys.byteorder) & ~int.from_bytes(all_but_one, sys.byteorder)


@pytest.mark.parametrize("other", ["ip4", "ip6"])
@pytest.mark.parametrize("last", [0, 1])
def test_a_port_is_closed_when_its_last_listener_is_gone(
    runtime: Runtime, veth: Any, other: str, last: int
) -> None:
    assert not is_open(runtime, PORT)
    addresses = veth.left.ip4, veth.left.ip6 if other == "ip6" else SECOND_IP4
    listeners = [runtime.listen((address, PORT)) for address in addresses]
    assert is_open(runtime, PORT)
    listeners[1 - last].close()
    assert is_open(runtime, PORT)
    listeners[last].close()
    assert not is_open(runtime, PORT)


def test_a_port_is_closed_alone(runtime: Runtime, veth: Any) -> None:
    assert xdp_prog.closed_word(PORT, ())[0] == xdp_prog.closed_word(SAME_WORD, ())[0]
    with runtime.listen((veth.left.ip4, SAME_WORD)):
        with runtime.listen((veth.left.ip4, PORT)):
            assert is_open(runtime, PORT)
            assert is_open(runtime, SAME_WORD)
        assert not is_open(runtime, PORT)
        assert is_open(runtime, SAME_WORD)
    assert not is_open(runtime, SAME_WORD)
