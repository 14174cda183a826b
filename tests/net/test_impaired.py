# SPDX-License-Identifier: Apache-2.0
"""Streams over a bad road are exact, and nothing of them stays behind in the stack."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from ..faults import netem
from ..faults.crossing import Load, cross, one_segment_a_packet
from ..faults.damage import damaged, fits
from ..faults.road import Chances, bad_road

CHANCES = Chances(
    loss=0.1, duplication=0.1, corruption=0.1, delay=0.1, reordering=0.1, ack_loss=0.1
)
LOAD = Load(connections=4, size=80_000)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize(
    ("mode", "single"),
    [("native", True), ("generic", True), ("generic", False)],
    ids=["native", "generic", "generic-gso"],
)
def test_streams_over_a_bad_road_are_exact(
    veth: Any,
    bpf_object: Callable[[str], Path],
    mode: Literal["native", "generic"],
    single: bool,
    family: socket.AddressFamily,
) -> None:
    near, far = veth.right, veth.left
    if single:
        one_segment_a_packet(far)
    with bad_road(far, bpf_object("impair"), CHANCES) as road:
        crossing = cross(near, far, LOAD, mode=mode, family=family)
        happened = road.counters()
    print(f"the road: {road.kind}, {happened}")
    if not single:
        return  # too few packets to say how many of them had bad luck
    for count, chance in (
        (happened.lost, CHANCES.loss),
        (happened.duplicated, CHANCES.duplication),
        (happened.corrupted, CHANCES.corruption),
        (happened.delayed, CHANCES.delay),
        (happened.reordered, CHANCES.reordering),
    ):
        assert count is None or count > 0.25 * chance * happened.seen > 0
    assert happened.acks_lost > 0.25 * CHANCES.ack_loss * happened.acks_seen > 0
    # Damaged segments have reached the program, as such: it has not taken any for unfinished.
    steer = crossing.stats.steer
    noticed = ("drop_tcp_csum", "drop_ip_malformed", "drop_ip_csum", "drop_tcp_malformed")
    assert steer["drop_tcp_csum"] > 0
    corrupted = happened.corrupted or CHANCES.corruption * happened.seen
    assert sum(steer[name] for name in noticed) > 0.25 * corrupted


def test_netem_is_told_the_same_chances() -> None:
    chances = {"loss": 0.1, "duplication": 0.0, "corruption": 0.02}
    words = netem.arguments(**chances, delay=0.1, reordering=0.05)
    assert " ".join(words) == (
        "limit 100000 loss 10.0000% corrupt 2.0000% delay 40ms 40ms reorder 85.0000%"
    )


@pytest.mark.parametrize("family", [4, 6])
def test_damage_is_what_sums_and_lengths_show(family: int) -> None:
    """The impairer's own arithmetic, on a segment that another implementation has made."""
    from scapy.layers.inet import IP, TCP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether

    chance = random.Random(family)
    ip = IP(dst="10.0.0.1") if family == 4 else IPv6(dst="fd00::1")
    frame = bytes(Ether() / ip / TCP(dport=5201, flags="PA") / chance.randbytes(701))
    assert fits(frame)
    assert fits(frame + b"trailer")
    for _ in range(500):
        assert not fits(damaged(frame, chance))
    at = 14 + (20 if family == 4 else 40) + 16
    wrong = struct.unpack_from(">H", frame, at)[0] ^ 0x100
    assert not fits(frame[:at] + struct.pack(">H", wrong) + frame[at + 2 :])
