# SPDX-License-Identifier: Apache-2.0
"""A hostile client of the agent, in a process of its own that has no privilege.

    python -m tests.hostile.attacker ROLE --socket PATH --ifname IF
                                     --seconds N --seed N --port N --uid N

    netlink   garbage and descriptors of every kind on control connections
    channel   a proper channel and listener; then anything goes that memory and pipes allow
    flood     as many connections as there may be, that ask and do not read, or say nothing

What it prints is a line of how often it did what. It fails only by its own mistakes: what the
agent says to it, or that it hangs up, is none of them.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import fcntl
import mmap
import os
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from random import Random

from devmemtcp.agent.daemon.config import Limits
from devmemtcp.agent.daemon.family import StackFamily
from devmemtcp.agent.daemon.family_messages import (
    agent_channel_msg,
    agent_listener_msg,
    agent_stack_msg,
)
from devmemtcp.netlink.connection import Connection
from devmemtcp.netlink.constants import (
    AGENT_FAMILY_NAME,
    AGENT_FAMILY_VERSION,
    AgentCmd,
    NetdevCmd,
)
from devmemtcp.netlink.errors import NetlinkError
from devmemtcp.netlink.family import Family
from devmemtcp.netlink.genl import GenlFamily
from devmemtcp.netlink.model import NetdevModel
from devmemtcp.netlink.server import NetlinkServer

from ..unit.netlink.fake import FakeBackend
from .descriptors import Descriptors
from .netlink_garbage import NetlinkGarbage
from .scribbler import Layout, Scribbler

NOBODY = 65534
REGION = 1 << 20
NLMSG_ERROR = 2
MANY = 300  # more connections than one user may have
_FALLOC_PUNCH_HOLE = 3  # with FALLOC_FL_KEEP_SIZE
_libc = ctypes.CDLL(None, use_errno=True)
_GONE = (
    BlockingIOError,
    BrokenPipeError,
    ConnectionResetError,
    ConnectionRefusedError,
    TimeoutError,
)


def families(path: str) -> dict[int, Family]:
    """The agent's families by their ids there, with the policies that it checks by."""
    server = NetlinkServer()
    NetdevModel(server, FakeBackend())
    StackFamily(server, {}, Limits)
    found = {}
    for family in server.families.values():
        with Connection.open(path) as connection:
            found[GenlFamily(connection, family.name, family.version).id] = family
    return found


class Attacker:
    """One hostile process; `run()` until its time is over."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._path: str = options.socket
        self._ifname: str = options.ifname
        self._ifindex = socket.if_nametoindex(options.ifname)
        self._port: int = options.port
        self._end = time.monotonic() + options.seconds
        self._random = Random(options.seed)
        self.done: Counter[str] = Counter()

    def run(self, role: str) -> None:
        """Play a role to the end."""
        play = {"netlink": self.netlink, "channel": self.channel, "flood": self.flood}[role]
        while time.monotonic() < self._end:
            try:
                play()
            except NetlinkError as error:
                self.done[f"refused: {error}"] += 1
            except _GONE:
                self.done["dropped"] += 1
                time.sleep(0.01)

    def _is_over(self, seconds: float, since: float) -> bool:
        now = time.monotonic()
        return now > since + seconds or now > self._end

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.settimeout(2)
            sock.connect(self._path)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
        self.done["connected"] += 1
        return sock

    # ---- netlink ----

    def netlink(self) -> None:
        """Garbage on one connection after the other."""
        garbage = NetlinkGarbage(self._random, families(self._path), ("netdev", NetdevCmd.BIND_RX))
        garbage.seen += [self._ifindex] * 4
        descriptors = Descriptors(self._random, REGION)
        try:
            while time.monotonic() < self._end:
                with self._connect() as sock, suppress(*_GONE):
                    self._send_garbage(sock, garbage, descriptors)
        finally:
            descriptors.close()

    def _send_garbage(
        self, sock: socket.socket, garbage: NetlinkGarbage, descriptors: Descriptors
    ) -> None:
        reads = self._random.random() < 0.9
        too_many = self._random.random() < 0.2  # descriptors: the end of the connection
        for _ in range(self._random.choice((1, 20, 500))):
            if time.monotonic() > self._end:
                return
            data = garbage.datagram()
            fds = descriptors.some(sock, too_many)
            try:
                select.select([], [sock], [], 1)  # or BlockingIOError: it does not take any more
                socket.send_fds(sock, [data], fds)
            except OSError as error:
                if error.errno not in (errno.EMSGSIZE, errno.ETOOMANYREFS, errno.ENOBUFS):
                    raise
            finally:
                descriptors.sent()
            self.done["datagrams"] += 1
            self.done["descriptors"] += len(fds)
            if reads:
                self._read_what_is_there(sock)
        if self._random.random() < 0.2:
            sock.shutdown(self._random.choice((socket.SHUT_RD, socket.SHUT_WR)))
            self._read_what_is_there(sock)

    def _read_what_is_there(self, sock: socket.socket) -> None:
        with suppress(BlockingIOError):
            while answer := sock.recv(1 << 16):
                kind, error = struct.unpack_from("=4xH10xi", answer.ljust(20, b"\0"))
                self.done[f"answer {kind}, {error}" if kind == NLMSG_ERROR else "answers"] += 1

    # ---- channel ----

    def channel(self) -> None:
        """One life of an application that writes what it likes."""
        with ExitStack() as undo:
            connection = undo.enter_context(Connection.open(self._path, timeout=5))
            family = GenlFamily(connection, AGENT_FAMILY_NAME, AGENT_FAMILY_VERSION)
            scribbler, fds = self._open_channel(undo, family)
            self._listen(family)
            self.done["channels"] += 1
            since, life = time.monotonic(), self._random.uniform(0.05, 2)
            while not self._is_over(life, since):
                for _ in range(self._random.choice((1, 50, 1000))):
                    scribbler.scribble()
                    self.done["scribbles"] += 1
                self._abuse(fds)
                self._wake(fds[1])

    def _open_channel(self, undo: ExitStack, family: GenlFamily) -> tuple[Scribbler, list[int]]:
        index = ("DEVMEMTCP_A_STACK_IFINDEX", self._ifindex)
        (stack,) = family.do(AgentCmd.STACK_GET, agent_stack_msg, [index], "stack-get")
        index = ("DEVMEMTCP_A_CHANNEL_IFINDEX", self._ifindex)
        (channel,) = family.do(AgentCmd.CHANNEL_OPEN, agent_channel_msg, [index], "channel-open")
        fds = family.connection.take_fds()
        for fd in fds:
            undo.callback(_close, fd)
        layout = Layout(
            nr_events=channel.get_attr("DEVMEMTCP_A_CHANNEL_NR_EVENTS"),
            nr_requests=channel.get_attr("DEVMEMTCP_A_CHANNEL_NR_REQUESTS"),
            nr_conns=stack.get_attr("DEVMEMTCP_A_STACK_MAX_CONNECTIONS") + 1,
            nr_blocks=channel.get_attr("DEVMEMTCP_A_CHANNEL_NR_BLOCKS"),
        )
        memory = undo.enter_context(mmap.mmap(fds[0], layout.size))
        return Scribbler(memory, layout, self._random), fds

    def _listen(self, family: GenlFamily) -> None:
        index = ("DEVMEMTCP_A_LISTENER_IFINDEX", self._ifindex)
        where = [
            index,
            ("DEVMEMTCP_A_LISTENER_ADDRESS", "0.0.0.0"),
            ("DEVMEMTCP_A_LISTENER_PORT", self._port),
        ]
        (listener,) = family.do(AgentCmd.LISTEN, agent_listener_msg, where, "listen")
        number = ("DEVMEMTCP_A_LISTENER_ID", listener.get_attr("DEVMEMTCP_A_LISTENER_ID"))
        family.do(AgentCmd.STEER, agent_listener_msg, [index, number], "steer")

    @staticmethod
    def _wake(fd: int) -> None:
        with suppress(OSError):
            os.write(fd, struct.pack("=Q", 1))

    def _abuse(self, fds: list[int]) -> None:
        """What can be done to the memory and to the pipes that is not writing into them."""
        random = self._random
        memory, wake, event, life = fds
        with suppress(OSError):
            match random.randrange(40):
                case 0:  # O_NONBLOCK belongs to the open file: is ours the agent's, too?
                    for fd in fds:
                        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
                        fcntl.fcntl(fd, fcntl.F_SETFL, flags ^ os.O_NONBLOCK)
                case 1:
                    for fd in (event, life):
                        with _other_end(fd) as end:
                            os.write(end, bytes(1 << 16))
                case 2:
                    with _other_end(wake) as end:
                        os.read(end, 1 << 16)
                case 3:
                    fcntl.fcntl(random.choice((wake, event, life)), fcntl.F_SETPIPE_SZ, 4096)
                case 4:
                    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, random.choice((1, 2, 4, 8, 16)))
                case 5:
                    os.ftruncate(memory, random.choice((0, 4096, 1 << 30)))
                case 6:
                    size = os.fstat(memory).st_size
                    _punch_hole(memory, random.randrange(0, size, 4096), 4096 * 16)
                case 7:
                    os.write(wake, bytes(1 << 16))

    # ---- flood ----

    def flood(self) -> None:
        """Connections until there are no more, held for a while in ways that cost."""
        ask = struct.pack("=IHHIIBBH", 20, 16, 0x301, 1, 0, 3, 2, 0)  # dump all families
        with ExitStack() as undo:
            with suppress(*_GONE, OSError):
                for _ in range(MANY):
                    sock = undo.enter_context(self._connect())
                    match self._random.randrange(4):
                        case 0:
                            with suppress(BlockingIOError):
                                for _ in range(200):
                                    sock.send(ask)
                        case 1:
                            sock.shutdown(socket.SHUT_WR)
                        case 2:
                            sock.shutdown(socket.SHUT_RD)
            self.done["held"] += 1
            time.sleep(min(self._random.uniform(0, 1), max(0, self._end - time.monotonic())))


@contextmanager
def _other_end(fd: int) -> Iterator[int]:
    """A pipe can be opened anew by whoever has an end of it."""
    writes = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    flags = os.O_RDONLY if writes else os.O_WRONLY
    end = os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK)
    try:
        yield end
    finally:
        os.close(end)


def _punch_hole(fd: int, offset: int, length: int) -> None:
    where = ctypes.c_long(offset), ctypes.c_long(length)
    if _libc.fallocate(fd, _FALLOC_PUNCH_HOLE, *where):
        raise OSError(ctypes.get_errno(), "fallocate")


def _close(fd: int) -> None:
    with suppress(OSError):
        os.close(fd)


def main() -> None:
    """Become that user, then attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("netlink", "channel", "flood"))
    parser.add_argument("--socket", required=True)
    parser.add_argument("--ifname", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--uid", type=int, required=True)
    options = parser.parse_args()
    os.setgroups([])
    os.setgid(options.uid)
    os.setuid(options.uid)
    attacker = Attacker(options)
    attacker.run(options.role)
    print(options.role, dict(attacker.done), flush=True)


if __name__ == "__main__":
    main()
