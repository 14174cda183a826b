# SPDX-License-Identifier: Apache-2.0
"""What pyxdp says before it asks the kernel for anything."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path

import pytest

from devmemtcp.pyxdp import BpfObject, Desc, Umem, XdpContext, XdpError, attached_programs
from devmemtcp.pyxdp._xdp import ffi, lib
from devmemtcp.pyxdp.errors import captured_log
from devmemtcp.pyxdp.resource import Resource

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def elf() -> Iterator[Path]:
    """A BPF object with two programs: the one that comes with the package."""
    with as_file(files("devmemtcp.pyxdp").joinpath("freplace.bpf.o")) as path:
        yield path


@pytest.mark.parametrize(
    ("address", "size", "options", "complaint"),
    [
        (0, PAGE, {}, "address"),
        (PAGE + 1, PAGE, {}, "address"),
        (PAGE, PAGE, {"frame_size": 1024}, "frame_size"),
        (PAGE, 3 * PAGE, {"frame_size": 3000}, "frame_size"),
        (PAGE, PAGE, {"frame_size": 2 * PAGE}, "frame_size"),
        (PAGE, PAGE + 2048, {}, "size"),
        (PAGE, 0, {"unaligned": True}, "size"),
        (PAGE, PAGE, {"headroom": PAGE - 256}, "headroom"),
        (PAGE, PAGE, {"headroom": -1}, "headroom"),
        (PAGE, PAGE, {"fill_size": 100}, "fill_size"),
        (PAGE, PAGE, {"comp_size": 0}, "comp_size"),
    ],
)
def test_a_umem_that_cannot_be_is_refused(
    address: int, size: int, options: dict[str, int], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        Umem(address, size, **options)  # type: ignore[arg-type]


def test_a_missing_object_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        BpfObject.open(tmp_path / "missing.bpf.o")


def test_a_file_that_is_no_object_is_explained_and_nothing_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "text.bpf.o"
    path.write_bytes(b"not an ELF file at all")
    with pytest.raises(XdpError, match=r"text\.bpf\.o") as caught:
        BpfObject.open(path)
    assert "libbpf" in caught.value.log
    assert caught.value.log in str(caught.value)
    assert capfd.readouterr().err == ""


def test_only_programs_that_exist_can_be_chosen(elf: Path) -> None:
    with pytest.raises(ValueError, match=r"no program nonesuch.*host"):
        BpfObject.open(elf, programs=["nonesuch"])


def test_an_object_that_is_not_loaded_has_no_descriptors(elf: Path) -> None:
    with BpfObject.open(elf, programs=["host"]) as opened:
        host = opened.programs["host"]
        assert (host.name, host.section, host.frags) == ("host", "xdp", False)
        with pytest.raises(ValueError, match="not loaded"):
            _ = host.fd
    with pytest.raises(ValueError, match="closed"):
        _ = host.fd
    with pytest.raises(ValueError, match="closed"):
        opened.load()
    opened.close()


def test_no_such_interface() -> None:
    for interface in ("nonesuch0", 0x7FFFFFFF, -1):
        with pytest.raises(XdpError) as caught:
            attached_programs(interface)
        assert caught.value.errno == errno.ENODEV
        assert repr(interface) in str(caught.value)


def test_a_context_covers_the_buffer_unless_told_otherwise() -> None:
    context = XdpContext(data=8, rx_queue_index=3, ingress_ifindex=2)
    assert XdpContext.unpack(context.pack(68)) == XdpContext(8, 68, 0, 2, 3, 0)
    assert XdpContext.unpack(XdpContext(data_end=20).pack(68)).data_end == 20


def test_messages_belong_to_the_thread_that_caused_them(tmp_path: Path) -> None:
    path = tmp_path / "other.bpf.o"
    path.write_bytes(b"not an ELF file at all")
    other: list[XdpError] = []

    def fail() -> None:
        with pytest.raises(XdpError) as caught:
            BpfObject.open(path)
        other.append(caught.value)

    with captured_log() as log:
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        opened = ffi.new("struct bpf_object **")
        assert lib.pyxdp_object_open(opened, b"no ELF", 6, b"ours.bpf.o") < 0
    assert "other.bpf.o" in other[0].log
    assert "ours.bpf.o" in log.text
    assert "other.bpf.o" not in log.text


class Door(Resource):
    """The least that has to be closed."""

    def __init__(self) -> None:
        self.shut = 0

    @property
    def closed(self) -> bool:
        return self.shut > 0

    def close(self) -> None:
        self.shut += 1


def test_a_resource_is_closed_with_its_block() -> None:
    with Door() as door:
        assert not door.closed
    assert door.shut == 1


def test_a_forgotten_resource_is_closed_with_a_warning() -> None:
    forgotten = [Door()]
    with pytest.warns(ResourceWarning, match="unclosed"):
        forgotten.clear()


def test_a_descriptor_ends_its_packet_by_default() -> None:
    assert Desc(4096, 60) == (4096, 60, 0)


class _Stuck(Resource):
    """Cannot be closed, as a Umem whose sockets are open."""

    closed = False

    def close(self) -> None:
        raise OSError(errno.EBUSY, "busy")

    def __del__(self) -> None:
        pass


def test_closing_does_not_hide_what_went_wrong_before() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, _Stuck():
        raise KeyboardInterrupt
    assert "busy" in caught.value.__notes__[0]
    with pytest.raises(OSError, match="busy"), _Stuck():
        pass
