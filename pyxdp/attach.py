# SPDX-License-Identifier: Apache-2.0
"""Attach a program to an interface.

What is promised, in this order: nothing of somebody else's is replaced; what we attached, and
only that, is detached again; and as far as the kernel lets us, also when the process is killed.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

from devmemtcp.pyxdp._xdp import ffi, lib
from devmemtcp.pyxdp.dispatcher import DISPATCHER_NAME, DispatcherSlot, dispatcher_supported
from devmemtcp.pyxdp.errors import Unsupported, XdpError, captured_log, check
from devmemtcp.pyxdp.interface import resolve
from devmemtcp.pyxdp.program import Program
from devmemtcp.pyxdp.resource import Resource

_XDP_FLAGS_SKB_MODE = 1 << 1
_XDP_FLAGS_DRV_MODE = 1 << 2
_BPF_OBJ_NAME_LEN = 16

Kind = Literal["link", "netlink", "dispatcher"]


class Mode(Enum):
    """Where the program runs."""

    AUTO = "auto"  # native, or generic where the driver refuses
    NATIVE = "native"  # in the driver (XDP_FLAGS_DRV_MODE)
    GENERIC = "generic"  # in the stack, any driver (XDP_FLAGS_SKB_MODE)


class Sharing(Enum):
    """Whether other XDP programs may run on the same interface."""

    AUTO = "auto"  # the dispatcher if the interface has one already, else exclusive
    DISPATCHER = "dispatcher"  # through libxdp's dispatcher, for which freplace is needed
    EXCLUSIVE = "exclusive"  # the only program


@dataclass(frozen=True)
class AttachedProgram:
    """A program found on an interface."""

    id: int
    name: str  # up to 15 bytes of it; "" if the caller may not know
    mode: Mode  # NATIVE or GENERIC; offloaded programs count as native
    link_id: int | None = None  # of the bpf_link that holds it; None: none, or not to be known

    def __str__(self) -> str:
        return f"{self.name or 'a program'} (id {self.id}, {self.mode.value})"


def attached_programs(interface: str | int) -> list[AttachedProgram]:
    """The XDP programs on an interface: at most one of each mode. Needs no privilege."""
    ifindex, ifname = resolve(interface)
    raw = ffi.new("struct pyxdp_attached *")
    check(lib.pyxdp_query(ifindex, raw), f"cannot ask what XDP program is on {ifname}")
    found = (
        (raw.native_id, Mode.NATIVE),
        (raw.generic_id, Mode.GENERIC),
        (raw.offload_id, Mode.NATIVE),
    )
    return [
        AttachedProgram(prog, _program_name(prog), where, _link_of(prog, ifindex))
        for prog, where in found
        if prog
    ]


def _link_of(program_id: int, ifindex: int) -> int | None:
    link_id = ffi.new("uint32_t *")
    return None if lib.pyxdp_link_of(program_id, ifindex, link_id) else int(link_id[0])


def _program_name(program_id: int) -> str:
    name = ffi.new("char[]", _BPF_OBJ_NAME_LEN)
    result = lib.pyxdp_program_name(program_id, name, _BPF_OBJ_NAME_LEN)
    return ffi.string(name).decode(errors="replace") if not result else ""


class Attachment(Resource):
    """A program on an interface, made by :func:`attach`.

    ``mode`` is the one in use; ``kind`` says how: "link" (a bpf_link: gone when the process
    is), "netlink" (kernel before 5.9) or "dispatcher" (both stay until :meth:`detach`);
    ``reason`` tells in words why this mode and this kind.
    """

    def __init__(
        self, program: Program, ifindex: int, ifname: str, mode: Mode, kind: Kind, reason: str
    ) -> None:
        """For :func:`attach`."""
        self.program = program
        self.ifindex = ifindex
        self.ifname = ifname
        self.mode = mode
        self.kind: Kind = kind
        self.reason = reason
        self._link_fd: int | None = None
        self._prog_fd: int | None = None  # netlink: a duplicate, to detach exactly this program
        self._slot: DispatcherSlot | None = None
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return (
            f"<Attachment of {self.program.name} to {self.ifname}: {self.mode.value} {self.kind}>"
        )

    @property
    def closed(self) -> bool:
        """True after :meth:`detach`."""
        return self._link_fd is None and self._prog_fd is None and self._slot is None

    def detach(self) -> None:
        """Take the program off the interface.

        A second call does nothing. In a child process made by fork() only the child's
        descriptors are closed: the attachment is the parent's. Nothing is done either when the
        interface is gone, or when somebody has put another program in this one's place.
        """
        ours = os.getpid() == self._pid
        link_fd, self._link_fd = self._link_fd, None
        prog_fd, self._prog_fd = self._prog_fd, None
        slot, self._slot = self._slot, None
        if link_fd is not None:
            try:
                if ours:
                    check(lib.bpf_link_detach(link_fd), f"cannot detach from {self.ifname}")
            finally:
                os.close(link_fd)
        if prog_fd is not None:
            try:
                if ours:
                    self._netlink_detach(prog_fd)
            finally:
                os.close(prog_fd)
        if slot is not None and ours:
            slot.close()

    close = detach

    def replace(self, program: Program) -> None:
        """Put ``program`` in this one's place; between them no packet meets none.

        Only where :attr:`kind` is "link": otherwise :class:`Unsupported`. Raises
        :class:`XdpError`, EINVAL for a program of another type, ``ValueError`` once detached.
        """
        if self.closed:
            raise ValueError(f"{self!r} is detached")
        if self._link_fd is None:
            raise Unsupported(f"only a bpf_link can change its program, not a {self.kind}")
        result = lib.bpf_link_update(self._link_fd, program.fd, ffi.NULL)
        check(result, f"cannot put {program.name} in the place of {self.program.name}")
        self.program = program

    def _netlink_detach(self, prog_fd: int) -> None:
        with captured_log() as log:
            result = lib.pyxdp_netlink_detach(self.ifindex, _mode_flags(self.mode), prog_fd)
        if result not in (0, -errno.EEXIST, -errno.ENODEV):
            raise XdpError(-result, f"cannot detach from {self.ifname}", log.text)


def attach(
    program: Program,
    interface: str | int,
    *,
    mode: Mode = Mode.AUTO,
    sharing: Sharing = Sharing.AUTO,
) -> Attachment:
    """Put ``program`` on ``interface`` (name or index in the calling thread's namespace).

    **How.** A bpf_link (kernel 5.9) where there is one: the kernel detaches it when the last
    descriptor goes, so a killed process leaves nothing behind. On older kernels netlink, with
    XDP_FLAGS_UPDATE_IF_NOEXIST, detached by comparing the program.

    **Mode.** AUTO tries native, then generic; :attr:`Attachment.reason` has the driver's reason.
    In a dispatcher that is there already AUTO is that dispatcher's mode.

    **Sharing.** libxdp's dispatcher lets several programs run, but it is pinned in a bpffs and
    outlives a killed process, and only dispatcher-aware programs share. So AUTO joins a
    dispatcher that is there, where its user is such a program, and otherwise takes the
    interface by a link. DISPATCHER makes one when there is none; it loads the program a second
    time, as a replacement function on the same maps.

    Raises :class:`XdpError`: EBUSY when another program is there (the message names it),
    ENODEV, EPERM, or what the driver says, such as ERANGE for a program without frags on a
    device with a large MTU, with the kernel's extended-ack text in ``log``;
    :class:`Unsupported` for a mode the driver lacks or a dispatcher that cannot be loaded.
    """
    ifindex, ifname = resolve(interface)
    present = _dispatcher_on(ifindex)
    shared, why = _choose_sharing(present, ifname, sharing)
    target = _Target(program, ifindex, ifname, shared, why)
    if shared and present and mode is Mode.AUTO:
        mode = present.mode  # all programs of a dispatcher run in its mode
    if mode is not Mode.AUTO:
        return target.attach(mode)
    try:
        return target.attach(Mode.NATIVE)
    except Unsupported as refusal:
        native_refusal = str(refusal)
    except XdpError as refusal:
        if refusal.errno in (errno.EBUSY, errno.EPERM, errno.EACCES, errno.ENODEV):
            raise
        native_refusal = str(refusal)
    target = replace(target, why=f"{why}; generic, because native was refused: {native_refusal}")
    return target.attach(Mode.GENERIC)


def _dispatcher_on(ifindex: int) -> AttachedProgram | None:
    found = (item for item in attached_programs(ifindex) if item.name == DISPATCHER_NAME)
    return next(found, None)


def _choose_sharing(
    present: AttachedProgram | None, ifname: str, sharing: Sharing
) -> tuple[bool, str]:
    """(through the dispatcher?, why), given the dispatcher that is there."""
    if sharing is Sharing.EXCLUSIVE:
        return False, "exclusive, as asked"
    if sharing is Sharing.DISPATCHER:
        return True, "dispatcher, as asked"
    if present is None:
        return False, f"exclusive, for {ifname} has no dispatcher to join"
    support = dispatcher_supported()
    if support:
        return True, f"joined the dispatcher on {ifname}"
    return False, f"exclusive, for the dispatcher on {ifname} cannot be joined: {support.reason}"


def _mode_flags(mode: Mode) -> int:
    return _XDP_FLAGS_SKB_MODE if mode is Mode.GENERIC else _XDP_FLAGS_DRV_MODE


@dataclass(frozen=True)
class _Target:
    """What is to be attached where; :meth:`attach` does it in one mode."""

    program: Program
    ifindex: int
    ifname: str
    shared: bool
    why: str  # ... this way: the start of Attachment.reason

    def attach(self, mode: Mode) -> Attachment:
        if self.shared:
            return self._dispatcher(mode)
        attachment = self._attachment(mode, "link")
        result = lib.pyxdp_link_create(self.program.fd, self.ifindex, _mode_flags(mode))
        if result >= 0:
            attachment._link_fd = result
            return attachment
        return self._netlink(mode, -result)

    def _dispatcher(self, mode: Mode) -> Attachment:
        attachment = self._attachment(mode, "dispatcher")
        generic = mode is Mode.GENERIC
        attachment._slot = DispatcherSlot(self.program, self.ifindex, generic)
        return attachment

    def _netlink(self, mode: Mode, link_errno: int) -> Attachment:
        """The kernel made no link: by netlink it says why, or, if it only lacks links, attaches.

        BPF_LINK_CREATE has no extended ack, and EINVAL may mean that XDP links are unknown.
        """
        if link_errno in (errno.EBUSY, errno.EEXIST):
            raise self._refused(mode, link_errno, "")
        flags = _mode_flags(mode)
        with captured_log() as log:
            result = lib.pyxdp_netlink_attach(self.ifindex, self.program.fd, flags)
        if result:
            raise self._refused(mode, -result, log.text)
        attachment = self._attachment(mode, "netlink", "; the kernel has no bpf_link for XDP")
        attachment._prog_fd = os.dup(self.program.fd)
        if link_errno == errno.EINVAL:
            return attachment
        attachment.detach()
        raise self._refused(mode, link_errno, "")

    def _attachment(self, mode: Mode, kind: Kind, more: str = "") -> Attachment:
        return Attachment(self.program, self.ifindex, self.ifname, mode, kind, self.why + more)

    def _refused(self, mode: Mode, code: int, log: str) -> Exception:
        where = f"{self.ifname} in {mode.value} mode"
        if code in (errno.EBUSY, errno.EEXIST):
            found = ", ".join(map(str, attached_programs(self.ifindex))) or "an XDP program"
            return XdpError(errno.EBUSY, f"{self.ifname} already has {found}; {self.why}", log)
        if code == errno.EOPNOTSUPP:
            return Unsupported(f"no XDP on {where}: {log or os.strerror(code)}")
        if code in (errno.EPERM, errno.EACCES):
            return XdpError(code, "attaching XDP needs CAP_NET_ADMIN and CAP_BPF", log)
        return XdpError(code, f"cannot attach {self.program.name} to {where}", log)
