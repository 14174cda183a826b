# SPDX-License-Identifier: Apache-2.0
"""`devmemtcp nic` on a NIC: what its driver lets be set is set, killed at each step, put back."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devmemtcp.agent.endpoint import Endpoint
from devmemtcp.agent.netdev import NetDev
from devmemtcp.agent.nic.device import KernelNic
from devmemtcp.agent.nic.facts import Attachment, Facts
from devmemtcp.agent.nic.planner import Wishes
from devmemtcp.agent.nic.setting import RssSpread

from ..net.nic_snapshot import apply, killed_at, planner, snapshot, undo
from ..net.veth import Veth, VethEnd, await_carrier
from ..slowness import SLOWNESS

DATAGRAMS = 50


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "nic"


def settled(end: VethEnd) -> dict[str, tuple[int, str]]:
    """All settings, once the link is back that many drivers drop when they are changed."""
    with end.netlink() as handle:
        await_carrier(handle, end.ifindex)
        return snapshot(end.ifname)


def everything(end: VethEnd) -> tuple[Attachment, Wishes, int]:
    """As much as can be asked for, and how many steps that makes."""
    with end.enter(), KernelNic(end.ifindex) as nic:
        attachment = Attachment.of(NetDev.find(end.ifname), "auto")
        facts = Facts.of(nic, attachment)
        wishes = Wishes(
            queues=(facts.max_queues - 1,) if facts.max_queues > 1 else None,
            listen=(Endpoint(end.ip4, 5201),),
            rx_ring=512 if facts.rings and facts.rings.rx else None,
            mtu=1400,
        )
        return attachment, wishes, len(planner(nic, attachment, wishes)().steps)


def test_everything_is_set_and_put_back(netns_pair: Callable[..., Veth], run: Path) -> None:
    end = netns_pair().right
    attachment, wishes, planned = everything(end)
    before = settled(end)
    with end.enter():
        assert apply(end.ifindex, run, attachment, wishes) >= planned > 0
        assert apply(end.ifindex, run, attachment, wishes) == 0
        assert settled(end) != before
        undo(end.ifindex, run)
    assert settled(end) == before
    assert not run.exists()


def test_killed_at_any_step_it_is_put_back(netns_pair: Callable[..., Veth], run: Path) -> None:
    end = netns_pair().right
    attachment, wishes, planned = everything(end)
    before = settled(end)
    moment = 0
    with end.enter():
        while killed_at(moment, lambda p: apply(end.ifindex, run, attachment, wishes, p)):
            undo(end.ifindex, run)
            assert settled(end) == before, f"killed at moment {moment}"
            moment += 1
        assert moment >= 3 * planned
        for _ in range(planned):
            killed_at(0, lambda p: undo(end.ifindex, run, p))
        undo(end.ifindex, run)
    assert settled(end) == before


def test_flows_come_to_the_queue_that_rss_leads_to(
    netns_pair: Callable[..., Veth], run: Path
) -> None:
    """Where there are no flow rules; the table has a queue of ours in place of all."""
    pair = netns_pair(queues=2)
    far, end = pair.left, pair.right
    attachment, wishes = everything(end)[0], Wishes(queues=(1,), rss=True)
    with end.enter(), KernelNic(end.ifindex) as nic:
        if RssSpread().read(nic) is None:
            pytest.skip(f"{end.ifname} has no RSS table")
    if not counters(end):
        pytest.skip(f"{end.ifname} does not count packets by queue")
    with applied(end, run, attachment, wishes):
        settled(end)
        before = counters(end)
        send(far, end)
        after = counters(end)
    assert after[1] - before[1] >= DATAGRAMS
    assert after[0] - before[0] < DATAGRAMS  # what is not IP has no hash


@contextmanager
def applied(end: VethEnd, run: Path, attachment: Attachment, wishes: Wishes) -> Iterator[None]:
    with end.enter():
        apply(end.ifindex, run, attachment, wishes)
    try:
        yield
    finally:
        with end.enter():
            undo(end.ifindex, run)
            with KernelNic(end.ifindex) as nic:
                nic.reset_rss()  # a user's table would keep its queues from the tests to come


def counters(end: VethEnd) -> dict[int, int]:
    """Packets by queue, as igb counts them (`ethtool -S`)."""
    shown = end.run(["ethtool", "-S", end.ifname], capture_output=True, text=True, check=False)
    found = re.findall(r"rx_queue_(\d+)_packets: (\d+)", shown.stdout)
    return {int(queue): int(packets) for queue, packets in found}


def send(far: VethEnd, end: VethEnd) -> None:
    """Datagrams, each when the one before is there."""
    with end.enter():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with far.enter():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.settimeout(60 * SLOWNESS)
        receiver.bind((end.ip4, 5201))
        for _ in range(DATAGRAMS):
            sender.sendto(b"x", (end.ip4, 5201))
            receiver.recv(1)
