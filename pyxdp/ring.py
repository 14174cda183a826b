# SPDX-License-Identifier: Apache-2.0
"""The four rings of an AF_XDP socket, for tests and small tools.

A fast loop is C and works on :attr:`Ring.address` with the inline functions of
``<xdp/xsk.h>``. One ring has one user at a time: neither that nor these lock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from devmemtcp.pyxdp._xdp import ffi, lib

#: Descriptor option: the packet goes on in the next descriptor.
XDP_PKT_CONTD = 1 << 0


class Desc(NamedTuple):
    """``struct xdp_desc``: where a packet, or a part of one, lies."""

    addr: int  # bytes from the start of the UMEM
    len: int  # bytes
    options: int = 0  # XDP_PKT_CONTD


class Ring:
    """One ring; it works until its socket is closed, then ``ValueError``."""

    def __init__(self, handle: Any, owner: Any, size: int) -> None:
        self._pointer = handle
        self._owner = owner  # keeps the memory of the struct
        self.size = size  # descriptors

    @property
    def address(self) -> int:
        """Pointer to the ``struct xsk_ring_prod`` or ``struct xsk_ring_cons`` of libxdp."""
        return int(ffi.cast("uintptr_t", self._handle))

    @property
    def _handle(self) -> Any:
        if self._pointer is None:
            raise ValueError("the ring's socket is closed")
        return self._pointer

    def _close(self) -> None:
        self._pointer = self._owner = None


class ProducerRing(Ring):
    """We write, the kernel reads: reserve, fill in, submit."""

    def free(self) -> int:
        """Descriptors that can be reserved now."""
        return int(lib.pyxdp_prod_free(self._handle))

    def reserve(self, count: int) -> int | None:
        """Index of the first of ``count`` descriptors, or None when that many are not free."""
        index = ffi.new("uint32_t *")
        got: int = lib.pyxdp_prod_reserve(self._handle, count, index)
        return index[0] if got == count else None

    def submit(self, count: int) -> None:
        """Let the kernel see ``count`` more of the reserved descriptors."""
        lib.pyxdp_prod_submit(self._handle, count)

    def needs_wakeup(self) -> bool:
        """True when the kernel will not look before it is told to (XDP_USE_NEED_WAKEUP)."""
        return bool(lib.pyxdp_prod_needs_wakeup(self._handle))


class FillRing(ProducerRing):
    """Frames for the kernel to receive into."""

    def set(self, index: int, addr: int) -> None:
        """Reserved descriptor ``index`` (counting on past the end) offers the frame at ``addr``."""
        lib.pyxdp_fill_set(self._handle, index, addr)

    def push(self, addrs: Iterable[int]) -> int:
        """Reserve, set and submit all of ``addrs``, or none; returns how many."""
        wanted = list(addrs)
        first = self.reserve(len(wanted))
        if first is None:
            return 0
        for offset, addr in enumerate(wanted):
            self.set(first + offset, addr)
        self.submit(len(wanted))
        return len(wanted)


class TxRing(ProducerRing):
    """Packets to send."""

    def set(self, index: int, desc: Desc) -> None:
        """Reserved descriptor ``index`` (counting on past the end) sends ``desc``."""
        lib.pyxdp_tx_set(self._handle, index, *desc)

    def push(self, descs: Iterable[Desc]) -> int:
        """Reserve, set and submit all of ``descs``, or none; returns how many."""
        wanted = list(descs)
        first = self.reserve(len(wanted))
        if first is None:
            return 0
        for offset, desc in enumerate(wanted):
            self.set(first + offset, desc)
        self.submit(len(wanted))
        return len(wanted)


class ConsumerRing(Ring):
    """The kernel writes, we read: peek, read, release."""

    def peek(self, count: int) -> tuple[int, int]:
        """(index of the first, number) of the descriptors that are there, at most ``count``."""
        index = ffi.new("uint32_t *")
        got: int = lib.pyxdp_cons_peek(self._handle, count, index)
        return index[0], got

    def release(self, count: int) -> None:
        """Give the kernel back the room of ``count`` descriptors."""
        lib.pyxdp_cons_release(self._handle, count)


class RxRing(ConsumerRing):
    """Packets received."""

    def get(self, index: int) -> Desc:
        """Peeked descriptor ``index`` (counting on past the end)."""
        desc = ffi.new("struct pyxdp_desc *")
        lib.pyxdp_rx_get(self._handle, index, desc)
        return Desc(desc.addr, desc.len, desc.options)

    def pop(self, count: int) -> list[Desc]:
        """Peek, read and release what is there, at most ``count``."""
        first, got = self.peek(count)
        descs = [self.get(first + offset) for offset in range(got)]
        self.release(got)
        return descs


class CompRing(ConsumerRing):
    """Frames that have been sent."""

    def get(self, index: int) -> int:
        """Address in peeked descriptor ``index`` (counting on past the end)."""
        return int(lib.pyxdp_comp_get(self._handle, index))

    def pop(self, count: int) -> list[int]:
        """Peek, read and release what is there, at most ``count``."""
        first, got = self.peek(count)
        addrs = [self.get(first + offset) for offset in range(got)]
        self.release(got)
        return addrs
