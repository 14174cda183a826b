# SPDX-License-Identifier: Apache-2.0
"""BPF, tried: the XDP program is loaded and verified, and its metadata probe is run."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from devmemtcp import xdp_prog
from devmemtcp.agent.datapath_config import HOST_BUFFERS
from devmemtcp.agent.doctor.look import one_line
from devmemtcp.agent.doctor.record import Check, fail, note, ok, warn
from devmemtcp.agent.errors import XdpError
from devmemtcp.agent.header_path import AnyPath, HeaderPath, configure, header_path
from devmemtcp.pyxdp import BpfObject

_BESIDE_THE_REASON = ("processed ", "verification time", "stack depth", "libbpf: ", "-- ")
"""How lines of a verifier's log begin that follow its reason."""


@dataclass(frozen=True)
class Loaded:
    """What came of it."""

    frags: bool = False
    """Of packets of several buffers."""
    linear: bool = False
    against_chunk: str = ""
    """Why that of zero-copy mode is not; empty: it is."""
    jited: bool = False
    path: HeaderPath | None = None
    """How headers come up."""
    reason: str = ""
    """Why it is not all of that, zero-copy mode's aside."""
    denied: bool = False
    """Whether that is for want of a privilege."""


def tried() -> Loaded:
    """Load and unload. Nothing is attached, so no packet meets it."""
    errors: list[OSError] = []
    path = _path(errors)
    frags, jited = _load(xdp_prog.PROGRAM_FRAGS, path or "slot", errors)
    linear, jited_linear = _load(xdp_prog.PROGRAM_LINEAR, path or "slot", errors)
    against_chunk: list[OSError] = []
    _load(xdp_prog.PROGRAM_LINEAR, "chunk", against_chunk)
    return Loaded(
        frags=frags,
        linear=linear,
        against_chunk=_reason(against_chunk),
        jited=jited or jited_linear,
        path=path,
        reason=_reason(errors),
        denied=any(map(_is_denied, errors)),
    )


def _load(name: str, path: AnyPath, errors: list[OSError]) -> tuple[bool, bool]:
    """Whether the program could be loaded, and whether it became machine code."""
    file = xdp_prog.object_path("zerocopy" if path == "chunk" else "devmemtcp")
    try:
        with BpfObject.open(str(file), programs=[name]) as loaded:
            configure(loaded, path, HOST_BUFFERS)
            loaded.load()
            return True, bool(loaded.programs[name].size()[1])
    except OSError as error:  # XdpError, or the object's file is closed to this user
        errors.append(error)
        return False, False


def _path(errors: list[OSError]) -> HeaderPath | None:
    try:
        return header_path()
    except OSError as error:
        errors.append(error)
        return None


def _is_denied(error: OSError) -> bool:
    """Whether a privilege is lacking: EPERM of bpf(2), whose EACCES is the verifier's refusal."""
    return isinstance(error, PermissionError) or error.errno == errno.EPERM


def _reason(errors: Iterable[OSError]) -> str:
    return "; ".join(dict.fromkeys(map(_words, errors)))


def _words(error: OSError) -> str:
    """With the verifier's last word, which is its reason."""
    log = error.log.splitlines() if isinstance(error, XdpError) else []
    said = [line for line in log if line and not line.startswith(_BESIDE_THE_REASON)]
    return ": ".join([one_line(error), *said[-1:]])


def checks(loaded: Loaded) -> Iterator[Check]:
    """What it means."""
    if not loaded.frags and not loaded.linear:
        means = "no mode works" if not loaded.denied else "it could not be tried without"
        yield (note if loaded.denied else fail)("XDP program", loaded.reason, means)
        return
    yield ok("XDP program", "loads and is verified", "as it would be to receive")
    yield _multi_buffer(loaded)
    yield _jit(loaded)
    yield _header_path(loaded)


def _multi_buffer(loaded: Loaded) -> Check:
    if loaded.frags:
        return ok("XDP multi-buffer", "the xdp.frags program loads", "packets of several buffers")
    return warn("XDP multi-buffer", loaded.reason, "packets of one buffer alone")


def _jit(loaded: Loaded) -> Check:
    if loaded.jited:
        return ok("BPF JIT", "on", "the program becomes machine code")
    return warn(
        "BPF JIT",
        "off",
        "the program is interpreted, for each packet",
        "sysctl -w net.core.bpf_jit_enable=1",
    )


def _header_path(loaded: Loaded) -> Check:
    match loaded.path:
        case "metadata":
            return ok("XDP metadata", "160 bytes", "record and headers travel as metadata")
        case "slot":
            return warn("XDP metadata", "32 bytes at most", "headers travel in a map instead")
        case None:
            return fail("XDP metadata", loaded.reason, "headers have no way up")
