# SPDX-License-Identifier: Apache-2.0
"""libxdp's dispatcher: several XDP programs on one interface."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from devmemtcp.pyxdp._xdp import ffi, lib
from devmemtcp.pyxdp.errors import Unsupported, XdpError, captured_log
from devmemtcp.pyxdp.program import Program
from devmemtcp.pyxdp.resource import Resource

#: Name of the program that libxdp puts on an interface, and by which it knows it again.
DISPATCHER_NAME = "xdp_dispatcher"

_CHANGES_PACKETS = "Extension program changes packet data, while original does not"
"""The verifier of Linux 6.13, and of stable kernels before it: bpf_check_attach_target()."""


@dataclass(frozen=True)
class DispatcherSupport:
    """Whether the dispatcher can be used here; true or false as such."""

    supported: bool
    reason: str  # why not; "" when it can

    def __bool__(self) -> bool:
        return self.supported


def dispatcher_supported() -> DispatcherSupport:
    """Try what libxdp's dispatcher needs: function replacement (freplace), and a bpffs.

    freplace is tried once a process by loading and linking a tiny program; the bpffs (at
    ``$LIBXDP_BPFFS``, or /sys/fs/bpf) is looked for each time. Nothing is attached.
    """
    reason = _freplace_refusal() or _bpffs_refusal()
    return DispatcherSupport(not reason, reason)


@cache
def _freplace_refusal() -> str:
    """Why the kernel does not replace functions of a loaded program, or ""."""
    image = files(__package__).joinpath("freplace.bpf.o").read_bytes()
    with captured_log():  # libbpf's words say no more than the errno
        result = lib.pyxdp_freplace_probe(image, len(image))
    return f"freplace: {os.strerror(-result)}" if result else ""


def _bpffs_refusal() -> str:
    """Why libxdp cannot pin what makes up a dispatcher, or ""."""
    place = os.environ.get("LIBXDP_BPFFS", "/sys/fs/bpf")
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    if any(kind == "bpf" and place == at for _, at, kind, *_ in mounts):
        return ""
    return f"no bpffs at {place} (mount -t bpf bpf {place})"


class DispatcherSlot(Resource):
    """One program's place in the dispatcher of an interface.

    libxdp pins it: it stays when the process dies without :meth:`close`.
    """

    def __init__(self, program: Program, ifindex: int, generic: bool) -> None:
        """Load ``program`` once more, as a replacement function on the same maps, and attach it.

        Raises :class:`Unsupported` where :func:`dispatcher_supported` says no, and where this
        libxdp's dispatcher takes no program that changes packets; else :class:`XdpError`.
        """
        support = dispatcher_supported()
        if not support:
            raise Unsupported(f"libxdp's dispatcher cannot be used: {support.reason}")
        self._ifindex = ifindex
        self._generic = generic
        self._object = program.object.clone(program.name)
        handle = ffi.new("struct xdp_program **")
        with captured_log() as log:
            result = lib.pyxdp_dispatcher_attach(
                handle, self._object._handle, program.name.encode(), ifindex, generic
            )
        if result:
            self._object.close()
            if _CHANGES_PACKETS in log.text:
                raise Unsupported(
                    f"{program.name} changes packets, which libxdp's dispatcher does not say of "
                    "itself, and this kernel insists on it: a libxdp after 1.5.4 does (xdp-tools "
                    "#509)"
                )
            message = f"cannot add {program.name} to the dispatcher of interface {ifindex}"
            raise XdpError(-result, message, log.text)
        self._handle: Any = handle[0]

    @property
    def closed(self) -> bool:
        """True after :meth:`close`."""
        return self._handle is None

    def close(self) -> None:
        """Take the program out; the dispatcher goes with its last program."""
        if self.closed:
            return
        handle, self._handle = self._handle, None
        with captured_log() as log:
            result = lib.pyxdp_dispatcher_detach(handle, self._ifindex, self._generic)
        lib.xdp_program__close(handle)
        self._object.close()
        if result and result != -errno.ENOENT:  # ENOENT: somebody has removed it already
            message = f"cannot leave the dispatcher of interface {self._ifindex}"
            raise XdpError(-result, message, log.text)
