# SPDX-License-Identifier: Apache-2.0
"""The agent: it takes interfaces once, with privilege, and serves applications that have none.

Set-up, in this order, each step undone in reverse when a later one fails: the namespace; the lock
on the socket's path; the interfaces; then everything that set-up needed is given up for good
(confinement.py), and only after that are threads started and clients heard.

Afterwards there is one loop for control, in this thread, and one native thread an interface for
packets. They share nothing but calls: a client, whatever it sends, does not come near a packet.

    SIGTERM, SIGINT   drain: nothing new is opened, what is open gets `linger` seconds; then undo
    a second one      end at once; the kernel undoes
    SIGHUP            read the rules and limits again
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import selectors
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from devmemtcp.agent import rtnetlink
from devmemtcp.agent.daemon.backend import LiveBackend
from devmemtcp.agent.daemon.clients import ControlServer
from devmemtcp.agent.daemon.config import Config, load_config
from devmemtcp.agent.daemon.confinement import Confinement
from devmemtcp.agent.daemon.family import StackFamily
from devmemtcp.agent.daemon.interface import Interface
from devmemtcp.agent.daemon.notify import ServiceManager
from devmemtcp.agent.daemon.peers import RuleBook, group_id, user_id
from devmemtcp.agent.daemon.socket_file import SocketFile
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.netdev import NetNs
from devmemtcp.agent.preflight import check_capabilities
from devmemtcp.agent.signals import STOP_SIGNALS
from devmemtcp.netlink.constants import TcpDataSplit
from devmemtcp.netlink.errors import Unsupported
from devmemtcp.netlink.model import NetdevModel
from devmemtcp.netlink.netdev import Netdev
from devmemtcp.netlink.server import NetlinkServer

TICK = 1.0
"""Seconds: the loop looks after what nothing wakes it for."""
DRAIN_TICK = 0.05
FDS_A_CLIENT = 4
"""Its socket; what came with a request, twice; what goes with an answer, for a moment."""
FDS_AN_INTERFACE = 2048
"""Of channels (4 each) and listeners (1 each) as many as there can be, sockets, maps."""
FDS_OTHER = 128

log = logging.getLogger(__name__)


class Agent:
    """One agent: `run()` once."""

    def __init__(self, config: Config, file: Path | None) -> None:
        """`file`: where the rules are read again on SIGHUP.

        Raises ConfigError for what cannot work, before anything is changed.
        """
        self.config = config
        self._file = file
        options = config.agent
        self._rules = RuleBook(config.rules)
        self._owner = -1 if options.owner is None else user_id(options.owner)
        self._group = -1 if options.group is None else group_id(options.group)
        self._user = None if options.user is None else user_id(options.user)
        if not config.interfaces:
            raise ConfigError(
                "no interface to serve; name one with -i IF, or in the file by [[interface]]"
            )
        self._interfaces: dict[int, Interface] = {}
        self._selector = selectors.DefaultSelector()
        self._draining_since: float | None = None

    def run(self) -> int:
        """Serve until told to end. Returns the exit code.

        Raises ConfigError, Unsupported, PermissionError, OSError: the set-up failed and is undone.
        """
        with ExitStack() as undo:
            undo.callback(self._selector.close)
            signals = undo.enter_context(_Signals())
            self._selector.register(
                signals, selectors.EVENT_READ, lambda: self._on_signals(signals)
            )
            self._set_up(undo)
            signals.at_once = self._path.close
            return self._serve()

    # ---- set-up ----

    def _set_up(self, undo: ExitStack) -> None:
        options = self.config.agent
        self._manager = undo.enter_context(ServiceManager())
        if options.netns is not None:
            self._enter(options.netns)
        check_capabilities()
        check_descriptors(options.max_clients, len(self.config.interfaces))
        self._path = undo.enter_context(
            SocketFile(
                Path(options.socket), uid=self._owner, gid=self._group, mode=int(options.mode, 8)
            )
        )
        confinement = Confinement.plan(
            lowest_port=self._rules.lowest_port(),
            busy_poll=any(each.busy_poll for each in self.config.interfaces),
            uid=self._user,
            socket_directory=self._path.path.parent,
            seccomp=options.seccomp,
        )
        undo.callback(self._close_interfaces)
        for table in self.config.interfaces:
            interface = Interface(table)
            self._interfaces[interface.ifindex] = interface
        self._make_server(undo)
        confinement.enter()
        for interface in self._interfaces.values():
            interface.datapath.start()
            self._watch(interface.datapath.notice_fd, self._backend.pools_changed)
        status = f"serving {', '.join(each.name for each in self._interfaces.values())}"
        log.info("%s at %s", status, self._path.path)
        log.info("kept %s; gave up all else", ", ".join(confinement.kept))
        self._manager.ready(status)

    @staticmethod
    def _enter(name: str) -> None:
        """For good: whatever is opened from now on belongs to that namespace."""
        netns = NetNs(name)
        try:
            netns.enter()
        finally:
            netns.close()

    def _make_server(self, undo: ExitStack) -> None:
        server = NetlinkServer()
        self._backend = LiveBackend(self._interfaces, self._kernel_netdev(undo))
        self._model = model = NetdevModel(server, self._backend)
        self._backend.events = model
        for ifindex, interface in self._interfaces.items():
            try:
                nic, options = model.nic(ifindex), interface.options
            except LookupError as error:
                raise ConfigError(
                    f"{interface.name} has gone while it was set up", errno.ENODEV
                ) from error
            nic.rings = replace(
                nic.rings,
                tcp_data_split=_SPLIT[options.tcp_data_split],
                hds_thresh=options.hds_thresh,
            )
            self._tell_foreign(interface)
        self._backend.pools_changed()
        self._family = StackFamily(server, self._interfaces, lambda: self.config.limits)
        # Some interface of this namespace came, went or changed.
        links = undo.enter_context(rtnetlink.open_socket(rtnetlink.RTMGRP_LINK))
        self._watch(links.fileno(), lambda: self._on_links(links))
        self._control = undo.enter_context(
            ControlServer(
                self._path.listener,
                self._selector,
                server,
                lambda: self._rules,
                max_clients=self.config.agent.max_clients,
                max_per_user=lambda: self.config.limits.clients,
            )
        )

    @staticmethod
    def _kernel_netdev(undo: ExitStack) -> Netdev | None:
        """None before Linux 6.3, which has no such family."""
        try:
            return undo.enter_context(Netdev("kernel"))
        except Unsupported as error:
            log.info("%s: no XDP features are told of interfaces", error)
            return None

    def _watch(self, fd: int, call: Callable[[], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, call)

    # ---- the loop ----

    def _serve(self) -> int:
        tick = min(TICK, self._manager.watchdog or TICK)
        next_tick = 0.0
        while not self._done():
            draining = self._draining_since is not None
            for key, _ in self._selector.select(DRAIN_TICK if draining else tick):
                key.data()
            self._control.flush()
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + tick
                self._look_after_interfaces()
                self._manager.alive()
        return 1 if all(each.failed for each in self._interfaces.values()) else 0

    def _done(self) -> bool:
        """Whether all stacks have failed, or draining is over."""
        if all(each.failed for each in self._interfaces.values()):
            return True
        if self._draining_since is None:
            return False
        waited = time.monotonic() - self._draining_since
        return waited >= self.config.agent.linger or not self._family.has_connections()

    def _look_after_interfaces(self) -> None:
        for interface in self._interfaces.values():
            if interface.look():
                why = os.strerror(interface.failed)
                log.error("%s is not served any more: %s", interface.name, why)
            elif not interface.failed:
                interface.retake()
                self._tell_foreign(interface)
        self._backend.pools_changed()

    def _tell_foreign(self, interface: Interface) -> None:
        """Have the emulated NIC know which queues somebody else's AF_XDP sockets have."""
        lost = set(interface.datapath.lost_queues)
        if lost == interface.foreign:
            return
        nic = self._model.nic(interface.ifindex)
        for queue in lost - interface.foreign:
            nic.bind_xsk(queue, zero_copy=False)
        for queue in interface.foreign - lost:
            nic.release_xsk(queue)
        interface.foreign = lost

    def _on_links(self, links: socket.socket) -> None:
        try:
            while links.recv(1 << 16):
                pass
        except BlockingIOError:
            pass
        except OSError as error:
            log.debug("link notifications: %s", error.strerror)  # ENOBUFS: look at all anyway
        self._look_after_interfaces()
        self._backend.links_changed()

    # ---- signals ----

    def _on_signals(self, signals: _Signals) -> None:
        for number in signals.take():
            if number == signal.SIGHUP:
                self._reload()
            elif self._draining_since is None:
                self._drain(signal.Signals(number).name)

    def _reload(self) -> None:
        if self._file is None:
            log.warning("SIGHUP: there is no configuration file to read again")
            return
        try:
            config = load_config(self._file)
            rules = RuleBook(config.rules)
        except (ConfigError, OSError) as error:
            log.error("the rules stay as they are: %s", error)
            return
        self._rules = rules
        self.config = replace(self.config, limits=config.limits, rules=config.rules)
        log.info("read the rules and limits in %s again; all else needs a restart", self._file)

    def _drain(self, why: str) -> None:
        self._draining_since = time.monotonic()
        status = (
            f"{why}: ending; {self._family.applications} applications have "
            f"{self.config.agent.linger:g} s to end their connections"
        )
        log.info("%s", status)
        self._manager.stopping(status)
        self._backend.stop()
        self._family.stop()

    def _close_interfaces(self) -> None:
        """Whoever is still connected is reset, and told that the stack has ended."""
        for interface in self._interfaces.values():
            interface.datapath.close()
        self._interfaces.clear()


class _Signals:
    """The signals of an agent, one after the other, as something readable."""

    at_once: Callable[[], object]
    """What a second stop signal still does before the process ends."""

    def __init__(self) -> None:
        self._undo = ExitStack()
        self._stops = 0
        self._reader, self._writer = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK
        )
        self.at_once = lambda: None
        for end in (self._reader, self._writer):
            self._undo.callback(end.close)

    def __enter__(self) -> _Signals:
        self._undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(self._writer.fileno()))
        for number in (*STOP_SIGNALS, signal.SIGHUP):
            self._undo.callback(signal.signal, number, signal.signal(number, self._on_signal))
        return self

    def __exit__(self, *exc: object) -> None:
        self._undo.close()

    def fileno(self) -> int:
        return self._reader.fileno()

    def take(self) -> bytes:
        """Numbers of the signals that have come."""
        try:
            return self._reader.recv(4096)
        except BlockingIOError:
            return b""

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number not in STOP_SIGNALS:
            return
        self._stops += 1
        if self._stops > 1:
            self._end(number)

    def _end(self, number: int) -> NoReturn:
        self.at_once()
        os._exit(128 + number)


def check_descriptors(clients: int, interfaces: int) -> None:
    """Take the hard limit of open files, which must do for as many clients.

    Raises ConfigError.
    """
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    needed = FDS_A_CLIENT * clients + FDS_AN_INTERFACE * interfaces + FDS_OTHER
    if needed > limit:
        raise ConfigError(
            f"max_clients = {clients} may need {needed} open files, the limit is {limit}: "
            "allow fewer, or raise it (`ulimit -n`, LimitNOFILE=)"
        )


_SPLIT = {
    "auto": TcpDataSplit.UNKNOWN,
    "off": TcpDataSplit.DISABLED,
    "on": TcpDataSplit.ENABLED,
}
