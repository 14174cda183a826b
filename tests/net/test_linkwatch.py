# SPDX-License-Identifier: Apache-2.0
"""What is said of the interface follows it: addresses, Ethernet address, MTU."""

from __future__ import annotations

import errno
import socket
import time
from typing import Any

import pytest

from devmemtcp.agent import Region, Runtime, linkwatch, netdev

from ..slowness import SLOWNESS

PORT = 5310
PATIENCE = 60.0 * SLOWNESS
LATER4, LATER6 = "10.77.0.77", "fd00:77::77"


def connects(end: Any, address: str, timeout: float) -> bool:
    """Whether a kernel client gets a connection to `address`."""
    with end.enter():
        try:
            socket.create_connection((address, PORT), timeout=timeout).close()
        except TimeoutError:
            return False
        return True


def until_it_connects(end: Any, address: str) -> bool:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if connects(end, address, 1.5):
            return True
    return False


@pytest.mark.parametrize(
    ("everywhere", "address"), [("0.0.0.0", LATER4), ("::", LATER6)], ids=["IPv4", "IPv6"]
)
@pytest.mark.parametrize("isolate", [False, True], ids=["embedded", "isolated"])
def test_addresses_may_come_and_go(veth: Any, everywhere: str, address: str, isolate: bool) -> None:
    near, far = veth.right, veth.left
    length = "128" if ":" in address else "32"
    family, nodad = ("-6", ["nodad"]) if ":" in address else ("-4", [])
    with (
        Region(4 << 20) as region,
        Runtime(near.ifname, region, netns=near.netns, isolate=isolate) as rt,
    ):
        rt.listen((everywhere, PORT))
        assert connects(far, near.ip6 if ":" in address else near.ip4, PATIENCE)
        # To another's address by our Ethernet address: seen by the program, and not ours.
        far.run(["ip", "neigh", "replace", address, "lladdr", near.mac, "dev", far.ifname])
        assert not connects(far, address, 0.5)
        assert rt.stats().steer["pass_no_listener"]
        near.run(["ip", "addr", "add", f"{address}/{length}", "dev", near.ifname, *nodad])
        assert until_it_connects(far, address)
        near.run(["ip", family, "addr", "del", f"{address}/{length}", "dev", near.ifname])
        deadline = time.monotonic() + PATIENCE
        while connects(far, address, 0.5):  # until the news has arrived
            assert time.monotonic() < deadline


def test_frames_to_other_hosts_are_not_ours(veth: Any) -> None:
    near, far = veth.right, veth.left
    other = "02:00:00:00:99:01"
    with (
        Region(4 << 20) as region,
        Runtime(near.ifname, region, netns=near.netns) as rt,
    ):
        rt.listen((near.ip4, PORT))
        far.run(["ip", "neigh", "replace", near.ip4, "lladdr", other, "dev", far.ifname])
        assert not connects(far, near.ip4, 0.5)
        assert rt.stats().steer["pass_other_host"]
        near.run(["ip", "link", "set", near.ifname, "address", other])
        assert until_it_connects(far, near.ip4)


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_the_mss_follows_the_mtu(veth: Any, mode: Any) -> None:
    """A segment larger than our MTU is dropped before a native program could see it."""
    near, far = veth.right, veth.left
    with (
        Region(4 << 20) as region,
        Runtime(near.ifname, region, netns=near.netns, mode=mode) as rt,
    ):
        listener = rt.listen((near.ip4, PORT))
        # Of a native veth's packets two copies are to fit a page: `DatapathConfig.announced_mtu`.
        for mtu, announced in ((1400, 1400), (1500, 1458 if mode == "native" else 1500)):
            near.run(["ip", "link", "set", near.ifname, "mtu", str(mtu)])
            deadline = time.monotonic() + PATIENCE
            mss = 0
            while mss != announced - 40 - 12 and time.monotonic() < deadline:  # timestamps take 12
                with far.enter():
                    client = socket.create_connection((near.ip4, PORT), timeout=PATIENCE)
                with client, listener.accept(timeout=PATIENCE):
                    mss = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
            assert mss == announced - 40 - 12


def test_what_cannot_be_asked_now_is_asked_again(
    veth: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One call that fails, for lack of memory say, must not end the watch."""
    near, far = veth.right, veth.left
    with (
        Region(4 << 20) as region,
        Runtime(near.ifname, region, netns=near.netns) as rt,
    ):
        rt.listen(("0.0.0.0", PORT))
        failures = [OSError(errno.ENOMEM, "no memory"), OSError(errno.ENOBUFS, "no buffers")]
        ask = netdev.addresses_of

        def ask_or_fail(name: str) -> Any:
            if failures:
                raise failures.pop()
            return ask(name)

        monkeypatch.setattr(linkwatch, "addresses_of", ask_or_fail)
        near.run(["ip", "addr", "add", f"{LATER4}/32", "dev", near.ifname])
        assert until_it_connects(far, LATER4)
        assert not failures
    assert "cannot be followed yet" in caplog.text
