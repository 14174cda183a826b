# SPDX-License-Identifier: Apache-2.0
"""Objects, programs and maps on a real kernel."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devmemtcp.pyxdp import (
    LIVE_FRAMES,
    XDP_DROP,
    XDP_PASS,
    BpfObject,
    XdpContext,
    XdpError,
    XskMap,
)

if TYPE_CHECKING:
    from tests.net.veth import Veth

FRAME = bytes(range(64))


@pytest.fixture
def path(bpf_object: Callable[[str], Path]) -> Path:
    return bpf_object("pyxdp")


@pytest.fixture
def loaded(path: Path) -> Iterator[BpfObject]:
    with BpfObject.open(path) as opened:
        yield opened.load()


def test_an_object_lists_what_is_in_it(loaded: BpfObject) -> None:
    assert loaded.programs.keys() >= {"redirect", "redirect_frags", "annotate", "drop"}
    assert loaded.programs["redirect_frags"].frags
    assert not loaded.programs["redirect"].frags
    assert {name: item.type for name, item in loaded.maps.items()} == {
        "xsks": "xskmap",
        "table": "hash",
        "hits": "percpu_array",
    }
    assert isinstance(loaded.maps["xsks"], XskMap)


def test_only_the_chosen_programs_are_loaded(path: Path) -> None:
    with BpfObject.open(path, programs={"drop"}) as opened:
        opened.load()
        assert opened.programs["drop"].fd > 0
        with pytest.raises(ValueError, match="redirect is not loaded"):
            _ = opened.programs["redirect"].fd
        with pytest.raises(ValueError, match="loaded already"):
            opened.load()


def test_the_verifier_says_why(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with BpfObject.open(path, programs=["unbounded"]) as opened:
        with pytest.raises(XdpError) as caught:
            opened.load()
        assert caught.value.errno == errno.EACCES
        assert "invalid access to packet" in caught.value.log
        assert "invalid access to packet" in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_hash_map_is_read_and_written(loaded: BpfObject) -> None:
    table = loaded.maps["table"]
    assert (table.key_size, table.value_size, table.max_entries) == (2, 8, 2)
    assert table.get(b"ab") is None
    table.set(b"ab", b"12345678")
    table.set(b"cd", b"abcdefgh")
    assert table.get(b"ab") == b"12345678"
    assert dict(table.items()) == {b"ab": b"12345678", b"cd": b"abcdefgh"}
    with pytest.raises(XdpError) as caught:
        table.set(b"ef", b"too many")
    assert caught.value.errno == errno.E2BIG
    with pytest.raises(XdpError) as caught:
        table.set(b"ab", b"12345678", flags=1)  # BPF_NOEXIST
    assert caught.value.errno == errno.EEXIST
    table.delete(b"ab")
    assert table.get(b"ab") is None
    with pytest.raises(XdpError) as caught:
        table.delete(b"ab")
    assert caught.value.errno == errno.ENOENT


def test_keys_and_values_of_the_wrong_size_are_refused(loaded: BpfObject) -> None:
    table = loaded.maps["table"]
    calls: list[Callable[[], object]] = [
        lambda: table.get(b"abc"),
        lambda: table.delete(b""),
        lambda: table.set(b"a", b"12345678"),
        lambda: table.set(b"ab", b"1234567"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"has [28] bytes"):
            call()
    xsks = loaded.maps["xsks"]
    assert isinstance(xsks, XskMap)
    with pytest.raises(ValueError, match="queues 0 to 3"):
        xsks.set_socket(4, 0)


def test_a_per_cpu_map_has_a_value_for_each_cpu(loaded: BpfObject) -> None:
    hits, redirect = loaded.maps["hits"], loaded.programs["redirect"]
    frame = bytes(12) + b"\x88\xb5" + bytes(50)
    assert redirect.test_run(frame, repeat=3).retval == XDP_DROP  # no socket in the map
    values = hits.get_percpu(bytes(4))
    assert values is not None
    assert sum(struct.unpack("=I", value)[0] for value in values) == 3
    with pytest.raises(TypeError, match="get_percpu"):
        hits.get(bytes(4))
    with pytest.raises(TypeError, match="get\\(\\)"):
        loaded.maps["table"].get_percpu(b"ab")


def test_maps_of_a_closed_object_are_closed(path: Path) -> None:
    with BpfObject.open(path) as opened:
        table = opened.load().maps["table"]
    with pytest.raises(ValueError, match="closed"):
        table.get(b"ab")


def test_a_test_run_gives_action_and_packet(loaded: BpfObject) -> None:
    run = loaded.programs["drop"].test_run(FRAME)
    assert (run.retval, run.data, run.packet, run.metadata) == (XDP_DROP, FRAME, FRAME, b"")
    assert run.duration_ns > 0


def test_metadata_that_a_program_adds_can_be_read(loaded: BpfObject) -> None:
    run = loaded.programs["annotate"].test_run(FRAME)
    assert run.retval == XDP_PASS
    assert run.ctx is not None
    assert (run.ctx.data_meta, run.ctx.data, run.ctx.data_end) == (0, 8, 8 + len(FRAME))
    assert run.metadata == struct.pack("=II", 0, 1)  # the kernel runs it on loopback
    assert run.packet == FRAME


def test_the_context_says_where_the_packet_came_from(
    loaded: BpfObject, netns_pair: Callable[..., Veth]
) -> None:
    right = netns_pair(queues=3).right
    context = XdpContext(data=4, ingress_ifindex=right.ifindex, rx_queue_index=2)
    with right.enter():
        run = loaded.programs["annotate"].test_run(b"meta" + FRAME, ctx=context)
    assert run.metadata == struct.pack("=II", 2, right.ifindex) + b"meta"
    assert run.packet == FRAME


def test_frags_programs_take_what_one_buffer_does_not_hold(loaded: BpfObject) -> None:
    jumbo = bytes(range(256)) * 40
    run = loaded.programs["length"].test_run(jumbo)
    assert run.packet == jumbo
    assert loaded.maps["table"].get(b"\1\0") == struct.pack("=Q", len(jumbo))
    assert run.ctx is not None
    assert run.ctx.data_end is not None
    assert run.ctx.data_end < len(jumbo)  # the linear part


def test_a_packet_too_short_is_the_kernels_error(loaded: BpfObject) -> None:
    with pytest.raises(XdpError) as caught:
        loaded.programs["drop"].test_run(b"short")
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(XdpError) as caught:
        loaded.programs["drop"].test_run(FRAME, data_size_out=10)
    assert caught.value.errno == errno.ENOSPC


def test_live_frames_run_without_output(loaded: BpfObject) -> None:
    frame = bytes(12) + b"\x88\xb5" + bytes(50)
    run = loaded.programs["redirect"].test_run(frame, repeat=100, flags=LIVE_FRAMES, batch_size=16)
    assert (run.data, run.ctx) == (b"", None)
    values = loaded.maps["hits"].get_percpu(bytes(4))
    assert values is not None
    assert sum(struct.unpack("=I", value)[0] for value in values) == 100
