# SPDX-License-Identifier: Apache-2.0
"""Errors, by whose fault they are, and the library messages that explain them.

``ValueError``/``TypeError``: the caller's; raised before any system call.
:class:`XdpError`: the kernel said no. :class:`Unsupported`: it cannot, here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOMEM
from typing import Any

from devmemtcp.pyxdp._xdp import ffi, lib

# Room for what one call makes libbpf say; a verifier log keeps its end, which holds the reason.
_LOG_SIZE = 128 * 1024

lib.pyxdp_log_install()


class XdpError(OSError):
    """A call on XDP, BPF or AF_XDP failed in the kernel.

    ``errno`` is the kernel's; ``log`` is what libbpf or libxdp had to say about it: the
    verifier's log, the kernel's extended-ack text, or nothing.
    """

    def __init__(self, errno: int, message: str, log: str = "") -> None:
        super().__init__(errno, f"{message}: {os.strerror(errno)}")
        self.log = log

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n{self.log}" if self.log else text


class Unsupported(Exception):
    """This kernel, driver or interface lacks what was asked for; the message says which."""


@dataclass
class Log:
    """Text that a library call produced; complete when the ``with`` block is left."""

    text: str = ""


@contextmanager
def captured_log() -> Iterator[Log]:
    """Collect what libbpf and libxdp print on this thread. Not to be nested."""
    buffer = ffi.new("char[]", _LOG_SIZE)
    log = Log()
    lib.pyxdp_log_begin(buffer, _LOG_SIZE)
    try:
        yield log
    finally:
        lib.pyxdp_log_end()
        log.text = ffi.string(buffer).decode(errors="replace").strip()


def owned(made: Any, free: Any) -> Any:
    """Memory of the C half that ``free`` gives back. Raises :class:`XdpError` (ENOMEM) for NULL."""
    if made == ffi.NULL:
        raise XdpError(ENOMEM, "no memory for the rings' descriptions")
    return ffi.gc(made, free)


def check(result: int, message: str, log: str = "") -> int:
    """Give ``result`` back, or raise :class:`XdpError` when it is a negative errno."""
    if result < 0:
        raise XdpError(-result, message, log)
    return result
