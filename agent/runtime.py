# SPDX-License-Identifier: Apache-2.0
"""The runtime: an interface whose flows land in a region, and the sockets on it.

In a program:

    with Region(64 << 20) as region, region.map() as view, Runtime("eth1", region) as rt:
        listener = rt.listen(("192.0.2.1", 5201))
        with listener.accept() as conn:
            phase = 0
            while batch := conn.recv_frags():
                errors, phase = batch.check_pattern(view, 7, phase)
                conn.dontneed(batch)
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import resource
import signal
import weakref
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self, TypeVar, get_args

from devmemtcp.agent._loop import ffi, lib
from devmemtcp.agent.datapath import ChannelFds, Datapath, DatapathConfig
from devmemtcp.agent.errors import ConfigError, Unsupported, XdpError
from devmemtcp.agent.netdev import IpAddress, NetDev, NetNs
from devmemtcp.agent.region import PAGE_SIZE, Region
from devmemtcp.agent.reservation import reserve
from devmemtcp.agent.socket import Address, AppHalf, Connection, Listener
from devmemtcp.agent.stackd import RemoteDatapath
from devmemtcp.pyxdp.features import Features

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
    rx_oversize: int
    """Packets of more chunks than any packet should have."""
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


@dataclass(frozen=True, slots=True)
class FragInfo:
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
    """Whether the process that runs the stack cannot read the payload. True only when proved.

    Proved means all three: a child of that process that reads a device page dies of SIGSEGV,
    the process has no mapping of the region, and no descriptor of it. In one process with the
    application the last two cannot hold.
    """

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
    `mode`: how the XDP program is attached; `auto` tries native, then generic, except on a
    veth, where generic is faster: there native mode takes the peer's segmentation offload away.
    `rx_csum`: `verify` every TCP checksum, or `trust` the NIC.
    `isolate`: run the stack in a process of its own; only then it cannot read the payload.
    `pressure`: `window` follows the free device buffers, `drop` ignores tokens as the kernel does.
    `busy_poll`: never sleep; `spin_us`: poll the rings that long before each sleep.
    `cpu`: pin the loop's thread to this CPU.
    `force`: take the interface of the default route all the same.
    `max_connections`: embryos and TIME-WAIT included. `rcv_wnd`: largest window of a
    connection, in bytes. `linger`: seconds that closed connections get to finish at the end.
    `listen`: addresses that `listen()` will be called with; one that cannot be is refused on
    entry, before the interface is touched.

    The region must have pages of 4 KiB: each becomes a mapping of its own beside a header page,
    which a hugetlb file does not allow. Its size is limited by vm.max_map_count, 127 MiB at the
    default.

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
        rcv_wnd: int = 4 << 20,
        linger: float = 1.0,
        listen: Iterable[Address] = (),
    ) -> None:
        self.ifname = ifname
        self.region = region
        self._mode = _choice("mode", mode, Mode)
        self._csum_trust = _choice("rx_csum", rx_csum, RxCsum) == "trust"
        self._pressure = _choice("pressure", pressure, Pressure)
        self._isolate = isolate
        self._busy_poll = busy_poll
        self._spin_us = spin_us
        self._cpu = cpu
        self._netns = netns
        self._force = force
        self._max_connections = max_connections
        self._rcv_wnd = rcv_wnd
        self._linger = linger
        self._intended = tuple(listen)
        self._undo: ExitStack | None = None

    def __enter__(self) -> Self:
        if self._undo is not None:
            raise RuntimeError("this runtime has been entered already")
        with ExitStack() as undo:
            self._set_up(undo)
            self._undo = undo.pop_all()
        self._owner = os.getpid()
        # A daemon thread may not outlive the memory it works on.
        atexit.register(self.close)
        _entered.add(self)
        return self

    def _set_up(self, undo: ExitStack) -> None:
        _check_capabilities()
        netns = NetNs(self._netns)
        undo.callback(netns.close)
        with netns.entered():
            dev = NetDev.find(self.ifname)
        config = self._plan(dev)
        self._check(dev, config)
        with netns.entered():
            for host, port in self._intended:
                address = _listening_address(dev, host, port)
                reserve(dev.features.ifname, address, port).close()
        self.mtu, self.queues = config.mtu, config.queues

        event, wake = (_eventfd(undo) for _ in range(2))
        alive, life = os.pipe2(os.O_CLOEXEC)
        undo.callback(os.close, alive)
        with os.fdopen(life, "wb", 0):  # only the loop is to hold it
            channel = os.memfd_create("devmemtcp-channel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            undo.callback(os.close, channel)
            os.ftruncate(channel, config.channel_size)
            fcntl.fcntl(channel, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            fds = ChannelFds(channel=channel, wake=wake, event=event, life=life)
            self._datapath = self._make_datapath(config, fds, netns)
        undo.callback(self._close_datapath)
        self.mode = "native" if self._datapath.mode == "native" else "generic"
        self._app = AppHalf(
            channel, self.region.size, event=event, wake=wake, life=alive, ended=self._why_ended
        )
        undo.callback(self._app.close)  # threads that wait go on to learn why they must not
        self._datapath.start()
        self._dev, self._entered = dev, netns.entered

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Undo everything; idempotent.

        Closed connections get up to `linger` seconds to finish, open ones are reset. In a
        child made by fork() everything is closed from the start, and the parent's stays.
        """
        if self._undo is None or os.getpid() != self._owner:
            return
        undo, self._undo = self._undo, None
        atexit.unregister(self.close)
        _entered.discard(self)
        undo.close()

    def _let_go(self) -> None:
        """In a child: it has no thread that runs the loop, and must not speak for the parent."""
        self._undo = None
        self._app.close()
        self._datapath.let_go()

    def _close_datapath(self) -> None:
        self._datapath.close(int(self._linger * 1000))

    def _make_datapath(
        self, config: DatapathConfig, fds: ChannelFds, netns: NetNs
    ) -> Datapath | RemoteDatapath:
        try:
            if self._isolate:
                return RemoteDatapath(config, fds, self.region.fd, netns)
            with netns.entered():
                return Datapath(config, fds, self.region.fd, netns)
        except XdpError as error:
            if error.errno == errno.EBUSY:
                raise ConfigError(
                    f"{self.ifname} is taken: {error.strerror}; `bpftool net show` tells by what"
                ) from error
            if error.errno in (errno.EPERM, errno.EACCES):
                raise PermissionError(error.errno, str(error)) from error
            raise

    # ---- before anything is changed ----

    def _plan(self, dev: NetDev) -> DatapathConfig:
        can = dev.features
        mode = None if self._mode == "auto" else self._mode
        if mode is None and can.driver == "veth":
            mode = "generic"
        return DatapathConfig(
            ifname=can.ifname,
            queues=can.rx_queues or 1,
            mtu=can.mtu,
            mode=mode,
            multi_buffer=can.multi_buffer is not False,
            csum_trust=self._csum_trust,
            pressure=self._pressure,
            busy_poll=self._busy_poll,
            spin_us=self._spin_us,
            cpu=self._cpu,
            nr_niovs=self.region.size // PAGE_SIZE,
            nr_pages=TX_PAGES,
            max_flows=self._max_connections,
            rcv_wnd_max=min(self._rcv_wnd, self.region.size),
        )

    def _check(self, dev: NetDev, config: DatapathConfig) -> None:
        """Whatever can be known to fail, fails here."""
        name = config.ifname
        self._check_numbers()
        self._check_region(config)
        if dev.default_route and not self._force:
            raise ConfigError(
                f"the default route leaves by {name}: taking it may cut this machine off; "
                "choose another interface, or insist (force=True, --force)"
            )
        if dev.loopback:
            raise ConfigError(
                f"{name} is the loopback device, which no packet of another host comes by; choose "
                "a NIC, or one end of a veth pair as `devmemtcp demo` makes it"
            )
        if not dev.up:
            raise ConfigError(f"{name} is down; `ip link set {name} up`")
        if not MIN_MTU <= config.mtu <= MAX_MTU:
            raise ConfigError(f"{name} has an MTU of {config.mtu}; {MIN_MTU} to {MAX_MTU} work")
        if config.queues > lib.STACK_MAX_QUEUES:
            raise ConfigError(
                f"{name} has {config.queues} RX queues, {lib.STACK_MAX_QUEUES} are possible; "
                f"see `ethtool -L {name}`"
            )
        if dev.features.programs:
            raise ConfigError(
                f"{name} has an XDP program already: {dev.features.programs[0]}; "
                f"`ip link set {name} xdp off` takes it off"
            )
        _check_mappings(config)
        _check_memlock(config)
        _check_features(dev.features, config)

    def _check_numbers(self) -> None:
        for name, value, least, most in (
            ("max_connections", self._max_connections, 1, (1 << 20) - 1),
            ("rcv_wnd", self._rcv_wnd, 1 << 16, 1 << 30),
            ("spin_us", self._spin_us, 0, 1_000_000),
            ("linger", self._linger, 0, 3600),
        ):
            if not least <= value <= most:
                raise ConfigError(f"{name} must be {least} to {most}, not {value}")
        if self._cpu is not None and self._cpu not in os.sched_getaffinity(0):
            raise ConfigError(f"CPU {self._cpu} is not among those this process may run on")

    def _check_region(self, config: DatapathConfig) -> None:
        if self.region.fd < 0:
            raise ConfigError("the region is closed")
        if self.region.hugetlb:
            raise ConfigError(
                "a hugetlb region cannot lie between header pages: its file can only be mapped "
                "in pieces of 2 MiB; take a region without hugetlb"
            )
        if config.nr_niovs < MIN_PAGES_A_QUEUE * config.queues:
            raise ConfigError(
                f"a region of {self.region.size} bytes is too small for {config.queues} queues; "
                f"take at least {MIN_PAGES_A_QUEUE * PAGE_SIZE * config.queues}"
            )

    # ---- sockets ----

    def listen(
        self, address: Address, *, close_first: bool = False, backlog: int = 1024
    ) -> Listener:
        """Take connections on (host, port); host is an IP address of the interface or unspecified.

        Port 0 takes a free one, see `Listener.address`. The port is reserved with a bound kernel
        socket. `close_first`: shut the sending side as soon as the first bytes arrive. Raises
        ConfigError (port in use, not an address of the interface).
        """
        host, port = address
        if backlog < 1:
            raise ConfigError(f"the backlog must be at least 1, not {backlog}")
        app = self._open()
        with self._entered():
            ip = _listening_address(self._dev, host, port)
        number, port = self._datapath.listen(str(ip), port, close_first, backlog)
        listener = Listener(app, number, (str(ip), port), close_first, self._unlisten)
        app.listeners[number] = listener
        lib.app_listener(app.handle, number, 1)
        self._datapath.steer(number)
        return listener

    def _unlisten(self, number: int) -> None:
        try:
            self._datapath.unlisten(number)
        except BrokenPipeError:
            return  # the stack's process has died, and the listener with it

    def poll(
        self, timeout: float | None = None, *, wake_fd: int = -1
    ) -> list[Listener | Connection]:
        """Wait until something can be accepted or received (or has ended), and return what.

        Level-triggered, like select(): what is not taken is returned again. [] after `timeout`,
        or as soon as the descriptor `wake_fd` is readable (signal.set_wakeup_fd()'s other end).
        """
        app = self._open()
        app.wait(timeout=timeout, extra_fd=wake_fd)
        return app.ready()

    def _open(self) -> AppHalf:
        if self._undo is None:
            raise OSError(errno.EBADF, "the runtime is closed")
        return self._app

    def _why_ended(self) -> OSError:
        if self._undo is None:
            return OSError(errno.EBADF, "the runtime is closed")
        try:
            number = self._datapath.failure()
        except BrokenPipeError as died:
            return died
        if number == errno.ENXIO:
            return OSError(number, f"{self.ifname} is gone")
        return OSError(number, f"the loop has ended: {os.strerror(number)}")

    # ---- looking inside ----

    @property
    def unreadable(self) -> Unreadable:
        """The read probe, run anew: see `Unreadable`."""
        self._open()
        seen = self._datapath.probe()
        number, mappings, descriptors = seen["signal"], seen["mappings"], seen["descriptors"]
        proved = number == signal.SIGSEGV and not mappings and not descriptors
        if proved:
            reason = (
                f"process {seen['pid']} has no mapping and no descriptor of the region, "
                "and its child that read a device page died of SIGSEGV"
            )
        elif number != signal.SIGSEGV:
            reason = f"a child of process {seen['pid']} read a device page and was not stopped"
        elif not self._isolate:
            reason = "stack and application share a process, which has the region; isolate them"
        else:
            reason = f"process {seen['pid']} has {mappings} mappings, {descriptors} descriptors"
        return Unreadable(proved, number, mappings, descriptors, reason)

    @property
    def pid(self) -> int:
        """The process that runs the stack (this one unless `isolate`)."""
        return self._datapath.pid if isinstance(self._datapath, RemoteDatapath) else os.getpid()

    def stats(self) -> Stats:
        """All counters, now."""
        self._open()
        raw = self._datapath.stats()
        return Stats(
            stack=raw["stack"],
            drops=raw["drops"],
            steer=raw["steer"],
            sockets=tuple(SocketStats(**counters) for counters in raw["sockets"]),
            loop=LoopStats(**raw["loop"]),
        )

    def flows(self) -> list[FlowInfo]:
        """All live connections."""
        self._open()
        return [_flow_info(*fields) for fields in self._datapath.flows()]

    def frags(self) -> list[FragInfo]:
        """The frag tracker's record of each buffer, net_iovs first."""
        self._open()
        return [
            FragInfo(_KINDS[kind], index, _STATES[state], owner, refs, offset)
            for kind, index, state, owner, refs, offset in self._datapath.frags()
        ]

    def dump_frags(self) -> str:
        """`frags()` for people: totals by state, then runs of equal buffers."""
        return format_frags(self.frags())

    def check(self) -> int:
        """All invariants of all buffers: 0, or -(1 + n) for the first buffer n that breaks one."""
        self._open()
        return self._datapath.check()


_entered: weakref.WeakSet[Runtime] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for runtime in tuple(_entered):
        atexit.unregister(runtime.close)
        runtime._let_go()
    _entered.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


def format_frags(frags: list[FragInfo]) -> str:
    """A table of totals, then one line a run of neighbours that are alike in all but number."""
    lines = ["kind       state     buffers"]
    kinds = sorted((frag.kind, frag.state) for frag in frags)
    for (kind, state), group in groupby(kinds):
        lines.append(f"{kind:<10} {state:<9} {sum(1 for _ in group):7}")
    lines += ["", "kind       first   last    state     owner       refs"]
    for key, run in groupby(frags, key=lambda f: (f.kind, f.state, f.owner, f.refs)):
        kind, state, owner, refs = key
        members = list(run)
        span = f"{members[0].index:<7} {members[-1].index:<7}"
        lines.append(f"{kind:<10} {span} {state:<9} {owner:<#10x}  {refs}")
    return "\n".join(lines)


TX_PAGES = 2048
"""Host pages for ACKs, resets and replies."""
MIN_PAGES_A_QUEUE = 128
MIN_MTU, MAX_MTU = 576, 65535
LINEAR_MTU = 3498
"""Of a native program without xdp.frags: what fits a page beside XDP's headroom (veth, 4 KiB)."""

_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_BPF": 39, "CAP_PERFMON": 38}
_CAP_SYS_ADMIN = 21
_IN_SYS_ADMIN = {"CAP_BPF", "CAP_PERFMON"}
_CAP_IPC_LOCK = 14

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

_Choice = TypeVar("_Choice")


def _choice(name: str, value: _Choice, choices: object) -> _Choice:
    allowed = get_args(choices)
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def _listening_address(dev: NetDev, host: str, port: int) -> IpAddress:
    """The address, if the interface can be listened on there. Raises ConfigError."""
    address = _ip_address(host)
    if not 0 <= port <= 65535:
        raise ConfigError(f"there is no port {port}")
    if not address.is_unspecified and not dev.has_address(address):
        name = dev.features.ifname
        raise ConfigError(
            f"{host} is not an address of {name}; `ip addr show {name}` lists those it has"
        )
    return address


def _ip_address(host: str) -> IpAddress:
    try:
        return ip_address(host)
    except ValueError as error:
        raise ConfigError(f"{host!r} is not an IP address") from error


def _eventfd(undo: ExitStack) -> int:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    undo.callback(os.close, fd)
    return fd


def _effective_capabilities() -> int:
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _check_capabilities() -> None:
    have = _effective_capabilities()
    missing = [name for name, bit in _CAPABILITIES.items() if not have >> bit & 1]
    if have >> _CAP_SYS_ADMIN & 1:
        missing = [name for name in missing if name not in _IN_SYS_ADMIN]
    if missing:
        raise PermissionError(errno.EPERM, f"it needs {', '.join(missing)}")


def _check_features(can: Features, config: DatapathConfig) -> None:
    for name, what in (("af_xdp", "AF_XDP"), ("unaligned_chunks", "unaligned UMEM chunks")):
        if getattr(can, name) is False:
            raise Unsupported(f"{can.ifname} cannot have {what}: {can.reasons.get(name)}")
    if not config.multi_buffer and (config.mode == "generic" or config.mtu > LINEAR_MTU):
        raise Unsupported(
            f"{can.ifname}: packets of more than one buffer need Linux 6.6 (XDP_USE_SG); without "
            f"it only native mode with an MTU of at most {LINEAR_MTU} works"
        )


def _check_mappings(config: DatapathConfig) -> None:
    """Until it is sealed, each page of the region is a mapping, and its header page another."""
    limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    others = len(Path("/proc/self/maps").read_text().splitlines()) + 64
    needed = lib.mosaic_mappings(config.nr_niovs) + others
    if needed > limit:
        most = (limit - others) // 2 * PAGE_SIZE >> 20
        raise ConfigError(
            f"a region of {config.nr_niovs * PAGE_SIZE} bytes needs {needed} mappings while it is "
            f"set up, vm.max_map_count allows {limit}: take at most {most} MiB, or "
            f"`sysctl -w vm.max_map_count={needed}`"
        )


def _check_memlock(config: DatapathConfig) -> None:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit == resource.RLIM_INFINITY or _effective_capabilities() >> _CAP_IPC_LOCK & 1:
        return
    if config.umem_size > limit:
        raise ConfigError(
            f"a region of {config.nr_niovs * PAGE_SIZE} bytes needs {config.umem_size} bytes of "
            f"locked memory, the limit is {limit}: `ulimit -l unlimited`, or run it as root"
        )


def _flow_info(id: int, state: int, *rest: int | str) -> FlowInfo:
    local, peer, numbers = rest[0:3], rest[3:6], rest[6:]
    return FlowInfo(id, _TCP_STATES[state], _address(*local), _address(*peer), *map(int, numbers))


def _address(family: int | str, raw: int | str, port: int | str) -> Address:
    packed = bytes.fromhex(str(raw))
    host = IPv6Address(packed) if family == 6 else IPv4Address(packed[12:])
    return str(host), int(port)
