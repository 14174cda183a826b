# SPDX-License-Identifier: Apache-2.0
"""recvmsg() and SO_DEVMEM_DONTNEED of a `DevmemSocket`: each rule by what the kernel answers.

What the kernel can be asked on a loopback connection is asked of both in tests/net.
"""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devmemtcp.agent import NotInDeviceMemoryError, Region
from devmemtcp.socket import (
    CMSG_LEN,
    CMSG_SPACE,
    MSG_SOCK_DEVMEM,
    SCM_DEVMEM_DMABUF,
    SCM_DEVMEM_LINEAR,
    SO_DEVMEM_DONTNEED,
    DevmemSocket,
    DmabufCmsg,
    DmabufToken,
    Reason,
)

from .app.fake_stack import (
    BINDING,
    DONTNEED,
    EOF,
    FLOW,
    GENERATION,
    LINEAR,
    NR_BLOCKS,
    REGION,
    RESET,
    UNBOUND,
    WHOLE,
    FakeStack,
)
from .app.provider import FakeInterface, FakeProvider, connected, fails, fake_interface

ROOM = CMSG_SPACE(24)
ONE = CMSG_LEN(24)
DONTWAIT, PEEK, TRUNC, WAITALL = (
    socket.MSG_DONTWAIT,
    socket.MSG_PEEK,
    socket.MSG_TRUNC,
    socket.MSG_WAITALL,
)


@pytest.fixture(scope="module")
def region() -> Iterator[Region]:
    with Region(REGION) as made:
        yield made


@pytest.fixture
def interface(region: Region) -> Iterator[FakeInterface]:
    with fake_interface(region) as made:
        yield made


@pytest.fixture
def stack(interface: FakeInterface) -> FakeStack:
    return interface.stack


@pytest.fixture
def conn(interface: FakeInterface) -> Iterator[DevmemSocket]:
    with connected(interface) as made:
        made.settimeout(0)
        yield made


def dmabuf(offset: int, size: int, token: int) -> tuple[int, int, bytes]:
    cmsg = DmabufCmsg(offset, size, token, BINDING)
    return socket.SOL_SOCKET, SCM_DEVMEM_DMABUF, cmsg.pack()


def linear(size: int) -> tuple[int, int, bytes]:
    return socket.SOL_SOCKET, SCM_DEVMEM_LINEAR, DmabufCmsg(0, size, 0, 0).pack()


def dontneed(conn: DevmemSocket, *ranges: tuple[int, int]) -> int:
    value = b"".join(DmabufToken(*pair).pack() for pair in ranges)
    return conn.setsockopt(socket.SOL_SOCKET, SO_DEVMEM_DONTNEED, value)


# ---- which bytes, and how ----


def test_readable_bytes_are_copied_without_messages_with_or_without_the_flag(
    stack: FakeStack, conn: DevmemSocket
) -> None:
    for flags in (0, MSG_SOCK_DEVMEM):
        stack.data(b"whole", WHOLE, UNBOUND)
        assert conn.recvmsg(100, 10 * ROOM, flags) == (b"whole", [], 0, None)


def test_an_unreadable_packet_is_linear_bytes_and_a_message_a_fragment(
    stack: FakeStack, conn: DevmemSocket
) -> None:
    stack.data(b"head", LINEAR)
    stack.frag(100, 71, 4096)
    stack.frag(50, 72, 8192)
    data, messages, flags, address = conn.recvmsg(1000, 10 * ROOM, MSG_SOCK_DEVMEM)
    assert data == b"head" + bytes(150)  # the length is all bytes, as recvmsg(2) returns
    assert messages == [linear(4), dmabuf(4096, 100, 1), dmabuf(8192, 50, 2)]
    assert (flags, address) == (0, None)


def test_without_the_flag_it_is_efault_and_nothing_is_lost(
    stack: FakeStack, conn: DevmemSocket
) -> None:
    stack.data(b"head", LINEAR)
    stack.frag(10, 71)
    for call in (
        lambda: conn.recvmsg(100, 10 * ROOM),
        lambda: conn.recv(100),
        lambda: conn.recv_into(bytearray(100)),
        lambda: conn.recvfrom(100),
        lambda: conn.recv(100, PEEK),
    ):
        assert fails(call) == errno.EFAULT
    assert conn.recvmsg(100, 10 * ROOM, MSG_SOCK_DEVMEM)[1] == [linear(4), dmabuf(0, 10, 1)]


def test_efault_waits_until_what_was_readable_is_delivered(
    stack: FakeStack, conn: DevmemSocket
) -> None:
    stack.data(b"whole", WHOLE)
    stack.frag(10, 71)
    assert conn.recv(100) == b"whole"
    assert fails(lambda: conn.recv(100)) == errno.EFAULT


def test_a_call_delivers_one_readability(stack: FakeStack, conn: DevmemSocket) -> None:
    stack.data(b"one", WHOLE)
    stack.data(b"two", WHOLE)
    stack.data(b"head", LINEAR)
    stack.frag(10, 71)
    stack.data(b"three", WHOLE)
    stack.frag(20, 72)
    got = [conn.recvmsg(100, 10 * ROOM, MSG_SOCK_DEVMEM)[:2] for _ in range(4)]
    assert got == [
        (b"onetwo", []),
        (b"head" + bytes(10), [linear(4), dmabuf(0, 10, 1)]),
        (b"three", []),
        (bytes(20), [dmabuf(0, 20, 2)]),
    ]


def test_the_iovec_moves_by_linear_bytes_alone(stack: FakeStack, conn: DevmemSocket) -> None:
    for text, token in ((b"aaa", 71), (b"bb", 72)):
        stack.data(text, LINEAR)
        stack.frag(100, token)
    buffers = [bytearray(b"...."), bytearray(b"." * 300)]
    size, messages, _, _ = conn.recvmsg_into(buffers, 10 * ROOM, MSG_SOCK_DEVMEM)
    assert size == 205
    assert [bytes(buffer[:4]) for buffer in buffers] == [b"aaab", b"b..."]
    assert len(messages) == 4


def test_device_bytes_count_toward_the_length_and_split_fragments(
    stack: FakeStack, conn: DevmemSocket
) -> None:
    stack.data(b"head", LINEAR)
    stack.frag(100, 71, 4096)
    got = [conn.recvmsg(size, 10 * ROOM, MSG_SOCK_DEVMEM)[1] for size in (3, 31, 30, 1000)]
    assert got == [
        [linear(3)],
        [linear(1), dmabuf(4096, 30, 1)],
        [dmabuf(4126, 30, 2)],
        [dmabuf(4156, 40, 3)],
    ]
    assert dontneed(conn, (1, 1), (3, 1)) == 2
    assert not stack.returned()  # the second token still names it
    assert dontneed(conn, (2, 1)) == 1
    assert stack.returned() == [71]


def test_an_iovec_without_memory_takes_device_bytes_only(
    stack: FakeStack, conn: DevmemSocket
) -> None:
    stack.frag(10, 71)
    stack.data(b"head", LINEAR)
    stack.frag(10, 72)
    stack.data(b"whole", WHOLE)
    assert conn.recvmsg_into([1000], 10 * ROOM, MSG_SOCK_DEVMEM)[:2] == (10, [dmabuf(0, 10, 1)])
    for flags in (MSG_SOCK_DEVMEM, MSG_SOCK_DEVMEM | PEEK):
        assert fails(lambda flags=flags: conn.recvmsg_into([1000], 10 * ROOM, flags)) == (  # type: ignore[misc]
            errno.EFAULT
        )
    assert conn.recvmsg(1000, 10 * ROOM, MSG_SOCK_DEVMEM)[1] == [linear(4), dmabuf(0, 10, 2)]
    assert fails(lambda: conn.recvmsg_into([1000])) == errno.EFAULT


def test_a_length_of_zero_delivers_an_empty_message_as_the_kernel_does(
    stack: FakeStack, conn: DevmemSocket
) -> None:
    assert fails(lambda: conn.recvmsg(0, ROOM, MSG_SOCK_DEVMEM)) == errno.EAGAIN
    stack.frag(10, 71, 4096)
    assert fails(lambda: conn.recvmsg(0, ROOM)) == errno.EFAULT
    assert conn.recvmsg(0, ROOM, MSG_SOCK_DEVMEM)[:2] == (b"", [dmabuf(4096, 0, 1)])
    assert conn.recvmsg(100, ROOM, MSG_SOCK_DEVMEM)[1] == [dmabuf(4096, 10, 2)]


# ---- the control buffer ----


@pytest.mark.parametrize("room", [0, 1, 16, ONE - 1])
def test_no_room_for_one_message_is_etoosmall_and_nothing_is_lost(
    stack: FakeStack, conn: DevmemSocket, room: int
) -> None:
    stack.frag(10, 71)
    for _ in range(2):
        assert fails(lambda: conn.recvmsg(100, room, MSG_SOCK_DEVMEM)) == 525
    assert conn.recvmsg(100, ONE, MSG_SOCK_DEVMEM)[1] == [dmabuf(0, 10, 1)]


def test_linear_bytes_that_no_message_could_tell_of_come_again(
    stack: FakeStack, conn: DevmemSocket
) -> None:
    stack.data(b"head", LINEAR)
    stack.frag(10, 71)
    buffer = bytearray(b"." * 20)
    assert fails(lambda: conn.recvmsg_into([buffer], ONE - 1, MSG_SOCK_DEVMEM)) == 525
    assert buffer == b"head" + b"." * 16  # written, and not consumed
    size, messages, _, _ = conn.recvmsg_into([buffer], 10 * ROOM, MSG_SOCK_DEVMEM)
    assert (size, messages) == (14, [linear(4), dmabuf(0, 10, 1)])


@pytest.mark.parametrize("extra", [0, 1, ROOM - 1])
def test_a_small_control_buffer_is_a_short_read_without_ctrunc(
    stack: FakeStack, conn: DevmemSocket, extra: int
) -> None:
    for token in range(71, 76):
        stack.frag(10, token)
    got = [conn.recvmsg(1000, 2 * ROOM + extra, MSG_SOCK_DEVMEM) for _ in range(3)]
    assert [len(data) for data, _, _, _ in got] == [20, 20, 10]
    assert [flags for _, _, flags, _ in got] == [0, 0, 0]
    assert [m for _, messages, _, _ in got for m in messages] == [
        dmabuf(0, 10, token) for token in range(1, 6)
    ]


# ---- flags ----


def test_peeking_hands_out_new_tokens_each_time(stack: FakeStack, conn: DevmemSocket) -> None:
    stack.data(b"head", LINEAR)
    stack.frag(10, 71, 4096)
    flags = MSG_SOCK_DEVMEM | PEEK
    assert [conn.recvmsg(100, 10 * ROOM, flags)[1][1] for _ in range(3)] == [
        dmabuf(4096, 10, token) for token in (1, 2, 3)
    ]
    assert conn.recvmsg(100, 10 * ROOM, MSG_SOCK_DEVMEM)[1][1] == dmabuf(4096, 10, 4)
    assert dontneed(conn, (4, 1), (1, 2)) == 3
    assert not stack.returned()
    assert dontneed(conn, (3, 1)) == 1
    assert stack.returned() == [71]


def test_truncating_discards_without_tokens_and_flag(stack: FakeStack, conn: DevmemSocket) -> None:
    stack.data(b"whole", WHOLE)
    stack.data(b"head", LINEAR)
    stack.frag(100, 71)
    assert conn.recvmsg(50, 0, TRUNC)[0] == bytes(50)  # kinds are not told apart
    assert len(conn.recv(1000, TRUNC | PEEK)) == 59
    assert conn.recvmsg(1000, 0, TRUNC) == (bytes(59), [], 0, None)
    assert stack.returned() == [71]
    assert fails(lambda: conn.recv(1, TRUNC)) == errno.EAGAIN


def test_an_empty_queue_is_eagain_when_not_blocking(conn: DevmemSocket) -> None:
    assert fails(lambda: conn.recvmsg(10, ROOM, MSG_SOCK_DEVMEM)) == errno.EAGAIN
    conn.settimeout(None)
    assert fails(lambda: conn.recvmsg(10, ROOM, MSG_SOCK_DEVMEM | DONTWAIT)) == errno.EAGAIN
    conn.settimeout(0.01)
    with pytest.raises(TimeoutError, match="timed out"):
        conn.recvmsg(10, ROOM, MSG_SOCK_DEVMEM)


def test_waitall_waits_for_all_of_it_across_fragments(stack: FakeStack, conn: DevmemSocket) -> None:
    conn.settimeout(None)
    got: list[Any] = []
    flags = MSG_SOCK_DEVMEM | WAITALL
    thread = threading.Thread(target=lambda: got.extend(conn.recvmsg(25, 10 * ROOM, flags)[:2]))
    thread.start()
    for token in (71, 72, 73):
        assert not got
        stack.frag(10, token)
        stack.wake_app()
        if token < 73:
            while conn.connection.info().tokens < token - 70:
                os.sched_yield()
    thread.join()
    assert got == [bytes(25), [dmabuf(0, 10, 1), dmabuf(0, 10, 2), dmabuf(0, 5, 3)]]


def test_waitall_ends_at_a_change_of_readability_and_at_the_end(
    stack: FakeStack, conn: DevmemSocket
) -> None:
    conn.settimeout(None)
    flags = MSG_SOCK_DEVMEM | WAITALL
    stack.frag(10, 71)
    stack.data(b"whole", WHOLE)
    stack.push(EOF, FLOW)
    assert [len(conn.recvmsg(100, 10 * ROOM, flags)[0]) for _ in range(3)] == [10, 5, 0]


def test_out_of_band_and_the_error_queue(stack: FakeStack, conn: DevmemSocket) -> None:
    stack.data(b"whole", WHOLE)
    assert fails(lambda: conn.recv(1, socket.MSG_OOB)) == errno.EINVAL
    assert fails(lambda: conn.recv(1, socket.MSG_ERRQUEUE)) == errno.EAGAIN


# ---- ends ----


def test_the_end_comes_after_the_data_and_tokens_outlive_it(
    stack: FakeStack, conn: DevmemSocket
) -> None:
    stack.frag(10, 71)
    stack.push(EOF, FLOW)
    assert conn.recvmsg(100, ROOM, MSG_SOCK_DEVMEM)[1] == [dmabuf(0, 10, 1)]
    for _ in range(2):
        assert conn.recvmsg(100, ROOM, MSG_SOCK_DEVMEM) == (b"", [], 0, None)
    stack.push(RESET, FLOW, arg=errno.ECONNRESET)
    assert conn.recv(1) == b""  # as SOCK_DONE: after a FIN a reset is not told by recv
    assert dontneed(conn, (1, 1)) == 1
    assert stack.returned() == [71]


def test_a_reset_comes_after_the_data_and_once(stack: FakeStack, conn: DevmemSocket) -> None:
    stack.frag(10, 71)
    stack.push(RESET, FLOW, arg=errno.ECONNRESET)
    assert conn.recvmsg(100, ROOM, MSG_SOCK_DEVMEM)[1] == [dmabuf(0, 10, 1)]
    assert fails(lambda: conn.recv(1)) == errno.ECONNRESET
    assert conn.recv(1) == b""
    assert fails(lambda: conn.send(b"x")) == errno.EPIPE
    assert fails(conn.getpeername) == errno.ENOTCONN
    assert dontneed(conn, (1, 1)) == 1


def test_so_error_tells_of_a_reset_once(stack: FakeStack, conn: DevmemSocket) -> None:
    stack.push(RESET, FLOW, arg=errno.ETIMEDOUT)
    assert conn.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ETIMEDOUT
    assert conn.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert conn.recv(1) == b""


def test_a_socket_that_is_not_connected_is_enotconn(interface: FakeInterface) -> None:
    with DevmemSocket(FakeProvider([interface])) as fresh:
        assert fails(lambda: fresh.recvmsg(10, ROOM, MSG_SOCK_DEVMEM)) == errno.ENOTCONN
        fresh.bind(("", 0))
        fresh.listen()
        assert fails(lambda: fresh.recvmsg(10, ROOM, MSG_SOCK_DEVMEM)) == errno.ENOTCONN


# ---- host memory that is not wanted ----


def test_a_strict_socket_refuses_host_bytes_with_the_reason(interface: FakeInterface) -> None:
    stack = interface.stack
    with connected(interface, strict=True) as conn:
        stack.frag(10, 71)
        stack.data(b"whole", WHOLE, UNBOUND)
        assert len(conn.recvmsg(100, ROOM, MSG_SOCK_DEVMEM)[1]) == 1
        for flags in (MSG_SOCK_DEVMEM, 0):
            with pytest.raises(NotInDeviceMemoryError, match="without a binding") as caught:
                conn.recvmsg(100, ROOM, flags)
            assert (caught.value.errno, caught.value.reason) == (errno.ENODEV, Reason.UNBOUND)
        conn.strict = False
        assert conn.recv(100) == b"whole"


def test_bytes_are_counted_by_kind(stack: FakeStack, conn: DevmemSocket) -> None:
    stack.data(b"head", LINEAR)
    stack.frag(100, 71)
    stack.data(b"whole", WHOLE)
    assert (conn.bytes_device, conn.bytes_linear, conn.bytes_data) == (100, 4, 5)


# ---- SO_DEVMEM_DONTNEED ----


@pytest.mark.parametrize(
    ("value", "optlen", "expected"),
    [
        (None, 0, errno.EINVAL),
        (b"", 0, errno.EINVAL),
        (b"abc", 0, errno.EINVAL),
        (None, 3, errno.EINVAL),
        (None, 4, errno.EFAULT),
        (None, 8, errno.EFAULT),
        (1, 0, errno.EINVAL),  # an int: 4 bytes
        (bytes(12), 0, errno.EINVAL),
        (bytes(129 * 8), 0, errno.EINVAL),
        (bytes(2048), 0, errno.EINVAL),
    ],
)
def test_a_wrong_argument_is_refused(
    interface: FakeInterface,
    conn: DevmemSocket,
    value: bytes | int | None,
    optlen: int,
    expected: int,
) -> None:
    with DevmemSocket(FakeProvider([interface])) as fresh:
        for sock in (conn, fresh):
            arguments = (socket.SOL_SOCKET, SO_DEVMEM_DONTNEED, value, optlen)
            assert fails(partial(sock.setsockopt, *arguments)) == expected


def test_a_socket_without_connection_has_no_tokens(interface: FakeInterface) -> None:
    with DevmemSocket(FakeProvider([interface])) as fresh:
        assert dontneed(fresh, (1, 5)) == 0
        fresh.bind(("", 0))
        fresh.listen()
        assert dontneed(fresh, (1, 5)) == 0


def hold(interface: FakeInterface, conn: DevmemSocket, count: int) -> None:
    """Tokens 1 ... count."""
    stack = interface.stack
    buffer = 64 * ROOM
    for token in range(1, count + 1):
        stack.frag(1, 1000 + 2 * token)
        if token % 64 == 0 or token == count:
            conn.recvmsg(100, buffer, MSG_SOCK_DEVMEM)


RANGES_LOST = [
    pytest.param([(1, 3)], 3, id="one range"),
    pytest.param([(3, 1), (1, 1)], 2, id="any order"),
    pytest.param([(1, 2), (1, 2)], 2, id="twice is not counted twice"),
    pytest.param([(5, 1000)], 6, id="unknown tokens are skipped"),
    pytest.param([(0, 1)], 0, id="there is no token 0"),
    pytest.param([(1, 0), (2, 1)], 1, id="a count of 0"),
    pytest.param([(2**32 - 2, 5)], 2, id="numbers wrap at 32 bits"),
    pytest.param([(1, 2**32 - 1)], 10, id="the largest count"),
    pytest.param([(5000, 1024), (1, 10)], 0, id="1024 attempts, and the 1025th ends the call"),
    pytest.param([(5000, 1023), (1, 10)], 1, id="the 1024th counts"),
    pytest.param([(5000 + i, 8) for i in range(127)] + [(1, 10)], 8, id="128 ranges share them"),
    pytest.param([(20, 1)] * 127 + [(1, 10)], 10, id="128 ranges"),
]


@pytest.mark.parametrize(("ranges", "freed"), RANGES_LOST)
def test_the_number_of_fragments_given_back_is_returned(
    interface: FakeInterface, conn: DevmemSocket, ranges: list[tuple[int, int]], freed: int
) -> None:
    hold(interface, conn, 10)
    assert dontneed(conn, *ranges) == freed
    assert len(interface.stack.returned()) == freed


def test_tokens_are_the_sockets_own(interface: FakeInterface, conn: DevmemSocket) -> None:
    with connected(interface, GENERATION + 2) as other:
        interface.stack.frag(10, 71, flow=FLOW)
        interface.stack.frag(10, 72, flow=GENERATION + 2)
        for sock in (conn, other):
            assert sock.recvmsg(10, ROOM, MSG_SOCK_DEVMEM)[1] == [dmabuf(0, 10, 1)]
        assert dontneed(other, (1, 1)) == 1
        assert interface.stack.requests()[-1:] == [(DONTNEED, GENERATION + 2, 72, 1)]
        assert dontneed(other, (1, 1)) == 0
        assert dontneed(conn, (1, 1)) == 1


def test_a_number_is_used_again_at_once_and_the_lowest_first(
    interface: FakeInterface, conn: DevmemSocket
) -> None:
    hold(interface, conn, 5)
    assert dontneed(conn, (4, 1), (2, 1)) == 2
    for token in (71, 72, 73):
        interface.stack.frag(1, token)
    messages = conn.recvmsg(100, 10 * ROOM, MSG_SOCK_DEVMEM)[1]
    assert [DmabufCmsg.unpack(data).frag_token for _, _, data in messages] == [2, 4, 6]


def test_tokens_are_given_back_while_another_thread_waits_in_recvmsg(
    interface: FakeInterface, conn: DevmemSocket
) -> None:
    hold(interface, conn, 3)
    conn.settimeout(None)
    got: list[int] = []
    thread = threading.Thread(
        target=lambda: got.append(len(conn.recvmsg(9, ROOM, MSG_SOCK_DEVMEM)[1]))
    )
    thread.start()
    assert dontneed(conn, (1, 3)) == 3
    assert not got
    interface.stack.frag(1, 71)
    interface.stack.wake_app()
    thread.join()
    assert got == [1]


@pytest.mark.parametrize("name", ["SO_DEVMEM_LINEAR", "SO_DEVMEM_DMABUF"])
def test_the_messages_numbers_are_no_options(conn: DevmemSocket, name: str) -> None:
    from devmemtcp import socket as devmem

    number = getattr(devmem, name)
    assert fails(lambda: conn.setsockopt(socket.SOL_SOCKET, number, bytes(8))) == (
        errno.ENOPROTOOPT
    )
    for option in (number, SO_DEVMEM_DONTNEED):
        assert fails(lambda option=option: conn.getsockopt(socket.SOL_SOCKET, option)) == (  # type: ignore[misc]
            errno.ENOPROTOOPT
        )


# ---- everything at once ----


@given(
    packets=st.lists(
        st.tuples(st.integers(0, 30), st.lists(st.integers(1, 60), max_size=4)),
        min_size=1,
        max_size=12,
    ),
    calls=st.lists(
        st.tuples(st.integers(1, 200), st.integers(0, 300), st.booleans()), min_size=1, max_size=9
    ),
    seed=st.integers(0, 2**32),
)
def test_any_calls_see_the_stream_once_and_leave_no_token(
    packets: list[tuple[int, list[int]]], calls: list[tuple[int, int, bool]], seed: int
) -> None:
    """Packets are (bytes in the head, fragments); calls are (length, control buffer, peek)."""
    rng = random.Random(seed)
    with Region(REGION) as region, fake_interface(region) as interface:
        stack, conn = interface.stack, connected(interface)
        conn.settimeout(0)
        sent, lent = bytearray(), 0
        for head, frags in packets:
            if head:
                data = rng.randbytes(head)
                stack.data(data, LINEAR if frags else WHOLE)
                sent += data
            for size in frags:
                lent += 1
                data = rng.randbytes(size)
                os.pwrite(region.fd, data, 4096 * lent)
                stack.frag(size, lent, 4096 * lent)
                sent += data
        stack.push(EOF, FLOW)
        got, turn, returned = bytearray(), 0, 0
        while True:
            length, room, peek = calls[turn % len(calls)]
            turn += 1
            buffer = bytearray(length)
            flags = MSG_SOCK_DEVMEM | (PEEK if peek and turn % 3 else 0)
            try:
                size, messages, _, _ = conn.recvmsg_into([buffer], room, flags)
            except OSError as error:
                if error.errno != 525 or room >= ONE:
                    raise
                size, messages, _, _ = conn.recvmsg_into([buffer], ONE, flags)
            if not size:
                break
            part = bytearray() if messages else buffer[:size]
            at, tokens = 0, []
            for _, kind, data in messages:
                cmsg = DmabufCmsg.unpack(data)
                if kind == SCM_DEVMEM_LINEAR:
                    part += buffer[at : at + cmsg.frag_size]
                    at += cmsg.frag_size
                else:
                    part += os.pread(region.fd, cmsg.frag_size, cmsg.frag_offset)
                    tokens.append((cmsg.frag_token, 1))
            assert len(part) == size
            assert sent[len(got) : len(got) + size] == part
            if not flags & PEEK:
                got += part
            assert dontneed(conn, *tokens) == len(tokens) if tokens else True
            returned += len(stack.returned())
        assert got == sent
        assert returned == lent
        assert len(stack.free_blocks) == NR_BLOCKS
        conn.close()


# ---- the receive loops of kperf and of ncdevmem, as they are ----


def test_kperfs_pattern(stack: FakeStack, conn: DevmemSocket) -> None:
    """A NULL iovec, MSG_DONTWAIT, one range a token in batches of 128, and a count that fits."""
    for round_ in range(3):
        for token in range(1, 41):
            stack.frag(100, 100 * round_ + 2 * token, 4096 * token)
        ranges, received = [], 0
        while True:
            try:
                size, messages, flags, _ = conn.recvmsg_into(
                    [128 * 1024], 16 * ROOM, MSG_SOCK_DEVMEM | DONTWAIT
                )
            except BlockingIOError:
                break
            assert not flags & socket.MSG_CTRUNC
            for level, kind, data in messages:
                assert (level, kind) == (socket.SOL_SOCKET, SCM_DEVMEM_DMABUF)
                ranges.append((DmabufCmsg.unpack(data).frag_token, 1))
            received += size
        assert received == 4000
        for first in range(0, len(ranges), 128):
            batch = ranges[first : first + 128]
            assert dontneed(conn, *batch) == len(batch)
    assert len(stack.returned()) == 120


def test_ncdevmems_pattern(stack: FakeStack, region: Region, conn: DevmemSocket) -> None:
    """A large iovec, 2000 messages, each fragment checked and given back by a call of its own."""
    conn.settimeout(None)
    pattern = bytes(1 + i % 7 if i % 7 != 6 else 10 for i in range(1 << 16))
    pushed = 0
    for token in range(1, 31):
        os.pwrite(region.fd, pattern[pushed : pushed + 1448], 4096 * token)
        stack.frag(1448, token, 4096 * token)
        pushed += 1448
    stack.push(EOF, FLOW)
    total = 0
    while True:
        data, messages, _, _ = conn.recvmsg(819200, 2000 * ROOM, MSG_SOCK_DEVMEM)
        if not data:
            break
        assert messages, "flow steering error"
        for _, kind, raw in messages:
            if kind == SCM_DEVMEM_LINEAR:
                continue
            cmsg = DmabufCmsg.unpack(raw)
            assert cmsg.dmabuf_id == BINDING
            seen = os.pread(region.fd, cmsg.frag_size, cmsg.frag_offset)
            assert seen == pattern[total : total + cmsg.frag_size]
            total += cmsg.frag_size
            one = struct.pack("=II", cmsg.frag_token, 1)
            assert conn.setsockopt(socket.SOL_SOCKET, SO_DEVMEM_DONTNEED, one) == 1
    assert total == pushed
    assert stack.returned() == list(range(1, 31))
