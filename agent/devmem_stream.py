# SPDX-License-Identifier: Apache-2.0
"""`DevmemSocket` for asyncio.

    listener = DevmemStream(sock)                  # a socket that listens
    async with await listener.accept() as stream:
        async for frag in stream.frags():
            with frag:
                consume(frag.data)

Every event loop with add_reader() and add_writer() will do. As with asyncio's own streams, one
task at a time may wait to read, and one to write.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Self, TypeVar

from devmemtcp.agent.devmem_frags import FRAGS_A_BATCH, ReceivedFrag, frags_of
from devmemtcp.agent.devmem_messages import AncData
from devmemtcp.agent.devmem_socket import Buffer, DevmemSocket

_Result = TypeVar("_Result")


class DevmemStream:
    """The awaitable methods of a socket, which becomes non-blocking and is closed with this."""

    socket: DevmemSocket

    def __init__(self, sock: DevmemSocket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._reads = self._writes = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; idempotent."""
        self.socket.close()

    async def accept(self) -> DevmemStream:
        """Wait for a connection. Raises OSError, see `DevmemSocket.accept()`."""
        conn, _ = await self._when_readable(self.socket.accept)
        return DevmemStream(conn)

    async def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0
    ) -> tuple[bytes, AncData, int, None]:
        """Wait for `DevmemSocket.recvmsg()` to have something."""
        return await self._when_readable(lambda: self.socket.recvmsg(bufsize, ancbufsize, flags))

    async def gather_into(self, buffer: Buffer) -> int:
        """Wait for bytes and copy them, whatever memory they are in; 0 at the end of the stream."""
        return await self._when_readable(lambda: self.socket.gather_into(buffer))

    async def readexactly(self, count: int) -> bytearray:
        """Wait for `count` bytes. Raises asyncio.IncompleteReadError at an earlier end."""
        data = bytearray(count)
        done = 0
        while done < count:
            part = await self.gather_into(memoryview(data)[done:])
            if not part:
                raise asyncio.IncompleteReadError(bytes(data[:done]), count)
            done += part
        return data

    async def frags(self) -> AsyncIterator[ReceivedFrag]:
        """Iterate over what is received, to the end of the stream."""
        conn = self.socket.connection
        while True:
            try:
                batch = conn.recv_frags(FRAGS_A_BATCH, timeout=0)
            except TimeoutError:
                await self._readable()
                continue
            if not batch:
                return
            frags = frags_of(conn, batch)
            try:
                for frag in frags:
                    yield frag
            finally:
                frags.close()

    __aiter__ = frags

    async def sendall(self, data: bytes | Buffer) -> None:
        """Wait until all of it is queued. Raises OSError."""
        view = memoryview(data).cast("B")
        while view:
            try:
                view = view[self.socket.send(view) :]
            except BlockingIOError:
                await self._writable()

    async def _when_readable(self, call: Callable[[], _Result]) -> _Result:
        while True:
            try:
                return call()
            except BlockingIOError:
                await self._readable()

    async def _readable(self) -> None:
        if self._reads:
            raise RuntimeError("another task waits to read from this stream already")
        loop, fd = asyncio.get_running_loop(), self.socket.fileno()
        ready = loop.create_future()
        self._reads = True
        loop.add_reader(fd, _wake, ready)
        try:
            await ready
        finally:
            loop.remove_reader(fd)
            self._reads = False

    async def _writable(self) -> None:
        if self._writes:
            raise RuntimeError("another task waits to write to this stream already")
        loop, fd = asyncio.get_running_loop(), self.socket.fileno()
        ready = loop.create_future()
        self._writes = True
        loop.add_writer(fd, _wake, ready)
        try:
            await ready
        finally:
            loop.remove_writer(fd)
            self._writes = False


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
