# SPDX-License-Identifier: Apache-2.0
"""UMEM: the memory that AF_XDP sockets receive into and send from."""

from __future__ import annotations

import errno
import mmap
import os
import resource as rlimits
from dataclasses import dataclass
from typing import Any, Self

from devmemtcp.pyxdp._xdp import ffi, lib
from devmemtcp.pyxdp.errors import Unsupported, XdpError, check, owned
from devmemtcp.pyxdp.resource import Resource

_PAGE = mmap.PAGESIZE
_MIN_FRAME = 2048  # XDP_UMEM_MIN_CHUNK_SIZE
_PACKET_HEADROOM = 256  # XDP_PACKET_HEADROOM

_QueueKey = tuple[int, int, int]  # network namespace (inode), ifindex, queue


@dataclass
class _QueueRings:
    rings: Any  # struct pyxdp_queue_rings *
    users: int = 0  # sockets on this queue


def check_ring_size(what: str, size: int) -> None:
    """``ValueError`` unless ``size`` is what the kernel takes for a ring: a power of two."""
    if size < 1 or size & (size - 1):
        raise ValueError(f"{what} must be a power of two, not {size}")


class Umem(Resource):
    """A range of the process's memory, registered for AF_XDP (XDP_UMEM_REG).

    Several :class:`XskSocket` may use one Umem; each (interface, queue) gets a fill and a
    completion ring of the sizes given here. Close the sockets first: :meth:`close` raises
    EBUSY before that.

    The first socket takes over the Umem's own descriptor (libxdp does so, because XDP_SHARED_UMEM
    refers to it). Closing that socket therefore releases its rings, but its queue stays bound
    until the Umem is closed; and once all its sockets are closed, a Umem takes no new ones.
    """

    def __init__(
        self,
        address: int,
        size: int,
        *,
        frame_size: int = 4096,
        headroom: int = 0,
        unaligned: bool = False,
        fill_size: int = 2048,
        comp_size: int = 256,
    ) -> None:
        """Register ``size`` bytes at ``address``, which the caller mapped and keeps mapped.

        The kernel pins the pages behind the mapping: a later ``mprotect`` does not stop it.
        ``frame_size`` (bytes, 2048 to a page) is a power of two, except with ``unaligned``
        (XDP_UMEM_UNALIGNED_CHUNK_FLAG: a frame may begin anywhere). ``headroom`` bytes are kept
        free before received data, besides the 256 that XDP always keeps. ``fill_size`` and
        ``comp_size`` are descriptors.

        Raises ``ValueError`` for sizes that cannot be, :class:`XdpError` for what the kernel
        refuses (ENOBUFS: more than RLIMIT_MEMLOCK without CAP_IPC_LOCK), :class:`Unsupported`
        on a kernel without AF_XDP.
        """
        self._check(address, size, frame_size, headroom, unaligned)
        check_ring_size("fill_size", fill_size)
        check_ring_size("comp_size", comp_size)
        self.address = address
        self.size = size
        self.frame_size = frame_size
        self.headroom = headroom
        self.unaligned = unaligned
        self.fill_size = fill_size
        self.comp_size = comp_size
        self._memory: mmap.mmap | None = None
        self._users = 0  # open sockets
        self._spent = False  # libxdp has given the descriptor to a socket, or tried to
        self._bind_flags: int | None = None  # those of the first socket, inherited by the others
        self._queues: dict[_QueueKey, _QueueRings] = {}
        self._first_rings = _new_queue_rings()
        config = ffi.new(
            "struct pyxdp_umem_config *", (fill_size, comp_size, frame_size, headroom, unaligned)
        )
        handle = ffi.new("struct xsk_umem **")
        result = lib.pyxdp_umem_create(handle, address, size, self._first_rings, config)
        if result:
            raise self._refused(-result)
        self._handle: Any = handle[0]

    @classmethod
    def allocate(
        cls,
        size: int,
        *,
        frame_size: int = 4096,
        headroom: int = 0,
        unaligned: bool = False,
        fill_size: int = 2048,
        comp_size: int = 256,
    ) -> Self:
        """A Umem on ``size`` bytes of fresh anonymous memory, which :attr:`memory` shows."""
        memory = mmap.mmap(-1, size)
        umem = cls(
            int(ffi.cast("uintptr_t", ffi.from_buffer(memory))),
            size,
            frame_size=frame_size,
            headroom=headroom,
            unaligned=unaligned,
            fill_size=fill_size,
            comp_size=comp_size,
        )
        umem._memory = memory
        return umem

    def __repr__(self) -> str:
        return f"<Umem {self.size} bytes at {self.address:#x}>"

    @property
    def closed(self) -> bool:
        """True after :meth:`close`."""
        return self._handle is None

    @property
    def fd(self) -> int:
        """Descriptor of the AF_XDP socket that the memory is registered with."""
        return int(lib.xsk_umem__fd(self._require_open()))

    @property
    def memory(self) -> memoryview:
        """The registered bytes, indexed by UMEM address. Do not use it once they are unmapped."""
        if self._memory is not None:
            return memoryview(self._memory)
        self._require_open()
        return memoryview(ffi.buffer(ffi.cast("char *", self.address), self.size))

    def close(self) -> None:
        """Unregister, and unbind the first socket's queue. EBUSY while sockets are open."""
        if self.closed:
            return
        if self._users:
            raise XdpError(errno.EBUSY, f"close the {self._users} socket(s) of {self!r} first")
        check(lib.xsk_umem__delete(self._handle), f"cannot close {self!r}")
        self._handle = None
        self._memory = None

    def _require_open(self) -> Any:
        if self._handle is None:
            raise ValueError(f"{self!r} is closed")
        return self._handle

    @staticmethod
    def _check(address: int, size: int, frame_size: int, headroom: int, unaligned: bool) -> None:
        """The conditions of the kernel's xdp_umem_reg(), each with a name of its own."""
        if address <= 0 or address % _PAGE:
            raise ValueError(f"address {address:#x} is not on a page of {_PAGE} bytes")
        if not _MIN_FRAME <= frame_size <= _PAGE:
            raise ValueError(f"frame_size must be {_MIN_FRAME} to {_PAGE} bytes, not {frame_size}")
        if not unaligned and frame_size & (frame_size - 1):
            raise ValueError(f"frame_size must be a power of two, not {frame_size}")
        if size <= 0 or (not unaligned and size % frame_size):
            raise ValueError(f"size must be a multiple of {frame_size} bytes, not {size}")
        if not 0 <= headroom < frame_size - _PACKET_HEADROOM:
            raise ValueError(f"headroom leaves no room in frames of {frame_size} bytes: {headroom}")

    def _refused(self, code: int) -> Exception:
        if code == errno.EAFNOSUPPORT:
            return Unsupported("this kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS)")
        if code in (errno.EPERM, errno.EACCES):
            return XdpError(code, "AF_XDP sockets need CAP_NET_RAW")
        message = f"cannot register {self.size} bytes of UMEM"
        if code == errno.ENOBUFS:
            limit = rlimits.getrlimit(rlimits.RLIMIT_MEMLOCK)[0]
            message += (
                f": over the {limit} bytes that RLIMIT_MEMLOCK lets this user lock; raise it"
                " (ulimit -l), or run with CAP_IPC_LOCK"
            )
        return XdpError(code, message)

    def _take(self, ifindex: int, queue: int, bind_flags: int) -> tuple[_QueueKey, Any]:
        """Rings for one more socket on this queue; give them back with :meth:`_give_back`."""
        self._require_open()
        if self._spent and not self._users:
            raise ValueError(f"{self!r} has had its sockets: make a new one for others")
        if self._bind_flags not in (None, bind_flags):
            raise ValueError(
                f"all sockets on a Umem have the first one's bind flags ({self._bind_flags:#x})"
            )
        # An interface index means something in its network namespace only.
        key = (os.stat("/proc/thread-self/ns/net").st_ino, ifindex, queue)
        if key not in self._queues:
            rings = _new_queue_rings() if self._spent else self._first_rings
            self._queues[key] = _QueueRings(rings)
        self._queues[key].users += 1
        self._spent = True
        self._users += 1
        self._bind_flags = bind_flags
        return key, self._queues[key].rings

    def _give_back(self, key: _QueueKey) -> None:
        """A socket is gone. libxdp unmaps the rings of a queue with its last socket."""
        self._users -= 1
        self._queues[key].users -= 1
        if not self._queues[key].users:
            del self._queues[key]


def _new_queue_rings() -> Any:
    """A zeroed pair of fill and completion ring, freed with its last reference."""
    return owned(lib.pyxdp_queue_rings_new(), lib.pyxdp_queue_rings_free)
