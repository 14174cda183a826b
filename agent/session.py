# SPDX-License-Identifier: Apache-2.0
"""The application's session with the agent: sockets and bindings without any privilege.

    with Session() as agent, Region(64 << 20) as region:
        with agent.bind_rx("eth1", [0], region), agent.listen(("192.0.2.1", 5201)) as listener:
            conn = listener.accept()

A session is one control connection; its listeners and connections end with it, however it ends.
A binding has a connection of its own, as in the kernel, where it hangs on a netlink socket: it
ends when that is closed, or the process dies. When the agent dies, calls that wait on a
connection or listener, and those that ask the agent, raise BrokenPipeError.

In a child made by fork() sessions and bindings are closed from the start: they are the parent's.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from os import PathLike
from typing import Any

from devmemtcp.agent._loop import lib
from devmemtcp.agent.channel import ChannelFds
from devmemtcp.agent.closing import Closing
from devmemtcp.agent.daemon.family_messages import MESSAGES
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.readability import Unreadable, judge
from devmemtcp.agent.region import Region
from devmemtcp.agent.snapshot import LoopStats, SocketStats, Stats
from devmemtcp.agent.socket import Address, AppHalf, Connection, Listener
from devmemtcp.netlink import connection as netlink
from devmemtcp.netlink.constants import (
    AGENT_FAMILY_NAME,
    AGENT_FAMILY_VERSION,
    AGENT_SOCKET,
    AgentCmd,
    spec_name,
)
from devmemtcp.netlink.errors import NetlinkError
from devmemtcp.netlink.genl import Attributes, GenlFamily
from devmemtcp.netlink.netdev import Netdev

AgentPath = str | PathLike[str]


class Session(Closing):
    """A connection to the agent. Any thread may use it; calls to the agent take turns."""

    path: str

    def __init__(
        self, path: AgentPath = AGENT_SOCKET, *, timeout: float = netlink.DEFAULT_TIMEOUT
    ) -> None:
        """Connect to the agent at `path`, and wait `timeout` seconds for each of its answers.

        Raises ConfigError when there is none, PermissionError when the socket's mode says so,
        BrokenPipeError when it ends just now.
        """
        self.path = os.fspath(path)
        self._timeout = timeout
        self._lock = threading.RLock()
        self._stacks: dict[str, SessionStack] = {}
        with _Asking(self.path):
            self._genl = GenlFamily(
                _connect(self.path, timeout), AGENT_FAMILY_NAME, AGENT_FAMILY_VERSION
            )
        _open_here.add(self)

    def close(self) -> None:
        """End all that was opened by this session: connections are reset. Idempotent."""
        with self._lock:
            for stack in self._stacks.values():
                stack.let_go()
            self._stacks.clear()
            self._genl.close()
        _open_here.discard(self)

    # ---- interfaces ----

    def stacks(self) -> Sequence[SessionStack]:
        """The interfaces that the agent serves, one stack each. Asks the agent."""
        with self._lock:
            for found in self._dump(AgentCmd.STACK_GET):
                self._stack_of(found).described(found)
            return list(self._stacks.values())

    def stack(self, ifname: str) -> SessionStack:
        """The stack of one interface. Raises ConfigError when the agent does not serve it."""
        for stack in self.stacks():
            if stack.ifname == ifname:
                return stack
        raise ConfigError(
            f"the agent at {self.path} does not serve {ifname}; it serves "
            f"{', '.join(stack.ifname for stack in self.stacks())}",
            errno.ENODEV,
        )

    def _stack_of(self, found: Any) -> SessionStack:
        name = found.get_attr("DEVMEMTCP_A_STACK_IFNAME")
        ifindex = found.get_attr("DEVMEMTCP_A_STACK_IFINDEX")
        if name not in self._stacks or self._stacks[name].ifindex != ifindex:
            self._stacks[name] = SessionStack(self, name, ifindex)
        return self._stacks[name]

    def applications(self) -> list[dict[str, Any]]:
        """Everybody who has a channel: ifindex, app, pid, uid, listeners, connections, tokens."""
        prefix = "DEVMEMTCP_A_APP_"
        return [
            {name: app.get_attr(f"{prefix}{name.upper()}") for name in _APP_FIELDS}
            | {"listeners": app.get_attrs(f"{prefix}LISTENER")}
            for app in self._dump(AgentCmd.APP_GET)
        ]

    # ---- sockets and bindings ----

    def listen(
        self,
        address: Address,
        *,
        close_first: bool = False,
        backlog: int = 1024,
        pressure: str | None = None,
    ) -> Listener:
        """Take connections on (host, port), on the interface that has this address.

        An unspecified host needs the agent to serve one interface only: otherwise say which,
        `stack(ifname).listen(...)`. See `Runtime.listen()`; also raises PermissionError.
        """
        stacks = [stack for stack in self.stacks() if stack.has_address(address[0])]
        if len(stacks) != 1:
            what = "no interface" if not stacks else "several interfaces"
            raise ConfigError(
                f"{what} of the agent at {self.path} can be listened on at {address[0]}",
                errno.EADDRNOTAVAIL,
            )
        return stacks[0].listen(
            address, close_first=close_first, backlog=backlog, pressure=pressure
        )

    def bind_rx(self, ifname: str, queues: Iterable[int], region: Region) -> Binding:
        """Let what these queues receive land in the region, until the binding is closed.

        Fragments can be read by this session's connections. Raises PermissionError without the
        admin permission, ConfigError, NetlinkError as the kernel's bind-rx does.
        """
        stack = self.stack(ifname)
        binding = Binding(self.path, self._timeout, stack, queues, region)
        stack.add_region(binding.dmabuf_id, region)
        return binding

    # ---- requests ----

    def _dump(self, command: AgentCmd) -> list[Any]:
        with self._lock, _Asking(self.path):
            return self._genl.dump(command, MESSAGES[command], [], spec_name(command))

    def ask(self, command: AgentCmd, attrs: Attributes) -> tuple[Any, list[int]]:
        """One request of the agent's family; returns the answer, and descriptors with it."""
        with self._lock, _Asking(self.path):
            answer = self._genl.do(command, MESSAGES[command], attrs, spec_name(command))
            return answer[0] if answer else None, self._genl.connection.take_fds()

    def let_go(self) -> None:
        """In a child made by fork(): close what is the parent's."""
        for stack in self._stacks.values():
            stack.let_go()
        self._genl.close()


_APP_FIELDS = ("ifindex", "app", "pid", "uid", "connections", "tokens")


class SessionStack:
    """One interface of the agent as an application has it: listeners, connections, counters."""

    ifname: str
    ifindex: int
    mode: str
    """As attached: native or generic."""
    mtu: int
    queues: int
    state: str
    """serving, or the errno's text that ended the stack."""
    addresses: frozenset[str]
    """Of the interface, when the agent was last asked."""
    netmem_check: str
    """See `devmemtcp.agent.snapshot.netmem_check()`."""

    def __init__(self, session: Session, ifname: str, ifindex: int) -> None:
        """For `Session.stacks()`. The channel is opened when it is first needed."""
        self.ifname = ifname
        self.ifindex = ifindex
        self._session = session
        self._app: AppHalf | None = None
        self._regions: dict[int, Region] = {}
        self.addresses: frozenset[str] = frozenset()

    def described(self, found: Any) -> None:
        """Take over what the agent says of the interface."""
        prefix = "DEVMEMTCP_A_STACK_"
        self.mode = found.get_attr(f"{prefix}MODE")
        self.mtu = found.get_attr(f"{prefix}MTU")
        self.queues = found.get_attr(f"{prefix}QUEUES")
        self.addresses = frozenset(found.get_attrs(f"{prefix}ADDRESS"))
        self.netmem_check = found.get_attr(f"{prefix}CHECK")
        failed = found.get_attr(f"{prefix}FAILED")
        self.state = "serving" if failed is None else os.strerror(failed)

    def has_address(self, host: str) -> bool:
        """Whether the interface had this address when the agent was last asked.

        The unspecified addresses stand for every one.
        """
        address = ip_address(host)
        return address.is_unspecified or str(address) in self.addresses

    def open_app(self) -> AppHalf:
        """The application's half of the channel to this stack, opened if it is not yet."""
        with self._session._lock:
            if self._app is None:
                self._app = self._open_channel()
            return self._app

    def _open_channel(self) -> AppHalf:
        _, fds = self._session.ask(
            AgentCmd.CHANNEL_OPEN, [("DEVMEMTCP_A_CHANNEL_IFINDEX", self.ifindex)]
        )
        try:
            app = AppHalf(*ChannelFds(*fds), ended=self._why_ended)
        finally:
            for fd in fds:
                os.close(fd)
        for number, region in self._regions.items():
            app.add_region(number, region)
        return app

    def add_region(self, dmabuf_id: int, region: Region) -> None:
        """Fragments of this binding are in this region; those of a closed one are forgotten."""
        for number, other in list(self._regions.items()):
            if other.fd < 0:
                del self._regions[number]
                if self._app is not None:
                    self._app.remove_region(number)
        self._regions[dmabuf_id] = region
        if self._app is not None:
            self._app.add_region(dmabuf_id, region)

    def listen(
        self,
        address: Address,
        *,
        close_first: bool = False,
        backlog: int = 1024,
        pressure: str | None = None,
    ) -> Listener:
        """See `Runtime.listen()`. Also raises PermissionError: no rule allows the port."""
        host, port = address
        app = self.open_app()
        attrs: Attributes = [
            ("DEVMEMTCP_A_LISTENER_IFINDEX", self.ifindex),
            ("DEVMEMTCP_A_LISTENER_ADDRESS", host),
            ("DEVMEMTCP_A_LISTENER_PORT", port),
            ("DEVMEMTCP_A_LISTENER_BACKLOG", backlog),
            ("DEVMEMTCP_A_LISTENER_PRESSURE", pressure or "window"),
            ("DEVMEMTCP_A_LISTENER_CLOSE_FIRST", int(close_first)),
        ]
        answer, _ = self._session.ask(AgentCmd.LISTEN, attrs)
        number = answer.get_attr("DEVMEMTCP_A_LISTENER_ID")
        at = str(ip_address(host)), answer.get_attr("DEVMEMTCP_A_LISTENER_PORT")
        listener = Listener(app, number, at, close_first, self._unlisten)
        app.listeners[number] = listener
        lib.app_listener(app.handle, number, 1)
        self._session.ask(AgentCmd.STEER, self._listener(number))
        return listener

    def _unlisten(self, number: int) -> None:
        try:
            self._session.ask(AgentCmd.UNLISTEN, self._listener(number))
        except BrokenPipeError:
            return  # the agent has died, and the listener with it

    def _listener(self, number: int) -> Attributes:
        return [
            ("DEVMEMTCP_A_LISTENER_IFINDEX", self.ifindex),
            ("DEVMEMTCP_A_LISTENER_ID", number),
        ]

    def poll(
        self, timeout: float | None = None, *, wake_fd: int = -1
    ) -> list[Listener | Connection]:
        """See `Runtime.poll()`."""
        app = self.open_app()
        app.wait(timeout=timeout, extra_fd=wake_fd)
        return app.ready()

    def stats(self) -> Stats:
        """All counters of the stack, which applications share; the tokens are one's own."""
        answer, _ = self._session.ask(
            AgentCmd.STATS_GET, [("DEVMEMTCP_A_STATS_IFINDEX", self.ifindex)]
        )
        groups = _groups(answer)
        sockets = [
            SocketStats(queue=int(name.partition(".")[2]), **counters)
            for name, counters in groups.items()
            if name.startswith("socket.")
        ]
        return Stats(
            stack=groups["stack"],
            drops=groups["drops"],
            steer=groups["steer"],
            sockets=tuple(sockets),
            loop=LoopStats(**groups["loop"]),
            netmem=groups["netmem"],
            own_tokens=groups["application"].get("tokens"),
        )

    @property
    def unreadable(self) -> Unreadable:
        """Whether the agent can read payload of this interface, as it says itself."""
        answer, _ = self._session.ask(
            AgentCmd.STATS_GET, [("DEVMEMTCP_A_STATS_IFINDEX", self.ifindex)]
        )
        return judge(_groups(answer)["readability"], "agent")

    def _why_ended(self) -> OSError:
        return BrokenPipeError(
            errno.EPIPE, f"the agent at {self._session.path} has ended, or closed the channel"
        )

    def let_go(self) -> None:
        """Close the channel's descriptors: every call raises from now on."""
        if self._app is not None:
            self._app.close()


def _groups(answer: Any) -> dict[str, dict[str, int]]:
    """The counters of a STATS_GET, by group and name."""
    groups: dict[str, dict[str, int]] = defaultdict(dict)
    for group in answer.get_attrs("DEVMEMTCP_A_STATS_GROUP"):
        counters = groups[group.get_attr("DEVMEMTCP_A_STATS_GROUP_NAME")]
        for counter in group.get_attrs("DEVMEMTCP_A_STATS_GROUP_COUNTER"):
            name = counter.get_attr("DEVMEMTCP_A_STATS_COUNTER_NAME")
            counters[name] = counter.get_attr("DEVMEMTCP_A_STATS_COUNTER_VALUE")
    return groups


class Binding(Closing):
    """Device memory bound to queues, by a control connection of its own."""

    dmabuf_id: int

    def __init__(
        self,
        path: str,
        timeout: float,
        stack: SessionStack,
        queues: Iterable[int],
        region: Region,
    ) -> None:
        """For `Session.bind_rx()`."""
        region.check_receivable()
        self._stack = stack
        self.region = region
        with ExitStack() as undo, _Asking(path):
            self._netdev = undo.enter_context(Netdev(path, timeout=timeout))
            self.dmabuf_id = self._netdev.bind_rx(stack.ifindex, region.fd, queues)
            undo.pop_all()
        _open_here.add(self)

    def fileno(self) -> int:
        """The control connection's: the binding lives as long as any copy of it."""
        return self._netdev.fileno()

    def close(self) -> None:
        """Unbind, unless there is a copy of the connection; idempotent.

        What was received into the region and not given back can be read as long as the region
        is mapped; nothing more is received into it.
        """
        self._netdev.close()
        _open_here.discard(self)

    def let_go(self) -> None:
        """In a child made by fork(): the binding is the parent's."""
        self._netdev.close()


class _Asking:
    """What a request to the agent raises, in this package's words."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, NetlinkError):
            text = error.extack or error.strerror
            if error.errno in (errno.EPERM, errno.EACCES):
                raise PermissionError(error.errno, text) from error
            if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ENODEV):
                raise ConfigError(text or str(error), error.errno) from error
            if error.errno == errno.EOPNOTSUPP:
                raise ConfigError(f"the agent at {self._path}: {text}", error.errno) from error
        if isinstance(error, (ConnectionError, FileNotFoundError)):
            raise BrokenPipeError(
                errno.EPIPE, f"the agent at {self._path} has ended, or closed the connection"
            ) from error


def no_agent(path: str, error: OSError) -> ConfigError:
    """What is wrong when connecting to `path` ended in `error`, and what to do."""
    return ConfigError(
        f"no agent answers at {path}; `devmemtcp agent -i IF` starts one",
        error.errno or errno.ECONNREFUSED,
    )


def _connect(path: str, timeout: float) -> netlink.Connection:
    try:
        return netlink.Connection.open(path, timeout=timeout)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise no_agent(path, error) from error
    except PermissionError as error:
        raise PermissionError(
            error.errno,
            f"the socket of the agent at {path} is not open to this user; "
            "`owner`, `group` and `mode` of the agent's [agent] say to whom",
        ) from error


_open_here: weakref.WeakSet[Session | Binding] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for each in tuple(_open_here):
        each.let_go()
    _open_here.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
