# SPDX-License-Identifier: Apache-2.0
"""All kernel objects of one taken interface, and the native loop between them.

Made and used by the process that runs the stack: the application's own, or the isolated one
(stackd.py). What comes out of the methods is plain data that JSON can carry.

Call order: `Datapath(...)`, in the interface's network namespace -> close the region's fd, if
this process is not to have it -> `start()` -> `listen()`, `steer()` ... -> `close()`.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from devmemtcp import xdp_prog
from devmemtcp.agent._loop import ffi, lib
from devmemtcp.agent.errors import Unsupported, XdpError
from devmemtcp.agent.linkwatch import LinkWatch
from devmemtcp.agent.netdev import NetNs, to_stack
from devmemtcp.agent.reservation import port_in_use, reserve
from devmemtcp.pyxdp import (
    BindFlags,
    BpfObject,
    Mode,
    Program,
    Sharing,
    Umem,
    XskMap,
    XskSocket,
    attach,
)

PAGE = 4096
TX_RING = 256
"""Descriptors; also of the completion ring."""
DELACK_NS = 40_000_000
TIME_WAIT_MS = 60_000
"""2 MSL as Linux has it (TCP_TIMEWAIT_LEN)."""
FILL_MIN = 512
"""Buffers a queue has at least, when there are enough: a burst of connections opening, which no
window has announced, while the loop's thread waits for a CPU."""
MAX_LISTENERS = 256
_END_SECONDS = 1.0
_XDP_PASS = 2


@dataclass(frozen=True)
class DatapathConfig:
    """What is to be made; plain data, so that it can be sent to another process."""

    ifname: str
    queues: int
    mtu: int
    mode: Literal["native", "generic"] | None
    """None: native where the driver can, else generic."""
    multi_buffer: bool
    """Packets of several chunks: an xdp.frags program and XDP_USE_SG, Linux 6.6."""
    csum_trust: bool
    pressure: Literal["window", "drop"]
    busy_poll: bool
    spin_us: int
    cpu: int | None
    nr_niovs: int
    nr_pages: int
    max_flows: int
    rcv_wnd_max: int

    @property
    def umem_size(self) -> int:
        """Bytes of UMEM, which count against RLIMIT_MEMLOCK."""
        return int(lib.mosaic_size(self.nr_niovs, self.nr_pages))

    @property
    def fill_size(self) -> int:
        """Descriptors of a fill ring, and of an RX ring: no burst can overflow them."""
        return 1 << (self.nr_niovs - 1).bit_length()

    @property
    def channel_size(self) -> int:
        """Bytes of the memfd shared by stack and application."""
        return int(lib.stack_channel_size(self.stack_config()))

    def stack_config(self) -> Any:
        """`struct stack_config`, all but the memory."""
        return ffi.new(
            "struct stack_config *",
            {
                "nr_niovs": self.nr_niovs,
                "nr_pages": self.nr_pages,
                "nr_queues": self.queues,
                "max_flows": self.max_flows,
                "max_listeners": MAX_LISTENERS,
                "fill_min": min(FILL_MIN, self.nr_niovs // (4 * self.queues)),
                "fill_max": self.fill_size,
                "mtu": self.mtu,
                "rcv_wnd_max": self.rcv_wnd_max,
                "delack_ns": DELACK_NS,
                "time_wait_ms": TIME_WAIT_MS,
                "pressure": lib.PRESSURE_DROP if self.pressure == "drop" else lib.PRESSURE_WINDOW,
            },
        )


@dataclass(frozen=True)
class ChannelFds:
    """The descriptors by which stack and application meet. The datapath uses the first three
    as long as it lives, and duplicates the last."""

    channel: int
    """memfd of the rings."""
    wake: int
    """eventfd, application to stack."""
    event: int
    """eventfd, stack to application."""
    life: int
    """Write end of a pipe that hangs up when the loop has ended."""


@dataclass
class _Port:
    """A steered address: it outlives its listener until the last connection is gone."""

    reservation: socket.socket
    key: bytes
    listener: int | None
    steered: bool = False


def require_metadata(probe: Program) -> None:
    """Raises Unsupported where XDP metadata cannot hold record and headers (before Linux 6.8)."""
    if probe.test_run(bytes(64)).retval != _XDP_PASS:
        raise Unsupported(
            "this kernel takes too few bytes of XDP metadata for the header split; "
            "Linux 6.8 or later is needed"
        )


class Datapath:
    """See the module."""

    def __init__(self, config: DatapathConfig, fds: ChannelFds, region_fd: int, netns: NetNs):
        """Set everything up, to the point where packets would come; undone again on failure.

        To be called in `netns`, which is remembered for the sockets of listeners.
        """
        self.config = config
        self._fds = fds
        self._netns = netns
        self._ports: dict[tuple[str, int], _Port] = {}
        self._thread: threading.Thread | None = None
        self._ended = 0
        self._lock = threading.Lock()
        stat = os.fstat(region_fd)
        self._region = (stat.st_dev, stat.st_ino)
        with ExitStack() as undo:
            self._set_up(undo, region_fd)
            self._undo = undo.pop_all()

    def _set_up(self, undo: ExitStack, region_fd: int) -> None:
        c = self.config
        self._mosaic = ffi.new("struct mosaic *")
        _check(
            lib.mosaic_open(self._mosaic, region_fd, c.nr_niovs, c.nr_pages),
            f"cannot map {c.umem_size} bytes of UMEM",
        )
        undo.callback(lib.mosaic_close, self._mosaic)
        self._umem = undo.enter_context(
            Umem(
                int(ffi.cast("uintptr_t", self._mosaic.base)),
                self._mosaic.size,
                unaligned=True,
                fill_size=c.fill_size,
                comp_size=TX_RING,
            )
        )
        _check(lib.mosaic_seal(self._mosaic), "cannot seal the UMEM")
        program = xdp_prog.PROGRAM_FRAGS if c.multi_buffer else xdp_prog.PROGRAM_LINEAR
        self._object = undo.enter_context(
            BpfObject.open(str(xdp_prog.object_path()), programs=[program, xdp_prog.PROGRAM_PROBE])
        )
        self._object.load()
        require_metadata(self._object.programs[xdp_prog.PROGRAM_PROBE])
        self._sockets = [self._socket(undo, queue) for queue in range(c.queues)]
        self._attachment = undo.enter_context(
            # Alone: what joins a dispatcher stays there when its process is killed.
            attach(
                self._object.programs[program],
                c.ifname,
                mode=_MODES[c.mode],
                sharing=Sharing.EXCLUSIVE,
            )
        )
        self._loop = self._open_loop()
        undo.callback(lib.loop_close, self._loop)
        maps, set_mtu = self._object.maps, partial(lib.loop_set_mtu, self._loop)
        undo.enter_context(
            LinkWatch(c.ifname, self._netns, maps["mac"], maps["addresses"], set_mtu)
        )

    def _socket(self, undo: ExitStack, queue: int) -> XskSocket:
        flags = BindFlags.COPY | BindFlags.USE_NEED_WAKEUP
        if self.config.multi_buffer:
            flags |= BindFlags.USE_SG
        sock = undo.enter_context(
            XskSocket(
                self.config.ifname,
                queue,
                self._umem,
                rx_size=self.config.fill_size,
                tx_size=TX_RING,
                bind_flags=flags,
            )
        )
        xsks = self._object.maps["xsks"]
        assert isinstance(xsks, XskMap)
        xsks.set_socket(queue, sock)
        return sock

    def _open_loop(self) -> Any:
        c, mosaic = self.config, self._mosaic
        queues = ffi.new("struct loop_queue[]", [_loop_queue(sock) for sock in self._sockets])
        loop_config = ffi.new(
            "struct loop_config *",
            {
                "queues": queues,
                "channel_fd": self._fds.channel,
                "wake_fd": self._fds.wake,
                "event_fd": self._fds.event,
                "life_fd": self._fds.life,
                "cpu": -1 if c.cpu is None else c.cpu,
                "spin_us": c.spin_us,
                "busy_poll": c.busy_poll,
            },
        )
        stack = c.stack_config()
        stack.header_base = mosaic.host
        stack.page_base = mosaic.host + PAGE * c.nr_niovs
        stack.page_umem_base = 2 * PAGE * c.nr_niovs
        stack.isn_key = os.urandom(16)
        out = ffi.new("struct loop **")
        _check(lib.loop_open(out, loop_config, stack), "cannot set up the stack")
        return out[0]

    # ---- life ----

    @property
    def mode(self) -> str:
        """As attached: native or generic."""
        return self._attachment.mode.value

    def start(self) -> None:
        """Run the loop in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="devmemtcp-loop", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._ended = lib.loop_run(self._loop)

    def failure(self) -> int:
        """Errno that ended the loop, 0 when it was told to stop; for who has seen it end."""
        if thread := self._thread:
            thread.join(_END_SECONDS)  # it tells before it returns
        return -self._ended

    def close(self, linger_ms: int = 0) -> None:
        """Stop the loop and undo everything; idempotent."""
        if self._thread is not None:
            lib.loop_stop(self._loop, linger_ms)
            self._thread.join()
            self._thread = None
        for port in self._ports.values():
            port.reservation.close()
        self._ports.clear()
        self._undo.close()

    def let_go(self) -> None:
        """In a child made by fork(): close the copies that would keep queues bound, the program
        attached and ports reserved after the parent has let go of them, or was killed."""
        for sock in self._sockets:
            sock.close()
        self._umem.close()
        self._attachment.detach()
        for port in self._ports.values():
            port.reservation.close()

    # ---- listeners ----

    def listen(self, host: str, port: int, close_first: bool, backlog: int) -> tuple[int, int]:
        """Reserve the port (0: any) and listen; returns (listener id, port).

        Nothing arrives before `steer()`. Raises ConfigError when the port is in use.
        """
        address = ip_address(host)
        with self._lock:
            self._sweep()
            reserved = self._ports.get((host, port))
            if reserved is None:
                with self._netns.entered():
                    reservation = reserve(self.config.ifname, address, port)
                port = reservation.getsockname()[1]
                key = xdp_prog.listener_key(address, port)
                reserved = _Port(reservation, key, None)
            elif reserved.listener is not None:
                raise port_in_use(host, port)
            flags = lib.LISTEN_CLOSE_FIRST if close_first else 0
            result = lib.loop_listen(self._loop, to_stack(address, port), flags, backlog)
            if result < 0:
                if not reserved.steered:
                    reserved.reservation.close()
                raise OSError(-result, f"cannot listen on {host} port {port}")
            reserved.listener = result
            self._ports[host, port] = reserved
        return result, port

    def steer(self, listener: int) -> None:
        """Let the packets of a listener's address come."""
        with self._lock:
            for port in self._ports.values():
                if port.listener == listener:
                    value = xdp_prog.listener_value(csum_trust=self.config.csum_trust)
                    self._object.maps["listeners"].set(port.key, value)
                    port.steered = True

    def unlisten(self, listener: int) -> None:
        """Refuse new connections. The port stays ours until the last connection is gone."""
        with self._lock:
            for port in self._ports.values():
                if port.listener == listener:
                    lib.loop_unlisten(self._loop, listener)
                    port.listener = None
            self._sweep()

    def _sweep(self) -> None:
        """Give up ports that have neither a listener nor a connection."""
        retired = {at: port for at, port in self._ports.items() if port.listener is None}
        if not retired:
            return
        in_use = {flow[_FLOW_LOCAL_PORT] for flow in self.flows()}
        for (host, number), port in retired.items():
            if number in in_use:
                continue
            if port.steered:
                self._object.maps["listeners"].delete(port.key)
            port.reservation.close()
            del self._ports[host, number]

    # ---- looking inside ----

    def stats(self) -> dict[str, Any]:
        """All counters: stack, drops, steer, sockets, loop."""
        stack = ffi.new("struct stack_stats *")
        loop = ffi.new("struct loop_stats *")
        lib.loop_stats(self._loop, stack, loop)
        counters = self._object.maps["counters"]
        percpu = (
            [int.from_bytes(value, sys.byteorder) for value in counters.get_percpu(key) or ()]
            for key in (index.to_bytes(4, sys.byteorder) for index in range(counters.max_entries))
        )
        return {
            "stack": _scalars(stack),
            "drops": {name: stack.drops[value] for name, value in _DROPS.items()},
            "steer": xdp_prog.read_counters(list(percpu)),
            "sockets": [{"queue": s.queue, **asdict(s.statistics())} for s in self._sockets],
            "loop": _scalars(loop),
        }

    def flows(self) -> list[list[Any]]:
        """The fields of `struct flow_info`, each address as family, 32 hex digits and port."""
        out = ffi.new("struct flow_info[]", self.config.max_flows)
        count = lib.loop_flows(self._loop, out, self.config.max_flows)
        return [
            [
                *(f.id, f.state, *_plain(f.local), *_plain(f.peer)),
                *(f.rcv_nxt, f.rcv_wnd, f.snd_una, f.snd_nxt, f.ooo_frags, f.tokens, f.rx_bytes),
            ]
            for f in out[0:count]
        ]

    def frags(self) -> list[list[int]]:
        """The fields of `struct frag_record`."""
        size = self.config.nr_niovs + self.config.nr_pages
        out = ffi.new("struct frag_record[]", size)
        count = lib.loop_frags(self._loop, out, size)
        return [[f.kind, f.index, f.state, f.owner, f.refs, f.offset] for f in out[0:count]]

    def check(self) -> int:
        """See stack_check()."""
        return int(lib.loop_check(self._loop))

    def probe(self) -> dict[str, int]:
        """Can this process read the region? The evidence: see `runtime.Unreadable`."""
        return {
            "pid": os.getpid(),
            "signal": _check(lib.mosaic_read_probe(self._mosaic, 0), "cannot try to read"),
            "mappings": _mappings_of(*self._region),
            "descriptors": _descriptors_of(*self._region),
        }


_MODES = {None: Mode.AUTO, "native": Mode.NATIVE, "generic": Mode.GENERIC}
_FLOW_LOCAL_PORT = 4
_DROPS: dict[str, int] = {
    name.removeprefix("DROP_"): value
    for value, name in sorted(ffi.typeof("enum drop").elements.items())
    if name not in ("DROP_NONE", "DROP_REASONS")
}


def _check(result: int, what: str) -> int:
    if result < 0:
        raise XdpError(-result, what)
    return result


def _loop_queue(sock: XskSocket) -> dict[str, Any]:
    return {
        "rx": ffi.cast("struct xsk_ring_cons *", sock.rx.address),
        "fill": ffi.cast("struct xsk_ring_prod *", sock.fill.address),
        "tx": ffi.cast("struct xsk_ring_prod *", sock.tx.address),
        "completion": ffi.cast("struct xsk_ring_cons *", sock.comp.address),
        "fd": sock.fd,
    }


def _plain(addr: Any) -> tuple[int, str, int]:
    return addr.family, bytes(addr.ip).hex(), addr.port


def _scalars(record: Any) -> dict[str, int]:
    """The integer fields of a C record, by name."""
    fields = ffi.typeof(record).item.fields
    return {name: getattr(record, name) for name, field in fields if field.type.kind == "primitive"}


def _mappings_of(device: int, inode: int) -> int:
    """How many of this process's mappings are of that file; see proc(5), /proc/pid/maps."""
    wanted = (f"{os.major(device):02x}:{os.minor(device):02x}", str(inode))
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum(tuple(line.split()[3:5]) == wanted for line in lines)


def _descriptors_of(device: int, inode: int) -> int:
    """How many of this process's descriptors are of that file."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            stat = os.fstat(int(name))
        except OSError:  # the descriptor of the listing itself
            continue
        found += (stat.st_dev, stat.st_ino) == (device, inode)
    return found
