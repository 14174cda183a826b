# SPDX-License-Identifier: Apache-2.0
"""`DevmemSocket`: the methods of `socket.socket`, on flows that land in device memory.

A program that receives with the kernel's devmem TCP differs in how it makes the socket:

    with Region(64 << 20) as region, Runtime("eth1", region) as rt:
        with DevmemSocket(rt) as listener:
            listener.bind(("192.0.2.1", 5201))
            listener.listen()
            conn, peer = listener.accept()
            data, messages, flags, _ = conn.recvmsg(1 << 20, CMSG_SPACE(24) * 256, MSG_SOCK_DEVMEM)

Errors are OSError with the errno that the kernel would give. What sockets can do and these cannot
is in docs/differences.md.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv6Address, ip_address
from typing import Any, Self, TypeAlias

from devmemtcp.agent._loop import ffi, lib
from devmemtcp.agent.closing import Closing
from devmemtcp.agent.devmem_abi import ETOOSMALL, SO_DEVMEM_DONTNEED
from devmemtcp.agent.devmem_frags import ReceivedFrag, received_frags
from devmemtcp.agent.devmem_messages import AncData, host_bytes, messages
from devmemtcp.agent.devmem_options import Options, pack_int, refuse
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.provider import Pressure, Stack, StackProvider
from devmemtcp.agent.socket import Address, Connection, Listener

Buffer: TypeAlias = bytearray | memoryview

_ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
_PORT_TRIES = 16
_new_bytes = ffi.new_allocator(should_clear_after_alloc=False)


class DevmemSocket(Closing):
    """A TCP socket that listens, or that was accepted. It cannot connect.

    `provider`: the interfaces; an unspecified address listens on all of them, SO_BINDTODEVICE
    chooses one. `family`: AF_INET, or AF_INET6, which takes IPv4 too unless IPV6_V6ONLY is set.
    `pressure`: what happens to connections accepted here when the application keeps too many
    tokens, see `Runtime`; None takes the runtime's. `strict`: they refuse bytes that are not in
    device memory, see `Connection.strict`.
    """

    family: socket.AddressFamily
    type = socket.SOCK_STREAM
    proto = socket.IPPROTO_TCP

    def __init__(
        self,
        provider: StackProvider,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,
        proto: int = 0,
        *,
        pressure: Pressure | None = None,
        strict: bool = False,
    ) -> None:
        """Raises OSError (EAFNOSUPPORT, EPROTONOSUPPORT) for anything but TCP over IP."""
        if family not in _ANY:
            raise refuse(errno.EAFNOSUPPORT)
        if type & ~(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) != socket.SOCK_STREAM:
            raise refuse(errno.EPROTONOSUPPORT)
        if proto not in (0, socket.IPPROTO_TCP):
            raise refuse(errno.EPROTONOSUPPORT)
        self.family = socket.AddressFamily(family)
        self._provider = provider
        self._pressure = pressure
        self._strict = strict
        self._options = Options()
        self._device = ""
        self._timeout = 0.0 if type & socket.SOCK_NONBLOCK else socket.getdefaulttimeout()
        self._bound: Address | None = None
        self._listeners: list[Listener] = []
        self._conn: Connection | None = None
        self._ends: tuple[int, int] | None = None
        self._refuses = False  # shut down for accepting
        self._closed = False

    @classmethod
    def _accepted(cls, parent: DevmemSocket, conn: Connection) -> Self:
        made = cls(parent._provider, parent.family, pressure=parent._pressure)
        made._options = parent._options.copy()
        made._device = parent._device
        made._bound = conn.local
        made._conn = conn
        made._apply_options()
        if parent._strict:
            made.strict = True
        return made

    def __repr__(self) -> str:
        what = "closed" if self._closed else f"laddr={self.getsockname()}"
        if self._conn is not None and not self._closed:
            what += f", raddr={self._show(self._conn.peer)}"
        return f"<DevmemSocket family={self.family}, {what}>"

    def __del__(self) -> None:
        if getattr(self, "_closed", True):
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        self.close()

    # ---- addresses ----

    def _parse(self, address: Any) -> Address:
        """(host, port) or (host, port, flowinfo, scope id) as bind() takes them."""
        if not isinstance(address, tuple) or len(address) not in (2, 3, 4):
            raise TypeError(f"an address is (host, port), not {address!r}")
        host, port = address[:2]
        if not 0 <= port <= 65535:
            raise OverflowError("bind(): port must be 0-65535.")
        if not host:
            return _ANY[self.family], port
        found = socket.getaddrinfo(host, port, self.family, socket.SOCK_STREAM)
        ip = ip_address(str(found[0][4][0]).partition("%")[0])
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        return str(ip), port

    def _show(self, address: Address) -> tuple[Any, ...]:
        """As the socket's family has addresses."""
        host, port = address
        if self.family == socket.AF_INET:
            return host, port
        return f"::ffff:{host}" if ":" not in host else host, port, 0, 0

    def bind(self, address: Any) -> None:
        """Choose the address. The port is taken by `listen()`, port 0 as well.

        Raises OSError (EINVAL: bound already, EADDRNOTAVAIL: not an address of ours).
        """
        self._require_open()
        if self._bound is not None:
            raise refuse(errno.EINVAL)
        bound = self._parse(address)
        if not self._stacks(bound[0]):
            raise refuse(errno.EADDRNOTAVAIL)
        self._bound = bound

    def getsockname(self) -> tuple[Any, ...]:
        """The address of this side; all zeros before `bind()`."""
        self._require_open()
        return self._show(self._bound or (_ANY[self.family], 0))

    def getpeername(self) -> tuple[Any, ...]:
        """The address of the other side. Raises OSError (ENOTCONN)."""
        conn = self._connection()
        info = conn.info()
        if info is None or info.error:
            raise refuse(errno.ENOTCONN)
        return self._show(conn.peer)

    def connect(self, address: object) -> None:
        """Cannot be: raises OSError (EOPNOTSUPP)."""
        self._require_open()
        raise OSError(
            errno.EOPNOTSUPP,
            f"cannot connect to {address}: this stack is a receiver, its connections come from "
            "accept(); let the other side connect",
        )

    def connect_ex(self, address: object) -> int:
        """EOPNOTSUPP, see `connect()`."""
        self._require_open()
        return errno.EOPNOTSUPP

    # ---- listening ----

    def _stacks(self, host: str) -> list[Stack]:
        return [
            stack
            for stack in self._provider.stacks()
            if self._device in ("", stack.ifname) and stack.has_address(host)
        ]

    def listen(self, backlog: int = 128) -> None:
        """Take connections; `backlog` of them may wait for `accept()`.

        Raises OSError: EADDRINUSE, EADDRNOTAVAIL, EINVAL (connected), EACCES and so on. A second
        call changes nothing, not even the backlog.
        """
        self._require_open()
        if self._conn is not None:
            raise refuse(errno.EINVAL)
        if self._listeners:
            return
        if self._bound is None:
            self._bound = _ANY[self.family], 0
        host, port = self._bound
        # sk_acceptq_is_full() lets one more in than was asked for.
        waiting = min(max(backlog, 0), socket.SOMAXCONN) + 1
        for tries in range(_PORT_TRIES):
            try:
                self._listeners = self._listen_on(host, port, waiting)
                break
            except OSError as error:
                # A port that was free on one interface may be taken on the next.
                if port or error.errno != errno.EADDRINUSE or tries == _PORT_TRIES - 1:
                    raise
        self._bound = host, self._listeners[0].address[1]
        self._refuses = False
        if self._ends is not None:
            self._watch(*self._ends)

    def _listen_on(self, host: str, port: int, backlog: int) -> list[Listener]:
        hosts = [host]
        if host == "::" and not self._options.v6only:
            hosts.append(_ANY[socket.AF_INET])
        made: list[Listener] = []
        with ExitStack() as undo:
            for one, stack in [(name, stack) for name in hosts for stack in self._stacks(name)]:
                with _as_os_error():
                    listener = stack.listen((one, port), backlog=backlog, pressure=self._pressure)
                made.append(listener)
                undo.callback(made[-1].close)
                port = made[-1].address[1]
            if not made:
                raise refuse(errno.EADDRNOTAVAIL)
            undo.pop_all()
        return made

    def accept(self) -> tuple[DevmemSocket, tuple[Any, ...]]:
        """Wait for a connection: (socket, the other side's address).

        Raises OSError: EINVAL when not listening, EAGAIN, TimeoutError.
        """
        self._require_open()
        if not self._listeners or self._refuses:
            raise refuse(errno.EINVAL)
        timeout = self._options.rcvtimeo if self._timeout is None else self._timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        while (conn := self._accept_one(deadline)) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError("timed out") if self._timeout else refuse(errno.EAGAIN)
        made = DevmemSocket._accepted(self, conn)
        return made, made._show(conn.peer)

    def _accept_one(self, deadline: float | None) -> Connection | None:
        """None: nothing came in time, or another thread was faster."""
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if len(self._listeners) == 1:
            return _accept(self._listeners[0], left)
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        poll.poll(None if left is None else left * 1000)
        for listener in self._listeners:
            if conn := _accept(listener, 0):
                return conn
        return None

    # ---- receiving ----

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0
    ) -> tuple[bytes, AncData, int, None]:
        """As `socket.recvmsg()`: (data, [(level, type, data)], flags, address).

        With MSG_SOCK_DEVMEM, bytes in device memory come as SCM_DEVMEM_DMABUF messages; they
        count toward the length of `data`, in which zeros stand for them behind all linear bytes.
        Raises OSError: EFAULT for such bytes without that flag, ETOOSMALL (525), and so on.
        """
        if bufsize < 0 or ancbufsize < 0:
            raise ValueError("negative buffer size in recvmsg()")
        room = _new_bytes("uint8_t[]", bufsize)
        iov = ffi.new("struct app_iov *", (room, bufsize))
        size, ancdata = self._recvmsg(iov, 1, ancbufsize, flags)
        return host_bytes(room, size, ancdata, flags), ancdata, 0, None

    def recvmsg_into(
        self, buffers: Iterable[Buffer | int], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, AncData, int, None]:
        """As `socket.recvmsg_into()`: (bytes received, messages, flags, address).

        A number instead of a buffer is an iovec of that length without memory (a base of NULL):
        enough for bytes in device memory. EFAULT when others come.
        """
        if ancbufsize < 0:
            raise ValueError("negative buffer size in recvmsg_into()")
        with ExitStack() as held:
            parts = [
                (ffi.NULL, buffer)
                if isinstance(buffer, int)
                else _base_and_size(
                    held.enter_context(ffi.from_buffer("uint8_t[]", buffer, require_writable=True))
                )
                for buffer in buffers
            ]
            iov = ffi.new("struct app_iov[]", parts)
            size, ancdata = self._recvmsg(iov, len(parts), ancbufsize, flags)
        return size, ancdata, 0, None

    def _recvmsg(self, iov: Any, nr_iov: int, ancbufsize: int, flags: int) -> tuple[int, AncData]:
        control = _new_bytes("uint8_t[]", ancbufsize) if ancbufsize else ffi.NULL
        msg = ffi.new("struct app_msg *", (iov, nr_iov, control, ancbufsize))

        def attempt(conn: Connection, flags: int) -> int:
            return int(lib.app_recvmsg(conn.app.require_open(), conn.id, msg, flags))

        size = self._receive(attempt, flags)
        return size, messages(control, msg.controllen) if ancbufsize else []

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """As `socket.recv()`. Raises OSError (EFAULT) for bytes in device memory."""
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        if not bufsize:
            return b""  # Python does not ask the kernel either
        return self.recvmsg(bufsize, 0, flags)[0]

    def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        """As `socket.recv_into()`."""
        if nbytes < 0:
            raise ValueError("negative buffersize in recv_into")
        view = memoryview(buffer).cast("B")
        if nbytes > len(view):
            raise ValueError("buffer too small for requested bytes")
        if not view:
            return 0
        return self.recvmsg_into([view[: nbytes or len(view)]], 0, flags)[0]

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, None]:
        """As `socket.recvfrom()`, which has no address for TCP."""
        return self.recv(bufsize, flags), None

    def recvfrom_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> tuple[int, None]:
        """As `socket.recvfrom_into()`."""
        return self.recv_into(buffer, nbytes, flags), None

    def _deadline(self) -> float | None:
        return None if self._timeout is None else time.monotonic() + self._timeout

    def _receive(self, attempt: Callable[[Connection, int], int], flags: int) -> int:
        """`attempt` until it gives something, within the socket's timeout."""
        conn, deadline = self._connection(), self._deadline()
        if self._timeout is not None:
            flags |= socket.MSG_DONTWAIT
        while True:
            if self._timeout and deadline is not None:
                left = max(0.0, deadline - time.monotonic())
                if not conn.app.wait(flow=conn.id, timeout=left):
                    raise TimeoutError("timed out")
            result = attempt(conn, flags)
            if result >= 0:
                return result
            if result == -errno.EINTR:
                continue  # a signal's handler runs here, and may raise
            if result != -errno.EAGAIN or not self._timeout:
                raise _error(conn, result)

    # ---- the comfortable way ----

    def frags(self, timeout: float | None = None) -> Iterator[ReceivedFrag]:
        """Iterate over what is received, to the end of the stream: see `received_frags()`."""
        return received_frags(self._connection(), timeout)

    def gather_into(self, buffer: Buffer, flags: int = 0) -> int:
        """Copy the next bytes, whatever memory they are in, as recv_into() would.

        `flags` are recv(2)'s. No tokens are left. Raises OSError (EADDRNOTAVAIL) when they are of
        a binding whose region this process does not have.
        """
        with ffi.from_buffer("uint8_t[]", buffer, require_writable=True) as room:

            def attempt(conn: Connection, flags: int) -> int:
                half = conn.app.require_open()
                return int(lib.app_gather(half, conn.id, room, len(room), flags))

            return self._receive(attempt, flags)

    @property
    def connection(self) -> Connection:
        """What the socket has of the stack. Raises OSError (ENOTCONN)."""
        return self._connection()

    @property
    def bytes_device(self) -> int:
        """Bytes received in device memory."""
        return self._connection().bytes_device

    @property
    def bytes_linear(self) -> int:
        """Bytes received in host memory, of packets that have bytes in device memory too."""
        return self._connection().bytes_linear

    @property
    def bytes_data(self) -> int:
        """Bytes received in host memory, as is all of their packet."""
        return self._connection().bytes_data

    @property
    def strict(self) -> bool:
        """Refuse, with NotInDeviceMemoryError, bytes that are not in device memory."""
        return self._strict

    @strict.setter
    def strict(self, strict: bool) -> None:
        if self._conn is not None:
            self._conn.strict = strict
        self._strict = strict

    # ---- sending ----

    def send(self, data: bytes | Buffer, flags: int = 0) -> int:
        """As `socket.send()`, from host memory. Raises OSError (EPIPE, EAGAIN, TimeoutError)."""
        with ffi.from_buffer("uint8_t[]", data) as bytes_:
            return self._send(bytes_, 0, flags, self._deadline())

    def sendall(self, data: bytes | Buffer, flags: int = 0) -> None:
        """As `socket.sendall()`: the timeout is for all of it."""
        deadline = self._deadline()
        with ffi.from_buffer("uint8_t[]", data) as bytes_:
            done = self._send(bytes_, 0, flags, deadline)
            while done < len(bytes_):
                done += self._send(bytes_, done, flags, deadline)

    def sendmsg(
        self, buffers: Iterable[bytes | Buffer], ancdata: Iterable[object] = (), flags: int = 0
    ) -> int:
        """As `socket.sendmsg()`. There are no messages to send with it: OSError (EINVAL)."""
        if list(ancdata):
            raise refuse(errno.EINVAL)
        return self.send(b"".join(buffers), flags)

    def _send(self, data: Any, done: int, flags: int, deadline: float | None) -> int:
        """One send(2) of data[done:]. With a timeout, it waits for room first and then does not."""
        self._require_open()
        if self._conn is None:
            raise refuse(errno.EPIPE)
        conn, sent, size = self._conn, 0, len(data) - done
        if self._timeout and not _room(conn, deadline):
            raise TimeoutError("timed out")
        if self._timeout is None and not flags & socket.MSG_DONTWAIT:
            limit = self._options.sndtimeo
            deadline = None if limit is None else time.monotonic() + limit
        else:
            deadline = time.monotonic()
        while True:
            half = conn.app.require_open()
            result = int(lib.app_send(half, conn.id, data + done + sent, size - sent))
            if result < 0 and result != -errno.EAGAIN:
                if sent:
                    return sent  # the next call finds the error
                raise self._send_error(conn, result)
            sent += max(0, result)
            if sent == size or not _room(conn, deadline):
                break
        if size and not sent:
            raise refuse(errno.EAGAIN)
        return sent

    def _send_error(self, conn: Connection, result: int) -> OSError:
        """sk_stream_error(): a reset is told once, and is EPIPE from then on."""
        if result == -errno.ESHUTDOWN:
            return refuse(errno.EPIPE)
        if error := conn.app.gave_up(result):
            return error
        if result == -errno.EBADF:
            return refuse(errno.EBADF)
        return refuse(lib.app_error(conn.app.require_open(), conn.id) or errno.EPIPE)

    def shutdown(self, how: int) -> None:
        """As `socket.shutdown()`. Raises OSError (ENOTCONN, EINVAL)."""
        self._require_open()
        if how not in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
            raise refuse(errno.EINVAL)
        if self._listeners:
            if how != socket.SHUT_WR:
                self._refuses = True
                self._stop_listening()
            return
        conn = self._connection()
        half = conn.app.require_open()
        info = conn.info()
        if info is None or info.error:
            raise refuse(errno.ENOTCONN)
        if how in (socket.SHUT_RD, socket.SHUT_RDWR):
            lib.app_shutdown_read(half, conn.id)
        if how in (socket.SHUT_WR, socket.SHUT_RDWR):
            conn.shutdown()

    # ---- options ----

    def setsockopt(
        self, level: int, optname: int, value: int | bytes | Buffer | None, optlen: int = 0
    ) -> int:
        """As `socket.setsockopt()`, and returns what the system call does.

        That is how many fragments SO_DEVMEM_DONTNEED gave back, and 0 for other options. With
        None for a value, a null pointer is passed, and `optlen`. Raises OSError.
        """
        self._require_open()
        data = pack_int(value) if isinstance(value, int) else bytes(value or b"")
        size = optlen if value is None else len(data)
        if (level, optname) == (socket.SOL_SOCKET, socket.SO_BINDTODEVICE):
            self._bind_to_device(data)
            return 0
        if (level, optname) == (socket.SOL_SOCKET, SO_DEVMEM_DONTNEED):
            return self._dontneed(ffi.NULL if value is None else data, size)
        if size < ffi.sizeof("int"):
            raise refuse(errno.EINVAL)
        if value is None:
            raise refuse(errno.EFAULT)
        self._options.set(self.family, level, optname, data)
        self._apply_options()
        return 0

    def _dontneed(self, optval: Any, optlen: int) -> int:
        half, flow = None, 0
        if self._conn is not None:
            half, flow = self._conn.app.require_open(), self._conn.id
        freed = int(lib.app_devmem_dontneed(half or ffi.NULL, flow, optval, optlen))
        if freed < 0:
            raise refuse(-freed)
        return freed

    def _bind_to_device(self, name: bytes) -> None:
        device = os.fsdecode(name.partition(b"\0")[0])
        if device and device not in {stack.ifname for stack in self._provider.stacks()}:
            raise refuse(errno.ENODEV)
        self._device = device

    def _apply_options(self) -> None:
        if self._conn is None:
            return
        half, flow, options = self._conn.app.require_open(), self._conn.id, self._options
        timeo = -1 if options.rcvtimeo is None else math.ceil(options.rcvtimeo * 1000)
        options.rcvlowat = max(1, lib.app_set_rcvlowat(half, flow, options.rcvlowat))
        lib.app_set_rcvtimeo(half, flow, timeo)

    def getsockopt(self, level: int, optname: int, buflen: int | None = None) -> int | bytes:
        """As `socket.getsockopt()`: an int, or the first `buflen` bytes. Raises OSError."""
        self._require_open()
        if buflen is not None and not 0 < buflen <= 1024:
            raise OSError("getsockopt buflen out of range")
        value = self._option(level, optname)
        if buflen is not None:
            return value[:buflen]
        return int.from_bytes(value[:4], sys.byteorder, signed=True)

    def _option(self, level: int, optname: int) -> bytes:
        if level != socket.SOL_SOCKET:
            return self._options.get(self.family, level, optname)
        match optname:
            case socket.SO_TYPE:
                return pack_int(socket.SOCK_STREAM)
            case socket.SO_PROTOCOL:
                return pack_int(socket.IPPROTO_TCP)
            case socket.SO_DOMAIN:
                return pack_int(self.family)
            case socket.SO_ACCEPTCONN:
                return pack_int(bool(self._listeners))
            case socket.SO_BINDTODEVICE:
                return os.fsencode(self._device) + b"\0" if self._device else b""
            case socket.SO_ERROR:
                if self._conn is None:
                    return pack_int(0)
                half = self._conn.app.require_open()
                return pack_int(max(0, lib.app_error(half, self._conn.id)))
        return self._options.get(self.family, level, optname)

    def settimeout(self, timeout: float | None) -> None:
        """As `socket.settimeout()`: seconds, 0 does not block, None waits for ever."""
        if timeout is not None and timeout < 0:
            raise ValueError("Timeout value out of range")
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        """See `settimeout()`."""
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        """As `socket.setblocking()`."""
        self._timeout = None if flag else 0.0

    def getblocking(self) -> bool:
        """As `socket.getblocking()`."""
        return self._timeout != 0

    # ---- the descriptor ----

    def fileno(self) -> int:
        """A descriptor for select(), poll(), epoll and event loops; -1 when closed.

        It shows what the socket would: readable, writable, hung up, level-triggered. It is for
        nothing else: nothing can be read from or written to it.
        """
        if self._closed:
            return -1
        if self._ends is None:
            near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            with near, far:
                near.setblocking(False)
                far.setblocking(False)
                self._watch(near.fileno(), far.fileno())
                self._ends = near.detach(), far.detach()
        return self._ends[0]

    def _watch(self, near: int, far: int) -> None:
        """Once there is something to show."""
        watched: list[tuple[Any, int, int]] = [
            (listener.app, 0, listener.id) for listener in self._listeners
        ]
        if self._conn is not None:
            watched.append((self._conn.app, self._conn.id, -1))
        for app, flow, listener in watched:
            result = lib.app_watch(app.require_open(), flow, listener, near, far)
            if result:
                raise refuse(-result)

    # ---- the end ----

    def _require_open(self) -> None:
        if self._closed:
            raise refuse(errno.EBADF)

    def _connection(self) -> Connection:
        self._require_open()
        if self._conn is None:
            raise refuse(errno.ENOTCONN)
        return self._conn

    def _stop_listening(self) -> None:
        while self._listeners:
            self._listeners.pop().close()

    def detach(self) -> int:
        """Cannot be: raises OSError (EOPNOTSUPP). The connection is not the descriptor's."""
        raise OSError(errno.EOPNOTSUPP, "the descriptor is not the connection: it only shows it")

    def close(self) -> None:
        """As `socket.close()`; idempotent. Tokens that are still out go back at once.

        FIN, or RST when there were unread bytes or SO_LINGER is on with a time of 0.
        """
        if self._closed:
            return
        self._closed = True
        self._stop_listening()
        if self._conn is not None:
            if self._options.linger == (1, 0):
                self._conn.abort()
            else:
                self._conn.close()
        ends, self._ends = self._ends, None
        for end in ends or ():
            os.close(end)


def _room(conn: Connection, deadline: float | None) -> bool:
    """Wait for room for a reply; False when there is none in time."""
    left = None if deadline is None else deadline - time.monotonic()
    return (left is None or left > 0) and conn.app.wait(flow=conn.id, timeout=left, room=True)


def _accept(listener: Listener, timeout: float | None) -> Connection | None:
    try:
        return listener.accept(timeout)
    except TimeoutError:
        return None


@contextmanager
def _as_os_error() -> Iterator[None]:
    """What the caller of a system call expects."""
    try:
        yield
    except ConfigError as error:
        raise OSError(error.errno, str(error)) from error


def _error(conn: Connection, result: int) -> OSError:
    if result == -ETOOSMALL:
        return OSError(ETOOSMALL, "the control buffer has no room for one message (ETOOSMALL)")
    if result in (-errno.ENODEV, -errno.EADDRNOTAVAIL, -errno.EPIPE, -errno.EPROTO):
        return conn.error(result)
    return refuse(-result)


def _base_and_size(buffer: Any) -> tuple[Any, int]:
    return buffer, len(buffer)
