# SPDX-License-Identifier: Apache-2.0
"""Does somebody else have the interface: an XDP program, or AF_XDP sockets on its queues?"""

from __future__ import annotations

import dataclasses
import errno
import time
from collections.abc import Iterator, Sequence

from devmemtcp.agent import holders, preflight
from devmemtcp.agent.doctor import host
from devmemtcp.agent.doctor.look import looked, named, queues_named
from devmemtcp.agent.doctor.record import Check, fail, ok
from devmemtcp.netlink.constants import QueueType
from devmemtcp.netlink.errors import Unsupported
from devmemtcp.netlink.netdev import Netdev
from devmemtcp.netlink.xdp_diag import xdp_sockets
from devmemtcp.pyxdp import Features, Umem, XdpError, XskSocket

_QUEUES_TELL = (6, 14)
"""The release from which queue-get knows AF_XDP sockets."""
_PAGE = 4096
_PATIENCE = 10.0
"""Seconds: a socket that has just been closed, as that of the check before, is gone by then, be the
CPU an emulated one."""
_LOOK_AGAIN = 0.01
_TRIED = 0
"""The queue that `pyxdp.features()` has bound sockets to."""


def checks(can: Features, *, served: bool) -> Iterator[Check]:
    """Of one interface. `served`: by an agent of ours, which is as it should be."""
    yield from looked("XDP program on it", lambda: _program(can, served))
    yield from looked("AF_XDP users", lambda: _sockets(can, served))


def _program(can: Features, served: bool) -> Iterator[Check]:
    name = "XDP program on it"
    if not can.programs:
        yield ok(name, "none", "the place is free")
    elif served:
        yield ok(name, named(map(str, can.programs)), "the agent's")
    else:
        for refusal in preflight.program_refusals(can.ifname, can.programs):
            yield dataclasses.replace(Check.of(refusal), name=name)


def _sockets(can: Features, served: bool) -> Iterator[Check]:
    name = "AF_XDP users"
    try:
        found = [each for each in xdp_sockets() if each.ifindex == can.ifindex]
        queues: Sequence[int] = sorted({each.queue for each in found})
        who = holders.holders_of_sockets([each.inode for each in found]) if found else []
    except Unsupported:
        queues = _queues_with_sockets(can)
        who = holders.with_xdp_sockets() if queues else []
    if not queues:
        yield ok(name, "none", "its queues are free")
        return
    what = queues_named(queues)
    by = named(map(str, who)) if who else "a process that cannot be seen from here"
    if served:
        yield ok(name, f"{what}: {by}", "the agent's")
        return
    mend = f"kill {who[0].pid}" if len(who) == 1 else None
    means = "a queue receives into one AF_XDP socket's memory; take another interface, or end "
    means += f"process {who[0].pid}" if mend else "what has this one"
    yield fail(name, f"{what}: {by}", means, mend)


def _queues_with_sockets(can: Features) -> list[int]:
    """For kernels that do not list sockets: asked of the netdev family, or tried.

    Raises Unsupported, and OSError, EPERM: no CAP_NET_RAW to try it with.
    """
    tried = _TRIED if can.af_xdp else None
    if host.release() >= _QUEUES_TELL:
        deadline = time.monotonic() + _PATIENCE
        while tried in (taken := _asked(can.ifindex)) and time.monotonic() < deadline:
            time.sleep(_LOOK_AGAIN)
        return taken
    patience = {tried: _PATIENCE}
    return [
        queue
        for queue in range(can.rx_queues or 1)
        if _is_taken(can.ifindex, queue, patience.get(queue, 0))
    ]


def _asked(ifindex: int) -> list[int]:
    with Netdev() as netdev:
        queues = netdev.queue_get(ifindex)
    return sorted({each.id or 0 for each in queues if each.xsk and each.type is QueueType.RX})


def _is_taken(ifindex: int, queue: int, patience: float) -> bool:
    try:
        with Umem.allocate(_PAGE) as umem, XskSocket(ifindex, queue, umem, busy_timeout=patience):
            return False
    except XdpError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
