# SPDX-License-Identifier: Apache-2.0
"""What copies cost a receiver on a veth, and how fast it could be if it paid only for them.

The sender keeps what it has sent until it is acknowledged, so the packets that come out of a
veth share their pages with it, and the kernel copies them before an XDP program may touch them
(skb_cow_data_for_xdp()). Plain recv() does not pay that. AF_XDP in copy mode then copies into
the UMEM, where recv() copies to its caller. In CPU time for a byte:

    copy to the user      of the process that receives: copies/recv - copies/discard
    copy for XDP          of all cores: copies/discard-xdp - copies/discard
    copy into the UMEM    memcpy() by pages of hot memory into as much memory as the window is large

The variants have the sender on one core and recv() on another, and no RPS, so that the softirq
is on the sender's core and the receiving process has nothing on its back. Of all cores the first
difference would be lost: who is faster sleeps more often, and wake-ups cost more than the copy.

The *bound* is the goodput of the kernel's receiver with everything as it is, but with our
copies instead of its own, and as many cores at work: goodput x CPU / (CPU - user + XDP + UMEM).
The *core bound* is what one core could take in that did nothing else than our two copies: the
softirq that makes them is one core's, for one flow.
"""

from __future__ import annotations

from collections.abc import Mapping

TO_USER, FOR_XDP, TO_UMEM = "copy-to-user", "copy-for-xdp", "copy-to-umem"
COPIES = (TO_USER, FOR_XDP, TO_UMEM)
BOUND, CORE_BOUND = "bound-our-copies", "bound-one-core"


def bounds(goodput: float, cpu: float, costs: Mapping[str, float]) -> dict[str, float]:
    """Goodput, in the unit of `goodput`, of the kernel with our copies, and of one core, in Gb/s.

    `goodput` (Gb/s) and `cpu` (s for 10^9 bytes) are the kernel's. One that cannot be told,
    since noise made a cost negative, is left out.
    """
    copies = costs[FOR_XDP] + costs[TO_UMEM]
    ours = cpu - costs[TO_USER] + copies
    found = {}
    if ours > 0:
        found[BOUND] = goodput * cpu / ours
    if copies > 0:
        found[CORE_BOUND] = 8 / copies
    return found
