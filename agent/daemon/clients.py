# SPDX-License-Identifier: Apache-2.0
"""The control connections: datagrams in, to the netlink server, and its answers out.

No client can make another wait. Each has a thread that does nothing but receive, one datagram
at a time, and close what came with it: the last close of a descriptor that somebody sent us
can take as long as he likes (a TCP socket with SO_LINGER, a file of FUSE), and the kernel makes
it in the thread that received, also for descriptors there was no room for. Requests are carried
out, one after the other, by the agent's loop, which sends without waiting:

    client's thread: recvmsg() -> inbox -> ... handled -> close descriptors -> recvmsg()
    agent's loop:    inbox -> NetlinkServer.handle() -> answers -> send()

The next request of a client is taken when its answers are gone; who does not read them is
dropped after `PATIENCE` seconds. Notifications wait apart: as with a netlink socket, those for
which there is no room are lost, and the client is told that some were (NLMSG_OVERRUN).
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import logging
import os
import selectors
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue

from devmemtcp.agent.closing import Closing
from devmemtcp.agent.daemon.peers import UCRED, AgentPeer, RuleBook, opener_of, sender_of
from devmemtcp.agent.thread import started
from devmemtcp.netlink.constants import MsgType
from devmemtcp.netlink.family import Client
from devmemtcp.netlink.server import Datagram, NetlinkServer

MAX_REQUEST = 64 * 1024
"""Bytes of a client's datagram."""
MAX_FDS = 1
"""Descriptors that come with one: a bind-rx's memory."""
MAX_NOTIFICATIONS = 64 * 1024
"""Bytes of them that wait for one client."""
PATIENCE = 10.0
"""Seconds that an answer waits for room in the client's socket."""
COMPLAINT_SECONDS = 10.0
MAX_MESSAGES = 16
"""Netlink messages in one datagram: each may be a dump, and others wait meanwhile."""
TURN = 64
"""Connections accepted, or requests carried out, before the loop looks at anything else."""

_ANCILLARY = socket.CMSG_SPACE(4 * MAX_FDS) + socket.CMSG_SPACE(UCRED.size)
_NLMSGHDR = struct.Struct("=IHHII")
_OVERRUN = _NLMSGHDR.pack(_NLMSGHDR.size, MsgType.OVERRUN, 0, 0, 0)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What one recvmsg() gave."""

    data: bytes
    fds: tuple[int, ...]
    """Closed by whoever carries it out; the receiving thread has others of the same files."""
    ucred: bytes | None


class ControlClient:
    """One control connection."""

    def __init__(self, sock: socket.socket, peer: AgentPeer, server: ControlServer) -> None:
        self.socket = sock
        self.peer = peer
        self.answers: deque[Datagram] = deque()
        self.stuck_since: float | None = None
        self._busy = False
        """A request was taken and its answers are not all sent."""
        self._notifications: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost = False
        self._server = server
        self._go_on = threading.Semaphore(0)
        self._ended = False

    def __str__(self) -> str:
        return f"process {self.peer.pid} of user {self.peer.uid}"

    # ---- the client's thread ----

    def start(self) -> None:
        """Begin to receive. Raises OSError, EAGAIN: there can be no more threads."""
        started(self._run, "devmemtcp-client")

    def _run(self) -> None:
        server = self._server
        try:
            with self.socket:  # what lies unread in it, descriptors included, goes in this thread
                while not self._ended and self._receive():
                    self._go_on.acquire()
                server.post(partial(server.drop, self))
                self._go_on.acquire()  # until the loop has let go of the socket
        finally:
            server.post(partial(server.forget, self))

    def _receive(self) -> bool:
        """Take one datagram and hand it over; False at the connection's end."""
        try:
            data, ancillary, flags, _ = self.socket.recvmsg(
                MAX_REQUEST, _ANCILLARY, socket.MSG_CMSG_CLOEXEC
            )
        except OSError:  # ECONNRESET: it died with answers unread
            return False
        received: list[int] = []
        ucred = None
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received.extend(array.array("i", payload[: len(payload) // 4 * 4]))
            # Without a pid: sent before an older kernel knew that credentials were wanted.
            elif kind == socket.SCM_CREDENTIALS and UCRED.unpack(payload)[0]:
                ucred = payload
        try:
            if not data:
                return False
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or _messages(data) > MAX_MESSAGES:
                self._server.complain(f"{self} sent more than a datagram may hold; dropped")
                return False
            request = Request(data, _harmless(received), ucred)
            self._server.post(partial(self._server.handle, self, request))
            return True
        except OSError as error:  # EMFILE
            self._server.complain(f"{self}: {error.strerror}; dropped")
            return False
        finally:
            for fd in received:
                os.close(fd)

    # ---- the agent's loop ----

    def answer(self, answers: Iterable[Datagram]) -> bool:
        """Send these. The next request comes when they are gone. False: the connection is over."""
        self._busy = True
        self.answers.extend(answers)
        return self.send()

    def end(self) -> None:
        """Let go of the socket: the thread closes it, and finishes."""
        self._ended = True
        with contextlib.suppress(OSError):  # ENOTCONN: the client was quicker
            self.socket.shutdown(socket.SHUT_RDWR)
        for answer in self.answers:
            for fd in answer.fds:
                os.close(fd)
        self.answers.clear()
        self._go_on.release()

    @property
    def has_output(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self.answers or self._notifications or self._lost)

    def notify(self, data: bytes) -> None:
        """Queue a notification, if there is room."""
        if self._waiting_bytes + len(data) > MAX_NOTIFICATIONS:
            self._lost = True
            return
        self._notifications.append(data)
        self._waiting_bytes += len(data)

    def send(self) -> bool:
        """Send what there is room for. False: the connection is over."""
        try:
            while self.answers:
                answer = self.answers[0]
                # Not send_fds(), which forgets the flags.
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", answer.fds))
                ancillary = [rights] if answer.fds else []
                self.socket.sendmsg([answer.data], ancillary, socket.MSG_DONTWAIT)
                self.answers.popleft()
                self.stuck_since = None
                for fd in answer.fds:
                    os.close(fd)
            if self._busy:
                self._busy = False
                self._go_on.release()
            while self._notifications:
                self.socket.send(self._notifications[0], socket.MSG_DONTWAIT)
                self._waiting_bytes -= len(self._notifications.popleft())
            if self._lost:
                self.socket.send(_OVERRUN, socket.MSG_DONTWAIT)
                self._lost = False
        except BlockingIOError:
            if self.answers and self.stuck_since is None:
                self.stuck_since = time.monotonic()
        except OSError:  # EPIPE, ECONNRESET
            return False
        return True


def _messages(data: bytes) -> int:
    """How many netlink messages a datagram claims to hold."""
    count = at = 0
    while len(data) - at >= _NLMSGHDR.size:
        size = _NLMSGHDR.unpack_from(data, at)[0]
        at += max(_NLMSGHDR.size, (size + 3) & ~3)
        count += 1
    return count


def _harmless(fds: list[int]) -> tuple[int, ...]:
    """Descriptors of the same files whose closing cannot block; of no file where one could.

    Only a memfd has seals, and asking for them calls into no file system. Raises OSError.
    """
    with ExitStack() as undo:
        copies = []
        for fd in fds:
            try:
                fcntl.fcntl(fd, fcntl.F_GET_SEALS)
                copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                copy = os.eventfd(0, os.EFD_CLOEXEC)
            undo.callback(os.close, copy)
            copies.append(copy)
        undo.pop_all()
        return tuple(copies)


class ControlServer(Closing):
    """Accepts control connections and serves them, out of the agent's selector."""

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        server: NetlinkServer,
        rules: Callable[[], RuleBook],
        *,
        max_clients: int,
        max_per_user: Callable[[], int],
    ) -> None:
        """`rules` and `max_per_user`: those in force when asked."""
        self._listener = listener
        self._selector = selector
        self._server = server
        self._rules = rules
        self._max_clients = max_clients
        self._max_per_user = max_per_user
        self._clients: dict[ControlClient, Client] = {}
        self._watched: dict[ControlClient, int] = {}
        """Those for whom something waits, and the descriptors by which they are in the selector."""
        self._threads: Counter[int] = Counter()
        """By user; a client that was dropped counts until its thread has ended."""
        self._closed = False
        self._next_complaint = 0.0
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        selector.register(listener, selectors.EVENT_READ, self._accept)
        selector.register(self._bell, selectors.EVENT_READ, self._work)

    def __len__(self) -> int:
        """Connections, those included that are not closed to the end yet."""
        return self._threads.total()

    def _accept(self) -> None:
        for _ in range(TURN):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self.complain(f"a connection could not be accepted: {error.strerror}")
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    # It stays readable: not again before somebody has gone.
                    self._selector.unregister(self._listener)
                return
            try:
                self._take_in(sock)
            except OSError as error:  # EAGAIN: no more threads
                sock.close()
                self.complain(f"a connection could not be taken in: {error.strerror}")

    def _take_in(self, sock: socket.socket) -> None:
        peer = AgentPeer(opener_of(sock), self._rules)
        if self._threads.total() >= self._max_clients or (
            peer.uid != 0 and self._threads[peer.uid] >= self._max_per_user()
        ):
            sock.close()
            self.complain(f"user {peer.uid} has too many control connections; refused")
            return
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # inherited since Linux 6.16
        client = ControlClient(sock, peer, self)
        client.start()  # what it receives is looked at by this thread, later
        self._clients[client] = self._server.connect(peer, client.notify)
        self._threads[peer.uid] += 1
        log.debug("%s has connected", client)

    def complain(self, what: str) -> None:
        """Log what a client is to blame for, but not each of a storm of them. Any thread."""
        now = time.monotonic()
        if now >= self._next_complaint:
            self._next_complaint = now + COMPLAINT_SECONDS
            log.warning("%s", what)

    def post(self, call: Callable[[], None]) -> None:
        """Have the agent's loop make this call; for the clients' threads."""
        self._inbox.put(call)
        os.eventfd_write(self._bell, 1)

    def _work(self) -> None:
        os.eventfd_read(self._bell)
        for _ in range(TURN):
            try:
                call = self._inbox.get_nowait()
            except Empty:
                return
            call()
        os.eventfd_write(self._bell, 1)  # there may be more

    def handle(self, client: ControlClient, request: Request) -> None:
        """Carry out a request."""
        there = self._clients.get(client)
        if there is None:  # dropped meanwhile
            for fd in request.fds:
                os.close(fd)
            return
        if request.ucred is not None:
            client.peer.sender = sender_of(request.ucred, client.peer.opener)
        try:
            answers = self._server.handle(request.data, there, request.fds)
        except Exception:  # a mistake of ours, which one client found: the others are served on
            log.exception("%s: its request could not be carried out; dropped", client)
            self.drop(client)
            return
        if not client.answer(answers):
            self.drop(client)

    def drop(self, client: ControlClient) -> None:
        """Give up what belongs to a client; idempotent."""
        there = self._clients.pop(client, None)
        if there is None:
            client.end()
            return
        if client in self._watched:
            self._selector.unregister(self._watched.pop(client))
        client.end()
        self._server.disconnect(there)
        log.debug("%s has gone", client)

    def forget(self, client: ControlClient) -> None:
        """Its thread has ended."""
        self._threads[client.peer.uid] -= 1
        if not self._closed and self._listener not in self._selector.get_map():
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def flush(self) -> None:
        """Once a turn: send what came up meanwhile, and drop who does not read."""
        now = time.monotonic()
        for client in list(self._clients):
            if client.has_output and not client.send():
                self.drop(client)
            elif client.stuck_since is not None and now - client.stuck_since > PATIENCE:
                log.warning("%s does not read its answers; dropped", client)
                self.drop(client)
            elif client.has_output and client not in self._watched:
                self._watched[client] = fd = client.socket.fileno()
                self._selector.register(fd, selectors.EVENT_WRITE, _only_wake)
            elif not client.has_output and client in self._watched:
                self._selector.unregister(self._watched.pop(client))

    def close(self) -> None:
        """Accept nobody any more and drop everybody, as if each had closed; idempotent."""
        self._closed = True
        for fd in (self._listener, self._bell):
            if fd in self._selector.get_map():
                self._selector.unregister(fd)
        for client in list(self._clients):
            self.drop(client)


def _only_wake() -> None:
    """There is room again: flush() sends."""
