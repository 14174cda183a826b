# SPDX-License-Identifier: Apache-2.0
"""Which way headers take from the XDP program to the stack, and the memory that takes.

`metadata`: AF_XDP copies them in front of the payload. Linux 6.8, which takes enough metadata.
`slot`: the program writes them to a map that the stack reads, and metadata names the place.
`chunk`: as `slot`, and the place is that of the packet in the UMEM; for zero-copy mode alone.
"""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from devmemtcp import xdp_prog
from devmemtcp.agent._loop import ffi
from devmemtcp.agent.errors import ConfigError
from devmemtcp.pyxdp import BpfObject, Program

HeaderPath = Literal["metadata", "slot"]
"""Of copy mode."""
AnyPath = HeaderPath | Literal["chunk"]
VARIABLE = "DEVMEMTCP_HEADER_PATH"
_XDP_PASS = 2
_PATHS: dict[AnyPath, int] = {"metadata": 0, "slot": 1, "chunk": 2}  # enum header_path
_CONFIG = struct.Struct("=II")  # struct header_config


def header_path() -> HeaderPath:
    """The path that this kernel has room for: asked by a test run, which changes nothing.

    The environment variable DEVMEMTCP_HEADER_PATH has the last word, so that any kernel will do
    to try a path. Raises ConfigError for a word that is none, XdpError where BPF programs cannot
    be loaded.
    """
    if forced := os.environ.get(VARIABLE):
        if forced not in get_args(HeaderPath):
            raise ConfigError(
                f"{VARIABLE} is {forced!r}; the paths are {', '.join(get_args(HeaderPath))}"
            )
        return cast("HeaderPath", forced)
    probe = xdp_prog.PROGRAM_PROBE
    with BpfObject.open(str(xdp_prog.object_path()), programs=[probe]) as obj:
        obj.load()
        return path_by(obj.programs[probe])


def path_by(probe: Program) -> HeaderPath:
    """The same, by a program that tries: see xdp_prog.PROGRAM_PROBE."""
    enough = probe.test_run(bytes(64)).retval == _XDP_PASS
    return "metadata" if enough else "slot"


@dataclass(frozen=True)
class Heads:
    """What the loop must be told: fields of `struct loop_config`."""

    header_path: int
    heads: Any
    nr_heads: int


def configure(obj: BpfObject, path: AnyPath, buffers: int) -> None:
    """Set an object up for this path, before it is loaded.

    A packet in an RX ring holds a buffer, so no more than `buffers` of them wait for the stack.
    Twice as many slots: while all of them wait, as many again may be lost between program and
    ring, for want of a buffer, before the first one that waits loses its slot. With `chunk` each
    buffer has one, and the others are for the gaps between areas that come and go.
    """
    slots = 1 if path == "metadata" else 1 << (2 * buffers - 1).bit_length()
    obj.maps[".rodata.headers"].set_initial(_CONFIG.pack(_PATHS[path], slots - 1))
    obj.maps["heads"].resize(slots)


def map_heads(obj: BpfObject, path: AnyPath, undo: ExitStack) -> Heads:
    """Once it is loaded."""
    if path == "metadata":
        return Heads(_PATHS[path], ffi.NULL, 0)
    slots = obj.maps["heads"]
    memory = slots.mapped()
    undo.callback(memory.close)
    view = ffi.from_buffer(memory)
    undo.callback(ffi.release, view)
    return Heads(_PATHS[path], view, slots.max_entries)
