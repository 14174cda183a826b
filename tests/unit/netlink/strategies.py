# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies: netlink messages as a broken or a malicious client writes them."""

from __future__ import annotations

import struct

from hypothesis import strategies as st

from .bench import message

small = st.integers(0, 40)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)


@st.composite
def attribute(draw: st.DrawFn, depth: int = 0) -> bytes:
    """An attribute that is often right, with a length that is often not."""
    kind = draw(st.one_of(small, u16)) | draw(st.sampled_from([0, 0, 0x8000, 0x4000]))
    if depth < 3 and draw(st.booleans()):
        data = b"".join(draw(st.lists(attribute(depth + 1), max_size=3)))
    else:
        data = draw(st.one_of(u32.map(lambda n: struct.pack("=I", n)), st.binary(max_size=20)))
    length = 4 + len(data) + draw(st.sampled_from([0, 0, 0, 0, 1, -1, 4, -4, 60000]))
    padding = bytes(-len(data) % 4)
    return struct.pack("=HH", max(0, min(0xFFFF, length)), kind) + data + padding


@st.composite
def request(
    draw: st.DrawFn,
    families: st.SearchStrategy[int],
    cmds: st.SearchStrategy[int],
    likely: st.SearchStrategy[bytes],
) -> bytes:
    """A message of a length that may be a lie. ``likely``: attributes that make some sense."""
    random = st.lists(attribute(), max_size=5).map(b"".join)
    attrs = draw(st.one_of(random, likely, st.tuples(likely, random).map(b"".join)))
    flags = draw(st.one_of(st.sampled_from([1, 5, 0x301, 0x305]), u16))
    data = message(
        draw(families),
        draw(cmds),
        attrs,
        flags=flags,
        seq=draw(u32),
        reserved=draw(st.sampled_from([0, 0, 0, 1])),
    )
    lie = draw(st.sampled_from([0, 0, 0, 0, 1, -1, 4, -17, 70000]))
    return struct.pack("=I", max(0, len(data) + lie)) + data[4:]
