# SPDX-License-Identifier: Apache-2.0
"""The runtime: an interface whose flows land in a region, and the sockets on it.

    with Region(64 << 20) as region, region.map() as view, Runtime("eth1", region) as rt:
        listener = rt.listen(("192.0.2.1", 5201))
        with listener.accept() as conn:
            while batch := conn.recv_frags():
                errors, phase = batch.check_pattern(view, 7, phase)
                conn.dontneed(batch)
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Literal, NamedTuple, Self

from devmemtcp.agent.region import Region
from devmemtcp.agent.socket import Address, Connection, Listener

Mode = Literal["auto", "native", "generic"]
RxCsum = Literal["verify", "trust"]
Pressure = Literal["window", "drop"]


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
    """Descriptors that did not point at a device page of ours."""
    tx_frames: int
    tx_kicks: int
    tx_kick_retries: int
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

    @property
    def tokens_outstanding(self) -> int:
        """Tokens that the application holds."""
        return self.stack["tokens_outstanding"]


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


class FragInfo(NamedTuple):
    """One buffer as the frag tracker sees it."""

    kind: str
    """host_page or net_iov."""
    index: int
    state: str
    """free, fill, received, ooo, lent, returned or tx."""
    owner: int
    """Flow id; 0: the pool or the NIC."""
    refs: int
    offset: int
    """Bytes, in the region for a net_iov, in the host area for a page."""


class Unreadable(NamedTuple):
    """Whether the process that runs the stack can read the payload. True only when proved."""

    proved: bool
    signal: int
    """That killed the child which read a device page; SIGSEGV (11) when all is well."""
    mappings: int
    """Mappings of the region in the stack's process."""
    descriptors: int
    """Open file descriptors of the region in the stack's process."""
    reason: str
    """One line for people."""

    def __bool__(self) -> bool:
        return self.proved


class Runtime:
    """Take TCP flows of one interface over, until the end of the `with` block.

    Everything is tied to file descriptors of the process: a killed process leaves nothing behind.

    `ifname`: the interface, in the network namespace `netns` (a name below /run/netns or a path).
    `mode`: how the XDP program is attached; `auto` tries native, then generic.
    `rx_csum`: `verify` every TCP checksum, or `trust` the NIC.
    `isolate`: run the stack in a process of its own; only then it cannot read the payload.
    `pressure`: `window` follows the free device buffers, `drop` ignores tokens as the kernel does.
    `busy_poll`: never sleep; `spin_us`: poll the rings that long before each sleep.
    `cpu`: pin the loop's thread to this CPU.
    `force`: take the interface of the default route all the same.

    Raises on entry, with nothing changed: ConfigError (no such interface, region too small, ...),
    PermissionError, Unsupported, XdpError.
    """

    ifname: str
    mode: Literal["native", "generic"]
    """As really attached."""
    mtu: int
    queues: int
    region: Region

    def __init__(
        self,
        ifname: str,
        region: Region,
        *,
        mode: Mode = "auto",
        rx_csum: RxCsum = "verify",
        isolate: bool = False,
        pressure: Pressure = "window",
        busy_poll: bool = False,
        spin_us: int = 0,
        cpu: int | None = None,
        netns: str | None = None,
        force: bool = False,
        max_connections: int = 4096,
        linger: float = 1.0,
    ) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        raise NotImplementedError

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Undo everything: connections get up to `linger` seconds to finish, then RST; idempotent."""
        raise NotImplementedError

    @property
    def unreadable(self) -> Unreadable:
        """The read probe, run anew: see `Unreadable`."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        """The process that runs the stack (this one unless `isolate`)."""
        raise NotImplementedError

    def listen(
        self, address: Address, *, close_first: bool = False, backlog: int = 128
    ) -> Listener:
        """Take connections on (host, port); host is an IP address of the interface or unspecified.

        The port is reserved with a bound kernel socket. `close_first`: shut the sending side as
        soon as the first bytes arrive. Raises ConfigError (port in use, not our address).
        """
        raise NotImplementedError

    def poll(
        self, timeout: float | None = None, *, wake_fd: int = -1
    ) -> list[Listener | Connection]:
        """Wait until something can be accepted or received (or has ended), and return what.

        Level-triggered, like select(): what is not taken is returned again. [] after `timeout`,
        or as soon as the descriptor `wake_fd` is readable (signal.set_wakeup_fd()'s other end).
        """
        raise NotImplementedError

    def stats(self) -> Stats:
        """All counters, now."""
        raise NotImplementedError

    def flows(self) -> list[FlowInfo]:
        """All live connections."""
        raise NotImplementedError

    def frags(self) -> list[FragInfo]:
        """The frag tracker's record of each buffer, net_iovs first."""
        raise NotImplementedError

    def dump_frags(self) -> str:
        """`frags()` for people: totals by state, then runs of equal buffers."""
        raise NotImplementedError

    def check(self) -> int:
        """All invariants of all buffers: 0, or -(1 + n) for the first buffer n that breaks one."""
        raise NotImplementedError
