# SPDX-License-Identifier: Apache-2.0
"""Several applications on one interface: each has its own, and takes only that along."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from devmemtcp.agent import Listener, Region, XdpError
from devmemtcp.agent._loop import lib
from devmemtcp.agent.channel import Channel
from devmemtcp.agent.datapath import Binding, Datapath
from devmemtcp.agent.datapath_config import DatapathConfig
from devmemtcp.agent.netdev import NetNs
from devmemtcp.agent.socket import AppHalf

from .traffic import MIB, PATIENCE, PORT, dial, read_exactly, until

BUFFERS = 1024

HOARDER = """
import sys
from devmemtcp.agent._loop import lib
from devmemtcp.agent.socket import AppHalf, Listener
*fds, number = map(int, sys.argv[1:])
app = AppHalf(*fds, ended=lambda: OSError("the stack has ended"))
listener = app.listeners[number] = Listener(app, number, ("", 0), False, lambda number: None)
lib.app_listener(app.handle, number, 1)
print("listening", flush=True)
conn = listener.accept(60)
while True:
    conn.recv_frags()
"""
"""An application that gives nothing back."""


@contextlib.contextmanager
def datapath(end: Any, region: Region | None) -> Iterator[Datapath]:
    config = DatapathConfig(
        ifname=end.ifname,
        queues=1,
        mtu=1500,
        mode="generic",
        multi_buffer=True,
        csum_trust=False,
        linear_bytes=0,
        busy_poll=False,
        spin_us=0,
        cpu=None,
        host_buffers=BUFFERS,
        max_buffers=4 * BUFFERS,
        max_areas=4,
        max_apps=3,
        max_flows=64,
        rcv_wnd_max=4 * MIB,
    )
    with contextlib.ExitStack() as undo:
        netns = NetNs(f"/run/netns/{end.netns}")
        undo.callback(netns.close)
        with netns.entered():
            first = Binding(1, [0], region.fd) if region else None
            made = Datapath(config, netns, first)
        undo.callback(made.close)
        made.start()
        yield made


class App:
    """An application in this process."""

    def __init__(self, path: Datapath) -> None:
        self._path = path
        with Channel(path.config) as channel:
            self.number = path.open_app(channel.stack, channel.geometry)
            self.half = AppHalf(*channel.app, ended=lambda: OSError("the stack has ended"))

    def listen(self, host: str, port: int) -> Listener:
        number, port = self._path.listen(self.number, host, port)
        listener = Listener(self.half, number, (host, port), False, self._path.unlisten)
        self.half.listeners[number] = listener
        lib.app_listener(self.half.handle, number, 1)
        self._path.steer(number)
        return listener


@contextlib.contextmanager
def hoarder(path: Datapath, host: str, port: int) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """An application in a process of its own: its number, and the process."""
    with Channel(path.config) as channel:
        app = path.open_app(channel.stack, channel.geometry)
        listener, _ = path.listen(app, host, port)
        arguments = map(str, (*channel.app, listener))
        process = subprocess.Popen(
            [sys.executable, "-c", HOARDER, *arguments],
            pass_fds=channel.app,
            stdout=subprocess.PIPE,
            text=True,
        )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            path.steer(listener)
            yield app, process
        finally:
            process.kill()


def push(sock: socket.socket) -> None:
    """Send until the window has been shut for a while, or the connection is reset."""
    sock.settimeout(0.5)
    with contextlib.suppress(TimeoutError, ConnectionError):
        while True:
            sock.sendall(bytes(MIB))


def test_an_application_that_is_killed_takes_along_what_is_its_own(veth: Any) -> None:
    data = random.Random(1).randbytes(8 * MIB)
    with (
        Region(BUFFERS * 4096) as region,
        region.map() as view,
        datapath(veth.right, region) as path,
        ThreadPoolExecutor(1) as pool,
    ):
        honest = App(path)
        mine = honest.listen(veth.right.ip4, PORT)
        for _ in range(3):
            with hoarder(path, veth.right.ip4, PORT + 1) as (number, process):
                victim = dial(veth.left, (veth.right.ip4, PORT + 1))
                push(victim)
                assert path.stats()["stack"]["tokens_outstanding"] > 0
                # Beside one who hoards all he can get, the other receives.
                sock = dial(veth.left, mine.address)
                conn = mine.accept(PATIENCE)
                sent = pool.submit(sock.sendall, data)
                assert read_exactly(conn, {1: view}, len(data)) == (data, {1})
                sent.result(PATIENCE)
                sent = pool.submit(sock.sendall, data)
                process.send_signal(signal.SIGKILL)
                process.wait(PATIENCE)
                path.close_app(number)
                assert read_exactly(conn, {1: view}, len(data)) == (data, {1})
                sent.result(PATIENCE)
            with pytest.raises(ConnectionResetError):
                victim.sendall(b"x" * MIB)
            victim.close()
            sock.close()
            conn.close()
            (area,) = path.pools()
            assert until(lambda: home(path))
            assert area["dmabuf_id"] == 1
        assert path.check() == 0


def home(path: Datapath) -> bool:
    """Whether every buffer is in a pool or a fill ring."""
    return all(pool["free"] + pool["fill"] == pool["nr_niovs"] for pool in path.pools())


def test_ports_of_an_application_that_is_gone_are_free(veth: Any) -> None:
    with datapath(veth.right, None) as path:
        one, other = App(path), App(path)
        listener = one.listen(veth.right.ip4, PORT)
        with pytest.raises(ValueError, match="in use"):
            other.listen(veth.right.ip4, PORT)
        sock = dial(veth.left, listener.address)
        conn = listener.accept(PATIENCE)
        path.close_app(one.number)
        with sock, pytest.raises(ConnectionResetError):
            sock.recv(1)
        with pytest.raises(OSError, match="the stack has ended"):
            conn.recv_frags(timeout=PATIENCE)
        # The port, and the number, are the next one's; what the last one left does not reach it.
        again = other.listen(veth.right.ip4, PORT)
        third = App(path)
        assert third.number == one.number
        with dial(veth.left, again.address) as sock, again.accept(PATIENCE) as conn:
            sock.sendall(b"for the other")
            assert read_exactly(conn, {}, 13) == (b"for the other", {0})


def test_there_are_only_so_many_applications(veth: Any) -> None:
    with datapath(veth.right, None) as path:
        before = len(os.listdir("/proc/self/fd"))
        apps = [App(path) for _ in range(3)]
        with Channel(path.config) as channel, pytest.raises(XdpError) as caught:
            path.open_app(channel.stack, channel.geometry)
        assert caught.value.errno == errno.ENOSPC
        for app in apps:
            path.close_app(app.number)
            app.half.close()
        with pytest.raises(XdpError) as caught:
            path.close_app(apps[0].number)
        assert caught.value.errno == errno.ENOENT
        del app, apps
        assert len(os.listdir("/proc/self/fd")) == before
