# SPDX-License-Identifier: Apache-2.0
"""Receive loops of programs for the kernel's devmem TCP, on a `DevmemSocket` over a real stack.

The loops are those of ncdevmem (tools/testing/selftests/drivers/net/hw) and kperf; the peer is a
kernel's socket.
"""

from __future__ import annotations

import asyncio
import random
import select
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from devmemtcp.agent import Region, RegionView, Runtime
from devmemtcp.socket import (
    CMSG_SPACE,
    MSG_SOCK_DEVMEM,
    SCM_DEVMEM_DMABUF,
    SCM_DEVMEM_LINEAR,
    SO_DEVMEM_DONTNEED,
    DevmemSocket,
    DevmemStream,
    DmabufCmsg,
    DmabufToken,
    NotInDeviceMemoryError,
    Reason,
    pack_tokens,
)

from .traffic import MIB, PATIENCE, assert_clean, dial
from .veth import Veth

SOL = socket.SOL_SOCKET


@contextmanager
def receiver(veth: Veth, **options: Any) -> Iterator[tuple[Runtime, RegionView, DevmemSocket]]:
    """A runtime on the right end, its region, and a socket that listens there."""
    right = veth.right
    with (
        Region(16 * MIB) as region,
        region.map() as view,
        Runtime(right.ifname, region, netns=right.netns, **options) as rt,
        DevmemSocket(rt) as listener,
    ):
        listener.bind((right.ip4, 0))
        listener.listen()
        yield rt, view, listener
        listener.close()
        assert_clean(rt)


def send_stream(veth: Veth, address: Any, data: bytes) -> None:
    with dial(veth.left, address) as sock:
        sock.sendall(data)


def ncdevmem(conn: DevmemSocket, view: RegionView) -> bytes:
    """One recvmsg() after the other, a DONTNEED a fragment."""
    got = bytearray()
    while True:
        data, messages, flags, _ = conn.recvmsg(819200, 2000 * CMSG_SPACE(24), MSG_SOCK_DEVMEM)
        if not data:
            return bytes(got)
        assert messages, "flow steering error"
        assert not flags
        at = 0
        for level, kind, raw in messages:
            assert level == SOL
            cmsg = DmabufCmsg.unpack(raw)
            if kind == SCM_DEVMEM_LINEAR:
                got += data[at : at + cmsg.frag_size]
                at += cmsg.frag_size
                continue
            assert (kind, cmsg.dmabuf_id) == (SCM_DEVMEM_DMABUF, 1)
            got += view[cmsg.frag_offset : cmsg.frag_offset + cmsg.frag_size]
            token = DmabufToken(cmsg.frag_token).pack()
            assert conn.setsockopt(SOL, SO_DEVMEM_DONTNEED, token) == 1


def kperf(conn: DevmemSocket, view: RegionView) -> bytes:
    """No memory in the iovec, poll(), tokens in batches of 128 ranges."""
    got, tokens = bytearray(), list[int]()
    poll = select.poll()
    poll.register(conn, select.POLLIN)
    while True:
        assert poll.poll(PATIENCE * 1000)
        try:
            size, messages, _, _ = conn.recvmsg_into(
                [128 * 1024], 256 * CMSG_SPACE(24), MSG_SOCK_DEVMEM | socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            continue
        for _, kind, raw in messages:
            assert kind == SCM_DEVMEM_DMABUF, "flow steering error?"
            cmsg = DmabufCmsg.unpack(raw)
            got += view[cmsg.frag_offset : cmsg.frag_offset + cmsg.frag_size]
            tokens.append(cmsg.frag_token)
        while tokens and (len(tokens) >= 128 or not size):
            batch, tokens = tokens[:128], tokens[128:]
            value = b"".join(DmabufToken(token).pack() for token in batch)
            assert conn.setsockopt(SOL, SO_DEVMEM_DONTNEED, value) == len(batch)
        if not size:
            return bytes(got)


def by_fragments(conn: DevmemSocket, _view: RegionView) -> bytes:
    got = bytearray()
    for frag in conn.frags(PATIENCE):
        with frag:
            got += frag.data
    return bytes(got)


def by_gathering(conn: DevmemSocket, _view: RegionView) -> bytes:
    got, buffer = bytearray(), bytearray(MIB)
    while count := conn.gather_into(buffer):
        got += buffer[:count]
    return bytes(got)


def by_batches(conn: DevmemSocket, view: RegionView) -> bytes:
    got = bytearray()
    while batch := conn.connection.recv_frags(timeout=PATIENCE):
        part = bytearray(batch.nbytes)
        batch.copy_to(part, view)
        conn.connection.dontneed(batch)
        got += part
    return bytes(got)


LOOPS = [ncdevmem, kperf, by_fragments, by_gathering, by_batches]


@pytest.mark.parametrize("isolate", [False, True], ids=["one process", "isolated"])
@pytest.mark.parametrize("loop", LOOPS, ids=lambda function: function.__name__)
def test_a_loop_gets_the_stream(
    veth: Veth, loop: Callable[[DevmemSocket, RegionView], bytes], isolate: bool
) -> None:
    data = random.Random(1).randbytes(3 * MIB + 17)
    with receiver(veth, isolate=isolate) as (_, view, listener), ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send_stream, veth, listener.getsockname(), data)
        conn, _ = listener.accept()
        with conn:
            assert loop(conn, view) == data
            assert conn.bytes_device == len(data)
        sent.result(PATIENCE)


@pytest.mark.parametrize("loop", [ncdevmem, by_fragments, by_gathering, by_batches])
def test_linear_bytes_are_told_apart(
    veth: Veth, loop: Callable[[DevmemSocket, RegionView], bytes]
) -> None:
    """The split leaves the first bytes of each packet with the headers."""
    data = random.Random(2).randbytes(MIB)
    with (
        receiver(veth, linear_bytes=16) as (_, view, listener),
        ThreadPoolExecutor(1) as pool,
    ):
        sent = pool.submit(send_stream, veth, listener.getsockname(), data)
        conn, _ = listener.accept()
        with conn:
            assert loop(conn, view) == data
            received = conn.connection.received
            assert received.device + received.linear + received.data == len(data)
            assert received.linear
            assert received.head == received.linear + received.data
        sent.result(PATIENCE)


def test_short_payloads_are_ordinary_bytes_and_strict_refuses_them(veth: Veth) -> None:
    with receiver(veth, linear_bytes=16) as (_, _view, listener):
        for strict in (False, True):
            with dial(veth.left, listener.getsockname()) as sock:
                conn, _ = listener.accept()
                with conn:
                    conn.strict = strict
                    sock.sendall(b"short")
                    if not strict:
                        got = conn.recvmsg(100, 1000, MSG_SOCK_DEVMEM)
                        assert got == (b"short", [], 0, None)
                        continue
                    with pytest.raises(NotInDeviceMemoryError) as caught:
                        conn.recvmsg(100, 1000, MSG_SOCK_DEVMEM)
                    assert caught.value.reason is Reason.HEAD


def test_an_unbound_queue_delivers_ordinary_bytes(veth: Veth) -> None:
    right = veth.right
    data = random.Random(3).randbytes(MIB)
    with (
        Runtime(right.ifname, None, netns=right.netns) as rt,
        DevmemSocket(rt, socket.AF_INET6) as listener,
        ThreadPoolExecutor(1) as pool,
    ):
        listener.bind((right.ip6, 0))
        listener.listen()
        sent = pool.submit(send_stream, veth, listener.getsockname()[:2], data)
        conn, address = listener.accept()
        with conn:
            assert address[0] == veth.left.ip6
            got = bytearray()
            while part := conn.recv(MIB):
                got += part
            assert got == data
            assert conn.connection.received.unbound == len(data)
        sent.result(PATIENCE)


def test_both_families_come_to_an_unspecified_address(veth: Veth) -> None:
    right = veth.right
    with (
        Region(4 * MIB) as region,
        Runtime(right.ifname, region, netns=right.netns) as rt,
        DevmemSocket(rt, socket.AF_INET6) as listener,
    ):
        listener.bind(("", 0))
        listener.listen()
        listener.settimeout(PATIENCE)
        port = listener.getsockname()[1]
        for host, shown in ((right.ip4, f"::ffff:{veth.left.ip4}"), (right.ip6, veth.left.ip6)):
            with dial(veth.left, (host, port)) as sock:
                sock.sendall(b"hello there, device")
                conn, address = listener.accept()
                with conn:
                    assert address[0] == shown
                    assert conn.getsockname()[0] in (host, f"::ffff:{host}")
                    room = bytearray(19)
                    assert conn.gather_into(room, socket.MSG_WAITALL) == 19
                    assert room == b"hello there, device"


def test_asyncio_serves_many_at_once(veth: Veth) -> None:
    count, data = 8, random.Random(4).randbytes(MIB // 2)

    async def receive(stream: DevmemStream) -> None:
        async with stream:
            got = bytearray()
            async for frag in stream:
                with frag:
                    got += frag.data
            assert got == data
            await stream.sendall(b"got it")

    async def serve(listener: DevmemSocket) -> None:
        server = DevmemStream(listener)
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
            for _ in range(count):
                tasks.create_task(receive(await server.accept()))

    def send(address: Any) -> bytes:
        with dial(veth.left, address) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            return sock.recv(100, socket.MSG_WAITALL)

    with receiver(veth) as (_, _view, listener), ThreadPoolExecutor(count) as pool:
        answers = [pool.submit(send, listener.getsockname()) for _ in range(count)]
        asyncio.run(serve(listener))
        assert [answer.result(PATIENCE) for answer in answers] == [b"got it"] * count


def test_reading_and_giving_back_in_two_threads(veth: Veth) -> None:
    data = random.Random(5).randbytes(8 * MIB)
    tokens: list[int] = []
    ready, done = threading.Condition(), threading.Event()
    freed = 0

    def give_back(conn: DevmemSocket) -> None:
        nonlocal freed
        while True:
            with ready:
                ready.wait_for(lambda: bool(tokens) or done.is_set())
                batch = tokens[:]
                tokens.clear()
            if not batch:
                return
            for value in pack_tokens(batch):
                freed += conn.setsockopt(SOL, SO_DEVMEM_DONTNEED, value)

    with receiver(veth) as (_, view, listener), ThreadPoolExecutor(2) as pool:
        sent = pool.submit(send_stream, veth, listener.getsockname(), data)
        conn, _ = listener.accept()
        with conn:
            giver = pool.submit(give_back, conn)
            got, frags = bytearray(), 0
            while True:
                size, messages, _, _ = conn.recvmsg_into(
                    [MIB], 512 * CMSG_SPACE(24), MSG_SOCK_DEVMEM
                )
                if not size:
                    break
                cmsgs = [DmabufCmsg.unpack(raw) for _, _, raw in messages]
                for cmsg in cmsgs:
                    got += view[cmsg.frag_offset : cmsg.frag_offset + cmsg.frag_size]
                frags += len(cmsgs)
                with ready:
                    tokens.extend(cmsg.frag_token for cmsg in cmsgs)
                    ready.notify()
            done.set()
            with ready:
                ready.notify()
            giver.result(PATIENCE)
            assert got == data
            assert freed == frags
        sent.result(PATIENCE)
