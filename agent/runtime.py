# SPDX-License-Identifier: Apache-2.0
"""The runtime: an interface whose flows land in regions, and the sockets on it.

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
import os
import weakref
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from ipaddress import ip_address
from shlex import quote
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, cast, get_args

from devmemtcp.agent._loop import lib
from devmemtcp.agent.channel import Channel
from devmemtcp.agent.datapath import Binding, Datapath
from devmemtcp.agent.datapath_config import (
    ACK_SEGMENTS,
    ACK_SEGMENTS_MAX,
    HOST_BUFFERS,
    RCV_WND,
    AttachMode,
    DatapathConfig,
    attach_mode,
    window,
)
from devmemtcp.agent.errors import ConfigError, XdpError
from devmemtcp.agent.netdev import IpAddress, NetDev, NetNs
from devmemtcp.agent.preflight import (
    check_capabilities,
    check_device_memory,
    check_interface,
    check_mappings,
    check_memlock,
)
from devmemtcp.agent.readability import Unreadable, judge
from devmemtcp.agent.region import PAGE_SIZE, Region, check_page_size, is_writable
from devmemtcp.agent.reservation import reserve
from devmemtcp.agent.snapshot import (
    FlowInfo,
    FragInfo,
    LoopStats,
    SocketStats,
    Stats,
    flow_info,
    format_frags,
    frag_info,
)
from devmemtcp.agent.socket import Address, AppHalf, Connection, Listener
from devmemtcp.agent.stackd import RemoteDatapath
from devmemtcp.agent.tcp_timeouts import TcpTimeouts
from devmemtcp.xdp_prog import LINEAR_MAX

Mode = Literal["auto", "native", "generic", "zerocopy"]
RxCsum = Literal["verify", "trust"]
Pressure = Literal["window", "drop"]


class Runtime:
    """Take TCP flows of one interface over, until the end of the `with` block.

    Everything is tied to file descriptors of the process: a killed process leaves nothing behind.

    `ifname`: the interface, in the network namespace `netns` (a name below /run/netns or a path).
    `region`: what the packets of the `queues` (None: of all) are received into; those of other
    queues, or of all if it is None, are received into host memory, and copied to the application.
    `mode`: how the XDP program is attached; `auto` tries native, then generic, except on a
    veth, where generic is faster: there native mode takes the peer's segmentation offload away,
    which must be where AF_XDP has packets of one buffer (before Linux 6.6).
    `zerocopy` has the NIC write to the region itself: see docs/zero-copy.md for what that changes.
    `rx_csum`: `verify` every TCP checksum, or `trust` the NIC.
    `linear_bytes`: what the split leaves of each packet's payload with its headers, and so out of
    the region, as NICs do that split at a fixed length.
    `isolate`: run the stack in a process of its own; only then it cannot read the payload.
    `pressure`: `window` follows the free device buffers, `drop` ignores tokens as the kernel does.
    `busy_poll`: never sleep; `spin_us`: poll the rings that long before each sleep.
    `cpu`: pin the loop's thread to this CPU. `napi_cpu`, of a veth in native mode: have its NAPI,
    which otherwise runs where the sender transmits, polled by a kernel thread on that CPU.
    `force`: take the interface of the default route all the same.
    `max_connections`: embryos and TIME-WAIT included. `rcv_wnd`: largest window of a connection, in
    bytes; None: 4 MiB, or what a veth's ring of 256 packets can hold in native mode.
    `ack_segments`: full-sized segments that wait for one ACK, unless a batch or the 40 ms of a
    delayed ACK end before; RFC 5681 4.2 wants at most 2. `timeouts`: how long to wait for peers.
    `device_memory`: bytes of all regions
    that there may be at a time, those that drain included; by default the region's, or 64 MiB
    without one.
    `linger`: seconds that closed connections get to finish at the end.
    `listen`: addresses that `listen()` will be called with; one that cannot be is refused on
    entry, before the interface is touched.

    The region must have pages of 4 KiB: each becomes a mapping of its own beside a header page,
    which a hugetlb file does not allow. Its size is limited by vm.max_map_count, 127 MiB at the
    default. Neither holds in zero-copy mode.

    Raises on entry, with nothing changed: ConfigError (no such interface, region too small, ...),
    PermissionError, Unsupported, XdpError.
    """

    ifname: str
    mode: AttachMode
    """As really attached."""
    mtu: int
    queues: int
    region: Region | None

    def __init__(
        self,
        ifname: str,
        region: Region | None,
        *,
        queues: Sequence[int] | None = None,
        mode: Mode = "auto",
        rx_csum: RxCsum = "verify",
        linear_bytes: int = 0,
        isolate: bool = False,
        pressure: Pressure = "window",
        busy_poll: bool = False,
        spin_us: int = 0,
        cpu: int | None = None,
        napi_cpu: int | None = None,
        netns: str | None = None,
        force: bool = False,
        max_connections: int = 4096,
        rcv_wnd: int | None = None,
        ack_segments: int = ACK_SEGMENTS,
        timeouts: TcpTimeouts | None = None,
        device_memory: int | None = None,
        linger: float = 1.0,
        listen: Iterable[Address] = (),
    ) -> None:
        self.ifname = ifname
        self.region = region
        self._wanted_queues = None if queues is None else tuple(sorted(set(queues)))
        self._mode = _choice("mode", mode, Mode)
        self._csum_trust = _choice("rx_csum", rx_csum, RxCsum) == "trust"
        self._pressure = _choice("pressure", pressure, Pressure)
        self._linear_bytes = linear_bytes
        self._isolate = isolate
        self._busy_poll = busy_poll
        self._spin_us = spin_us
        self._cpu = cpu
        self._napi_cpu = napi_cpu
        self._netns = netns
        self._force = force
        self._max_connections = max_connections
        self._rcv_wnd = rcv_wnd
        self._ack_segments = ack_segments
        self._timeouts = timeouts or TcpTimeouts()
        self._device_memory = device_memory
        self._linger = linger
        self._next_id = 1
        self._intended = tuple(listen)
        self._undo: ExitStack | None = None

    def __enter__(self) -> Self:
        if self._undo is not None:
            raise RuntimeError("this runtime has been entered already")
        with ExitStack() as undo:
            try:
                self._set_up(undo)
            except OSError as error:
                raise _told_of(error, self.ifname) from error
            self._undo = undo.pop_all()
        self._owner = os.getpid()
        # A daemon thread may not outlive the memory it works on.
        atexit.register(self.close)
        _entered.add(self)
        return self

    def _set_up(self, undo: ExitStack) -> None:
        check_capabilities()
        netns = NetNs(self._netns)
        undo.callback(netns.close)
        with netns.entered():
            dev = NetDev.find(self.ifname)
        config = self._plan(dev)
        self._check(dev, config)
        with netns.entered():
            for host, port in self._intended:
                address = _listening_address(dev, host, port)
                reserve(dev.features.ifname, address, port)[0].close()
        self.mtu, self.queues = config.mtu, config.queues

        self._datapath = self._make_datapath(config, netns)
        undo.callback(self._close_datapath)
        self.mode = cast(AttachMode, self._datapath.mode)
        with Channel(config) as channel:  # each side duplicates what it needs
            self._number = self._datapath.open_app(channel.stack, channel.geometry)
            self._app = AppHalf(*channel.app, ended=self._why_ended)
            if self.region is not None:
                self._app.add_region(1, self.region)
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

    def _make_datapath(self, config: DatapathConfig, netns: NetNs) -> Datapath | RemoteDatapath:
        first = None
        if self.region is not None:
            first = Binding(self._take_id(), self._first_queues(config), self.region.fd)
        try:
            if self._isolate:
                return RemoteDatapath(config, netns, first)
            with netns.entered():
                return Datapath(config, netns, first)
        except XdpError as error:
            if error.errno == errno.EBUSY:
                raise ConfigError(
                    f"{self.ifname} is taken: {error.strerror}; `bpftool net show` tells by what"
                ) from error
            if error.errno in (errno.EPERM, errno.EACCES):
                raise PermissionError(error.errno, error.strerror) from error
            raise

    # ---- before anything is changed ----

    def _plan(self, dev: NetDev) -> DatapathConfig:
        can = dev.features
        queues = can.rx_queues or 1
        multi_buffer = can.multi_buffer is not False
        mode = attach_mode(self._mode, can.driver, multi_buffer=multi_buffer)
        rcv_wnd = window(self._rcv_wnd, mode, can.driver, can.mtu)
        return DatapathConfig(
            ifname=can.ifname,
            queues=queues,
            mtu=can.mtu,
            mode=mode,
            multi_buffer=multi_buffer and mode != "zerocopy",
            csum_trust=self._csum_trust,
            busy_poll=self._busy_poll,
            spin_us=self._spin_us,
            cpu=self._cpu,
            napi_cpu=self._napi_cpu,
            driver=can.driver,
            linear_bytes=self._linear_bytes,
            host_buffers=HOST_BUFFERS,
            max_buffers=self._planned_memory() // PAGE_SIZE + HOST_BUFFERS * queues,
            max_areas=lib.STACK_MAX_AREAS,
            max_apps=1,
            max_flows=self._max_connections,
            rcv_wnd_max=min(rcv_wnd, self._planned_memory()),
            ack_segments=self._ack_segments,
            **asdict(self._timeouts),
        )

    def _planned_memory(self) -> int:
        """Bytes of device memory."""
        if self._device_memory is not None:
            return self._device_memory
        return _DEVICE_MEMORY if self.region is None else self.region.size

    def _first_queues(self, config: DatapathConfig) -> Sequence[int]:
        return range(config.queues) if self._wanted_queues is None else self._wanted_queues

    def _take_id(self) -> int:
        number, self._next_id = self._next_id, self._next_id + 1
        return number

    def _check(self, dev: NetDev, config: DatapathConfig) -> None:
        """Whatever can be known to fail, fails here."""
        self._check_numbers()
        self._check_queues(config)
        if self.region is not None:
            self._check_region(self.region, len(self._first_queues(config)))
        check_interface(dev, config, force=self._force)
        device = [] if self.region is None else [self.region.size // PAGE_SIZE]
        unbound = 0 if self.region and self._wanted_queues is None else config.queues
        check_mappings(max(device, default=HOST_BUFFERS), config.mode)
        check_memlock(device + [HOST_BUFFERS] * unbound, config.mode)

    def _check_numbers(self) -> None:
        self._timeouts.checked()
        for name, value, least, most in (
            ("max_connections", self._max_connections, 1, (1 << 20) - 1),
            ("rcv_wnd", RCV_WND if self._rcv_wnd is None else self._rcv_wnd, 1 << 16, 1 << 30),
            ("ack_segments", self._ack_segments, 1, ACK_SEGMENTS_MAX),
            ("spin_us", self._spin_us, 0, 1_000_000),
            ("linger", self._linger, 0, 3600),
            ("linear_bytes", self._linear_bytes, 0, LINEAR_MAX),
            ("device_memory", self._planned_memory(), PAGE_SIZE, 1 << 40),
        ):
            if not least <= value <= most:
                raise ConfigError(f"{name} must be {least} to {most}, not {value}")

    def _check_queues(self, config: DatapathConfig) -> None:
        if self._wanted_queues is None:
            return
        if self.region is None or not self._wanted_queues:
            raise ConfigError("queues and a region go together; leave both out for host memory")
        for queue in self._wanted_queues:
            if not 0 <= queue < config.queues:
                raise ConfigError(
                    f"{config.ifname} has no queue {queue}, but {config.queues} from 0; "
                    f"see `ethtool -L {quote(config.ifname)}`"
                )

    def _check_region(self, region: Region, queues: int) -> None:
        check_device_memory()
        region.check_receivable()
        if not is_writable(region.fd):
            raise ConfigError("the region has been sealed against writing; take a new one")
        check_page_size(region.page_size, self._mode)
        if region.size // PAGE_SIZE < MIN_PAGES_A_QUEUE * queues:
            raise ConfigError(
                f"a region of {region.size} bytes is too small for {queues} queues; "
                f"take at least {MIN_PAGES_A_QUEUE * PAGE_SIZE * queues}"
            )

    # ---- bindings ----

    def bind(self, region: Region, queues: Sequence[int]) -> int:
        """Receive packets of these queues into a region from now on; returns its dmabuf id.

        Queues are restarted: what arrives meanwhile has to be sent again. Raises ConfigError
        for a region or queues that cannot be, OSError with nothing changed, see
        `Datapath.bind()`.
        """
        app = self._open()
        self._check_region(region, len(set(queues)))
        check_mappings(region.size // PAGE_SIZE, self.mode)
        number = self._take_id()
        app.add_region(number, region)
        try:
            self._datapath.bind(number, queues, region.fd)
        except BaseException:
            app.remove_region(number)
            raise
        return number

    def unbind(self, dmabuf_id: int) -> None:
        """Receive what came into this region into host memory again.

        Fragments that were received before stay readable until they are given back. Raises
        OSError, ENOENT: no such binding.
        """
        self._open()
        self._datapath.unbind(dmabuf_id)

    def reap(self) -> list[int]:
        """The regions that are not referred to any more since the last call, by dmabuf id."""
        app = self._open()
        gone = self._datapath.reap()
        for number in gone:
            app.remove_region(number)
        return gone

    # ---- sockets ----

    def listen(
        self,
        address: Address,
        *,
        close_first: bool = False,
        backlog: int = 1024,
        pressure: Pressure | None = None,
    ) -> Listener:
        """Take connections on (host, port); host is an IP address of the interface or unspecified.

        Port 0 takes a free one, see `Listener.address`. The port is reserved with a bound kernel
        socket. `close_first`: shut the sending side as soon as the first bytes arrive.
        `pressure`: None takes the runtime's. Raises ConfigError (port in use, not an address of
        the interface).
        """
        host, port = address
        chosen = self._pressure if pressure is None else _choice("pressure", pressure, Pressure)
        if backlog < 1:
            raise ConfigError(f"the backlog must be at least 1, not {backlog}")
        app = self._open()
        with self._entered():
            ip = _listening_address(self._dev, host, port)
        number, port = self._datapath.listen(
            self._number, str(ip), port, close_first=close_first, backlog=backlog, pressure=chosen
        )
        listener = Listener(app, number, (str(ip), port), close_first, self._unlisten)
        app.listeners[number] = listener
        lib.app_listener(app.handle, number, 1)
        try:
            self._datapath.steer(number)
        except BaseException:
            listener.close()
            raise
        return listener

    def stacks(self) -> list[Runtime]:
        """For `DevmemSocket`: the one interface there is."""
        return [self]

    def has_address(self, host: str) -> bool:
        """Is this IP address, or the unspecified one, an address of the interface?"""
        self._open()
        address = _ip_address(host)
        with self._entered():
            return address.is_unspecified or self._dev.has_address(address)

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
        """What is tried and counted anew: see `Unreadable`."""
        self._open()
        return judge(self._datapath.probe(), "isolated" if self._isolate else "inside")

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
            netmem=raw["netmem"],
        )

    def flows(self) -> list[FlowInfo]:
        """All live connections."""
        self._open()
        return [flow_info(*fields) for fields in self._datapath.flows()]

    def frags(self) -> list[FragInfo]:
        """The frag tracker's record of each buffer, net_iovs first."""
        self._open()
        return [frag_info(*fields) for fields in self._datapath.frags()]

    def dump_frags(self) -> str:
        """`frags()` for people: totals by state, then runs of equal buffers."""
        return format_frags(self.frags())

    def pools(self) -> list[dict[str, Any]]:
        """All areas there are, see `Datapath.pools()`."""
        self._open()
        return self._datapath.pools()

    def queue_stats(self) -> list[dict[str, Any]]:
        """All queues, see `Datapath.queue_stats()`."""
        self._open()
        return self._datapath.queue_stats()

    @property
    def lost_queues(self) -> dict[int, str]:
        """Queues that others have, and why: see `Datapath.lost_queues`."""
        self._open()
        return self._datapath.lost_queues

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


_DEVICE_MEMORY = 64 << 20
MIN_PAGES_A_QUEUE = 128


def _told_of(error: OSError, ifname: str) -> OSError:
    """The same error; of a bare system call, with what it was for."""
    if error.errno is None or error.strerror != os.strerror(error.errno):
        return error
    where = f" ({error.filename})" if error.filename else ""
    return OSError(error.errno, f"cannot take {ifname}: {error.strerror}{where}")


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
            f"{host} is not an address of {name}; `ip addr show {name}` lists those it has",
            errno.EADDRNOTAVAIL,
        )
    return address


def _ip_address(host: str) -> IpAddress:
    try:
        return ip_address(host)
    except ValueError as error:
        raise ConfigError(f"{host!r} is not an IP address") from error
