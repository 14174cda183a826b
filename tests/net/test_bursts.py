# SPDX-License-Identifier: Apache-2.0
"""What comes while the stack does not run must find buffers."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from devmemtcp.agent import Region, Runtime

from ..slowness import SLOWNESS

PORT = 5320
PATIENCE = 20.0 * SLOWNESS
SYNS = 400


def syn(veth: Any, port: int) -> bytes:
    tcp = TCP(sport=port, dport=PORT, flags="S", seq=port)
    link = Ether(src=veth.left.mac, dst=veth.right.mac)
    return bytes(link / IP(src="10.77.0.99", dst=veth.right.ip4) / tcp)


def test_a_burst_of_clients_while_the_stack_waits_for_a_cpu(veth: Any) -> None:
    frames = [syn(veth, 10000 + n) for n in range(SYNS)]
    with (
        Region(16 << 20) as region,
        Runtime(veth.right.ifname, region, netns=veth.right.netns, isolate=True) as rt,
        veth.left.enter(),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw,
    ):
        rt.listen((veth.right.ip4, PORT))
        raw.bind((veth.left.ifname, 0))
        os.kill(rt.pid, signal.SIGSTOP)
        try:
            for frame in frames:
                raw.send(frame)
        finally:
            os.kill(rt.pid, signal.SIGCONT)
        deadline = time.monotonic() + PATIENCE
        while rt.stats().stack["flows_opened"] < SYNS:
            assert time.monotonic() < deadline, rt.stats().sockets
