# SPDX-License-Identifier: Apache-2.0
"""UMEM and AF_XDP sockets over a veth pair: real packets both ways."""

from __future__ import annotations

import errno
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devmemtcp.pyxdp import (
    XDP_PKT_CONTD,
    BindFlags,
    BpfObject,
    Desc,
    Mode,
    Umem,
    XdpError,
    XskMap,
    XskSocket,
    attach,
    features,
)

if TYPE_CHECKING:
    from tests.net.veth import Veth, VethEnd

FRAME = 4096
FRAMES = 64
ETHERTYPE = 0x88B5  # what the test program redirects
HEADROOM = 256
COPY_SG = BindFlags.COPY | BindFlags.USE_NEED_WAKEUP | BindFlags.USE_SG
TIMEOUT = 30  # seconds


@pytest.fixture
def loaded(bpf_object: Callable[[str], Path]) -> Iterator[BpfObject]:
    with BpfObject.open(bpf_object("pyxdp")) as opened:
        yield opened.load()


def frame(to: VethEnd, payload: bytes) -> bytes:
    return bytes.fromhex(to.mac.replace(":", "")) + b"\2\0\0\0\0\1\x88\xb5" + payload


@contextmanager
def raw_socket(end: VethEnd) -> Iterator[socket.socket]:
    with end.enter():
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with raw:
        raw.bind((end.ifname, ETHERTYPE))
        raw.settimeout(TIMEOUT)
        yield raw


def receive(xsk: XskSocket, count: int) -> list[Desc]:
    """Await ``count`` descriptors."""
    poller = select.poll()
    poller.register(xsk, select.POLLIN)
    descs: list[Desc] = []
    while len(descs) < count:
        assert poller.poll(TIMEOUT * 1000), f"only {len(descs)} of {count} descriptors came"
        descs += xsk.rx.pop(count - len(descs))
    return descs


def payload(umem: Umem, descs: list[Desc]) -> bytes:
    return b"".join(bytes(umem.memory[desc.addr : desc.addr + desc.len]) for desc in descs)


class Receiver:
    """Sockets on the right end, the program attached, and every socket entered in its map."""

    def __init__(
        self, stack: ExitStack, end: VethEnd, loaded: BpfObject, mode: Mode, program: str
    ) -> None:
        self.stack, self.end = stack, end
        stack.enter_context(end.enter())
        xsks = loaded.maps["xsks"]
        assert isinstance(xsks, XskMap)
        self.xsks = xsks
        stack.enter_context(attach(loaded.programs[program], end.ifname, mode=mode))
        self.umem = stack.enter_context(Umem.allocate(FRAMES * FRAME))

    def socket(
        self, queue: int = 0, *, flags: BindFlags = BindFlags.COPY, rx_size: int = 64
    ) -> XskSocket:
        xsk = XskSocket(self.end.ifname, queue, self.umem, rx_size=rx_size, bind_flags=flags)
        self.stack.enter_context(xsk)
        self.xsks.set_socket(queue, xsk)
        return xsk


@pytest.fixture
def receiver(veth: Veth, loaded: BpfObject) -> Iterator[Callable[..., Receiver]]:
    with ExitStack() as stack:

        def make(mode: Mode = Mode.NATIVE, program: str = "redirect") -> Receiver:
            return Receiver(stack, veth.right, loaded, mode, program)

        yield make


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC])
def test_redirected_packets_arrive(
    veth: Veth, receiver: Callable[..., Receiver], mode: Mode
) -> None:
    right = receiver(mode)
    xsk = right.socket()
    assert xsk.fill.push(range(0, 16 * FRAME, FRAME)) == 16
    sent = [frame(veth.right, bytes([number]) * 100) for number in range(10)]
    with raw_socket(veth.left) as raw:
        for data in sent:
            raw.send(data)
    descs = receive(xsk, len(sent))
    assert [payload(right.umem, [desc]) for desc in descs] == sent
    assert {desc.addr % FRAME for desc in descs} == {HEADROOM}
    assert {desc.options for desc in descs} == {0}
    assert xsk.options().zero_copy is False


def test_packets_are_sent_when_kicked(veth: Veth) -> None:
    with (
        veth.right.enter(),
        Umem.allocate(FRAMES * FRAME) as umem,
        XskSocket(veth.right.ifindex, 0, umem) as xsk,
        raw_socket(veth.left) as raw,
    ):
        sent = [frame(veth.left, bytes([number]) * 60) for number in range(40)]
        for number, data in enumerate(sent):
            umem.memory[number * FRAME :][: len(data)] = data
        assert xsk.tx.push(Desc(n * FRAME, len(data)) for n, data in enumerate(sent)) == 40
        assert xsk.needs_wakeup()
        completed: list[int] = []
        deadline = time.monotonic() + TIMEOUT
        while len(completed) < len(sent):
            assert time.monotonic() < deadline
            xsk.kick()  # a call sends 32 at most, so more than one is needed
            completed += xsk.comp.pop(64)
        assert sorted(completed) == [n * FRAME for n in range(40)]
        assert [raw.recv(2048) for _ in sent] == sent


def send_to_queue(veth: Veth, mode: Mode, queue: int, data: bytes) -> None:
    """Send so that the right end receives on ``queue``.

    Natively a veth hands transmit queue n to the peer's receive queue n. Without a native
    program the number stays in the packet, where n is read as "received on n - 1".
    """
    transmit = queue + 1 if mode is Mode.GENERIC else queue
    with (
        veth.left.enter(),
        Umem.allocate(2 * FRAME) as umem,
        XskSocket(veth.left.ifname, transmit, umem) as xsk,
    ):
        umem.memory[: len(data)] = data
        xsk.tx.push([Desc(0, len(data))])
        deadline = time.monotonic() + TIMEOUT
        while not xsk.comp.pop(1):
            assert time.monotonic() < deadline
            xsk.kick()


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.GENERIC])
def test_two_queues_share_one_umem(
    netns_pair: Callable[..., Veth], loaded: BpfObject, mode: Mode
) -> None:
    veth = netns_pair(queues=3)
    with ExitStack() as stack:
        right = Receiver(stack, veth.right, loaded, mode, "redirect")
        sockets = [right.socket(0), right.socket(1)]
        assert sockets[0].fill.address != sockets[1].fill.address
        for queue, xsk in enumerate(sockets):
            assert xsk.fill.push(range(queue * 16 * FRAME, (queue + 1) * 16 * FRAME, FRAME)) == 16
        for queue in (1, 0, 1):
            send_to_queue(veth, mode, queue, frame(veth.right, b"for queue %d" % queue))
        for queue, count in ((0, 1), (1, 2)):
            descs = receive(sockets[queue], count)
            assert {desc.addr // FRAME // 16 for desc in descs} == {queue}
            for desc in descs:
                assert payload(right.umem, [desc])[14:] == b"for queue %d" % queue
        sockets[1].close()
        again = right.socket(1)  # the rings of its queue are made anew
        assert again.fill.free() == right.umem.fill_size
        again.fill.push([0])
        send_to_queue(veth, mode, 1, frame(veth.right, b"again"))
        assert payload(right.umem, receive(again, 1))[14:] == b"again"


def test_sockets_on_one_queue_share_its_fill_ring(receiver: Callable[..., Receiver]) -> None:
    right = receiver()
    first, second = right.socket(), right.socket()
    assert first.fill.address == second.fill.address
    assert first.rx.address != second.rx.address
    assert first.fd != second.fd


def test_statistics_say_why_packets_were_lost(
    veth: Veth, receiver: Callable[..., Receiver]
) -> None:
    xsk = receiver().socket(rx_size=2)
    data = frame(veth.right, bytes(100))
    with raw_socket(veth.left) as raw:
        raw.send(data)
        await_counter(lambda: xsk.statistics().rx_fill_ring_empty_descs, 1)
        xsk.fill.push(range(0, 8 * FRAME, FRAME))
        for _ in range(3):
            raw.send(data)
        await_counter(lambda: xsk.statistics().rx_ring_full, 1)
    assert len(receive(xsk, 2)) == 2
    xsk.tx.push([Desc(FRAMES * FRAME + 1, 60)])
    xsk.kick()
    assert xsk.statistics().tx_invalid_descs == 1


def await_counter(read: Callable[[], int], value: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while read() < value and time.monotonic() < deadline:
        time.sleep(0.001)  # counters raise no event
    assert read() == value


def require_multi_buffer(end: VethEnd) -> None:
    with end.enter():
        found = features(end.ifname)
    if not found.multi_buffer:
        pytest.skip(found.reasons["multi_buffer"])


@pytest.mark.parametrize(
    ("mode", "program"), [(Mode.NATIVE, "redirect_frags"), (Mode.GENERIC, "redirect")]
)
def test_a_jumbo_packet_takes_several_descriptors(
    netns_pair: Callable[..., Veth], loaded: BpfObject, mode: Mode, program: str
) -> None:
    veth = netns_pair(mtu=9000)
    require_multi_buffer(veth.right)
    data = frame(veth.right, bytes(range(250)) * 35)
    with ExitStack() as stack:
        right = Receiver(stack, veth.right, loaded, mode, program)
        xsk = right.socket(flags=COPY_SG)
        xsk.fill.push(range(0, 16 * FRAME, FRAME))
        raw = stack.enter_context(raw_socket(veth.left))
        raw.send(data)
        descs = receive(xsk, 3)
        assert [desc.options for desc in descs] == [XDP_PKT_CONTD, XDP_PKT_CONTD, 0]
        assert payload(right.umem, descs) == data


def test_a_jumbo_packet_is_dropped_and_counted_without_sg(
    netns_pair: Callable[..., Veth], loaded: BpfObject
) -> None:
    veth = netns_pair(mtu=9000)
    require_multi_buffer(veth.right)  # a kernel that has not heard of it drops without counting
    with ExitStack() as stack:
        xsk = Receiver(stack, veth.right, loaded, Mode.NATIVE, "redirect_frags").socket()
        xsk.fill.push(range(0, 16 * FRAME, FRAME))
        raw = stack.enter_context(raw_socket(veth.left))
        raw.send(frame(veth.right, bytes(8000)))
        await_counter(lambda: xsk.statistics().rx_dropped, 1)
        assert xsk.rx.pop(8) == []


def test_unaligned_chunks_begin_where_they_are_told(veth: Veth, loaded: BpfObject) -> None:
    with ExitStack() as stack:
        stack.enter_context(veth.right.enter())
        stack.enter_context(attach(loaded.programs["redirect"], veth.right.ifname))
        umem = stack.enter_context(Umem.allocate(FRAMES * FRAME, unaligned=True))
        xsk = stack.enter_context(XskSocket(veth.right.ifname, 0, umem))
        xsks = loaded.maps["xsks"]
        assert isinstance(xsks, XskMap)
        xsks.set_socket(0, xsk)
        xsk.fill.push([3 * FRAME - HEADROOM])
        data = frame(veth.right, b"begins on a page")
        with raw_socket(veth.left) as raw:
            raw.send(data)
        (desc,) = receive(xsk, 1)
        # The offset in the upper 16 bits is the headroom (XSK_UNALIGNED_BUF_OFFSET_SHIFT).
        assert (desc.addr & (1 << 48) - 1) + (desc.addr >> 48) == 3 * FRAME
        assert bytes(umem.memory[3 * FRAME :][: len(data)]) == data


def test_a_socket_leaves_the_map_when_it_is_taken_out(
    veth: Veth, receiver: Callable[..., Receiver], loaded: BpfObject
) -> None:
    right = receiver()
    xsk = right.socket()
    xsk.fill.push(range(0, 4 * FRAME, FRAME))
    right.xsks.delete(0)
    with raw_socket(veth.left) as raw:
        raw.send(frame(veth.right, b"dropped by the program"))
        hits = loaded.maps["hits"]

        def seen() -> int:
            values = hits.get_percpu(bytes(4)) or []
            return sum(int.from_bytes(value, sys.byteorder) for value in values)

        await_counter(seen, 1)
    assert xsk.rx.pop(1) == []


def test_rings_count_what_they_hold(receiver: Callable[..., Receiver]) -> None:
    xsk = receiver().socket()
    size = xsk.fill.size
    assert xsk.fill.free() == size
    first = xsk.fill.reserve(size - 1)
    assert first is not None
    assert xsk.fill.reserve(2) is None
    assert xsk.fill.push([0, FRAME]) == 0
    assert xsk.fill.push([0]) == 1
    assert xsk.fill.free() == 0
    assert xsk.rx.peek(8)[1] == 0
    assert len({ring.address for ring in (xsk.rx, xsk.tx, xsk.fill, xsk.comp)}) == 4


def test_sockets_close_before_their_umem(veth: Veth) -> None:
    with veth.right.enter():
        umem = Umem.allocate(FRAMES * FRAME)
        xsk = XskSocket(veth.right.ifname, 0, umem)
        with pytest.raises(XdpError, match="first") as caught:
            umem.close()
        assert caught.value.errno == errno.EBUSY
        ring = xsk.rx
        xsk.close()
        xsk.close()
        with pytest.raises(ValueError, match="closed"):
            ring.pop(1)
        with pytest.raises(ValueError, match="closed"):
            _ = xsk.fd
        with pytest.raises(ValueError, match="make a new one"):
            XskSocket(veth.right.ifname, 0, umem)
        umem.close()
        umem.close()
        with Umem.allocate(FRAME) as fresh, XskSocket(veth.right.ifname, 0, fresh):
            pass  # the queue is free again


def test_nothing_stays_mapped(veth: Veth) -> None:
    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count("socket:")

    before = mappings()
    with veth.right.enter():
        Umem.allocate(FRAME).close()
        with Umem.allocate(FRAME) as umem, XskSocket(veth.right.ifname, 0, umem):
            assert mappings() == before + 4
            with Umem.allocate(FRAME) as other, pytest.raises(XdpError) as caught:
                XskSocket(veth.right.ifname, 0, other, busy_timeout=0)
            assert caught.value.errno == errno.EBUSY
    assert mappings() == before


def test_what_the_kernel_refuses_is_explained(veth: Veth) -> None:
    with veth.right.enter(), Umem.allocate(FRAME) as umem:
        with pytest.raises(XdpError, match="no queue 7: it has 1"):
            XskSocket(veth.right.ifname, 7, umem)
        with pytest.raises(XdpError, match="no interface 'nonesuch0'"):
            XskSocket("nonesuch0", 0, umem)
        with pytest.raises(ValueError, match="rx_size"):
            XskSocket(veth.right.ifname, 0, umem, rx_size=3)


def test_sharers_cannot_have_flags_of_their_own(receiver: Callable[..., Receiver]) -> None:
    right = receiver()
    right.socket(flags=BindFlags.COPY)
    with pytest.raises(ValueError, match="bind flags"):
        right.socket(flags=COPY_SG)


OVER_THE_LIMIT = """
import resource
from devmemtcp.pyxdp import Umem, XdpError
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
try:
    Umem.allocate(16 << 20)
except XdpError as error:
    print(error)
"""


def test_a_umem_over_the_memlock_limit_is_explained(veth: Veth) -> None:
    drop = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]
    command = [*drop, sys.executable, "-c", OVER_THE_LIMIT]
    done = veth.right.run(command, stdout=subprocess.PIPE, text=True)
    assert "RLIMIT_MEMLOCK" in done.stdout
    assert "CAP_IPC_LOCK" in done.stdout
