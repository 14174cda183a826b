# SPDX-License-Identifier: Apache-2.0
"""Attaching: modes, who is told what, and what is left afterwards."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from devmemtcp.pyxdp import (
    BpfObject,
    Mode,
    Sharing,
    Unsupported,
    XdpError,
    attach,
    attached_programs,
    dispatcher_supported,
)

from ..slowness import SLOWNESS

if TYPE_CHECKING:
    from tests.net.veth import Veth

attach_module = importlib.import_module("devmemtcp.pyxdp.attach")  # the name is the function's


@pytest.fixture
def loaded(bpf_object: Callable[[str], Path]) -> Iterator[BpfObject]:
    with BpfObject.open(bpf_object("pyxdp")) as opened:
        yield opened.load()


@pytest.fixture
def right(veth: Veth) -> Iterator[str]:
    """Name of an interface, and the test runs in its namespace."""
    with veth.right.enter():
        yield veth.right.ifname


def modes(ifname: str) -> list[tuple[str, Mode]]:
    return [(found.name, found.mode) for found in attached_programs(ifname)]


@pytest.mark.parametrize(
    ("asked", "used"),
    [(Mode.NATIVE, Mode.NATIVE), (Mode.GENERIC, Mode.GENERIC), (Mode.AUTO, Mode.NATIVE)],
)
def test_each_mode_is_what_the_kernel_shows(
    loaded: BpfObject, right: str, asked: Mode, used: Mode
) -> None:
    with attach(loaded.programs["drop"], right, mode=asked) as attachment:
        assert (attachment.mode, attachment.kind) == (used, "link")
        assert modes(right) == [("drop", used)]
    assert attachment.closed
    assert modes(right) == []
    attachment.detach()


def test_auto_takes_generic_where_the_driver_has_no_xdp(loaded: BpfObject, veth: Veth) -> None:
    with veth.right.enter():
        with attach(loaded.programs["drop"], "lo") as attachment:
            assert attachment.mode is Mode.GENERIC
            assert "native was refused" in attachment.reason
            assert modes("lo") == [("drop", Mode.GENERIC)]
        with pytest.raises(Unsupported, match="no XDP on lo in native mode"):
            attach(loaded.programs["drop"], "lo", mode=Mode.NATIVE)


def test_a_refusal_carries_the_kernels_words(
    loaded: BpfObject, netns_pair: Callable[..., Veth], capfd: pytest.CaptureFixture[str]
) -> None:
    right = netns_pair(mtu=9000).right
    with right.enter():
        with pytest.raises(XdpError) as caught:
            attach(loaded.programs["drop"], right.ifindex, mode=Mode.NATIVE)
        assert caught.value.errno == errno.ERANGE
        assert "Peer MTU is too large to set XDP" in str(caught.value)
        with attach(loaded.programs["length"], right.ifindex) as attachment:
            assert attachment.mode is Mode.NATIVE
        with attach(loaded.programs["drop"], right.ifindex) as attachment:
            assert attachment.mode is Mode.GENERIC
            assert "Peer MTU is too large to set XDP" in attachment.reason
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("mode", Mode)
def test_a_foreign_program_is_named_and_left_alone(
    loaded: BpfObject, right: str, mode: Mode, bpf_object: Callable[[str], Path]
) -> None:
    path = str(bpf_object("pyxdp"))
    for theirs in ("xdpgeneric", "xdpdrv"):
        command = ["ip", "link", "set", "dev", right, theirs]
        subprocess.run([*command, "object", path, "program", "annotate"], check=True)
        before = attached_programs(right)
        with pytest.raises(XdpError, match="already has annotate") as caught:
            attach(loaded.programs["drop"], right, mode=mode)
        assert caught.value.errno == errno.EBUSY
        assert attached_programs(right) == before
        subprocess.run([*command, "off"], check=True)


def test_a_second_attachment_of_our_own_is_refused_too(loaded: BpfObject, right: str) -> None:
    with attach(loaded.programs["drop"], right):
        with pytest.raises(XdpError, match="already has drop"):
            attach(loaded.programs["annotate"], right)
        assert modes(right) == [("drop", Mode.NATIVE)]


def test_no_such_interface_here(loaded: BpfObject, right: str) -> None:
    with pytest.raises(XdpError) as caught:
        attach(loaded.programs["drop"], "nonesuch0")
    assert caught.value.errno == errno.ENODEV


CHILD = """
import sys
from devmemtcp.pyxdp import BpfObject, Mode, attach
opened = BpfObject.open(sys.argv[1]).load()
attachment = attach(opened.programs["drop"], sys.argv[2], mode=Mode(sys.argv[3]))
print("attached", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC])
def test_a_killed_process_leaves_nothing_behind(
    veth: Veth, right: str, bpf_object: Callable[[str], Path], mode: Mode
) -> None:
    command = [sys.executable, "-c", CHILD, str(bpf_object("pyxdp")), right, mode.value]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with veth.right.popen(command, **pipes) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"attached\n"
        assert modes(right) == [("drop", mode)]
        child.send_signal(signal.SIGKILL)
        child.wait()
    deadline = time.monotonic() + 30 * SLOWNESS
    while modes(right) and time.monotonic() < deadline:
        time.sleep(0.01)  # the kernel frees a link from a work item
    assert modes(right) == []


def test_a_forked_child_does_not_detach_its_parents_program(loaded: BpfObject, right: str) -> None:
    with attach(loaded.programs["drop"], right) as attachment:
        child = os.fork()
        if not child:
            attachment.detach()
            os._exit(0 if attachment.closed else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert modes(right) == [("drop", Mode.NATIVE)]
    assert modes(right) == []


def test_detaching_after_the_interface_has_gone(
    loaded: BpfObject, netns_pair: Callable[..., Veth]
) -> None:
    right = netns_pair().right
    with right.enter():
        attachment = attach(loaded.programs["drop"], right.ifname)
        subprocess.run(["ip", "link", "del", right.ifname], check=True)
        attachment.detach()


class WithoutLinks:
    """The library on a kernel before 5.9, which answers BPF_LINK_CREATE of XDP with EINVAL."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lib, name)

    def pyxdp_link_create(self, prog_fd: int, ifindex: int, flags: int) -> int:
        return -errno.EINVAL


@pytest.fixture
def _no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach_module, "lib", WithoutLinks(attach_module.lib))


@pytest.mark.usefixtures("_no_links")
@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC])
def test_netlink_is_used_where_the_kernel_has_no_link(
    loaded: BpfObject, right: str, mode: Mode
) -> None:
    with attach(loaded.programs["drop"], right, mode=mode) as attachment:
        assert (attachment.mode, attachment.kind) == (mode, "netlink")
        assert "has no bpf_link" in attachment.reason
        assert modes(right) == [("drop", mode)]
        with pytest.raises(XdpError, match="already has drop"):
            attach(loaded.programs["annotate"], right, mode=mode)
    assert modes(right) == []


@pytest.mark.usefixtures("_no_links")
def test_netlink_detaches_its_own_program_only(
    loaded: BpfObject, right: str, bpf_object: Callable[[str], Path]
) -> None:
    attachment = attach(loaded.programs["drop"], right, mode=Mode.NATIVE)
    command = ["ip", "-force", "link", "set", "dev", right, "xdpdrv"]
    path = str(bpf_object("pyxdp"))
    subprocess.run([*command, "object", path, "program", "annotate"], check=True)
    attachment.detach()
    assert modes(right) == [("annotate", Mode.NATIVE)]


def test_auto_sharing_says_that_there_is_nothing_to_join(loaded: BpfObject, right: str) -> None:
    with attach(loaded.programs["drop"], right) as attachment:
        assert attachment.kind == "link"
        assert "no dispatcher" in attachment.reason
    with attach(loaded.programs["drop"], right, sharing=Sharing.EXCLUSIVE) as attachment:
        assert "as asked" in attachment.reason


def test_a_dispatcher_that_cannot_be_loaded_is_unsupported(loaded: BpfObject, right: str) -> None:
    support = dispatcher_supported()
    if support:
        pytest.skip("this kernel can load libxdp's dispatcher")
    with pytest.raises(Unsupported) as caught:
        attach(loaded.programs["drop"], right, sharing=Sharing.DISPATCHER)
    assert support.reason in str(caught.value)
    assert modes(right) == []


@contextmanager
def skipped_without_dispatcher() -> Iterator[None]:
    """Where libxdp has one that this kernel takes, and that takes what changes packets."""
    support = dispatcher_supported()
    if not support:
        pytest.skip(f"libxdp's dispatcher: {support.reason}")
    try:
        yield
    except Unsupported as error:
        if "xdp-tools #509" not in str(error):
            raise
        pytest.skip(str(error))


def test_two_programs_share_an_interface(loaded: BpfObject, right: str, veth: Veth) -> None:
    with ExitStack() as stack:
        stack.enter_context(skipped_without_dispatcher())
        first = attach(loaded.programs["annotate"], right, sharing=Sharing.DISPATCHER)
        stack.enter_context(first)
        assert (first.kind, first.mode) == ("dispatcher", Mode.NATIVE)
        second = stack.enter_context(attach(loaded.programs["redirect"], right))
        assert second.kind == "dispatcher"
        assert "joined" in second.reason
        assert modes(right) == [("xdp_dispatcher", Mode.NATIVE)]
        send_experimental(veth)
        await_hit(loaded)  # the copy in the dispatcher counts in the maps of the object
        first.detach()
        send_experimental(veth)
        await_hit(loaded, 2)
    assert modes(right) == []


def test_a_dispatcher_takes_jumbo_packets_if_its_program_does(
    loaded: BpfObject, netns_pair: Callable[..., Veth]
) -> None:
    right, share = netns_pair(mtu=9000).right, Sharing.DISPATCHER
    with skipped_without_dispatcher(), right.enter():
        with attach(loaded.programs["redirect_frags"], right.ifname, sharing=share) as attachment:
            assert attachment.mode is Mode.NATIVE
        with attach(loaded.programs["redirect"], right.ifname, sharing=share) as attachment:
            assert attachment.mode is Mode.GENERIC
            assert "Peer MTU" in attachment.reason
            with attach(loaded.programs["annotate"], right.ifname) as joined:
                assert joined.mode is Mode.GENERIC


def send_experimental(veth: Veth) -> None:
    with veth.left.enter(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((veth.left.ifname, 0))
        raw.send(
            bytes.fromhex(veth.right.mac.replace(":", "")) + bytes(6) + b"\x88\xb5" + bytes(46)
        )


def await_hit(loaded: BpfObject, count: int = 1) -> None:
    deadline = time.monotonic() + 30 * SLOWNESS
    hits = 0
    while hits < count and time.monotonic() < deadline:
        values = loaded.maps["hits"].get_percpu(bytes(4)) or []
        hits = sum(int.from_bytes(value, sys.byteorder) for value in values)
    assert hits == count


def test_a_program_that_is_attached_receives(loaded: BpfObject, right: str, veth: Veth) -> None:
    with attach(loaded.programs["redirect"], right):
        send_experimental(veth)
        await_hit(loaded)


def test_a_dispatcher_that_cannot_be_joined_is_explained(
    loaded: BpfObject, right: str, bpf_object: Callable[[str], Path]
) -> None:
    """The program on the interface has the dispatcher's name, and is not one."""
    support = dispatcher_supported()
    if support:
        pytest.skip("this kernel can load libxdp's dispatcher")
    path = str(bpf_object("pyxdp"))
    command = ["ip", "link", "set", "dev", right, "xdpdrv"]
    subprocess.run([*command, "object", path, "program", "xdp_dispatcher"], check=True)
    with pytest.raises(XdpError) as caught:
        attach(loaded.programs["drop"], right)
    assert caught.value.errno == errno.EBUSY
    assert "already has xdp_dispatcher" in str(caught.value)
    assert support.reason in str(caught.value)


def test_a_link_changes_its_program(loaded: BpfObject, right: str) -> None:
    with attach(loaded.programs["drop"], right) as attachment:
        attachment.replace(loaded.programs["redirect"])
        assert modes(right) == [("redirect", Mode.NATIVE)]
        assert attachment.program is loaded.programs["redirect"]
    assert modes(right) == []
    with pytest.raises(ValueError, match="is detached"):
        attachment.replace(loaded.programs["drop"])
