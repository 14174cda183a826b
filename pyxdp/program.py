# SPDX-License-Identifier: Apache-2.0
"""XDP programs, and running one on a packet of one's own."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devmemtcp.pyxdp._xdp import ffi, lib
from devmemtcp.pyxdp.errors import check

if TYPE_CHECKING:
    from devmemtcp.pyxdp.object import BpfObject

#: ``flags`` of :meth:`Program.test_run`: packets really go where the program sends them
#: (BPF_F_TEST_XDP_LIVE_FRAMES, kernel 5.18).
LIVE_FRAMES = 1 << 1

XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = range(5)

# Bytes beyond the input that a program may add: adjust_head and adjust_meta have 256 of
# headroom, adjust_tail at most the rest of a page.
_GROWTH = 4096 + 256


@dataclass(frozen=True)
class XdpContext:
    """``struct xdp_md``, its pointers counted in bytes from the start of the buffer.

    As input, the first ``data`` bytes of the buffer are metadata in front of the packet, and
    ``data_end`` None is the end of the buffer. As output, the buffer begins at ``data_meta``
    (0), the packet at ``data``, and the linear part of the packet ends at ``data_end``.
    A queue needs an interface that has it; without one only queue 0 is taken.
    """

    data: int = 0
    data_end: int | None = None
    data_meta: int = 0
    ingress_ifindex: int = 0
    rx_queue_index: int = 0
    egress_ifindex: int = 0

    _LAYOUT = struct.Struct("=6I")

    def pack(self, size: int) -> bytes:
        """The bytes of ``struct xdp_md`` for a buffer of ``size`` bytes."""
        end = size if self.data_end is None else self.data_end
        return self._LAYOUT.pack(
            self.data,
            end,
            self.data_meta,
            self.ingress_ifindex,
            self.rx_queue_index,
            self.egress_ifindex,
        )

    @classmethod
    def unpack(cls, raw: bytes) -> XdpContext:
        """From the bytes of a ``struct xdp_md``."""
        data, end, meta, ingress, queue, egress = cls._LAYOUT.unpack(raw)
        return cls(data, end, meta, ingress, queue, egress)


@dataclass(frozen=True)
class TestRun:
    """What came of a test run.

    ``data`` is the buffer as the kernel gives it: it begins with the metadata, if there was a
    context to say so (``ctx.data`` bytes of it); :attr:`metadata` and :attr:`packet` are its
    two parts. With live frames there is neither data nor context.
    """

    __test__ = False  # for pytest, which takes the name for a test's

    retval: int  # XDP action
    data: bytes
    ctx: XdpContext | None
    duration_ns: int  # mean of one repetition

    @property
    def metadata(self) -> bytes:
        """The bytes from ``data_meta`` to ``data``."""
        return self.data[: self.ctx.data] if self.ctx else b""

    @property
    def packet(self) -> bytes:
        """The bytes from ``data`` on, all fragments together."""
        return self.data[self.ctx.data :] if self.ctx else self.data


class Program:
    """A program of an object. It lives as long as its :class:`BpfObject`."""

    def __init__(self, handle: Any, owner: BpfObject) -> None:
        self._handle = handle
        self._owner = owner
        self.name: str = ffi.string(lib.bpf_program__name(handle)).decode()
        self.section: str = ffi.string(lib.bpf_program__section_name(handle)).decode()
        #: True when it takes packets of several buffers (section ``xdp.frags``).
        self.frags = bool(lib.pyxdp_program_has_frags(handle))

    def __repr__(self) -> str:
        return f"<Program {self.name!r} in {self._owner.name!r}>"

    @property
    def object(self) -> BpfObject:
        """The object this program came from."""
        return self._owner

    @property
    def fd(self) -> int:
        """File descriptor; ``ValueError`` when the program is not loaded or was closed."""
        if self._owner.closed:
            raise ValueError(f"program {self.name}: its object is closed")
        fd: int = lib.bpf_program__fd(self._handle)
        if fd < 0:
            raise ValueError(f"program {self.name} is not loaded")
        return fd

    def size(self) -> tuple[int, int]:
        """Bytes in the kernel: as verified, with dead code removed, and as machine code.

        The latter is 0 without a JIT. ``struct bpf_prog_info``: xlated_prog_len, jited_prog_len.
        """
        sizes = ffi.new("uint32_t[2]")
        result = lib.pyxdp_program_size(self.fd, sizes, sizes + 1)
        check(result, f"cannot ask for the size of {self.name}")
        return sizes[0], sizes[1]

    def test_run(
        self,
        data: bytes,
        *,
        ctx: XdpContext | None = None,
        repeat: int = 1,
        flags: int = 0,
        data_size_out: int | None = None,
        cpu: int = 0,
        batch_size: int = 0,
    ) -> TestRun:
        """Run the program on ``data`` (bpf(2), BPF_PROG_TEST_RUN; ``bpf_prog_test_run_xdp()``).

        ``data`` is the metadata, if ``ctx`` says so, and the packet: at least 14 bytes. What one
        page does not hold (about 3.5 KiB) comes as fragments, whether or not the program is an
        ``xdp.frags`` one: the kernel does not ask here. With ``repeat`` the output is that of the
        last run on the same, already changed, buffer. ``data_size_out`` is the room for the
        output, by default enough for any program. ``flags`` may be :data:`LIVE_FRAMES`: then
        ``batch_size`` is packets a batch and there is no output. Raises :class:`XdpError`: EINVAL
        for a packet too short or long or a context that does not fit it, ENOSPC for too little
        room.
        """
        live = bool(flags & LIVE_FRAMES)
        room = len(data) + _GROWTH if data_size_out is None else data_size_out
        source = ffi.from_buffer(data)
        output = ffi.NULL if live else ffi.new("char[]", room)
        raw_ctx = (ctx or XdpContext()).pack(len(data))
        ctx_in = ffi.from_buffer(raw_ctx)
        ctx_out = ffi.NULL if live else ffi.new("char[]", len(raw_ctx))
        run = ffi.new(
            "struct pyxdp_test_run *",
            {
                "data_in": source,
                "data_size_in": len(data),
                "data_out": output,
                "data_size_out": 0 if live else room,
                "ctx_in": ctx_in,
                "ctx_size_in": len(raw_ctx),
                "ctx_out": ctx_out,
                "ctx_size_out": 0 if live else len(raw_ctx),
                "repeat": repeat,
                "flags": flags,
                "cpu": cpu,
                "batch_size": batch_size,
            },
        )
        check(lib.pyxdp_test_run(self.fd, run), f"cannot run {self.name} on {len(data)} bytes")
        return TestRun(
            retval=run.retval,
            data=b"" if live else bytes(ffi.buffer(output, run.data_size_out)),
            ctx=None if live else XdpContext.unpack(bytes(ffi.buffer(ctx_out))),
            duration_ns=run.duration,
        )
