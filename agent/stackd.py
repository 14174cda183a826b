# SPDX-License-Identifier: Apache-2.0
"""The process that runs the stack apart from its application, and the application's end of it.

The process (`python -P -m devmemtcp.agent.stackd SOCKET PIDFD`) gets a region's descriptor only to
lay the UMEM out and closes it before the first packet; afterwards it has no mapping and no
descriptor of the payload, which `probe()` shows, and no capability to get one by way of its
application (privileges.c). It ends with its application, however that ends: the control socket is
closed or the application's pidfd becomes readable.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from devmemtcp.agent import control
from devmemtcp.agent._loop import lib
from devmemtcp.agent.channel import ChannelFds
from devmemtcp.agent.datapath import Binding, Datapath
from devmemtcp.agent.datapath_config import ChannelGeometry, DatapathConfig
from devmemtcp.agent.errors import failed
from devmemtcp.agent.netdev import NetNs

_EXIT_SECONDS = 5.0

_METHODS = frozenset(
    {
        *("bind", "check", "close", "close_app", "failure", "flows", "frags", "listen", "lost"),
        *("open_app", "pools", "probe", "queue_stats", "reap", "retake", "stats", "steer"),
        *("unbind", "unlisten"),
    }
)


class RemoteDatapath:
    """A datapath in a process of its own; the methods are those of `Datapath`."""

    mode: str

    def __init__(self, config: DatapathConfig, netns: NetNs, first: Binding | None = None):
        """Start the process in `netns`.

        Raises what `Datapath` raises there.
        """
        self.config = config
        self.queues = config.queues
        self._lock = threading.Lock()
        self._number = 0  # of the last call
        self._socket, theirs = control.pair()
        try:
            with theirs, _pidfd_of_us() as pidfd, netns.entered():
                fds = [theirs.fileno(), pidfd]
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "devmemtcp.agent.stackd", *map(str, fds)],
                    pass_fds=fds,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # a Ctrl-C in the terminal is the application's
                )
        except BaseException:
            self._socket.close()
            raise
        self.pid = self._process.pid
        try:
            binding = [first.dmabuf_id, list(first.queues)] if first else None
            rights = (first.region_fd,) if first else ()
            control.send(self._socket, self._number, [asdict(config), binding], rights)
            self.mode = self._answer()
        except BaseException:
            self._end()
            raise

    def _answer(self) -> Any:
        """The answer to the last call. Those to calls that were given up come before it."""
        while True:
            try:
                number, answer, _ = control.receive(self._socket)
            except control.Gone as gone:
                raise self._died() from gone
            if number == self._number:
                return control.unpack(answer)

    def _died(self) -> OSError:
        code = self._process.wait(_EXIT_SECONDS)
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return BrokenPipeError(f"the stack's process has died: {how}")

    def _call(self, method: str, *args: Any, fds: tuple[int, ...] = (), **options: Any) -> Any:
        with self._lock:
            self._number += 1
            try:
                control.send(self._socket, self._number, [method, args, options], fds)
            except control.Gone as gone:
                raise self._died() from gone
            return self._answer()

    def start(self) -> None:
        """It has started itself."""

    def failure(self) -> int:
        """See `Datapath.failure()`. Raises BrokenPipeError when the process has died."""
        return int(self._call("failure"))

    # ---- bindings ----

    @property
    def lost_queues(self) -> dict[int, str]:
        """See `Datapath.lost_queues`."""
        return dict(self._call("lost"))

    def bind(self, dmabuf_id: int, queues: Sequence[int], region_fd: int) -> None:
        """See `Datapath.bind()`."""
        self._call("bind", dmabuf_id, list(queues), fds=(region_fd,))

    def unbind(self, dmabuf_id: int) -> None:
        """See `Datapath.unbind()`."""
        self._call("unbind", dmabuf_id)

    def reap(self) -> list[int]:
        """See `Datapath.reap()`."""
        return list(self._call("reap"))

    def retake(self) -> None:
        """See `Datapath.retake()`."""
        self._call("retake")

    # ---- applications ----

    def open_app(self, fds: ChannelFds, geometry: ChannelGeometry) -> int:
        """See `Datapath.open_app()`."""
        return int(self._call("open_app", asdict(geometry), fds=fds))

    def close_app(self, app: int) -> None:
        """See `Datapath.close_app()`."""
        self._call("close_app", app)

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
        """See `Datapath.listen()`."""
        options: dict[str, Any] = {
            "close_first": close_first,
            "backlog": backlog,
            "pressure": pressure,
        }
        listener, port = self._call("listen", app, host, port, **options)
        return listener, port

    def steer(self, listener: int) -> None:
        """See `Datapath.steer()`."""
        self._call("steer", listener)

    def unlisten(self, listener: int) -> None:
        """See `Datapath.unlisten()`."""
        self._call("unlisten", listener)

    # ---- looking inside ----

    def stats(self) -> dict[str, Any]:
        """See `Datapath.stats()`."""
        return dict(self._call("stats"))

    def flows(self) -> list[list[Any]]:
        """See `Datapath.flows()`."""
        return list(self._call("flows"))

    def frags(self) -> list[list[int]]:
        """See `Datapath.frags()`."""
        return list(self._call("frags"))

    def pools(self) -> list[dict[str, Any]]:
        """See `Datapath.pools()`."""
        return list(self._call("pools"))

    def queue_stats(self) -> list[dict[str, Any]]:
        """See `Datapath.queue_stats()`."""
        return list(self._call("queue_stats"))

    def check(self) -> int:
        """See `Datapath.check()`."""
        return int(self._call("check"))

    def probe(self) -> dict[str, int]:
        """See `Datapath.probe()`."""
        return dict(self._call("probe"))

    def close(self, linger_ms: int = 0) -> None:
        """See `Datapath.close()`; the process ends."""
        if self._socket.fileno() < 0:
            return
        try:
            if self._process.poll() is None:
                self._call("close", linger_ms)
        except BrokenPipeError:
            pass  # it died meanwhile: then there is nothing left to close
        finally:
            self._end()

    def let_go(self) -> None:
        """In a child made by fork(): the process is the parent's."""
        self._socket.close()

    def _end(self) -> None:
        self._socket.close()
        try:
            self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def _pidfd_of_us() -> Iterator[int]:
    """For the process to come: when it looks itself, its parent may be another already."""
    fd = os.pidfd_open(os.getpid())
    try:
        yield fd
    finally:
        os.close(fd)


def _carry_out(datapath: Datapath, call: list[Any], fds: list[int]) -> Any:
    """One call; its descriptors, which what they are for has duplicated, are closed again."""
    method, args, options = call
    if method not in _METHODS:
        raise ValueError(f"no method {method!r}")
    try:
        match method:
            case "bind":
                args = [*args, *fds]
            case "open_app":
                args = [ChannelFds(*fds), ChannelGeometry(**args[0])]
            case "lost":
                return list(datapath.lost_queues.items())
        return getattr(datapath, method)(*args, **options)
    finally:
        for fd in fds:
            os.close(fd)


def _receive(sock: socket.socket, parent: int) -> tuple[int, Any, list[int]]:
    """The next call. Raises Gone also when a child of the application keeps its socket open."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(parent, select.POLLIN)
    if parent in dict(poll.poll()):
        raise control.Gone
    return control.receive(sock)


def _serve(sock: socket.socket, parent: int, datapath: Datapath) -> None:
    """Answer calls until the application has gone."""
    while True:
        number, call, fds = _receive(sock, parent)
        try:
            answer = {"result": _carry_out(datapath, call, fds)}
        except Exception as error:  # noqa: BLE001 - the application raises it
            answer = control.pack_error(error)
        control.send(sock, number, answer)


def _set_up(sock: socket.socket, parent: int) -> Datapath:
    _, (config, binding), fds = _receive(sock, parent)
    try:
        first = Binding(*binding, *fds) if binding else None
        return Datapath(DatapathConfig(**config), NetNs(None), first)
    finally:
        for fd in fds:
            os.close(fd)


def _give_up_privileges() -> None:
    """Before any thread is started: capabilities are a thread's. See privileges.c."""
    if result := lib.privileges_give_up():
        raise failed(result, "cannot give up capabilities")


def main() -> None:
    """Serve one application; argv has the control socket's descriptor and the parent's pidfd."""
    _give_up_privileges()
    sock = socket.socket(fileno=int(sys.argv[1]))
    parent = int(sys.argv[2])
    try:
        try:
            datapath = _set_up(sock, parent)
        except Exception as error:  # noqa: BLE001 - the application raises it
            control.send(sock, 0, control.pack_error(error))
            return
        try:
            datapath.start()
            control.send(sock, 0, {"result": datapath.mode})
            _serve(sock, parent, datapath)
        finally:
            datapath.close()
    except control.Gone:
        return  # the application has closed, or was killed: all is undone


if __name__ == "__main__":
    main()
