# SPDX-License-Identifier: Apache-2.0
"""A `DevmemSocket` as a socket: addresses, listening, options, replies, and its descriptor."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import select
import selectors
import signal
import socket
import struct
import threading
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from devmemtcp.agent import Region
from devmemtcp.socket import MSG_SOCK_DEVMEM, DevmemSocket, DevmemStream, Kind, Reason

from ..slowness import SLOWNESS
from .app.fake_stack import (
    ABORT,
    CLOSE,
    EOF,
    FLOW,
    GENERATION,
    LINEAR,
    REGION,
    REPLY_MAX,
    RESET,
    SEND,
    SENT,
    SHUTDOWN,
    UNBOUND,
    WHOLE,
    FakeStack,
)
from .app.provider import FakeInterface, FakeProvider, connected, fails, fake_interface

SOL, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
PATIENCE = 30.0 * SLOWNESS


@pytest.fixture(scope="module")
def region() -> Iterator[Region]:
    with Region(REGION) as made:
        yield made


@pytest.fixture
def interface(region: Region) -> Iterator[FakeInterface]:
    with fake_interface(region) as made:
        yield made


@pytest.fixture
def other(region: Region) -> Iterator[FakeInterface]:
    with fake_interface(region, "eth2") as made:
        made.hosts = ("198.51.100.1",)
        yield made


@pytest.fixture
def stack(interface: FakeInterface) -> FakeStack:
    return interface.stack


@pytest.fixture
def fresh(interface: FakeInterface) -> Iterator[DevmemSocket]:
    with DevmemSocket(FakeProvider([interface])) as made:
        yield made


@pytest.fixture
def conn(interface: FakeInterface) -> Iterator[DevmemSocket]:
    with connected(interface) as made:
        yield made


# ---- addresses and listening ----


@pytest.mark.parametrize(
    ("family", "kind", "proto", "expected"),
    [
        (socket.AF_UNIX, socket.SOCK_STREAM, 0, errno.EAFNOSUPPORT),
        (socket.AF_INET, socket.SOCK_DGRAM, 0, errno.EPROTONOSUPPORT),
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_UDP, errno.EPROTONOSUPPORT),
        (socket.AF_INET, socket.SOCK_STREAM, 262, errno.EPROTONOSUPPORT),  # MPTCP
    ],
)
def test_only_tcp_is_to_be_had(
    interface: FakeInterface, family: int, kind: int, proto: int, expected: int
) -> None:
    assert fails(lambda: DevmemSocket(FakeProvider([interface]), family, kind, proto)) == expected


def test_binding_and_listening(interface: FakeInterface, fresh: DevmemSocket) -> None:
    assert fresh.getsockname() == ("0.0.0.0", 0)
    fresh.bind(("192.0.2.1", 5201))
    assert fresh.getsockname() == ("192.0.2.1", 5201)
    assert fails(lambda: fresh.bind(("192.0.2.1", 5202))) == errno.EINVAL
    assert fails(fresh.accept) == errno.EINVAL
    assert fresh.getsockopt(SOL, socket.SO_ACCEPTCONN) == 0
    fresh.listen(7)
    fresh.listen(9)
    assert fresh.getsockopt(SOL, socket.SO_ACCEPTCONN) == 1
    assert interface.asked == [(("192.0.2.1", 5201), 8, None)]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (("203.0.113.1", 1), errno.EADDRNOTAVAIL),
        (("198.51.100.1", 1), errno.EADDRNOTAVAIL),  # of the other interface
    ],
)
def test_an_address_of_nobody_is_refused_at_bind(
    interface: FakeInterface, other: FakeInterface, address: tuple[str, int], expected: int
) -> None:
    with DevmemSocket(FakeProvider([interface, other])) as sock:
        sock.setsockopt(SOL, socket.SO_BINDTODEVICE, b"eth1\0")
        assert fails(lambda: sock.bind(address)) == expected


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("192.0.2.1", TypeError),
        (("192.0.2.1",), TypeError),
        (("192.0.2.1", 65536), OverflowError),
        (("192.0.2.1", -1), OverflowError),
        (("2001:db8::1", 1), socket.gaierror),
    ],
)
def test_what_is_no_address_is_refused_as_by_python(
    fresh: DevmemSocket, address: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        fresh.bind(address)


def test_a_port_in_use_is_refused(interface: FakeInterface, fresh: DevmemSocket) -> None:
    interface.used.add(("192.0.2.1", 5201))
    fresh.bind(("192.0.2.1", 5201))
    assert fails(fresh.listen) == errno.EADDRINUSE
    interface.used.clear()
    fresh.listen()


def test_an_unspecified_address_is_every_interface_with_one_port(
    interface: FakeInterface, other: FakeInterface
) -> None:
    other.used.add(("0.0.0.0", 50000))  # the first port that eth1 would take
    with DevmemSocket(FakeProvider([interface, other]), pressure="drop") as sock:
        sock.bind(("", 0))
        sock.listen()
        port = sock.getsockname()[1]
        assert port == 50001
        assert other.asked[-1] == (("0.0.0.0", port), 129, "drop")
        for number, one in enumerate((other, interface), 1):
            flow = GENERATION * number + 3
            made = next(item for item in sock._listeners if item.app is one.app)
            one.stack.accept(flow, made.id, port=number)
            one.stack.wake_app()
            sock.settimeout(PATIENCE)
            conn, address = sock.accept()
            assert address == ("192.0.2.9", number)
            assert conn.getsockname() == ("192.0.2.1", 5201)
            conn.close()
        sock.settimeout(0.01)
        with pytest.raises(TimeoutError):
            sock.accept()
        sock.settimeout(0)
        assert fails(sock.accept) == errno.EAGAIN
    assert interface.unlistened


def test_a_device_is_chosen_by_name(interface: FakeInterface, other: FakeInterface) -> None:
    with DevmemSocket(FakeProvider([interface, other])) as sock:
        assert sock.getsockopt(SOL, socket.SO_BINDTODEVICE, 16) == b""
        assert fails(lambda: sock.setsockopt(SOL, socket.SO_BINDTODEVICE, b"eth9")) == errno.ENODEV
        sock.setsockopt(SOL, socket.SO_BINDTODEVICE, b"eth2")
        assert sock.getsockopt(SOL, socket.SO_BINDTODEVICE, 16) == b"eth2\0"
        sock.listen()
    assert not interface.asked
    assert len(other.asked) == 1


def test_ipv6_takes_ipv4_too_unless_told_otherwise(interface: FakeInterface) -> None:
    provider = FakeProvider([interface])
    with DevmemSocket(provider, socket.AF_INET6) as sock:
        assert sock.getsockname() == ("::", 0, 0, 0)
        sock.bind(("::", 7000))
        sock.listen()
        four = next(item for item in sock._listeners if item.address[0] == "0.0.0.0")
        interface.stack.accept(FLOW, four.id)
        conn, address = sock.accept()
        with conn:
            assert address == ("::ffff:192.0.2.9", 40000, 0, 0)
            assert conn.getpeername() == address
            assert conn.getsockname() == ("::ffff:192.0.2.1", 5201, 0, 0)
            assert conn.getsockopt(SOL, socket.SO_DOMAIN) == socket.AF_INET6
    with DevmemSocket(provider, socket.AF_INET6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("::", 7001))
        sock.listen()
        assert [item.address for item in sock._listeners] == [("::", 7001)]
    with DevmemSocket(provider, socket.AF_INET6) as sock:
        sock.bind(("::ffff:192.0.2.1", 7002, 0, 0))
        sock.listen()
        assert [item.address for item in sock._listeners] == [("192.0.2.1", 7002)]


def test_it_cannot_connect_and_says_so(fresh: DevmemSocket) -> None:
    with pytest.raises(OSError, match="let the other side connect") as caught:
        fresh.connect(("192.0.2.9", 1))
    assert caught.value.errno == fresh.connect_ex(("192.0.2.9", 1)) == errno.EOPNOTSUPP
    assert fails(fresh.detach) == errno.EOPNOTSUPP


def test_closed_is_ebadf(interface: FakeInterface, conn: DevmemSocket) -> None:
    conn.close()
    conn.close()
    assert conn.fileno() == -1
    for call in (
        lambda: conn.recv(1),
        lambda: conn.send(b"x"),
        lambda: conn.accept(),
        lambda: conn.listen(),
        lambda: conn.bind(("", 0)),
        lambda: conn.getsockname(),
        lambda: conn.getpeername(),
        lambda: conn.shutdown(socket.SHUT_WR),
        lambda: conn.getsockopt(SOL, socket.SO_ERROR),
        lambda: conn.setsockopt(SOL, socket.SO_REUSEADDR, 1),
        lambda: conn.connect(("192.0.2.9", 1)),
    ):
        assert fails(call) == errno.EBADF


def test_a_socket_that_is_lost_is_warned_of_and_closed(interface: FakeInterface) -> None:
    kept = [connected(interface)]
    interface.stack.requests()
    with pytest.warns(ResourceWarning, match="unclosed <DevmemSocket"):
        kept.clear()
    assert interface.stack.requests() == [(CLOSE, FLOW, 0, 0)]


def test_shutting_a_listener_down_ends_listening(
    interface: FakeInterface, fresh: DevmemSocket
) -> None:
    fresh.listen()
    fresh.shutdown(socket.SHUT_WR)
    assert not interface.unlistened
    fresh.shutdown(socket.SHUT_RD)
    assert len(interface.unlistened) == 1
    assert fails(fresh.accept) == errno.EINVAL
    fresh.listen()
    assert fresh.getsockopt(SOL, socket.SO_ACCEPTCONN) == 1


# ---- options ----


def timeval(seconds: int, microseconds: int) -> bytes:
    return struct.pack("@ll", seconds, microseconds)


OPTIONS = [
    (SOL, socket.SO_REUSEADDR, 5, 1),
    (SOL, socket.SO_REUSEPORT, 1, 1),
    (TCP, socket.TCP_NODELAY, 7, 1),
    (SOL, socket.SO_RCVLOWAT, 5, 5),
    (SOL, socket.SO_RCVLOWAT, 0, 1),
    (SOL, socket.SO_LINGER, struct.pack("=ii", 3, 9), struct.pack("=ii", 1, 9)),
    (SOL, 20, timeval(3, 250000), timeval(3, 250000)),
    (SOL, 21, timeval(0, 0), timeval(0, 0)),
]


@pytest.mark.parametrize(("level", "name", "value", "expected"), OPTIONS)
def test_options_are_kept_and_inherited(
    interface: FakeInterface, level: int, name: int, value: int | bytes, expected: int | bytes
) -> None:
    with DevmemSocket(FakeProvider([interface])) as listener:
        listener.setsockopt(level, name, value)
        listener.listen()
        interface.stack.accept(FLOW, listener._listeners[0].id)
        conn, _ = listener.accept()
        with conn:
            for sock in (listener, conn):
                size = None if isinstance(expected, int) else len(expected)
                assert sock.getsockopt(level, name, size) == expected


@pytest.mark.parametrize(
    ("level", "name", "value", "expected"),
    [
        (SOL, socket.SO_RCVLOWAT, b"abc", errno.EINVAL),
        (SOL, 20, timeval(1, 0)[:8], errno.EINVAL),
        (SOL, 20, timeval(1, 1_000_000), errno.EDOM),
        (SOL, 20, timeval(1, -1), errno.EDOM),
        (SOL, socket.SO_LINGER, 1, errno.EINVAL),
        (SOL, socket.SO_TYPE, 1, errno.ENOPROTOOPT),
        (SOL, socket.SO_ERROR, 1, errno.ENOPROTOOPT),
        (SOL, socket.SO_ACCEPTCONN, 1, errno.ENOPROTOOPT),
        (SOL, 12345, 1, errno.ENOPROTOOPT),
        (TCP, 12345, 1, errno.ENOPROTOOPT),
        (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1, errno.ENOPROTOOPT),
        (SOL, socket.SO_RCVLOWAT, None, errno.EINVAL),
    ],
)
def test_wrong_options_are_refused(
    fresh: DevmemSocket, level: int, name: int, value: int | bytes | None, expected: int
) -> None:
    assert fails(lambda: fresh.setsockopt(level, name, value)) == expected


def test_options_that_say_what_the_socket_is(conn: DevmemSocket) -> None:
    assert conn.getsockopt(SOL, socket.SO_TYPE) == socket.SOCK_STREAM
    assert conn.getsockopt(SOL, socket.SO_PROTOCOL) == TCP
    assert conn.getsockopt(SOL, socket.SO_DOMAIN) == socket.AF_INET
    assert fails(lambda: conn.getsockopt(TCP, socket.TCP_INFO, 8)) == errno.ENOPROTOOPT
    with pytest.raises(OSError, match="buflen out of range"):
        conn.getsockopt(SOL, socket.SO_TYPE, 0)
    with pytest.raises(OverflowError):
        conn.setsockopt(SOL, socket.SO_REUSEADDR, 2**40)


def test_rcvlowat_is_no_more_than_can_arrive(conn: DevmemSocket) -> None:
    conn.setsockopt(SOL, socket.SO_RCVLOWAT, -1)
    assert conn.getsockopt(SOL, socket.SO_RCVLOWAT) == REGION // 32


def test_rcvtimeo_ends_a_wait_with_eagain(stack: FakeStack, conn: DevmemSocket) -> None:
    conn.setsockopt(SOL, 20, timeval(0, 20000))
    start = time.monotonic()
    assert fails(lambda: conn.recv(10)) == errno.EAGAIN
    assert time.monotonic() - start >= 0.02
    stack.data(b"abc", WHOLE)
    assert conn.recv(10, socket.MSG_WAITALL) == b"abc"
    conn.setsockopt(SOL, 20, timeval(-1, 0))  # does not block
    assert fails(lambda: conn.recv(10)) == errno.EAGAIN


def test_rcvlowat_is_waited_for_and_polled_for(stack: FakeStack, conn: DevmemSocket) -> None:
    conn.setsockopt(SOL, socket.SO_RCVLOWAT, 6)
    stack.data(b"abc", WHOLE)
    conn.settimeout(0.02)
    with pytest.raises(TimeoutError):
        conn.recv(10)
    conn.settimeout(None)
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(conn.recv(100)))
    thread.start()
    while conn.connection.info().queued:
        time.sleep(0)
    stack.data(b"defgh", WHOLE)
    stack.wake_app()
    thread.join()
    assert got == [b"abcdefgh"]
    stack.data(b"abc", WHOLE)
    assert conn.recv(2) == b"ab"  # as much as was asked for
    conn.setblocking(False)
    assert conn.recv(10) == b"c"
    assert not conn.getblocking()


# ---- replies and ends ----


def sent_bytes(stack: FakeStack) -> bytes:
    return b"".join(stack.reply(a, b) for kind, _, a, b in stack.requests() if kind == SEND)


def test_replies(stack: FakeStack, conn: DevmemSocket) -> None:
    stack.requests()
    assert conn.send(b"hello") == 5
    conn.sendall(memoryview(b", world"))
    assert conn.sendmsg([b"a", b"b"]) == 2
    assert conn.send(b"") == 0
    assert sent_bytes(stack) == b"hello, worldab"
    assert fails(lambda: conn.sendmsg([b"x"], [(SOL, 79, b"")])) == errno.EINVAL


def test_sending_without_room(stack: FakeStack, conn: DevmemSocket) -> None:
    assert conn.send(bytes(2 * REPLY_MAX), socket.MSG_DONTWAIT) == REPLY_MAX
    assert fails(lambda: conn.send(b"x", socket.MSG_DONTWAIT)) == errno.EAGAIN
    conn.setsockopt(SOL, 21, timeval(0, 10000))
    assert fails(lambda: conn.send(b"x")) == errno.EAGAIN
    conn.settimeout(0.01)
    for send in (conn.send, conn.sendall):
        with pytest.raises(TimeoutError, match="timed out"):
            send(b"x")
    conn.settimeout(PATIENCE)
    stack.requests()
    done: list[None] = []
    thread = threading.Thread(target=lambda: done.append(conn.sendall(bytes(100))))  # type: ignore[func-returns-value]
    thread.start()
    stack.push(SENT, FLOW, arg=50)
    stack.wake_app()
    while len(sent_bytes(stack)) < 50:
        stack.wake_app()
    stack.push(SENT, FLOW, arg=50)
    stack.wake_app()
    thread.join()
    assert len(done) == 1


def test_sending_to_nobody(fresh: DevmemSocket, stack: FakeStack, conn: DevmemSocket) -> None:
    assert fails(lambda: fresh.send(b"x")) == errno.EPIPE
    stack.push(RESET, FLOW, arg=errno.ECONNRESET)
    assert fails(lambda: conn.send(b"x")) == errno.ECONNRESET  # told once, by whoever asks first
    assert fails(lambda: conn.send(b"x")) == errno.EPIPE
    assert conn.recv(1) == b""
    assert fails(lambda: conn.shutdown(socket.SHUT_WR)) == errno.ENOTCONN


def test_shutdown(stack: FakeStack, conn: DevmemSocket, fresh: DevmemSocket) -> None:
    assert fails(lambda: conn.shutdown(7)) == errno.EINVAL
    assert fails(lambda: fresh.shutdown(socket.SHUT_WR)) == errno.ENOTCONN
    stack.requests()
    conn.shutdown(socket.SHUT_WR)
    assert stack.requests() == [(SHUTDOWN, FLOW, 0, 0)]
    assert fails(lambda: conn.send(b"x")) == errno.EPIPE
    stack.data(b"abc", WHOLE)
    conn.shutdown(socket.SHUT_RD)
    assert conn.recv(2) == b"ab"
    assert conn.recv(2) == b"c"
    assert conn.recv(2) == b""
    stack.data(b"def", WHOLE)  # as in Linux, what still comes can be read
    assert conn.recv(9) == b"def"


@pytest.mark.parametrize(
    ("linger", "unread", "request_"),
    [(None, False, CLOSE), (None, True, ABORT), ((1, 0), False, ABORT), ((1, 5), False, CLOSE)],
)
def test_closing(
    interface: FakeInterface, linger: tuple[int, int] | None, unread: bool, request_: int
) -> None:
    conn = connected(interface)
    if linger:
        conn.setsockopt(SOL, socket.SO_LINGER, struct.pack("=ii", *linger))
    if unread:
        interface.stack.data(b"abc", WHOLE)
    interface.stack.requests()
    conn.close()
    assert interface.stack.requests() == [(request_, FLOW, 0, 0)]


# ---- the descriptor ----


def shows(sock: DevmemSocket, timeout: float = 0) -> tuple[bool, bool]:
    """Readable, writable."""
    readable, writable, _ = select.select([sock], [sock] if not timeout else [], [], timeout)
    return bool(readable), bool(writable)


def test_select_sees_what_comes_and_what_was_taken(
    interface: FakeInterface, fresh: DevmemSocket, stack: FakeStack
) -> None:
    number = fresh.fileno()  # also before there is anything to show
    fresh.listen()
    assert shows(fresh) == (False, False)
    stack.accept(FLOW, fresh._listeners[0].id)
    stack.wake_app()
    assert shows(fresh, PATIENCE)[0]
    conn, _ = fresh.accept()
    with conn:
        assert shows(fresh) == (False, False)
        assert fresh.fileno() == number
        assert shows(conn) == (False, True)
        stack.frag(100, 71)
        stack.wake_app()
        assert shows(conn, PATIENCE)[0]
        assert shows(conn)[0]  # as long as it is not taken
        conn.recvmsg(50, 40, MSG_SOCK_DEVMEM)
        assert shows(conn)[0]
        conn.recvmsg(50, 40, MSG_SOCK_DEVMEM)
        assert shows(conn) == (False, True)
        conn.setblocking(False)
        assert conn.send(bytes(2 * REPLY_MAX)) == REPLY_MAX
        assert shows(conn) == (False, False)
        stack.push(SENT, FLOW, arg=REPLY_MAX)
        stack.wake_app()
        assert select.select([], [conn], [], PATIENCE)[1]
        stack.push(EOF, FLOW)
        stack.wake_app()
        assert shows(conn, PATIENCE)[0]
        assert conn.recv(1) == b""
        assert shows(conn)[0]


def test_poll_and_selectors_see_a_reset(stack: FakeStack, conn: DevmemSocket) -> None:
    poll = select.poll()
    poll.register(conn, select.POLLIN)
    with selectors.DefaultSelector() as selector:
        selector.register(conn, selectors.EVENT_READ)
        assert not selector.select(0)
        stack.push(RESET, FLOW, arg=errno.ECONNRESET)
        stack.wake_app()
        assert selector.select(PATIENCE)
    assert poll.poll(0)[0][1] & select.POLLHUP


def test_the_stacks_death_is_seen(stack: FakeStack, conn: DevmemSocket) -> None:
    assert shows(conn) == (False, True)
    stack.die()
    assert shows(conn, PATIENCE)[0]
    with pytest.raises(OSError, match="eth1 is gone"):
        conn.recv(1)


def test_descriptors_of_many_sockets_are_closed_with_them(interface: FakeInterface) -> None:
    with connected(interface, FLOW) as one:
        one.fileno()
        gc.collect()  # what other tests have left to it
        before = len(list(Path("/proc/self/fd").iterdir()))
        for number in range(2, 12):
            with connected(interface, GENERATION * number + 2) as conn:
                assert shows(conn) == (False, True)
            interface.stack.push(6, GENERATION * number + 2)  # CLOSED
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_signal_interrupts_a_wait_and_the_wait_goes_on(
    stack: FakeStack, conn: DevmemSocket
) -> None:
    conn.fileno()  # the pump waits as well, and must not get the signal instead
    seen: list[int] = []

    def handler(number: int, _frame: object) -> None:
        seen.append(number)
        if len(seen) == 2:
            stack.data(b"abc", WHOLE)
            stack.wake_app()
        if len(seen) == 3:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        assert conn.recv(9) == b"abc"
        assert len(seen) == 2
        with pytest.raises(KeyboardInterrupt):
            conn.recv(9)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_child_may_let_go_of_what_the_parent_watches(
    interface: FakeInterface, conn: DevmemSocket
) -> None:
    """In it there is no pump to be stopped, and nobody to be told anything."""
    assert shows(conn) == (False, True)
    interface.stack.requests()
    child = os.fork()
    if not child:
        try:
            interface.app.close()
            conn.close()
            gc.collect()
        finally:
            os._exit(0)
    deadline = time.monotonic() + PATIENCE
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        assert time.monotonic() < deadline, "the child hangs"
        time.sleep(0.01)
    assert not interface.stack.requests()
    interface.stack.data(b"abc", WHOLE)
    interface.stack.wake_app()
    assert shows(conn, PATIENCE)[0]


# ---- asyncio ----


def test_an_event_loops_own_methods_work_on_it(interface: FakeInterface) -> None:
    stack = interface.stack

    async def run() -> None:
        loop = asyncio.get_running_loop()
        with DevmemSocket(FakeProvider([interface])) as listener:
            listener.listen()
            listener.setblocking(False)
            accepting = asyncio.ensure_future(loop.sock_accept(listener))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            stack.accept(FLOW, listener._listeners[0].id)
            stack.wake_app()
            conn, _ = await asyncio.wait_for(accepting, PATIENCE)
        with conn:
            reading = asyncio.ensure_future(loop.sock_recv(conn, 100))
            await asyncio.sleep(0)
            stack.data(b"abc", WHOLE)
            stack.wake_app()
            assert await asyncio.wait_for(reading, PATIENCE) == b"abc"
            sending = asyncio.ensure_future(loop.sock_sendall(conn, bytes(REPLY_MAX + 1)))
            await asyncio.sleep(0)
            stack.requests()
            stack.push(SENT, FLOW, arg=REPLY_MAX)
            stack.wake_app()
            await asyncio.wait_for(sending, PATIENCE)

    asyncio.run(run())


def test_streams(interface: FakeInterface, region: Region) -> None:
    stack = interface.stack

    async def run() -> None:
        sock = DevmemSocket(FakeProvider([interface]))
        sock.listen()
        async with DevmemStream(sock) as listener:
            accepting = asyncio.ensure_future(listener.accept())
            await asyncio.sleep(0)
            stack.accept(FLOW, sock._listeners[0].id)
            stack.wake_app()
            stream = await asyncio.wait_for(accepting, PATIENCE)
        async with stream:
            reading = asyncio.ensure_future(stream.readexactly(6))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="another task"):
                await stream.recvmsg(1)
            for part in (b"abc", b"def"):
                stack.data(part, WHOLE)
                stack.wake_app()
                await asyncio.sleep(0)
            assert await asyncio.wait_for(reading, PATIENCE) == b"abcdef"

            stack.frag(10, 71)
            stack.wake_app()
            got = await asyncio.wait_for(stream.recvmsg(100, 40, MSG_SOCK_DEVMEM), PATIENCE)
            assert len(got[1]) == 1

            async def collect() -> list[int]:
                sizes = []
                async for frag in stream:
                    with frag:
                        sizes.append(frag.size)
                return sizes

            collecting = asyncio.ensure_future(collect())
            for token in (72, 73):
                await asyncio.sleep(0)
                stack.frag(token, token)
                stack.wake_app()
            sending = asyncio.ensure_future(stream.sendall(bytes(REPLY_MAX + 1)))
            await asyncio.sleep(0)
            stack.requests()
            stack.push(SENT, FLOW, arg=REPLY_MAX)
            stack.push(EOF, FLOW)
            stack.wake_app()
            assert await asyncio.wait_for(collecting, PATIENCE) == [72, 73]
            await asyncio.wait_for(sending, PATIENCE)
            with pytest.raises(asyncio.IncompleteReadError):
                await stream.readexactly(1)

    asyncio.run(run())


# ---- fragments as objects ----


def lose_one(conn: DevmemSocket) -> None:
    """Take a fragment and forget it."""
    next(conn.frags())
    gc.collect()


def test_fragments_give_their_token_back(
    stack: FakeStack, conn: DevmemSocket, region: Region
) -> None:
    os.pwrite(region.fd, b"device", 4096)
    stack.data(b"head", LINEAR)
    stack.frag(6, 71, 4096)
    stack.data(b"whole", WHOLE, UNBOUND)
    stack.push(EOF, FLOW)
    stack.requests()
    seen = []
    for frag in conn.frags():
        with frag:
            seen.append((bytes(frag.data), frag.kind, frag.reason, frag.dmabuf_id))
            assert frag.data.readonly
            assert not stack.requests()
        assert len(stack.requests()) == 1
        frag.release()
        with pytest.raises(LookupError, match="given back"):
            _ = frag.data
    assert seen == [
        (b"head", Kind.LINEAR, Reason.HEAD, 0),
        (b"device", Kind.DEVICE, Reason.DEVICE, 7),
        (b"whole", Kind.DATA, Reason.UNBOUND, 0),
    ]


def test_what_was_not_iterated_over_goes_back(stack: FakeStack, conn: DevmemSocket) -> None:
    for token in range(71, 75):
        stack.frag(1, token)
    frags = conn.frags()
    with next(frags):
        frags.close()  # type: ignore[attr-defined]
        assert stack.returned() == [72, 73, 74]
    assert stack.returned() == [71]


def test_a_fragment_may_outlive_its_connection(stack: FakeStack, conn: DevmemSocket) -> None:
    stack.frag(1, 71)
    stack.frag(1, 72)
    frags = conn.frags()
    with next(frags), warnings.catch_warnings():
        warnings.simplefilter("error")
        conn.close()  # gives all back
        frags.close()  # type: ignore[attr-defined]


def test_a_lost_fragment_is_warned_of_and_its_token_goes_back(
    stack: FakeStack, conn: DevmemSocket
) -> None:
    stack.frag(1, 71)
    with pytest.warns(ResourceWarning, match="token 1 of .* was never given back$"):
        lose_one(conn)
    assert stack.returned() == [71]


def test_the_warning_says_where_when_memory_is_traced(stack: FakeStack, conn: DevmemSocket) -> None:
    stack.frag(1, 71)
    tracemalloc.start()
    try:
        with pytest.warns(ResourceWarning, match=r"made at .*test_devmem_socket\.py:\d+"):
            lose_one(conn)
    finally:
        tracemalloc.stop()


def test_a_fragment_lives_as_long_as_its_bytes_are_looked_at(
    stack: FakeStack, conn: DevmemSocket
) -> None:
    stack.frag(10, 71)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = next(conn.frags()).data[2:]
        gc.collect()
        assert len(data) == 8
    assert not stack.returned()
    with pytest.warns(ResourceWarning, match="never given back"):
        data.release()
    assert stack.returned() == [71]


def test_gathering(stack: FakeStack, conn: DevmemSocket, region: Region) -> None:
    os.pwrite(region.fd, b"device", 4096)
    stack.data(b"head", LINEAR)
    stack.frag(6, 71, 4096)
    stack.data(b"whole", WHOLE)
    buffer = bytearray(8)
    assert conn.gather_into(buffer, socket.MSG_PEEK) == 8
    assert conn.gather_into(buffer) == 8
    assert buffer == b"headdevi"
    assert conn.gather_into(buffer) == 7
    assert buffer[:7] == b"cewhole"
    conn.settimeout(0)
    assert fails(lambda: conn.gather_into(buffer)) == errno.EAGAIN
    stack.push(EOF, FLOW)
    assert conn.gather_into(buffer) == 0
