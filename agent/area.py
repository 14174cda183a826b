# SPDX-License-Identifier: Apache-2.0
"""Memory that the NIC writes to, and the AF_XDP sockets of the queues that are on it.

An area is a binding's (a region, which the stack cannot read) or the host memory of one queue.
Its sockets are opened one by one and closed all together, for AF_XDP gives a queue back only with
the UMEM that its first socket took over. What waits in order and what applications hold outlives
that: an area without sockets drains.

Call order: `Area(...)` -> `prepare()` -> `open_socket()` per queue -> `release()`, and from there
again or -> `close()` until it is True.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack
from typing import Any

from devmemtcp.agent._loop import ffi, lib
from devmemtcp.agent.datapath_config import PAGE, TX_PAGES, TX_RING, ring_size
from devmemtcp.agent.errors import XdpError
from devmemtcp.agent.head_ranges import HeadRanges
from devmemtcp.agent.netdev import NetNs
from devmemtcp.agent.readability import FileId
from devmemtcp.pyxdp import BindFlags, Umem, XskSocket


class Area:
    """Buffers in the stack and, while queues use them, a UMEM and the queues' sockets."""

    number: int
    """The stack's."""
    dmabuf_id: int
    """Of the binding; 0: host memory."""
    file: FileId | None = None
    """The region's; None: host memory."""
    sockets: dict[int, XskSocket]
    """By queue."""
    buffers: int
    first_head: int
    """In zero-copy mode, the place of buffer 0 in the map `heads`; else 0."""

    def __init__(
        self,
        loop: Any,
        netns: NetNs,
        tx_fd: int,
        buffers: int,
        dmabuf_id: int = 0,
        region_fd: int = -1,
        heads: HeadRanges | None = None,
    ) -> None:
        """Of so many `buffers` of host memory, or (`dmabuf_id` >= 1) of a region.

        `heads`: the sockets are to be zero-copy, and their packets' headers go there.
        Its sockets are made in `netns`. `region_fd` and `tx_fd` must stay open until the last
        `prepare()`. Raises OSError, ENOSPC when the stack has no room for as many buffers more.
        """
        self.dmabuf_id = dmabuf_id
        self.sockets = {}
        self._loop = loop
        self._netns = netns
        self._tx_fd = tx_fd
        self._region_fd = region_fd
        if dmabuf_id:
            self.file = FileId.of(region_fd)
        self._heads = heads
        self._layout = lib.MOSAIC_CHUNKS if heads else lib.MOSAIC_PAIRS
        self.buffers = buffers
        self._umem: Umem | None = None
        self._spare: Umem | None = None
        self._mosaic = ffi.new("struct mosaic *")
        with ExitStack() as undo:
            self._open(undo)
            self._undo = undo.pop_all()

    def _open(self, undo: ExitStack) -> None:
        buffers, dmabuf_id = self.buffers, self.dmabuf_id
        self.first_head = 0
        if self._heads:
            self.first_head = self._heads.take(buffers)
            undo.callback(self._heads.give_back, self.first_head)
        opened = lib.mosaic_open(self._mosaic, self._layout, buffers, TX_PAGES, not dmabuf_id)
        check(opened, f"cannot reserve {buffers} buffers")
        undo.callback(lib.mosaic_close, self._mosaic)
        config = {
            "nr_niovs": buffers,
            "dmabuf_id": dmabuf_id,
            "header_base": self._mosaic.headers,
            "data_base": self._mosaic.data,
            "packed": self._heads is not None,
        }
        tx_base = lib.mosaic_size(self._layout, buffers, 0)
        config = ffi.new("struct stack_area_config *", config)
        result = lib.loop_area_open(self._loop, config, tx_base)
        self.number = check(result, f"the stack has no room for {buffers} buffers more")

    def prepare(self) -> None:
        """Register the memory for the sockets to come; whatever may be lacking shows here."""
        if self._spare is not None:
            return
        m = self._mosaic
        what = f"cannot map {m.size} bytes of UMEM"
        check(lib.mosaic_map(m, self._region_fd, self._tx_fd), what)
        try:
            with self._netns.entered():  # for a UMEM is a socket, and one of the queues'
                self._spare = Umem(
                    int(ffi.cast("uintptr_t", m.base)),
                    m.size,
                    unaligned=self._heads is None,
                    fill_size=ring_size(self.buffers),
                    comp_size=TX_RING,
                )
        finally:
            check(lib.mosaic_seal(m), "cannot seal the UMEM")

    def open_socket(
        self, ifname: str, queue: int, *, rx_ring: int, multi_buffer: bool, patience: float
    ) -> XskSocket:
        """Bind a queue, with an RX ring of so many descriptors.

        A queue that somebody has is tried for `patience` seconds: the kernel takes some 30 ms to
        release one. Raises XdpError, EBUSY when it is not free by then.
        """
        if self._umem is None:
            self.prepare()
            self._umem, self._spare = self._spare, None
        assert self._umem is not None
        flags = BindFlags.USE_NEED_WAKEUP
        flags |= BindFlags.ZEROCOPY if self._heads else BindFlags.COPY
        if multi_buffer:
            flags |= BindFlags.USE_SG
        try:
            with self._netns.entered():
                sock = XskSocket(
                    ifname,
                    queue,
                    self._umem,
                    rx_size=rx_ring,
                    tx_size=TX_RING,
                    bind_flags=flags,
                    busy_timeout=patience,
                )
        except BaseException:
            if not self.sockets:
                self.release()  # a UMEM whose first socket has failed takes no other
            raise
        self.sockets[queue] = sock
        return sock

    def release(self) -> None:
        """Close all sockets: their queues are free soon. What is prepared stays prepared."""
        for sock in self.sockets.values():
            sock.close()
        self.sockets.clear()
        if self._umem is not None:
            self._umem.close()
            self._umem = None

    def unprepare(self) -> None:
        """Give up what was prepared."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def close(self) -> bool:
        """Give the memory back if every buffer is home. False: it drains, call again later."""
        self.release()
        self.unprepare()
        if check(lib.loop_area_close(self._loop, self.number), f"cannot close area {self.number}"):
            return False
        self._undo.close()
        return True

    def unmap(self) -> None:
        """Give the memory back after the loop has been closed, home or not."""
        self._undo.close()

    def probe(self) -> int:
        """The signal that kills a child of this process when it reads the memory; 0: none did."""
        return check(lib.mosaic_read_probe(self._mosaic, 0), "cannot try to read")


def region_buffers(region_fd: int) -> int:
    """How many buffers a region has: a memfd that cannot shrink.

    Raises OSError with EINVAL for any other file. Pages of one of a FUSE file system, for
    instance, would be waited for while they are pinned, for ever if its server so wishes.
    """
    try:
        seals = fcntl.fcntl(region_fd, fcntl.F_GET_SEALS)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise OSError(errno.EINVAL, "the region is not a memfd") from error
    if not seals & fcntl.F_SEAL_SHRINK:
        raise OSError(errno.EINVAL, "the region is not sealed against shrinking (F_SEAL_SHRINK)")
    return os.fstat(region_fd).st_size // PAGE


def check(result: int, what: str) -> int:
    """A call's result. Raises XdpError with `what` for a negative one."""
    if result < 0:
        raise XdpError(-result, what)
    return result
