# SPDX-License-Identifier: Apache-2.0
"""What needs which kernel: the table of docs/kernels.md.

Each feature is tied to the line of the doctor that tries it, so that the table can be held against
what the doctor has said on real kernels (`tests/kernels.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from devmemtcp.agent.doctor.matrix import Release


@dataclass(frozen=True)
class Floor:
    """One feature."""

    feature: str
    since: Release
    check: str
    """Whose state is "ok" where the feature is there."""
    without: str
    """What is done where it is not."""
    config: str | None = None
    """That a kernel may be built without, whatever its release."""


FLOORS = (
    Floor("AF_XDP", (4, 18), "AF_XDP", "nothing can be received", "XDP_SOCKETS"),
    Floor("udmabuf", (4, 20), "memory udmabuf", "regions are memfds", "UDMABUF"),
    Floor("BTF of the kernel", (5, 4), "BTF", "no zero-copy mode", "DEBUG_INFO_BTF"),
    Floor("AF_XDP unaligned chunks", (5, 4), "unaligned chunks", "no copy mode"),
    Floor("AF_XDP need-wakeup", (5, 4), "need-wakeup", "each send is a system call"),
    Floor("ethtool by netlink", (5, 6), "ethtool netlink", "doctor sees no offloads"),
    Floor("AF_XDP busy polling", (5, 11), "busy-poll", "NAPI runs by interrupts"),
    Floor(
        "XDP programs for packets of several buffers (xdp.frags)",
        (5, 18),
        "XDP multi-buffer",
        "packets of one buffer",
    ),
    Floor(
        "drivers tell of their XDP (netdev family)",
        (6, 3),
        "netdev dev-get",
        "a table of drivers, and trying",
    ),
    Floor(
        "AF_XDP packets of several buffers (XDP_USE_SG)",
        (6, 6),
        "AF_XDP multi-buffer",
        "packets of one buffer: native mode on a veth, a small MTU",
    ),
    Floor(
        "160 bytes of XDP metadata",
        (6, 8),
        "XDP metadata",
        "headers come up in a map; metadata names the slot",
    ),
    Floor("queues tell who has them", (6, 8), "netdev queue-get", "sock_diag tells"),
    Floor(
        "the kernel's own devmem TCP, to receive",
        (6, 12),
        "netdev bind-rx",
        "ours stands in for it",
    ),
)
"""By release."""
