# SPDX-License-Identifier: Apache-2.0
"""Control connections: one client's manners are no other's problem."""

from __future__ import annotations

import array
import errno
import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from devmemtcp.agent import thread
from devmemtcp.agent.daemon import clients
from devmemtcp.agent.daemon.clients import ControlServer
from devmemtcp.agent.daemon.config import parse_config
from devmemtcp.agent.daemon.peers import RuleBook
from devmemtcp.agent.daemon.socket_file import SocketFile
from devmemtcp.netlink import attribute, membership
from devmemtcp.netlink.connection import Connection
from devmemtcp.netlink.constants import AgentCmd, MsgFlag, MsgType
from devmemtcp.netlink.family import Client, Family, Op, Request
from devmemtcp.netlink.genl import GenlFamily
from devmemtcp.netlink.server import NetlinkServer

from ..slowness import SLOWNESS

HEADER = struct.Struct("=IHHII")
DONE_WAITING = 5.0 * SLOWNESS
BLOB = attribute.put(1, bytes(3000))
BLOBS = 400
DUMP, LOOK = 99, 98


class Harness:
    """A control server with a family that has one group and dumps as much as one likes."""

    def __init__(self, path: Path, *, max_clients: int = 400, max_per_user: int = 400) -> None:
        self.path = path
        self.gone: list[Client] = []
        self.fds: list[int] = []
        self.server = NetlinkServer()
        self.family = Family(
            name="test",
            version=1,
            ops=membership.ops(self.server)
            | {DUMP: Op(dump=lambda _: iter([BLOB] * BLOBS)), LOOK: Op(do=self.look)},
            groups=["news"],
            disconnect=self.gone.append,
        )
        self.server.register(self.family)
        self.selector = selectors.DefaultSelector()
        self.file = SocketFile(path)
        rules = RuleBook(parse_config("", "x").rules)
        self.control = ControlServer(
            self.file.listener,
            self.selector,
            self.server,
            lambda: rules,
            max_clients=max_clients,
            max_per_user=lambda: max_per_user,
        )
        self.stop = False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def look(self, request: Request) -> None:
        self.fds.append(len(request.fds))

    def run(self) -> None:
        while not self.stop:
            for key, _ in self.selector.select(0.02):
                key.data()
            self.control.flush()

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(str(self.path))  # waits where the backlog is full
        sock.settimeout(DONE_WAITING)
        return sock

    def request(self, cmd: int, flags: int) -> bytes:
        body = struct.pack("=BBH", cmd, 1, 0)
        return HEADER.pack(16 + len(body), self.family.id, flags | MsgFlag.REQUEST, 1, 0) + body

    def news(self, count: int) -> None:
        def at_once() -> None:  # nothing is sent in between, so what waits is bounded by itself
            for _ in range(count):
                self.server.multicast(self.family, "news", 1, BLOB)

        self.control.post(at_once)

    def still_serves(self) -> bool:
        with self.connect() as sock, suppress(ConnectionError):
            return is_ack(sock, self.request(LOOK, MsgFlag.ACK))
        return False

    def close(self) -> None:
        self.stop = True
        self.thread.join()
        self.control.close()
        self.file.close()
        self.selector.close()


def is_ack(sock: socket.socket, request: bytes) -> bool:
    sock.send(request)
    answer = sock.recv(65536)
    return HEADER.unpack_from(answer)[1] == MsgType.ERROR and answer[16:20] == bytes(4)


def until(condition: object) -> bool:
    deadline = time.monotonic() + DONE_WAITING
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    made = Harness(tmp_path / "s")
    yield made
    made.close()


def test_a_client_is_answered_and_its_end_is_told(harness: Harness) -> None:
    with Connection.open(harness.path) as connection:
        family = GenlFamily(connection, "test", 1)
        assert family.id == harness.family.id
        assert len(harness.control) == 1
    assert until(lambda: len(harness.gone) == 1 and len(harness.control) == 0)


def test_a_copy_of_the_socket_keeps_the_connection(harness: Harness) -> None:
    first = harness.connect()
    second = first.dup()
    second.settimeout(DONE_WAITING)
    first.close()
    assert is_ack(second, harness.request(LOOK, MsgFlag.ACK))
    assert harness.gone == []
    second.close()
    assert until(lambda: len(harness.gone) == 1)


def test_who_does_not_read_is_dropped_and_nobody_waits(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "PATIENCE", 0.3)
    with harness.connect() as rude:
        rude.send(harness.request(DUMP, MsgFlag.DUMP))  # 1.2 MB of answers
        assert harness.still_serves()
        assert until(lambda: len(harness.gone) == 2)
        received = 0
        while data := rude.recv(1 << 20):
            received += len(data)
        assert 0 < received < 1_200_000


def test_who_reads_slowly_gets_all_of_it(harness: Harness) -> None:
    with harness.connect() as slow:
        slow.send(harness.request(DUMP, MsgFlag.DUMP))
        received = 0
        while HEADER.unpack_from((data := slow.recv(1 << 20))[-20:])[1] != MsgType.DONE:
            received += len(data)
            time.sleep(0.002)
        assert received > BLOBS * len(BLOB)


def test_lost_notifications_are_told(harness: Harness) -> None:
    with harness.connect() as member:
        body = struct.pack("=BBH", AgentCmd.SUBSCRIBE, 1, 0) + attribute.put_u32(
            1, harness.family.group_ids["news"]
        )
        header = HEADER.pack(16 + len(body), harness.family.id, MsgFlag.REQUEST | MsgFlag.ACK, 1, 0)
        assert is_ack(member, header + body)
        harness.news(50)
        assert harness.still_serves()
        kinds = [HEADER.unpack_from(member.recv(1 << 20))[1]]
        while kinds[-1] != MsgType.OVERRUN:
            kinds.append(HEADER.unpack_from(member.recv(1 << 20))[1])
        assert 2 <= len(kinds) < 50
        assert set(kinds[:-1]) == {harness.family.id}
        assert is_ack(member, header + body)  # and goes on


def test_too_large_a_message_ends_the_connection(harness: Harness) -> None:
    with harness.connect() as sock:
        sock.send(bytes(clients.MAX_REQUEST + 1))
        assert sock.recv(100) == b""
    assert harness.still_serves()


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_too_many_descriptors_end_the_connection_and_none_stays(harness: Harness) -> None:
    assert harness.still_serves()
    assert until(lambda: len(harness.control) == 0)
    before = open_fds()
    sock = harness.connect()
    fds = array.array("i", [0] * 100)
    sock.sendmsg([harness.request(LOOK, 0)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    assert sock.recv(100) == b""
    sock.close()
    assert until(lambda: open_fds() == before)
    assert harness.fds == [0]


def test_a_descriptor_is_passed_on_and_closed(harness: Harness) -> None:
    before = open_fds()
    region = os.memfd_create("region")
    reader, writer = os.pipe()
    with harness.connect() as sock:
        for fd in (region, writer):
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            sock.sendmsg([harness.request(LOOK, MsgFlag.ACK)], rights)
            assert sock.recv(100)[16:20] == bytes(4)
    assert harness.fds == [1, 1]
    os.close(region)
    os.close(writer)
    assert os.read(reader, 1) == b""  # no copy of the write end is left
    os.close(reader)
    assert until(lambda: open_fds() == before)


_LINGERS = """
import array, socket, struct, sys
path, port, look = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
stuck = socket.create_connection(("127.0.0.1", port))
stuck.setblocking(False)
try:
    while True:
        stuck.send(bytes(1 << 20))
except BlockingIOError:
    pass
stuck.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 3600))
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(path)
sock.send(look)
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [stuck.fileno()]))]
sock.sendmsg([look], rights)
"""


def test_a_descriptor_that_is_slow_to_close_stops_nobody_else(harness: Harness) -> None:
    """Closing a TCP socket with SO_LINGER waits for its peer, here for ever."""
    gate = threading.Event()

    def wait() -> None:  # so that ours is the last copy of the descriptor
        gate.wait()

    harness.control.post(wait)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        args = [str(harness.path), str(listener.getsockname()[1])]
        look = harness.request(LOOK, 0).hex()
        subprocess.run(
            [sys.executable, "-c", _LINGERS, *args, look], check=True, timeout=30 * SLOWNESS
        )
        theirs, _ = listener.accept()
        with theirs:
            gate.set()
            assert until(lambda: harness.fds == [0, 1])
            threads = [t for t in threading.enumerate() if t.name == "devmemtcp-client"]
            assert len(threads) == 1  # which waits in close()
            assert harness.still_serves()
            assert until(lambda: len(harness.gone) == 1)
            assert threads[0].is_alive()
        threads[0].join(DONE_WAITING)
        assert not threads[0].is_alive()


def test_limits_of_connections(tmp_path: Path) -> None:
    few = Harness(tmp_path / "s", max_clients=3)
    try:
        kept = [few.connect() for _ in range(3)]
        assert all(is_ack(sock, few.request(LOOK, MsgFlag.ACK)) for sock in kept)
        with few.connect() as refused:
            assert refused.recv(100) == b""
        kept.pop().close()
        assert until(lambda: len(few.control) == 2)
        assert until(few.still_serves)
        for sock in kept:
            sock.close()
    finally:
        few.close()


def test_a_client_for_whom_there_is_no_thread_is_refused_and_the_next_served(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = thread.started

    def none_left(target: Any, name: str) -> threading.Thread:
        monkeypatch.setattr(clients, "started", threads)
        raise BlockingIOError(errno.EAGAIN, "cannot start the thread")

    monkeypatch.setattr(clients, "started", none_left)
    with harness.connect() as sock:
        assert sock.recv(1) == b""
    assert len(harness.control) == 0
    assert harness.still_serves()


def test_garbage_is_answered_or_dropped_and_leaks_nothing(harness: Harness) -> None:
    assert harness.still_serves()
    assert until(lambda: len(harness.control) == 0)
    before, chance = open_fds(), random.Random(7)
    valid = harness.request(LOOK, MsgFlag.ACK)
    for _ in range(300):
        assert until(lambda: len(harness.control) < 64)
        sock = harness.connect()
        for _ in range(chance.randrange(1, 5)):
            data = bytearray(chance.choice((valid, chance.randbytes(chance.randrange(1, 200)))))
            for _ in range(chance.randrange(4)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            fds = array.array("i", [0] * chance.randrange(3))
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
            try:
                sock.sendmsg([data[: chance.randrange(1, len(data) + 1)]], rights)
            except (BrokenPipeError, ConnectionResetError):
                break
        sock.close()
    assert harness.still_serves()
    assert until(lambda: len(harness.control) == 0 and open_fds() == before)
