# SPDX-License-Identifier: Apache-2.0
"""What the native loop tells of itself, as plain data that JSON can carry: its records by name.

`loop` is a `struct loop *` that is open; `most` is how many of a kind there can be. The loop may
run meanwhile.
"""

from __future__ import annotations

from typing import Any

from devmemtcp.agent._loop import ffi, lib

_DROPS: dict[str, int] = {
    name.removeprefix("DROP_"): value
    for value, name in sorted(ffi.typeof("enum drop").elements.items())
    if name not in ("DROP_NONE", "DROP_REASONS")
}
_LOCAL_PORT = 4


def counters(loop: Any) -> dict[str, dict[str, int]]:
    """All there are: stack, drops, loop, netmem."""
    stack = ffi.new("struct stack_stats *")
    turns = ffi.new("struct loop_stats *")
    lib.loop_stats(loop, stack, turns)
    info = ffi.new("struct netmem_info *")
    lib.netmem_info(info)
    return {
        "stack": _scalars(stack),
        "drops": {name: stack.drops[value] for name, value in _DROPS.items()},
        "loop": _scalars(turns),
        "netmem": {"key": info.key, "warnings": info.warnings, "hits": info.hits},
    }


def flows(loop: Any, most: int) -> list[list[Any]]:
    """The fields of `struct flow_info`, each address as family, 32 hex digits and port."""
    out = ffi.new("struct flow_info[]", most)
    return [
        [
            *(f.id, f.state, *_plain(f.local), *_plain(f.peer)),
            *(f.rcv_nxt, f.rcv_wnd, f.snd_una, f.snd_nxt, f.ooo_frags, f.tokens, f.rx_bytes),
            *(f.rx_bytes_device, f.rx_bytes_linear, f.rx_bytes_data, f.app, f.queue),
        ]
        for f in out[0 : lib.loop_flows(loop, out, most)]
    ]


def ports_of(found: list[list[Any]]) -> set[int]:
    """Local ports of `flows()`."""
    return {flow[_LOCAL_PORT] for flow in found}


def frags(loop: Any, most: int) -> list[list[int]]:
    """The fields of `struct frag_record`."""
    out = ffi.new("struct frag_record[]", most)
    return [
        [f.kind, f.area, f.index, f.state, f.owner, f.refs, f.offset]
        for f in out[0 : lib.loop_frags(loop, out, most)]
    ]


def areas(loop: Any, most: int) -> list[dict[str, int]]:
    """The fields of `struct area_info`."""
    out = ffi.new("struct area_info[]", most)
    return [_scalars(ffi.addressof(out, i)) for i in range(lib.loop_areas(loop, out, most))]


def queues(loop: Any, most: int) -> list[dict[str, int]]:
    """The fields of `struct queue_info`, by queue."""
    out = ffi.new("struct queue_info[]", most)
    return [_scalars(ffi.addressof(out, i)) for i in range(lib.loop_queues(loop, out, most))]


def _plain(addr: Any) -> tuple[int, str, int]:
    return addr.family, bytes(addr.ip).hex(), addr.port


def _scalars(record: Any) -> dict[str, int]:
    """The integer fields of a C record, by name."""
    fields = ffi.typeof(record).item.fields
    return {name: getattr(record, name) for name, field in fields if field.type.kind == "primitive"}
