# SPDX-License-Identifier: Apache-2.0
"""A `DevmemSocket` and a socket of the running kernel, asked the same.

Both receive from the same peer, over the same veth pair, into host memory: what a socket answers
then does not depend on where the bytes are. The answers must be equal: values, errno, order.
"""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from devmemtcp.agent import Runtime
from devmemtcp.socket import (
    MSG_SOCK_DEVMEM,
    SO_DEVMEM_DONTNEED,
    DevmemSocket,
    DmabufToken,
    pack_tokens,
)

from ..capability import since
from ..slowness import SLOWNESS
from .veth import Veth

SOL, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
PATIENCE = 30.0 * SLOWNESS
SO_RCVTIMEO, SO_SNDTIMEO = 20, 21
_SIOCOUTQ = 0x5411
PEEK, TRUNC, WAITALL, DONTWAIT = (
    socket.MSG_PEEK,
    socket.MSG_TRUNC,
    socket.MSG_WAITALL,
    socket.MSG_DONTWAIT,
)
RESET = struct.pack("=ii", 1, 0)
has_tokens = since(6, 12, "SO_DEVMEM_DONTNEED")


def answer(call: Callable[[], Any]) -> Any:
    """What a call returns, or the errno it fails with."""
    try:
        return call()
    except TimeoutError as error:
        return "timed out" if error.errno is None else error.errno
    except OSError as error:
        return error.errno


@dataclass
class Pair:
    """A connection: our side or the kernel's, and its peer, which is a kernel's in any case."""

    make: Callable[[], Any]
    """A new socket of the same kind."""
    listener: Any
    conn: Any
    peer: socket.socket

    def send(self, data: bytes) -> None:
        """Send from the peer, and wait until it has arrived."""
        before = self.queued()
        self.peer.sendall(data)
        self.await_true(lambda: self.queued() >= before + len(data))

    def queued(self) -> int:
        """Bytes that can be read."""
        return len(answer_bytes(lambda: self.conn.recv(1 << 20, PEEK | DONTWAIT)))

    def await_acknowledged(self) -> None:
        """The peer has nothing left that has not arrived."""
        self.await_true(
            lambda: struct.unpack("=i", fcntl.ioctl(self.peer, _SIOCOUTQ, bytes(4)))[0] == 0
        )

    def await_hangup(self) -> None:
        """A reset has arrived."""
        poll = select.poll()
        poll.register(self.conn, select.POLLHUP)
        assert poll.poll(PATIENCE * 1000)

    def await_end(self) -> None:
        """A FIN or a reset has arrived."""
        self.await_true(lambda: answer(lambda: self.conn.recv(1, PEEK | DONTWAIT)) != errno.EAGAIN)

    @staticmethod
    def await_true(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.001)


def answer_bytes(call: Callable[[], bytes]) -> bytes:
    got = answer(call)
    return got if isinstance(got, bytes) else b""


@pytest.fixture
def pairs(veth: Veth) -> Iterator[Callable[[], list[Pair]]]:
    """A maker of two connected pairs, the kernel's first."""
    right = veth.right
    with ExitStack() as undo:
        rt = undo.enter_context(Runtime(right.ifname, None, netns=right.netns))

        def kernel_socket() -> socket.socket:
            with right.enter():
                return undo.enter_context(socket.socket())

        def our_socket() -> DevmemSocket:
            return undo.enter_context(DevmemSocket(rt))

        def make() -> list[Pair]:
            made = []
            for maker in (kernel_socket, our_socket):
                listener: Any = maker()
                listener.bind((right.ip4, 0))
                listener.listen()
                with veth.left.enter():
                    peer = undo.enter_context(socket.socket())
                peer.settimeout(PATIENCE)
                peer.connect(listener.getsockname())
                conn = undo.enter_context(listener.accept()[0])
                made.append(Pair(maker, listener, conn, peer))
            return made

        yield make


# ---- scenarios: each gives a list of answers ----


def plain_data_with_the_flag(p: Pair) -> list[Any]:
    p.send(b"hello")
    return [p.conn.recvmsg(100, 1000, MSG_SOCK_DEVMEM)]


def peeking(p: Pair) -> list[Any]:
    p.send(b"hello")
    flags = MSG_SOCK_DEVMEM | PEEK
    return [p.conn.recvmsg(3, 100, flags), p.conn.recv(9, PEEK), p.conn.recv(2), p.conn.recv(9)]


def truncating(p: Pair) -> list[Any]:
    p.send(b"hello world")
    return [len(p.conn.recv(6, TRUNC)), len(p.conn.recv(99, TRUNC | PEEK)), p.conn.recv(99)]


def nothing_there(p: Pair) -> list[Any]:
    answers = [answer(lambda: p.conn.recv(1, DONTWAIT))]
    p.conn.settimeout(0)
    answers.append(answer(lambda: p.conn.recv(1)))
    p.conn.settimeout(0.01)
    answers.append(answer(lambda: p.conn.recv(1)))
    answers.append(answer(lambda: p.conn.recv(1, DONTWAIT)))
    p.conn.settimeout(None)
    return [*answers, answer(lambda: p.conn.recv(0, DONTWAIT))]


def a_length_of_zero(p: Pair) -> list[Any]:
    p.send(b"abc")
    return [p.conn.recv(0), p.conn.recv(9)]


def odd_flags(p: Pair) -> list[Any]:
    p.send(b"abc")
    return [
        answer(lambda: p.conn.recv(1, socket.MSG_OOB)),
        answer(lambda: p.conn.recv(1, socket.MSG_ERRQUEUE)),
        answer(lambda: p.conn.recv(1, 1 << 20)),
    ]


def waiting_for_all(p: Pair) -> list[Any]:
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(p.conn.recv(10, WAITALL)))
    thread.start()
    for part in (b"abcd", b"efgh", b"ijkl"):
        p.peer.sendall(part)
        p.await_acknowledged()  # so that they are segments of their own
    thread.join()
    return [*got, p.conn.recv(10)]


def waiting_for_all_of_what_ends(p: Pair) -> list[Any]:
    p.peer.sendall(b"abcd")
    p.peer.shutdown(socket.SHUT_WR)
    return [p.conn.recv(10, WAITALL), p.conn.recv(10, WAITALL)]


def the_end(p: Pair) -> list[Any]:
    p.send(b"abcd")
    p.peer.shutdown(socket.SHUT_WR)
    answers = [p.conn.recv(9)]
    p.await_end()
    answers += [p.conn.recv(9), p.conn.recv(9, DONTWAIT), p.conn.recv(9, PEEK)]
    return [*answers, p.conn.send(b"x"), p.peer.recv(9), p.conn.getpeername()[0]]


def a_reset(p: Pair) -> list[Any]:
    p.send(b"abcd")
    p.peer.setsockopt(SOL, socket.SO_LINGER, RESET)
    p.peer.close()
    p.await_hangup()
    return [
        answer(lambda: p.conn.recv(9)),
        answer(lambda: p.conn.recv(9)),
        answer(lambda: p.conn.recv(9)),
        answer(lambda: p.conn.send(b"x")),
        answer(p.conn.getpeername),
        p.conn.getsockopt(SOL, socket.SO_ERROR),
        answer(lambda: p.conn.shutdown(socket.SHUT_WR)),
    ]


def a_reset_that_send_sees_first(p: Pair) -> list[Any]:
    p.peer.setsockopt(SOL, socket.SO_LINGER, RESET)
    p.peer.close()
    p.await_hangup()
    calls = [lambda: p.conn.send(b"x")] * 2 + [lambda: p.conn.recv(1)] * 2
    return [answer(call) for call in calls]


def a_reset_that_so_error_sees_first(p: Pair) -> list[Any]:
    p.peer.setsockopt(SOL, socket.SO_LINGER, RESET)
    p.peer.close()
    p.await_hangup()
    errors = [p.conn.getsockopt(SOL, socket.SO_ERROR) for _ in range(2)]
    return [*errors, answer(lambda: p.conn.recv(1)), answer(lambda: p.conn.send(b"x"))]


def a_reset_after_the_end(p: Pair) -> list[Any]:
    p.peer.shutdown(socket.SHUT_WR)
    p.await_end()
    p.peer.setsockopt(SOL, socket.SO_LINGER, RESET)
    p.peer.close()
    p.await_hangup()
    return [
        answer(lambda: p.conn.recv(1)),
        p.conn.getsockopt(SOL, socket.SO_ERROR),
        answer(lambda: p.conn.send(b"x")),
        answer(lambda: p.conn.recv(1)),
    ]


def shutting_down_for_reading(p: Pair) -> list[Any]:
    p.send(b"ab")
    p.conn.shutdown(socket.SHUT_RD)
    answers = [p.conn.recv(1), p.conn.recv(9), p.conn.recv(9)]
    p.peer.sendall(b"later")
    p.await_true(lambda: p.queued() == 5)
    return [*answers, p.conn.recv(9), p.conn.recv(9, DONTWAIT)]


def shutting_down_for_writing(p: Pair) -> list[Any]:
    p.conn.shutdown(socket.SHUT_WR)
    answers = [p.peer.recv(1), answer(lambda: p.conn.send(b"x"))]
    p.send(b"ab")
    return [*answers, p.conn.recv(9), answer(lambda: p.conn.shutdown(socket.SHUT_WR))]


def low_water(p: Pair) -> list[Any]:
    p.conn.setsockopt(SOL, socket.SO_RCVLOWAT, 6)
    p.send(b"abc")
    p.conn.settimeout(0.05)
    answers = [answer(lambda: p.conn.recv(9)), bool(select.select([p.conn], [], [], 0)[0])]
    p.conn.settimeout(None)
    p.send(b"defg")
    answers += [bool(select.select([p.conn], [], [], PATIENCE)[0]), p.conn.recv(9)]
    p.send(b"xy")
    p.conn.settimeout(0)
    return [*answers, p.conn.recv(9)]


def receive_timeouts(p: Pair) -> list[Any]:
    p.conn.setsockopt(SOL, SO_RCVTIMEO, struct.pack("@ll", 0, 20000))
    start = time.monotonic()
    answers = [answer(lambda: p.conn.recv(9)), time.monotonic() - start >= 0.02]
    p.send(b"abc")
    return [*answers, p.conn.recv(9, WAITALL)]


def not_connected(p: Pair) -> list[Any]:
    with p.make() as fresh:
        return [
            answer(lambda: fresh.recv(1)),
            answer(lambda: fresh.recv(1, DONTWAIT)),
            answer(lambda: fresh.recv(0)),
            answer(lambda: fresh.recv_into(bytearray())),
            answer(lambda: fresh.send(b"x")),
            answer(fresh.getpeername),
            answer(fresh.accept),
            answer(lambda: fresh.shutdown(socket.SHUT_RDWR)),
            answer(fresh.getsockname),
            answer(lambda: fresh.bind(("203.0.113.1", 1))),
            answer(lambda: fresh.bind(p.listener.getsockname())) in (None, errno.EADDRINUSE),
        ]


def listening(p: Pair) -> list[Any]:
    p.listener.settimeout(0)
    answers = [answer(p.listener.accept)]
    p.listener.settimeout(0.01)
    answers.append(answer(p.listener.accept))
    p.listener.settimeout(None)
    p.listener.setsockopt(SOL, SO_RCVTIMEO, struct.pack("@ll", 0, 20000))
    answers.append(answer(p.listener.accept))
    return [
        *answers,
        answer(lambda: p.listener.recv(1)),
        answer(lambda: p.listener.send(b"x")),
        answer(lambda: p.listener.recvmsg(1, 100, MSG_SOCK_DEVMEM)),
        answer(lambda: p.listener.bind(("", 0))),
        answer(lambda: p.listener.getpeername()),
        answer(lambda: p.listener.shutdown(socket.SHUT_WR)),
        answer(lambda: p.listener.shutdown(socket.SHUT_RD)),
        answer(p.listener.accept),
        answer(lambda: p.conn.listen(1)),
        answer(p.conn.accept),
    ]


def giving_tokens_back(p: Pair) -> list[Any]:
    def ask(sock: Any, value: Any, *length: int) -> Any:
        return answer(lambda: sock.setsockopt(SOL, SO_DEVMEM_DONTNEED, value, *length)) or 0

    values: list[Any] = [b"", b"abc", 1, bytes(4), bytes(12), bytes(129 * 8), bytes(128 * 8)]
    values += [DmabufToken(1, 0).pack(), DmabufToken(1, 2**32 - 1).pack()]
    values += [DmabufToken(2**32 - 1, 5).pack(), *pack_tokens(range(1, 1000, 3))]
    with p.make() as fresh:
        return [
            [ask(sock, value) for value in values]
            + [ask(sock, None, length) for length in (0, 3, 4, 8, 12, 1032)]
            for sock in (p.conn, p.listener, fresh)
        ]


def options(p: Pair) -> list[Any]:
    def keep(level: int, name: int, value: Any, size: int | None = None) -> list[Any]:
        return [
            answer(lambda: p.conn.setsockopt(level, name, value)) or 0,
            answer(lambda: p.conn.getsockopt(level, name, *([size] if size else []))),
        ]

    timeval = struct.pack("@ll", 3, 248000)
    return [
        keep(SOL, socket.SO_REUSEADDR, 5),
        keep(SOL, socket.SO_REUSEPORT, 1),
        keep(TCP, socket.TCP_NODELAY, 7),
        keep(SOL, socket.SO_RCVLOWAT, 5),
        keep(SOL, socket.SO_RCVLOWAT, 0),
        keep(SOL, socket.SO_RCVLOWAT, b"abc"),
        keep(SOL, socket.SO_LINGER, struct.pack("=ii", 3, 9), 8),
        keep(SOL, socket.SO_LINGER, 1, 8),
        keep(SOL, SO_RCVTIMEO, timeval, 16),
        keep(SOL, SO_SNDTIMEO, timeval, 16),
        keep(SOL, SO_RCVTIMEO, timeval[:8], 16),
        keep(SOL, SO_RCVTIMEO, struct.pack("@ll", 1, 1_000_000), 16),
        keep(SOL, socket.SO_TYPE, 1),
        keep(SOL, socket.SO_PROTOCOL, 1),
        keep(SOL, socket.SO_DOMAIN, 1),
        keep(SOL, socket.SO_ERROR, 1),
        keep(SOL, socket.SO_ACCEPTCONN, 1),
        p.listener.getsockopt(SOL, socket.SO_ACCEPTCONN),
        keep(SOL, 12345, 1),
        keep(TCP, 12345, 1),
        keep(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1),
        keep(SOL, 78, bytes(8)),
        keep(SOL, 79, bytes(8)),
        answer(lambda: p.conn.getsockopt(SOL, SO_DEVMEM_DONTNEED)),
        answer(lambda: p.conn.setsockopt(SOL, socket.SO_BINDTODEVICE, b"none0")),
    ]


def what_poll_shows(p: Pair) -> list[Any]:
    mask = select.POLLIN | select.POLLOUT | select.POLLHUP

    def shown(sock: Any) -> int:
        poll = select.poll()
        poll.register(sock, mask)
        return sum(event & mask for _, event in poll.poll(0))

    answers = [shown(p.conn), shown(p.listener)]
    p.send(b"abc")
    answers.append(shown(p.conn))
    p.conn.recv(9)
    answers.append(shown(p.conn))
    p.peer.shutdown(socket.SHUT_WR)
    p.await_end()
    answers.append(shown(p.conn))
    p.conn.shutdown(socket.SHUT_WR)
    p.await_hangup()
    return [*answers, shown(p.conn)]


def what_poll_shows_after_shutting_down(p: Pair) -> list[Any]:
    p.conn.shutdown(socket.SHUT_RDWR)
    p.await_hangup()
    return [p.conn.recv(1)]


SCENARIOS = [
    plain_data_with_the_flag,
    peeking,
    truncating,
    nothing_there,
    a_length_of_zero,
    odd_flags,
    waiting_for_all,
    waiting_for_all_of_what_ends,
    the_end,
    a_reset,
    a_reset_that_send_sees_first,
    a_reset_that_so_error_sees_first,
    a_reset_after_the_end,
    shutting_down_for_reading,
    shutting_down_for_writing,
    low_water,
    receive_timeouts,
    not_connected,
    listening,
    pytest.param(giving_tokens_back, marks=has_tokens),
    options,
    what_poll_shows,
    what_poll_shows_after_shutting_down,
]


@has_tokens
@pytest.mark.parametrize(
    ("family", "kind", "proto", "expected"),
    [
        (socket.AF_INET, socket.SOCK_DGRAM, 0, errno.EBADF),
        (socket.AF_UNIX, socket.SOCK_STREAM, 0, errno.EBADF),
        (socket.AF_INET, socket.SOCK_STREAM, 262, errno.EOPNOTSUPP),  # MPTCP
    ],
)
def test_only_tcp_has_tokens_and_only_tcp_is_made_here(
    veth: Veth, family: int, kind: int, proto: int, expected: int
) -> None:
    """What the kernel refuses with an option, there is no socket of here."""
    try:
        with socket.socket(family, kind, proto) as sock:
            said = answer(lambda: sock.setsockopt(SOL, SO_DEVMEM_DONTNEED, bytes(8)))
    except OSError as error:
        pytest.skip(f"no socket of this kind: {error}")
    assert said == expected
    with Runtime(veth.right.ifname, None, netns=veth.right.netns) as rt:
        refused = answer(lambda: DevmemSocket(rt, family, kind, proto))
    assert refused in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda function: function.__name__)
def test_both_answer_the_same(
    pairs: Callable[[], list[Pair]], scenario: Callable[[Pair], list[Any]]
) -> None:
    kernels, ours = (scenario(pair) for pair in pairs())
    assert ours == kernels
