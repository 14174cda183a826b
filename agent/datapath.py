# SPDX-License-Identifier: Apache-2.0
"""All kernel objects of one taken interface, and the native loop between them.

Made and used by the process that runs the stack: the application's own, the isolated one
(stackd.py) or the agent. What comes out of the methods is plain data that JSON can carry.

Every queue is always on some area (area.py): on host memory of its own, or on a binding's. To
`bind()` and `unbind()` is to restart queues, as the kernel does: stop, close the socket, open
another over the other memory, start. What can fail without a queue being stopped is done before
that, and what fails later puts every queue back.

After set-up it needs CAP_NET_RAW and the right to lock memory for that, and nothing else: maps
are updated by their descriptors.

Call order: `Datapath(...)`, in the interface's network namespace -> `start()` -> `open_app()` ->
`listen()`, `steer()`; `bind()`, `unbind()` ... -> `close()`.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from signal import SIGSEGV
from typing import Any, NamedTuple

from devmemtcp import xdp_prog
from devmemtcp.agent import loop_records
from devmemtcp.agent._loop import ffi, lib
from devmemtcp.agent.area import Area, check, region_buffers
from devmemtcp.agent.carrier import await_carrier
from devmemtcp.agent.channel import ChannelFds
from devmemtcp.agent.datapath_config import (
    PAGE,
    TX_PAGES,
    AttachMode,
    ChannelGeometry,
    DatapathConfig,
)
from devmemtcp.agent.errors import ConfigError, Unsupported, XdpError
from devmemtcp.agent.head_ranges import HeadRanges
from devmemtcp.agent.header_path import AnyPath, Heads, configure, header_path, map_heads
from devmemtcp.agent.linkwatch import LinkWatch
from devmemtcp.agent.netdev import NetNs
from devmemtcp.agent.ports import Ports
from devmemtcp.agent.preflight import check_attached
from devmemtcp.agent.readability import descriptors_of, dma_bufs_of, mappings_of
from devmemtcp.agent.thread import started
from devmemtcp.agent.zerocopy import refused
from devmemtcp.pyxdp import BpfObject, Mode, Sharing, XskMap, XskSocket, attach

_END_SECONDS = 1.0
_FOREIGN_SECONDS = 0.5
"""How long a queue is tried at the start: a socket that was just closed is gone by then."""
_RESTART_SECONDS = 3.0
"""How long a queue is tried that was ours a moment ago."""


class Binding(NamedTuple):
    """A region for queues. The descriptor may be closed when it is bound."""

    dmabuf_id: int
    """At least 1."""
    queues: Sequence[int]
    region_fd: int


class Datapath:
    """See the module. All methods may be called from any thread."""

    def __init__(self, config: DatapathConfig, netns: NetNs, first: Binding | None = None) -> None:
        """Set everything up, to the point where packets would come; undone again on failure.

        Queues that another AF_XDP socket has are left to it, see `lost_queues`; those of
        `first`, a binding made together with the rest, must be free. To be called in `netns`,
        which is remembered. Raises XdpError (EBUSY: a queue or the interface is taken),
        Unsupported, OSError.
        """
        self.config = config
        self.queues = config.queues
        self._netns = netns
        self._areas: list[Area] = []
        self._host: dict[int, Area] = {}
        self._bindings: dict[int, Area] = {}
        self._draining: list[Area] = []
        self._gone: list[int] = []
        self._at: dict[int, Area] = {}
        self._lost: dict[int, str] = {}
        self._thread: threading.Thread | None = None
        self._ended = 0
        self._lock = threading.RLock()
        with ExitStack() as undo:
            self._set_up(undo, first)
            self._undo = undo.pop_all()

    def _set_up(self, undo: ExitStack, first: Binding | None) -> None:
        c = self.config
        program = xdp_prog.PROGRAM_FRAGS if c.multi_buffer else xdp_prog.PROGRAM_LINEAR
        path: AnyPath = "chunk" if c.mode == "zerocopy" else c.header_path or header_path()
        found = xdp_prog.object_path("zerocopy" if path == "chunk" else "devmemtcp")
        self._object = undo.enter_context(
            BpfObject.open(str(found), programs=[program, xdp_prog.PROGRAM_DEAF])
        )
        configure(self._object, path, c.max_buffers)
        self._object.load()
        heads = map_heads(self._object, path, undo)
        self._heads = HeadRanges(heads.nr_heads) if path == "chunk" else None
        self._open_loop(undo, heads)
        undo.callback(self._release_areas)
        if first is not None:
            area = self._new_area(region_buffers(first.region_fd), first.dmabuf_id, first.region_fd)
            for queue in first.queues:
                self._start_first(queue, area, or_lose=False)
            self._bindings[first.dmabuf_id] = area
        for queue in range(c.queues):
            if queue not in self._at:
                self._start_first(queue, self._host_area(queue), or_lose=True)
        move_napi = self._napi_mover(undo)  # what it does must be undone after the program is gone
        self._attachment = undo.enter_context(
            # Alone: what joins a dispatcher stays there when its process is killed.
            attach(
                self._object.programs[program],
                c.ifname,
                mode=_MODES[c.mode],
                sharing=Sharing.EXCLUSIVE,
            )
        )
        check_attached(c, self.mode)
        move_napi()
        maps = self._object.maps
        self._links = undo.enter_context(
            LinkWatch(c.ifname, self._netns, maps["mac"], maps["addresses"], self._set_mtu)
        )
        value = xdp_prog.listener_value(csum_trust=c.csum_trust, linear=c.linear_bytes)
        deaf = self._object.programs[xdp_prog.PROGRAM_DEAF].fd
        self._ports = Ports(c.ifname, self._netns, self._loop, maps, value, deaf, self._busy_ports)
        undo.callback(self._ports.close)
        await_carrier(c.ifname)  # last: the link comes back while the rest is set up

    def _set_mtu(self, mtu: int) -> None:
        lib.loop_set_mtu(self._loop, self.config.announced_mtu(mtu))

    def _napi_mover(self, undo: ExitStack) -> Callable[[], object]:
        """To be called once NAPI is there, with the program."""
        if self.config.napi_cpu is None:
            return lambda: None
        from devmemtcp.agent.napi import NapiThreads  # it is slow to import, and seldom needed

        threads = undo.enter_context(NapiThreads(self.config.ifname))
        return partial(threads.move, self.config.napi_cpu)

    def _open_loop(self, undo: ExitStack, heads: Heads) -> None:
        c = self.config
        self._tx_fd = os.memfd_create("devmemtcp-tx", os.MFD_CLOEXEC)
        undo.callback(os.close, self._tx_fd)
        os.ftruncate(self._tx_fd, TX_PAGES * PAGE)
        pages = mmap.mmap(self._tx_fd, TX_PAGES * PAGE)
        self.notice_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        undo.callback(os.close, self.notice_fd)
        config = {
            "notice_fd": self.notice_fd,
            "cpu": -1 if c.cpu is None else c.cpu,
            "spin_us": c.spin_us,
            "busy_poll": c.busy_poll,
            "header_path": heads.header_path,
            "heads": heads.heads,
            "nr_heads": heads.nr_heads,
        }
        stack = c.stack_config()
        stack.page_base = ffi.from_buffer("uint8_t[]", pages)
        stack.isn_key, stack.flow_key, stack.cookie_key = (os.urandom(16) for _ in range(3))
        out = ffi.new("struct loop **")
        opened = lib.loop_open(out, ffi.new("struct loop_config *", config), stack)
        undo.callback(pages.close)
        check(opened, "cannot set up the stack")
        self._loop = out[0]
        undo.callback(self._close_loop)

    def _close_loop(self) -> None:
        lib.loop_close(self._loop)
        for area in self._areas:
            area.unmap()
        self._areas.clear()

    def _release_areas(self) -> None:
        for area in self._areas:
            area.release()
            area.unprepare()
        self._at.clear()

    # ---- queues ----

    @property
    def lost_queues(self) -> dict[int, str]:
        """Queues without a socket of ours, and why: another AF_XDP socket has them, as a rule.

        Their packets are not received: those of connections of ours are dropped, all others
        pass. `retake()` tries again, and so does a `bind()` that names them.
        """
        return dict(self._lost)

    @property
    def bindings(self) -> dict[int, tuple[int, ...]]:
        """The queues of each binding, by dmabuf id."""
        with self._lock:
            return {number: tuple(area.sockets) for number, area in self._bindings.items()}

    def _new_area(self, buffers: int, dmabuf_id: int = 0, region_fd: int = -1) -> Area:
        area = Area(
            self._loop, self._netns, self._tx_fd, buffers, dmabuf_id, region_fd, self._heads
        )
        self._areas.append(area)
        return area

    def _sweep(self) -> None:
        """Close the areas that have drained."""
        for area in tuple(self._draining):
            if area.close():
                self._draining.remove(area)
                self._areas.remove(area)
                self._gone.append(area.dmabuf_id)

    def _host_area(self, queue: int) -> Area:
        if queue not in self._host:
            self._host[queue] = self._new_area(self.config.host_buffers)
        return self._host[queue]

    def _start(self, queue: int, area: Area, patience: float = _RESTART_SECONDS) -> None:
        """Put a queue without a socket on an area."""
        if self._heads:
            where = xdp_prog.head_range(area.first_head, area.buffers)
            self._object.maps["head_ranges"].set(queue.to_bytes(4, sys.byteorder), where)
        sock = self._open_socket(queue, area, patience)
        attached = lib.loop_queue_attach(
            self._loop, queue, area.number, _rings(sock, area.first_head)
        )
        check(attached, f"cannot use queue {queue}")
        self._at[queue] = area
        self._xsks.set_socket(queue, sock)
        self._lost.pop(queue, None)

    def _open_socket(self, queue: int, area: Area, patience: float) -> XskSocket:
        c = self.config
        try:
            return area.open_socket(
                c.ifname,
                queue,
                rx_ring=c.rx_ring(area.buffers),
                multi_buffer=c.multi_buffer,
                patience=patience,
            )
        except (Unsupported, XdpError) as error:
            if c.mode != "zerocopy" or getattr(error, "errno", None) == errno.EBUSY:
                raise
            raise refused(c.ifname, c.driver, error) from error

    def _start_first(self, queue: int, area: Area, *, or_lose: bool) -> None:
        """At the start; a queue that another socket has may be lost, all else is an error."""
        try:
            self._start(queue, area, _FOREIGN_SECONDS)
        except XdpError as error:
            if error.errno != errno.EBUSY or not or_lose:
                raise
            self._lost[queue] = str(error)

    def _start_on_host(self, queue: int, patience: float = _RESTART_SECONDS) -> None:
        """The same on host memory; a queue that cannot be had is lost."""
        try:
            self._start(queue, self._host_area(queue), patience)
        except (OSError, Unsupported, ConfigError) as error:
            self._lost[queue] = str(error)
            if queue in self._host:
                self._host[queue].release()

    def _stop(self, queues: Sequence[int]) -> None:
        """Take queues off their areas, and all queues of those; lost ones are off already."""
        stopped = [queue for queue in queues if queue in self._at]
        for queue in stopped:
            self._xsks.delete(queue)  # what comes goes to the port's reservation, and is no loss
            check(lib.loop_queue_stop(self._loop, queue), f"cannot stop queue {queue}")
        for area in {id(area): area for area in map(self._at.pop, stopped)}.values():
            area.release()
        for queue in stopped:
            check(lib.loop_queue_detach(self._loop, queue), f"cannot detach queue {queue}")

    @property
    def _xsks(self) -> XskMap:
        xsks = self._object.maps["xsks"]
        assert isinstance(xsks, XskMap)
        return xsks

    # ---- bindings ----

    def bind(self, dmabuf_id: int, queues: Sequence[int], region_fd: int) -> None:
        """Let the packets of these queues be received into a region: all queues, or none.

        The region is a memfd, sealed against shrinking, with pages of 4 KiB; its descriptor is
        not needed any more afterwards. Connections live on, on other memory.

        Raises OSError, with every queue where it was: EINVAL (no such queue, not such a memfd),
        EEXIST (a queue or the id has a binding), EBUSY (another AF_XDP socket has a queue),
        ENOSPC (more buffers or areas than were planned for), ENOBUFS and ENOMEM (locked memory).
        """
        with self._lock:
            self._sweep()
            wanted = sorted(set(queues))
            self._check_free(dmabuf_id, wanted)
            area = self._new_area(region_buffers(region_fd), dmabuf_id, region_fd)
            try:
                area.prepare()
                for queue in wanted:
                    self._host_area(queue).prepare()  # for the way back
                self._stop(wanted)
                for queue in wanted:
                    self._start(queue, area)
            except BaseException:
                self._back_to_host(wanted)
                self._draining.append(area)
                self._sweep()
                raise
            self._bindings[dmabuf_id] = area

    def unbind(self, dmabuf_id: int) -> None:
        """The binding ends: its queues go back to host memory, and what is out of it drains.

        Tokens stay good until they are returned; then `reap()` names it. A queue that cannot be
        restarted is lost. Raises OSError, ENOENT: no such binding.
        """
        with self._lock:
            area = self._bindings.pop(dmabuf_id, None)
            if area is None:
                raise OSError(errno.ENOENT, f"there is no binding {dmabuf_id}")
            self._back_to_host(sorted(area.sockets))
            self._draining.append(area)
            os.eventfd_write(self.notice_fd, 1)  # it may be empty already

    def reap(self) -> list[int]:
        """Close the areas that have drained; returns the dmabuf ids of those since the last call.

        Worth calling when `notice_fd`, an eventfd, is readable. Their regions are not referred to
        any more. Ports that were only kept for their last connections are given up, too.
        """
        with self._lock:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.notice_fd)
            self._sweep()
            self._ports.sweep()
            gone, self._gone = self._gone, []
            return gone

    def retake(self) -> None:
        """Try to get the queues that were lost."""
        with self._lock:
            for queue in tuple(self._lost):
                self._start_on_host(queue, 0)

    def _check_free(self, dmabuf_id: int, queues: Sequence[int]) -> None:
        if dmabuf_id in self._bindings:
            raise OSError(errno.EEXIST, f"there is a binding {dmabuf_id} already")
        if not queues:
            raise OSError(errno.EINVAL, "a binding needs a queue")
        for queue in queues:
            if not 0 <= queue < self.queues:
                raise OSError(errno.EINVAL, f"{self.config.ifname} has no queue {queue}")
            if queue in self._at and self._at[queue].dmabuf_id:
                raise OSError(errno.EEXIST, f"queue {queue} has a binding already")

    def _back_to_host(self, queues: Sequence[int]) -> None:
        """Whatever is on other memory, or on none and not lost, goes to host memory."""
        self._stop([q for q in queues if q in self._at and self._at[q].dmabuf_id])
        for queue in queues:
            if queue not in self._at and queue not in self._lost:
                self._start_on_host(queue)
            if queue in self._host:
                self._host[queue].unprepare()

    # ---- life ----

    @property
    def mode(self) -> str:
        """As attached: native or generic; or zerocopy."""
        return "zerocopy" if self._heads else self._attachment.mode.value

    def start(self) -> None:
        """Run the loop, and the watch of the link, in threads of their own; there are no others.

        Capabilities are a thread's: what this one has given up by now, those never have. Raises
        OSError, EAGAIN: there can be no more threads.
        """
        self._links.start()
        self._thread = started(self._run, "devmemtcp-loop")

    def _run(self) -> None:
        self._ended = lib.loop_run(self._loop)

    @property
    def running(self) -> bool:
        """Whether the loop has been started, and has not ended."""
        return self._thread is not None and self._thread.is_alive()

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
        self._undo.close()

    def let_go(self) -> None:
        """In a child made by fork(): close the copies that would keep queues bound, the program
        attached and ports reserved after the parent has let go of them, or was killed."""
        self._release_areas()
        self._attachment.detach()
        self._ports.close()

    # ---- applications ----

    def open_app(self, fds: ChannelFds, geometry: ChannelGeometry) -> int:
        """Take an application in; returns its number. The descriptors are duplicated.

        Raises OSError: ENOSPC when there are `max_apps`, EINVAL for a channel that is too small
        or may shrink.
        """
        config = {
            "channel_fd": fds.memory,
            "wake_fd": fds.wake,
            "event_fd": fds.event,
            "life_fd": fds.life,
            **asdict(geometry),
        }
        opened = lib.loop_app_open(self._loop, ffi.new("struct loop_app_config *", config))
        return check(opened, "cannot open the application's channel")

    def close_app(self, app: int) -> None:
        """The application is gone: its connections are reset, tokens and ports come back.

        Raises OSError, ENOENT: no such application.
        """
        with self._lock:
            check(lib.loop_app_close(self._loop, app), f"cannot close application {app}")
            self._ports.forget(app)

    def listen(
        self,
        app: int,
        host: str,
        port: int,
        *,
        close_first: bool = False,
        backlog: int = 1024,
        pressure: str = "window",
    ) -> tuple[int, int]:
        """Reserve the port (0: any) and listen; returns (listener id, port).

        Nothing arrives before `steer()`. `pressure`: window or drop. Raises ConfigError when the
        port is in use, OSError for what the kernel or the stack refuses.
        """
        with self._lock:
            return self._ports.listen(
                app, host, port, close_first=close_first, backlog=backlog, pressure=pressure
            )

    def steer(self, listener: int) -> None:
        """Let the packets of a listener's address come."""
        with self._lock:
            self._ports.steer(listener)

    def unlisten(self, listener: int) -> None:
        """Refuse new connections. The port stays ours until the last connection is gone."""
        with self._lock:
            self._ports.unlisten(listener)

    def _busy_ports(self) -> set[int]:
        return loop_records.ports_of(self.flows())

    # ---- looking inside ----

    def stats(self) -> dict[str, Any]:
        """All counters: stack, drops, steer, sockets, loop, netmem."""
        with self._lock:
            sockets = [
                {"queue": queue, **asdict(area.sockets[queue].statistics())}
                for queue, area in sorted(self._at.items())
            ]
        verdicts = self._object.maps["counters"]
        percpu = (
            [int.from_bytes(value, sys.byteorder) for value in verdicts.get_percpu(key) or ()]
            for key in (index.to_bytes(4, sys.byteorder) for index in range(verdicts.max_entries))
        )
        return {
            **loop_records.counters(self._loop),
            "steer": xdp_prog.read_counters(list(percpu)),
            "sockets": sockets,
        }

    def flows(self) -> list[list[Any]]:
        """The fields of `struct flow_info`, each address as family, 32 hex digits and port."""
        return loop_records.flows(self._loop, self.config.max_flows)

    def frags(self) -> list[list[int]]:
        """The fields of `struct frag_record`."""
        return loop_records.frags(self._loop, self.config.max_buffers + TX_PAGES)

    def pools(self) -> list[dict[str, Any]]:
        """The fields of `struct area_info` by area; `queues` is which, not how many."""
        with self._lock:
            pools = loop_records.areas(self._loop, self.config.max_areas)
            queues = {area.number: sorted(area.sockets) for area in self._areas}
            draining = {area.number for area in self._draining}
        return [
            {
                **pool,
                "queues": queues.get(pool["area"], []),
                "draining": pool["area"] in draining,
            }
            for pool in pools
        ]

    def queue_stats(self) -> list[dict[str, Any]]:
        """The fields of `struct queue_info` by queue, and the dmabuf id of its binding, or 0."""
        with self._lock:
            found = loop_records.queues(self._loop, self.queues)
            ids = {queue: area.dmabuf_id for queue, area in self._at.items()}
        return [
            {"queue": queue, "dmabuf_id": ids.get(queue, 0), **fields}
            for queue, fields in enumerate(found)
        ]

    def check(self) -> int:
        """See stack_check()."""
        return int(lib.loop_check(self._loop))

    def probe(self, *, fork: bool = True) -> dict[str, int]:
        """What this process can read of payload: the evidence that `readability.judge()` wants.

        `fork`: have a child try to read; else `signal` is 0.
        """
        with self._lock:
            areas = tuple(self._bindings.values())
            host_queues = sum(not area.dmabuf_id for area in self._at.values())
            signals = {area.probe() for area in areas if fork}
        files = [area.file for area in areas if area.file]
        mapped, opened = dma_bufs_of()
        return {
            "pid": os.getpid(),
            "bindings": len(areas),
            "signal": min(signals, key=lambda number: number == SIGSEGV, default=0),
            "mappings": sum(map(mappings_of, files)) + mapped,
            "descriptors": sum(map(descriptors_of, files)) + opened,
            "host_queues": host_queues,
            "linear_bytes": self.config.linear_bytes,
        }


_MODES: dict[AttachMode | None, Mode] = {
    None: Mode.AUTO,
    "native": Mode.NATIVE,
    "generic": Mode.GENERIC,
    "zerocopy": Mode.NATIVE,
}


def _rings(sock: XskSocket, first_head: int) -> Any:
    """`struct loop_queue`."""
    fields = {
        "rx": ffi.cast("struct xsk_ring_cons *", sock.rx.address),
        "fill": ffi.cast("struct xsk_ring_prod *", sock.fill.address),
        "tx": ffi.cast("struct xsk_ring_prod *", sock.tx.address),
        "completion": ffi.cast("struct xsk_ring_cons *", sock.comp.address),
        "fd": sock.fd,
        "first_head": first_head,
    }
    return ffi.new("struct loop_queue *", fields)
