# SPDX-License-Identifier: Apache-2.0
"""The process that runs the stack apart from its application, and the application's end of it.

The process (`python -P -m devmemtcp.agent.stackd FD`) gets the region's descriptor only to lay
the UMEM out and closes it before the first packet; afterwards it has no mapping and no descriptor
of the payload, which `probe()` shows, and no capability to get one by way of its application
(privileges.c). It ends with its application, however that ends: the control socket is closed or
the pidfd of the parent becomes readable.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import asdict
from typing import Any

from devmemtcp.agent import control
from devmemtcp.agent._loop import lib
from devmemtcp.agent.datapath import ChannelFds, Datapath, DatapathConfig
from devmemtcp.agent.netdev import NetNs

_EXIT_SECONDS = 5.0

_METHODS = frozenset(
    ("close", "check", "failure", "flows", "frags", "listen", "probe", "stats", "steer", "unlisten")
)


class RemoteDatapath:
    """A datapath in a process of its own; the methods are those of `Datapath`."""

    mode: str

    def __init__(self, config: DatapathConfig, fds: ChannelFds, region_fd: int, netns: NetNs):
        """Start the process in `netns`; it gets duplicates of all `fds`.

        Raises what `Datapath` raises there.
        """
        self.config = config
        self._lock = threading.Lock()
        self._number = 0  # of the last call
        self._socket, theirs = control.pair()
        with theirs, netns.entered():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "devmemtcp.agent.stackd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C in the terminal is the application's
            )
        self.pid = self._process.pid
        try:
            rights = (fds.channel, fds.wake, fds.event, fds.life, region_fd)
            control.send(self._socket, self._number, asdict(config), rights)
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

    def _call(self, method: str, *args: Any) -> Any:
        with self._lock:
            self._number += 1
            try:
                control.send(self._socket, self._number, [method, *args])
            except control.Gone as gone:
                raise self._died() from gone
            return self._answer()

    def start(self) -> None:
        """It has started itself."""

    def failure(self) -> int:
        """See `Datapath.failure()`. Raises BrokenPipeError when the process has died."""
        return int(self._call("failure"))

    def listen(self, host: str, port: int, close_first: bool, backlog: int) -> tuple[int, int]:
        """See `Datapath.listen()`."""
        listener, port = self._call("listen", host, port, close_first, backlog)
        return listener, port

    def steer(self, listener: int) -> None:
        """See `Datapath.steer()`."""
        self._call("steer", listener)

    def unlisten(self, listener: int) -> None:
        """See `Datapath.unlisten()`."""
        self._call("unlisten", listener)

    def stats(self) -> dict[str, Any]:
        """See `Datapath.stats()`."""
        return dict(self._call("stats"))

    def flows(self) -> list[list[Any]]:
        """See `Datapath.flows()`."""
        return list(self._call("flows"))

    def frags(self) -> list[list[int]]:
        """See `Datapath.frags()`."""
        return list(self._call("frags"))

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


def _serve(sock: socket.socket, parent: int, datapath: Datapath) -> None:
    """Answer calls until the application has gone."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(parent, select.POLLIN)
    while True:
        if parent in dict(poll.poll()):
            return
        number, (method, *args), _ = control.receive(sock)
        if method not in _METHODS:
            raise ValueError(f"no method {method!r}")
        try:
            answer = {"result": getattr(datapath, method)(*args)}
        except Exception as error:  # noqa: BLE001 - the application raises it
            answer = control.pack_error(error)
        control.send(sock, number, answer)


def _set_up(sock: socket.socket) -> Datapath:
    _, config, (channel, wake, event, life, region) = control.receive(sock)
    fds = ChannelFds(channel=channel, wake=wake, event=event, life=life)
    try:
        return Datapath(DatapathConfig(**config), fds, region, NetNs(None))
    finally:
        os.close(region)
        os.close(life)


def _give_up_privileges() -> None:
    """Before any thread is started: capabilities are a thread's. See privileges.c."""
    if result := lib.privileges_give_up():
        raise OSError(-result, f"cannot give up capabilities: {os.strerror(-result)}")


def main() -> None:
    """Serve one application; argv[1] is the number of the control socket's descriptor."""
    _give_up_privileges()
    sock = socket.socket(fileno=int(sys.argv[1]))
    parent = os.pidfd_open(os.getppid())
    try:
        try:
            datapath = _set_up(sock)
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
