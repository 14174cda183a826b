# SPDX-License-Identifier: Apache-2.0
"""What an application holds: listeners, connections and batches of fragments.

All of them may be used from any thread. What they do goes through the channel's shared memory
(app.c); the stack is woken by a system call only when it sleeps.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

from devmemtcp.agent._loop import ffi, lib
from devmemtcp.agent.closing import Closing
from devmemtcp.agent.devmem_abi import Kind, Reason
from devmemtcp.agent.errors import NotInDeviceMemoryError, failed
from devmemtcp.agent.netdev import from_stack
from devmemtcp.agent.region import Region, RegionView

Address = tuple[str, int]
"""(host, port); host is an IP address."""

_new_frags = ffi.new_allocator(should_clear_after_alloc=False)
_MSG_DONTWAIT = 0x40
_SECOND_MS = 1000
_MAX_MS = 1 << 30


class Frag(NamedTuple):
    """Where some received bytes are in device memory."""

    offset: int
    """Bytes from the start of the region."""
    size: int
    """Bytes."""
    token: int
    """To be given to `Connection.dontneed()`; at least 1."""
    dmabuf_id: int = 0
    """Of the binding whose region it is."""


class HostFrag(NamedTuple):
    """Received bytes that are not in device memory, and why."""

    data: bytes
    token: int
    """To be given to `Connection.dontneed()`; at least 1."""
    kind: Kind
    reason: Reason


class FragBatch:
    """Fragments of one connection, in stream order. Empty (and false) at end of stream.

    `nbytes` is the sum of all sizes. All that are in device memory belong to one binding. Those
    in host memory are among them: with a region bound to all queues, and nothing left in the
    heads, there are none.

    As a context manager, it gives all tokens back at the end of the block.
    """

    nbytes: int

    __slots__ = ("_conn", "_count", "_frags", "_half", "nbytes")

    def __init__(self, frags: Any, count: int, conn: Connection | None = None) -> None:
        """For `Connection.recv_frags()`: `struct app_frag[]`, and how many of them."""
        self._frags = frags
        self._count = count
        self._conn = conn
        # Keeps the mapping of the data blocks, also when the runtime is closed.
        self._half = None if conn is None else conn.app.handle
        self.nbytes = int(lib.frags_bytes(frags, count))

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._conn is not None and not self._conn.closed:
            self._conn.dontneed(self)

    def __iter__(self) -> Iterator[Frag]:
        """Raises NotInDeviceMemoryError at the first that is in host memory: see `pieces()`."""
        for piece in self.pieces():
            if isinstance(piece, HostFrag):
                raise NotInDeviceMemoryError(
                    piece.reason, f"{len(piece.data)} bytes are in host memory, see pieces()"
                )
            yield piece

    def pieces(self) -> Iterator[Frag | HostFrag]:
        """All fragments, those in host memory as a copy of their bytes."""
        data = _data_blocks(self._half)
        for index in range(self._count):
            frag = self._frags[index]
            if frag.kind == Kind.DEVICE:
                yield Frag(frag.offset, frag.len, frag.token, frag.dmabuf_id)
            else:
                copy = data[frag.offset : frag.offset + frag.len]
                yield HostFrag(copy, frag.token, Kind(frag.kind), Reason(frag.reason))

    def check_pattern(self, view: RegionView, period: int, phase: int = 0) -> tuple[int, int]:
        """Compare with bytes 1 ... period - 1, newline, repeating (what ncdevmem's -v expects).

        `phase` is the position of the first byte in the period, of 2 to 256 bytes. Returns
        (wrong bytes, phase after the last byte). Raises ValueError for a period or phase that
        cannot be, and when a fragment is not inside the view.
        """
        at = ffi.new("uint32_t *", phase)
        with view.cpu_access():
            errors = _inside(lib.frags_check(*self._in(view), period, at))
        return errors, at[0]

    def device_bytes(self, view: RegionView) -> int:
        """Bytes of the fragments that lie wholly inside the mapping; all of them are meant to."""
        return int(lib.frags_inside(self._frags, self._count, view.size))

    def write_to(self, fd: int, view: RegionView) -> int:
        """Write all bytes to a file descriptor, straight from the mapping. Returns `nbytes`.

        Raises OSError, BlockingIOError included when `fd` does not block and is full.
        """
        done = 0
        with view.cpu_access():
            while done < self.nbytes:
                result = lib.frags_write(*self._in(view), done, fd)
                if result == -errno.EINTR:
                    continue  # a signal's handler runs here, and may raise
                if result < 0 and result != -errno.EFAULT:
                    raise OSError(-result, os.strerror(-result))
                done += _inside(result)
        return done

    def copy_to(self, buffer: bytearray | memoryview, view: RegionView) -> int:
        """Copy all bytes to the front of a writable buffer of at least `nbytes`.

        Returns `nbytes`. Raises ValueError when the buffer is too small.
        """
        with ffi.from_buffer("uint8_t[]", buffer, require_writable=True) as room:
            if len(room) < self.nbytes:
                raise ValueError(f"{self.nbytes} bytes do not fit into {len(room)}")
            with view.cpu_access():
                return _inside(lib.frags_copy(*self._in(view), room, len(room)))

    def native(self) -> tuple[Any, Any, int]:
        """`struct app *`, `struct app_frag[]` and how many."""
        return self._half, self._frags, self._count

    def _in(self, view: RegionView) -> tuple[Any, Any, int]:
        both = ffi.new("struct frags_view *")
        both.region, both.region_size = ffi.cast("uint8_t *", view.address), view.size
        if self._half is not None:
            size = ffi.new("uint64_t *")
            both.data = lib.app_data_blocks(self._half, size)
            both.data_size = size[0]
        return both, self._frags, self._count


def _data_blocks(half: Any) -> Any:
    """The channel's data blocks as a buffer, which does not keep the mapping."""
    if half is None:
        return b""
    size = ffi.new("uint64_t *")
    blocks = lib.app_data_blocks(half, size)
    return ffi.buffer(blocks, size[0])


def _inside(result: int) -> int:
    if result == -errno.EFAULT:
        raise ValueError("a fragment is not inside the view: it is closed, or of another region")
    if result < 0:
        raise ValueError(os.strerror(-result))
    return int(result)


_WHY = {
    Reason.DEVICE: "the next bytes are not in device memory",
    Reason.UNBOUND: "the next bytes were received on a queue without a binding",
    Reason.HEAD: "the next bytes were left with the headers by the split",
}


class AppHalf:
    """The application's half of the channel, `struct app`, and what it has handed out.

    `ended` is called when the stack has: it returns why.
    """

    def __init__(
        self, memory: int, wake: int, event: int, life: int, *, ended: Callable[[], OSError]
    ) -> None:
        """Open the channel (a memfd formatted by the stack); the descriptors are duplicated.

        Raises OSError with EPROTO when it does not hold together.
        """
        out = ffi.new("struct app **")
        result = lib.app_open(out, memory, event, wake, life)
        if result:
            raise failed(result, "cannot open the channel to the stack")
        # Freed with its last reference: a thread that is in a call keeps it.
        self.handle: Any = ffi.gc(out[0], lib.app_close)
        self.connections: dict[int, Connection] = {}
        self.listeners: dict[int, Listener] = {}
        self._ended = ended

    def add_region(self, dmabuf_id: int, region: Region) -> None:
        """Fragments of this binding are in this region: they can be checked and copied.

        Raises OSError (ENOSPC: of too many bindings at a time).
        """
        self._set_region(dmabuf_id, region.size, region.fd)

    def remove_region(self, dmabuf_id: int) -> None:
        """Forget it. Fragments of a binding without a region are handed out all the same."""
        self._set_region(dmabuf_id, 0, -1)

    def _set_region(self, dmabuf_id: int, size: int, fd: int) -> None:
        result = lib.app_region(self.require_open(), dmabuf_id, size, fd)
        if result:
            raise failed(result, f"region of binding {dmabuf_id}")

    def close(self) -> None:
        """Let go of it: every call from now on raises; idempotent."""
        self.handle = None

    def require_open(self) -> Any:
        """The handle. Raises OSError (EBADF) after `close()`."""
        handle = self.handle
        if handle is None:
            raise OSError(errno.EBADF, "the runtime is closed")
        return handle

    def wait(
        self,
        *,
        flow: int = 0,
        listener: int = -1,
        timeout: float | None,
        extra_fd: int = -1,
        room: bool = False,
    ) -> bool:
        """Wait for an event (app_wait()) or room for a reply; False after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _MAX_MS if deadline is None else deadline - time.monotonic()
            ms = min(_MAX_MS, max(0, math.ceil(left * _SECOND_MS)))
            if room:
                result = lib.app_wait_room(self.require_open(), flow, ms)
            else:
                result = lib.app_wait(self.require_open(), flow, listener, extra_fd, ms)
            if error := self.gave_up(result):
                raise error
            if result < 0 and result != -errno.EINTR:
                raise failed(result, "cannot wait for the stack")
            if result > 0:
                return True
            if result == 0 and (deadline is not None or extra_fd >= 0):
                return False

    def ready(self) -> list[Listener | Connection]:
        """Everything with something to accept or to read."""
        size = len(self.connections) + len(self.listeners) + 1
        out = ffi.new("int64_t[]", size)
        count = lib.app_ready(self.require_open(), out, size)
        found = (
            self.connections.get(number) if number > 0 else self.listeners.get(-1 - number)
            for number in out[0:count]
        )
        return [item for item in found if item is not None]

    def gave_up(self, result: int) -> OSError | None:
        """What to raise when the channel itself has failed, as opposed to one connection."""
        if result == -errno.EPIPE:
            return self._ended()
        if result == -errno.EPROTO:
            return OSError(-result, "the stack does not keep to the channel's rules")
        return None


class Received(NamedTuple):
    """Bytes that a connection has received, by where they are and why."""

    device: int = 0
    linear: int = 0
    """In host memory, of packets that have bytes in device memory too (`Kind.LINEAR`)."""
    data: int = 0
    """In host memory, as is all of the packet (`Kind.DATA`)."""
    unbound: int = 0
    """Of `linear` and `data`: for `Reason.UNBOUND`."""
    head: int = 0
    """Of `linear` and `data`: for `Reason.HEAD`."""


class Connection(Closing):
    """One TCP connection whose received bytes are in device memory."""

    id: int
    """The stack's id of the connection, as in `Runtime.flows()`; never 0."""
    local: Address
    peer: Address
    listener: Listener

    def __init__(self, app: AppHalf, id: int, local: Address, peer: Address, listener: Listener):
        """For `Listener.accept()`."""
        self.id = id
        self.local = local
        self.peer = peer
        self.listener = listener
        self.app = app
        self._closed = False
        self._strict = False
        self._received = Received()

    def __repr__(self) -> str:
        return f"<Connection {self.id:#x} {self.local} from {self.peer}>"

    def recv_frags(self, max_frags: int = 1024, timeout: float | None = None) -> FragBatch:
        """Wait for fragments: at least one, or none at the end of the stream.

        `timeout` in seconds: 0 polls, None waits for ever. Raises TimeoutError,
        ConnectionResetError (the peer reset the connection, or it was given up),
        NotInDeviceMemoryError when `strict`, OSError with the errno that ended the loop (ENXIO:
        the interface is gone) or EBADF after `close()`.
        """
        if max_frags < 1:
            raise ValueError(f"max_frags must be at least 1, not {max_frags}")
        out = _new_frags("struct app_frag[]", max_frags)
        while True:
            count = lib.app_take(self.app.require_open(), self.id, out, max_frags)
            if count > 0:
                return FragBatch(out, count, self)
            if count == -errno.ENODATA:
                return FragBatch(out, 0, self)
            if count < 0:
                raise self.error(count)
            if not self.app.wait(flow=self.id, timeout=timeout):
                raise TimeoutError(f"nothing received from {self.peer} for {timeout} s")

    def gather_into(
        self, buffer: bytearray | memoryview, timeout: float | None = None, *, flags: int = 0
    ) -> int:
        """Copy the next bytes of the stream into a writable buffer, whatever memory they are in.

        Waits for at least one byte; `flags` are recv(2)'s: MSG_WAITALL fills the buffer if it
        can, MSG_PEEK leaves the bytes where they are. Returns how many; 0 is the end of the
        stream, or of the buffer. No tokens are left. Raises as `recv_frags()`, and OSError with
        EADDRNOTAVAIL when they are of a binding whose region this process does not have.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with ffi.from_buffer("uint8_t[]", buffer, require_writable=True) as room:
            while True:
                wait = 0 if timeout is None else _MSG_DONTWAIT
                half = self.app.require_open()
                count = int(lib.app_gather(half, self.id, room, len(room), flags | wait))
                if count >= 0:
                    return count
                if count == -errno.EAGAIN and deadline is not None:
                    left = max(0.0, deadline - time.monotonic())
                    if not self.app.wait(flow=self.id, timeout=left):
                        raise TimeoutError(f"nothing received from {self.peer} for {timeout} s")
                elif count != -errno.EINTR:  # a signal's handler runs here, and may raise
                    raise self.error(count)

    def give_back(self, token: int) -> int:
        """One token, by `dontneed()`."""
        frag = ffi.new("struct app_frag *")
        frag.token = token
        return self._dontneed(frag, 1)

    @property
    def closed(self) -> bool:
        """Has `close()` been called, or `abort()`?"""
        return self._closed

    @property
    def strict(self) -> bool:
        """Refuse, with NotInDeviceMemoryError, bytes that are not in device memory."""
        return self._strict

    @strict.setter
    def strict(self, strict: bool) -> None:
        result = lib.app_set_strict(self.app.require_open(), self.id, strict)
        if result:
            raise self.error(result)
        self._strict = strict

    @property
    def received(self) -> Received:
        """Bytes that have arrived here, those included that nobody has read yet."""
        info = self.info()
        if info is not None:
            counts = info.bytes
            self._received = Received(
                counts.device, counts.linear, counts.data, counts.unbound, counts.head
            )
        return self._received

    @property
    def bytes_device(self) -> int:
        """Bytes received in device memory."""
        return self.received.device

    @property
    def bytes_linear(self) -> int:
        """Bytes received in host memory, of packets that have bytes in device memory too."""
        return self.received.linear

    @property
    def bytes_data(self) -> int:
        """Bytes received in host memory, as is all of their packet."""
        return self.received.data

    def info(self) -> Any:
        """`struct app_conn_info` (agent/api.h), or None when the connection is closed."""
        info = ffi.new("struct app_conn_info *")
        half = self.app.handle
        return None if half is None or lib.app_conn_info(half, self.id, info) else info

    def error(self, result: int) -> OSError:
        """A negative result of app.c as an exception."""
        if result == -errno.EBADF:
            return OSError(errno.EBADF, f"{self!r} is closed")
        if result == -errno.ENODEV:
            info = self.info()
            reason = Reason.DEVICE if info is None else Reason(info.next_reason)
            return NotInDeviceMemoryError(reason, f"{self!r}: {_WHY[reason]}")
        if result == -errno.EADDRNOTAVAIL:
            return OSError(-result, f"{self!r}: no mapping of the region its bytes are in")
        if result == -errno.ESHUTDOWN:
            return BrokenPipeError(errno.EPIPE, f"{self!r} is shut down for sending")
        if error := self.app.gave_up(result):
            return error
        if result == -errno.ENOMEM:
            return failed(result, f"{self!r}: nothing was taken")
        why = os.strerror(-result)
        return ConnectionResetError(-result, f"connection from {self.peer}: {why}")

    def dontneed(self, frags: FragBatch | Iterable[int]) -> int:
        """Give fragments back, by batch or by token. Returns how many tokens were given back.

        What SO_DEVMEM_DONTNEED does in the kernel, without its limit of 1024 a call: tokens that
        the connection does not hold are skipped.
        """
        if isinstance(frags, FragBatch):
            array, count = frags._frags, len(frags)
        else:
            tokens = list(frags)
            array, count = ffi.new("struct app_frag[]", len(tokens)), len(tokens)
            for frag, token in zip(array, tokens, strict=True):
                frag.token = token
        return self._dontneed(array, count)

    def _dontneed(self, array: Any, count: int) -> int:
        result: int = lib.app_dontneed(self.app.require_open(), self.id, array, count)
        if result < 0:
            raise self.error(result)
        return result

    def send(self, data: bytes | bytearray | memoryview, timeout: float | None = None) -> int:
        """Send a reply from host memory. Waits until all of it is queued; returns its length.

        The peer must read: at most 64 KiB may be unacknowledged. Raises TimeoutError (its
        `args[1]` bytes were queued), BrokenPipeError after `shutdown()`, ConnectionResetError.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        done = 0
        with ffi.from_buffer("uint8_t[]", data) as bytes_:
            while done < len(bytes_):
                left = len(bytes_) - done
                sent = lib.app_send(self.app.require_open(), self.id, bytes_ + done, left)
                if sent > 0:
                    done += sent
                elif sent != -errno.EAGAIN:
                    raise self.error(sent)
                elif not self._wait_room(deadline):
                    raise TimeoutError(f"no room for a reply to {self.peer}", done)
        return done

    def _wait_room(self, deadline: float | None) -> bool:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        return self.app.wait(flow=self.id, timeout=left, room=True)

    def shutdown(self) -> None:
        """No more to send (FIN); receiving goes on. Idempotent."""
        result = lib.app_shutdown(self.app.require_open(), self.id)
        if result:
            raise self.error(result)

    def abort(self) -> None:
        """Reset the connection (RST) and close."""
        self._finish(abort=True)

    def close(self) -> None:
        """Done with it: FIN, or RST when there were unread bytes. Outstanding tokens go back.

        Idempotent. Fragments of this connection must not be read any more.
        """
        self._finish(abort=False)

    def _finish(self, *, abort: bool) -> None:
        if self._closed:
            return
        self._received = self.received
        self._closed = True
        self.app.connections.pop(self.id, None)
        if handle := self.app.handle:
            # With the stack gone there is nobody to tell, and nothing to give back.
            lib.app_finish(handle, self.id, abort)


class Listener(Closing):
    """An address on which connections are taken."""

    id: int
    address: Address
    close_first: bool

    def __init__(
        self,
        app: AppHalf,
        id: int,
        address: Address,
        close_first: bool,
        unlisten: Callable[[int], None],
    ):
        """For `Runtime.listen()`."""
        self.id = id
        self.address = address
        self.close_first = close_first
        self.app = app
        self._unlisten = unlisten
        self._closed = False

    def __repr__(self) -> str:
        return f"<Listener {self.address}>"

    def accept(self, timeout: float | None = None) -> Connection:
        """Wait for a connection. `timeout` in seconds: 0 polls. Raises TimeoutError, and
        OSError with EBADF after `close()`."""
        flow = ffi.new("uint32_t *")
        local, peer = ffi.new("struct stack_addr *"), ffi.new("struct stack_addr *")
        while True:
            if self._closed:
                raise OSError(errno.EBADF, f"{self!r} is closed")
            if lib.app_accept(self.app.require_open(), self.id, flow, local, peer) > 0:
                break
            if not self.app.wait(listener=self.id, timeout=timeout):
                raise TimeoutError(f"no connection to {self.address} for {timeout} s")
        conn = Connection(self.app, flow[0], from_stack(local), from_stack(peer), self)
        self.app.connections[conn.id] = conn
        return conn

    def close(self) -> None:
        """Refuse new connections, and reset those not accepted yet; idempotent.

        The port is free again when the last of its connections is gone.
        """
        if self._closed:
            return
        self._closed = True
        self.app.listeners.pop(self.id, None)
        if handle := self.app.handle:
            self._unlisten(self.id)
            lib.app_listener(handle, self.id, 0)
