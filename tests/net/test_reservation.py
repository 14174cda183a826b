# SPDX-License-Identifier: Apache-2.0
"""The kernel socket that keeps a steered port: it has the port, and never says a word."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from devmemtcp.agent import Connection, Region, RegionView, Runtime

from ..slowness import SLOWNESS

PORT = 5300
PATIENCE = 60.0 * SLOWNESS


@contextmanager
def receiver(end: Any) -> Iterator[tuple[Runtime, RegionView]]:
    with (
        Region(4 << 20) as region,
        region.map() as view,
        Runtime(end.ifname, region, netns=end.netns) as rt,
    ):
        yield rt, view


def read(conn: Connection, view: RegionView, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        batch = conn.recv_frags(timeout=PATIENCE)
        assert batch, "the stream ended early"
        for frag in batch:
            data += view[frag.offset : frag.offset + frag.size]
        conn.dontneed(batch)
    return bytes(data)


def in_fragments(end: Any, address: str, tcp: TCP) -> list[Any]:
    """The segment with some payload, as two or more IP fragments."""
    cut4: Any = fragment
    cut6: Any = fragment6
    if ":" in address:
        header = IPv6(src=end.ip6, dst=address) / IPv6ExtHdrFragment(id=9)
        return list(cut6(header / tcp / Raw(b"x" * 2400), 1280))
    return list(cut4(IP(src=end.ip4, dst=address) / tcp / Raw(b"x" * 400), fragsize=200))


def send_frames(end: Any, frames: list[Any]) -> None:
    with end.enter(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((end.ifname, 0))
        for frame in frames:
            raw.send(bytes(frame))


def ping(end: Any, other: Any) -> None:
    """Echo request and reply by the same wire: what was sent before has been handled."""
    with end.enter(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as raw:
        raw.bind((end.ifname, 0x0800))
        raw.settimeout(PATIENCE)
        request = (
            Ether(src=end.mac, dst=other.mac)
            / IP(src=end.ip4, dst=other.ip4)
            / ICMP(id=7, seq=1)
            / Raw(b"barrier")
        )
        raw.send(bytes(request))
        while True:
            reply = Ether(raw.recv(2048))
            if ICMP in reply and reply[ICMP].type == 0 and reply[ICMP].id == 7:
                return


@pytest.mark.parametrize("family", [4, 6])
def test_fragments_of_our_flow_do_not_make_the_kernel_reset_it(veth: Any, family: int) -> None:
    """RFC 1122 3.3.2: the kernel puts them together, and then has nobody to give them to."""
    with receiver(veth.right) as (rt, view):
        address = veth.right.ip4 if family == 4 else veth.right.ip6
        listener = rt.listen((address, PORT))
        with veth.left.enter():
            client = socket.create_connection((address, PORT), timeout=PATIENCE)
        with client:
            conn = listener.accept(timeout=PATIENCE)
            client.sendall(b"before")
            assert read(conn, view, 6) == b"before"
            (flow,) = rt.flows()
            # A RST for this segment would carry its ACK number, and the client would obey.
            tcp = TCP(
                sport=client.getsockname()[1],
                dport=PORT,
                flags="PA",
                seq=flow.rcv_nxt + 5,
                ack=flow.snd_nxt,
            )
            link = Ether(src=veth.left.mac, dst=veth.right.mac)
            pieces = [link / piece for piece in in_fragments(veth.left, address, tcp)]
            assert len(pieces) >= 2
            send_frames(veth.left, pieces)
            ping(veth.left, veth.right)
            assert rt.stats().steer["pass_ip_fragment"] >= 2
            client.sendall(b"after")
            assert read(conn, view, 5) == b"after"
            conn.close()


def test_no_service_of_this_host_can_have_the_port(veth: Any) -> None:
    with receiver(veth.right) as (rt, _), veth.right.enter(), socket.socket() as service:
        listener = rt.listen((veth.right.ip4, PORT))
        with pytest.raises(OSError, match="Address already in use"):
            service.bind(("0.0.0.0", PORT))
        listener.close()
        service.bind(("0.0.0.0", PORT))
