# SPDX-License-Identifier: Apache-2.0
"""What a runtime looks like from outside at one moment: counters, connections, buffers."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import groupby
from typing import NamedTuple

from devmemtcp.agent._loop import FORM, INSTEAD_OF, ffi, lib
from devmemtcp.agent.socket import Address

_KINDS = {
    value: name.removeprefix("FRAG_").lower()
    for value, name in ffi.typeof("enum frag_kind").elements.items()
}
_STATES = {
    value: name.removeprefix("FRAG_").lower()
    for value, name in ffi.typeof("enum frag_state").elements.items()
}
_TCP_STATES = {
    value: name.removeprefix("TCP_").replace("_", "-")
    for value, name in ffi.typeof("enum tcp_state").elements.items()
}


def netmem_check() -> str:
    """The form of the check "page or net_iov?" in this process, and what it stands in for."""
    return f"{FORM}, not {INSTEAD_OF}" if INSTEAD_OF else FORM


@dataclass(frozen=True, slots=True)
class SocketStats:
    """One AF_XDP socket (XDP_STATISTICS, in packets or descriptors)."""

    queue: int
    rx_dropped: int
    rx_invalid_descs: int
    tx_invalid_descs: int
    rx_ring_full: int
    rx_fill_ring_empty_descs: int
    tx_ring_empty_descs: int


@dataclass(frozen=True, slots=True)
class LoopStats:
    """What the native loop did."""

    turns: int
    sleeps: int
    rx_batches: int
    rx_packets: int
    rx_descs: int
    rx_bad_descs: int
    """Descriptors that did not point at the start of a buffer of ours."""
    rx_oversize: int
    """Packets of more chunks than any packet should have."""
    tx_frames: int
    tx_kicks: int
    tx_kick_retries: int
    rx_wakeups: int
    """Calls to a zero-copy driver that had run out of buffers."""
    wakeups_sent: int
    """eventfd writes to the application."""
    cpu_ns: int
    """CPU time of the loop's thread."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Everything that is counted; the names of `stack` are those of struct stack_stats."""

    stack: dict[str, int]
    drops: dict[str, int]
    """By reason, e.g. {"OLD_SEQ": 3}; zeros included."""
    steer: dict[str, int]
    """The XDP program's counters by name (steer.h), summed over CPUs."""
    sockets: tuple[SocketStats, ...]
    loop: LoopStats
    netmem: dict[str, int]
    """Of the process that runs the stack: users of the static `key`, `warnings` (sites that found
    a net_iov where a page was due), their `hits`."""
    own_tokens: int | None = None
    """Tokens that this application holds, of a stack that it shares; None: it has it alone."""

    @property
    def tokens_outstanding(self) -> int:
        """Tokens that the application holds."""
        return self.stack["tokens_outstanding"] if self.own_tokens is None else self.own_tokens

    @property
    def bytes_device(self) -> int:
        """Received bytes that were delivered in device memory."""
        return self.stack["bytes_device"]

    @property
    def bytes_linear(self) -> int:
        """Received bytes that were left with the headers of packets in device memory."""
        return self.stack["bytes_linear"]

    @property
    def bytes_data(self) -> int:
        """Received bytes of packets that lay in host memory altogether."""
        return self.stack["bytes_data"]


class FlowInfo(NamedTuple):
    """One connection as the stack sees it."""

    id: int
    state: str
    """RFC 9293's name, e.g. "ESTABLISHED"."""
    local: Address
    peer: Address
    rcv_nxt: int
    rcv_wnd: int
    snd_una: int
    snd_nxt: int
    ooo_frags: int
    tokens: int
    rx_bytes: int
    bytes_device: int
    """Delivered in device memory; the next two were copied, see `Stats`."""
    bytes_linear: int
    bytes_data: int
    app: int
    """Number of the application; STACK_NONE (2**32 - 1) when that is gone."""
    queue: int
    """RX queue of its last segment."""


@dataclass(frozen=True, slots=True)
class FragInfo:
    """One buffer as the frag tracker sees it."""

    kind: str
    """host_page or net_iov."""
    area: int | None
    """The stack's number; None: host pages for transmission."""
    index: int
    state: str
    """free, fill, received, ooo, lent, returned or tx."""
    owner: int
    """Flow id; 0: the pool or the NIC."""
    refs: int
    offset: int
    """Bytes, in the area's memory: in the region for a net_iov."""


def flow_info(id: int, state: int, *rest: int | str) -> FlowInfo:
    """From the fields that `Datapath.flows()` gives."""
    local, peer, numbers = rest[0:3], rest[3:6], rest[6:]
    return FlowInfo(id, _TCP_STATES[state], _address(*local), _address(*peer), *map(int, numbers))


def _address(family: int | str, raw: int | str, port: int | str) -> Address:
    packed = bytes.fromhex(str(raw))
    host = IPv6Address(packed) if family == 6 else IPv4Address(packed[12:])
    return str(host), int(port)


def frag_info(kind: int, area: int, index: int, state: int, *rest: int) -> FragInfo:
    """From the fields that `Datapath.frags()` gives."""
    where = None if area == lib.STACK_NONE else area
    return FragInfo(_KINDS[kind], where, index, _STATES[state], *rest)


def format_frags(frags: list[FragInfo]) -> str:
    """A table of totals, then one line a run of neighbours that are alike in all but number."""
    lines = ["kind       state     buffers"]
    kinds = sorted((frag.kind, frag.state) for frag in frags)
    for (kind, state), group in groupby(kinds):
        lines.append(f"{kind:<10} {state:<9} {sum(1 for _ in group):7}")
    lines += ["", "kind       area  first   last    state     owner       refs"]
    for key, run in groupby(frags, key=lambda f: (f.kind, f.area, f.state, f.owner, f.refs)):
        kind, area, state, owner, refs = key
        members = list(run)
        where = f"{'tx' if area is None else area:<4}"
        span = f"{members[0].index:<7} {members[-1].index:<7}"
        lines.append(f"{kind:<10} {where}  {span} {state:<9} {owner:<#10x}  {refs}")
    return "\n".join(lines)
