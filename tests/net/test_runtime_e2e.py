# SPDX-License-Identifier: Apache-2.0
"""The runtime over a veth pair, with the kernel's TCP at the other end."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from devmemtcp.agent import Connection, Listener, Region, RegionView, Runtime
from devmemtcp.agent.datapath import Datapath

from ..slowness import SLOWNESS
from .traffic import MIB, PATIENCE, PORT, assert_clean, dial, settled

TCPI_BYTES_SENT = 200  # offset in struct tcp_info


@contextlib.contextmanager
def receiver(
    end: Any, size: int = 16 * MIB, **options: Any
) -> Iterator[tuple[Runtime, RegionView]]:
    """A runtime on one end of the pair; left without a trace of a fragment."""
    with (
        Region(size) as region,
        region.map() as view,
        Runtime(end.ifname, region, netns=end.netns, **options) as rt,
    ):
        yield rt, view
        assert_clean(rt)


def read_all(conn: Connection, view: RegionView) -> bytes:
    """Everything to the end of the stream, every token given back."""
    data = bytearray()
    while batch := conn.recv_frags(timeout=PATIENCE):
        for frag in batch:
            data += view[frag.offset : frag.offset + frag.size]
        assert conn.dontneed(batch) == len(batch)
    return bytes(data)


class Exchange(NamedTuple):
    got: bytes
    """By us."""
    answer: bytes
    """What the sender got."""
    bytes_sent: int
    """Payload that the sender's kernel has sent, retransmissions included (tcpi_bytes_sent)."""


def bytes_sent(sock: socket.socket) -> int:
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCPI_BYTES_SENT + 8)
    sent: int = struct.unpack_from("=Q", info, TCPI_BYTES_SENT)[0]
    return sent


def exchange(rt: Runtime, view: RegionView, listener: Listener, end: Any, data: bytes) -> Exchange:
    """One stream there and an answer back."""

    def send() -> tuple[bytes, int]:
        with dial(end, listener.address) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            return sock.makefile("rb").read(), bytes_sent(sock)

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(send)
        with listener.accept(PATIENCE) as conn:
            got = read_all(conn, view)
            conn.send(b"got %d bytes" % len(got))
        return Exchange(got, *answer.result(PATIENCE))


@pytest.mark.parametrize("family", ["ip4", "ip6"])
@pytest.mark.parametrize("mode", ["native", "generic"])
@pytest.mark.parametrize("isolate", [False, True], ids=["inside", "isolated"])
def test_a_stream_arrives_whole_and_an_answer_goes_back(
    veth: Any, isolate: bool, mode: str, family: str
) -> None:
    data = random.Random(1).randbytes(5 * MIB + 1)
    with receiver(veth.right, mode=mode, isolate=isolate) as (rt, view):
        assert rt.mode == mode
        assert (rt.mtu, rt.queues) == (1500, 1)
        assert (rt.pid != os.getpid()) == isolate
        with rt.listen((getattr(veth.right, family), PORT)) as listener:
            got, answer, sent = exchange(rt, view, listener, veth.left, data)
        assert got == data
        assert answer == b"got %d bytes" % len(data)
        stats = rt.stats()
        assert stats.stack["rx_payload_bytes"] == len(data)
        # Equal unless something was sent twice; of that a veth may lose what its ring cannot hold.
        assert len(data) <= stats.steer["redirect_bytes"] <= sent
        assert stats.steer["redirect"] == stats.stack["rx_segments"]
        assert stats.stack["frags_delivered"] == stats.stack["tokens_returned"] > 0
        # What was sent twice may be dropped, nothing else: by its number, or, where a machine is so
        # slow that it comes milliseconds late, by its timestamp.
        dropped = {reason for reason, count in stats.drops.items() if count}
        assert dropped <= {"OLD_SEQ", "DUPLICATE"} | ({"PAWS"} if SLOWNESS > 1 else set())


@pytest.mark.parametrize("altname", ["alt0", "longer-than-a-name-may-be"])
def test_an_interface_may_be_given_by_an_altname(veth: Any, altname: str) -> None:
    """As systemd and cloud images name them; addresses are listed by the other name alone."""
    veth.right.run(["ip", "link", "property", "add", "dev", veth.right.ifname, "altname", altname])
    with (
        receiver(replace(veth.right, ifname=altname)) as (rt, view),
        rt.listen((veth.right.ip4, PORT)) as listener,
    ):
        assert exchange(rt, view, listener, veth.left, b"x" * MIB).got == b"x" * MIB


@pytest.mark.parametrize("mtu", [1280, 9000, 65535])
@pytest.mark.parametrize("mode", ["native", "generic"])
def test_packets_of_any_size_are_split(netns_pair: Any, mode: str, mtu: int) -> None:
    veth = netns_pair(mtu=mtu)
    data = random.Random(mtu).randbytes(3 * MIB)
    with receiver(veth.right, mode=mode) as (rt, view):
        assert rt.mtu == mtu
        with rt.listen((veth.right.ip4, PORT)) as listener:
            assert exchange(rt, view, listener, veth.left, data)[0] == data
        assert rt.stats().sockets[0].rx_dropped == 0


def test_buffers_are_there_before_the_first_turn_of_the_loop(
    veth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop's thread may be late on a busy machine: what comes meanwhile is not lost."""
    start = Datapath.start
    monkeypatch.setattr(Datapath, "start", lambda datapath: None)
    with receiver(veth.right) as (rt, view):
        listener = rt.listen((veth.right.ip4, PORT))
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(send_stream, veth.left, listener.address, 0, b"early")
            assert settled(rt, lambda: rt.stats().steer["redirect"] == 1)
            assert rt.stats().sockets[0].rx_dropped == 0
            assert isinstance(rt._datapath, Datapath)
            start(rt._datapath)
            with listener.accept(PATIENCE) as conn:
                assert read_all(conn, view) == b"early"
            sent.result(PATIENCE)


@pytest.mark.parametrize("isolate", [False, True], ids=["inside", "isolated"])
def test_only_an_isolated_stack_cannot_read(veth: Any, isolate: bool) -> None:
    with receiver(veth.right, isolate=isolate) as (rt, view):
        with rt.listen((veth.right.ip4, PORT)) as listener:
            exchange(rt, view, listener, veth.left, b"secret" * 1000)
        seen = rt.unreadable
        assert seen.proved == bool(seen) == isolate
        assert seen.signal == 11  # neither reads where the mosaic was
        if isolate:
            assert seen.mappings == seen.descriptors == 0
            assert str(rt.pid) in seen.reason
        else:
            assert seen.mappings == 1  # the application's
            assert "share a process" in seen.reason


def test_header_and_payload_pages_are_where_they_should_be(veth: Any) -> None:
    """Every byte of the region that was never payload is still zero."""
    data = b"\xaa" * 300_000
    with Region(2 * MIB) as region, region.map() as view:
        with (
            Runtime(veth.right.ifname, region, netns=veth.right.netns) as rt,
            rt.listen((veth.right.ip4, PORT)) as listener,
        ):
            assert exchange(rt, view, listener, veth.left, data)[0] == data
        seen = bytes(view.memory)
    assert set(seen) == {0, 0xAA}
    for page in range(0, len(seen), 4096):
        assert seen[page + 3840 : page + 4096] == bytes(256)


@pytest.mark.parametrize("isolate", [False, True], ids=["inside", "isolated"])
def test_many_connections_at_once_over_two_queues(netns_pair: Any, isolate: bool) -> None:
    veth = netns_pair(queues=2)
    count = 64
    streams = {
        40_000 + number: random.Random(number).randbytes(20_000 + 977 * number)
        for number in range(count)
    }
    with receiver(veth.right, isolate=isolate) as (rt, view):
        assert rt.queues == 2
        with (
            rt.listen((veth.right.ip4, PORT), backlog=count) as listener,
            ThreadPoolExecutor(8) as pool,
        ):
            sent = [
                pool.submit(send_stream, veth.left, listener.address, port, data)
                for port, data in streams.items()
            ]
            got = collect(rt, view, listener, count)
            for future in sent:
                future.result(PATIENCE)
        assert got == streams
        stats = rt.stats()
        assert stats.stack["flows_established"] == count
        assert settled(rt, lambda: not rt.flows())


def test_connections_that_nobody_accepts_are_as_many_as_the_backlog_says(netns_pair: Any) -> None:
    """A further SYN is dropped, and comes again a second later."""
    veth = netns_pair()
    with receiver(veth.right) as (rt, _), contextlib.ExitStack() as undo:
        listener = undo.enter_context(rt.listen((veth.right.ip4, PORT), backlog=2))
        pool = undo.enter_context(ThreadPoolExecutor(1))
        for _ in range(5):  # one after the other, each accepted: that many never wait
            undo.enter_context(dial(veth.left, listener.address))
            undo.enter_context(listener.accept(PATIENCE))
        for _ in range(2):
            undo.enter_context(dial(veth.left, listener.address))
        late = pool.submit(dial, veth.left, listener.address)
        assert settled(rt, lambda: rt.stats().drops["BACKLOG"] > 0)
        assert not late.done()
        undo.enter_context(listener.accept(PATIENCE))
        undo.enter_context(late.result(PATIENCE))


def send_stream(end: Any, address: tuple[str, int], port: int, data: bytes) -> None:
    with dial(end, address, source_port=port) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def collect(rt: Runtime, view: RegionView, listener: Listener, count: int) -> dict[int, bytes]:
    """Serve `count` connections with poll(): bytes by the peer's port."""
    got: dict[int, bytes] = {}
    open_: dict[Connection, bytearray] = {}
    while len(got) < count:
        ready = rt.poll(PATIENCE)
        assert ready, f"nothing for {PATIENCE} s; {len(got)} done, {len(open_)} open"
        for item in ready:
            if isinstance(item, Listener):
                open_[item.accept(0)] = bytearray()
                continue
            batch = item.recv_frags(16, timeout=0)
            for frag in batch:
                open_[item] += view[frag.offset : frag.offset + frag.size]
            item.dontneed(batch)
            if not batch:
                got[item.peer[1]] = bytes(open_.pop(item))
                item.close()
    return got


def test_both_queues_get_packets(netns_pair: Any) -> None:
    """A veth spreads flows over the receiver's queues by its transmit queue: one a CPU."""
    veth = netns_pair(queues=2)
    with receiver(veth.right) as (rt, view), rt.listen((veth.right.ip4, PORT)) as listener:
        for cpu in sorted(os.sched_getaffinity(0))[:2]:
            with on_cpu(cpu):
                sock = dial(veth.left, listener.address)
            conn = listener.accept(PATIENCE)
            with on_cpu(cpu), sock:
                sock.sendall(b"x" * 100_000)
                sock.shutdown(socket.SHUT_WR)
                assert len(read_all(conn, view)) == 100_000
                conn.close()


@contextlib.contextmanager
def on_cpu(cpu: int) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def test_what_is_not_ours_passes_to_the_kernel(veth: Any) -> None:
    with veth.right.enter():
        server = socket.create_server((veth.right.ip4, PORT + 1))
    with server, receiver(veth.right) as (rt, _view):
        with (
            rt.listen((veth.right.ip4, PORT)),
            dial(veth.left, (veth.right.ip4, PORT + 1)) as sock,
        ):
            peer, _ = server.accept()
            with peer:
                sock.sendall(b"for the kernel")
                assert peer.recv(100) == b"for the kernel"
        assert rt.stats().steer["redirect"] == 0


def test_the_window_closes_and_opens_with_the_free_buffers(veth: Any) -> None:
    """Nobody reads: the sender is stopped by the window, nothing is dropped; then all arrives."""
    data = random.Random(3).randbytes(12 * MIB)
    with receiver(veth.right, 4 * MIB) as (rt, view):
        with rt.listen((veth.right.ip4, PORT)) as listener, ThreadPoolExecutor(1) as pool:
            sent = pool.submit(send_stream, veth.left, listener.address, 0, data)
            conn = listener.accept(PATIENCE)

            def stalled_at_less_than_64k() -> bool:
                (flow,) = rt.flows()
                return flow.rx_bytes > MIB and flow.rcv_wnd < 65536

            assert settled(rt, stalled_at_less_than_64k)
            stalled = rt.stats()
            assert 0 < stalled.stack["frags_delivered"] <= 2 * 4 * MIB // 4096
            assert not sent.done()
            assert read_all(conn, view) == data
            conn.close()
            sent.result(PATIENCE)
        stats = rt.stats()
        assert sum(sock.rx_fill_ring_empty_descs for sock in stats.sockets) == 0
        assert stats.drops["NO_MEMORY"] == stats.drops["OUT_OF_WINDOW"] == 0
        assert stats.stack["tx_window_updates"] > 0


def test_tokens_come_back_in_any_order_and_by_number(veth: Any) -> None:
    rng = random.Random(4)
    data = rng.randbytes(2 * MIB)
    with (
        receiver(veth.right) as (rt, view),
        rt.listen((veth.right.ip4, PORT)) as listener,
        ThreadPoolExecutor(1) as pool,
    ):
        sent = pool.submit(send_stream, veth.left, listener.address, 0, data)
        conn = listener.accept(PATIENCE)
        got, tokens = bytearray(), list[int]()
        while batch := conn.recv_frags(timeout=PATIENCE):
            for frag in batch:
                got += view[frag.offset : frag.offset + frag.size]
                tokens.append(frag.token)
            rng.shuffle(tokens)
            conn.dontneed(tokens[:100])
            del tokens[:100]
        assert got == data
        assert rt.stats().tokens_outstanding >= len(tokens)
        assert conn.dontneed(iter(tokens)) == len(tokens)
        conn.close()
        sent.result(PATIENCE)


def test_a_token_that_is_not_held_is_skipped(veth: Any) -> None:
    with (
        Region(MIB * 4) as region,
        Runtime(veth.right.ifname, region, netns=veth.right.netns) as rt,
    ):
        listener = rt.listen((veth.right.ip4, PORT))
        with dial(veth.left, listener.address) as sock:
            conn = listener.accept(PATIENCE)
            sock.sendall(b"x")
            batch = conn.recv_frags(timeout=PATIENCE)
            assert conn.dontneed(batch) == 1
            assert conn.dontneed(batch) == 0
            assert conn.dontneed([2**32 - 1]) == 0
            assert settled(rt, lambda: rt.stats().stack["tokens_returned"] == 1)
            assert rt.stats().stack["requests_rejected"] == 0
        assert rt.check() == 0


def test_closing_gives_outstanding_tokens_back(veth: Any) -> None:
    with receiver(veth.right) as (rt, _view), rt.listen((veth.right.ip4, PORT)) as listener:
        sock = dial(veth.left, listener.address)
        with sock, listener.accept(PATIENCE) as conn:
            sock.sendall(b"x" * 100_000)
            held = 0
            while held < 100_000:
                held += conn.recv_frags(timeout=PATIENCE).nbytes
            assert rt.stats().tokens_outstanding > 0


@pytest.mark.parametrize("end", ["close", "abort"])
def test_closing_with_unread_bytes_resets(veth: Any, end: str) -> None:
    with (
        receiver(veth.right) as (rt, _view),
        rt.listen((veth.right.ip4, PORT)) as listener,
        dial(veth.left, listener.address) as sock,
    ):
        conn = listener.accept(PATIENCE)
        sock.sendall(b"x" * 100_000)
        assert rt.poll(PATIENCE) == [conn]
        getattr(conn, end)()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_peer_that_resets_is_reported_after_its_bytes(veth: Any) -> None:
    with receiver(veth.right) as (rt, view):
        with rt.listen((veth.right.ip4, PORT)) as listener:
            sock = dial(veth.left, listener.address)
            conn = listener.accept(PATIENCE)
            sock.sendall(b"last words")
            batch = conn.recv_frags(timeout=PATIENCE)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
            sock.close()
            with pytest.raises(ConnectionResetError):
                conn.recv_frags(timeout=PATIENCE)
            assert bytes(view[batch._frags[0].offset :][:10]) == b"last words"
            conn.dontneed(batch)
            conn.close()
        assert rt.stats().stack["flows_reset"] == 1


def test_close_first_says_the_end_with_the_first_bytes_and_goes_on_receiving(veth: Any) -> None:
    data = random.Random(5).randbytes(MIB)
    with (
        receiver(veth.right) as (rt, view),
        rt.listen((veth.right.ip4, PORT), close_first=True) as listener,
    ):
        assert listener.close_first
        with dial(veth.left, listener.address) as sock:
            conn = listener.accept(PATIENCE)
            sock.sendall(data[:100])
            assert sock.recv(1) == b""
            sock.sendall(data[100:])
            sock.shutdown(socket.SHUT_WR)
            assert read_all(conn, view) == data
            conn.close()


def test_replies_larger_than_the_channel_flow_with_the_acknowledgements(veth: Any) -> None:
    data = random.Random(6).randbytes(3 * MIB)
    with (
        receiver(veth.right) as (rt, _view),
        rt.listen((veth.right.ip4, PORT)) as listener,
        dial(veth.left, listener.address) as sock,
        ThreadPoolExecutor(1) as pool,
    ):
        conn = listener.accept(PATIENCE)
        got = pool.submit(sock.makefile("rb").read, len(data))
        assert conn.send(data, timeout=PATIENCE) == len(data)
        assert got.result(PATIENCE) == data
        conn.shutdown()
        with pytest.raises(BrokenPipeError):
            conn.send(b"more")
        conn.close()


def test_leaving_lets_closed_connections_finish_and_resets_the_others(veth: Any) -> None:
    with Region(4 * MIB) as region:
        with Runtime(veth.right.ifname, region, netns=veth.right.netns) as rt:
            listener = rt.listen((veth.right.ip4, PORT))
            closed, open_ = (dial(veth.left, listener.address) for _ in range(2))
            by_port = {conn.peer[1]: conn for conn in (listener.accept(PATIENCE) for _ in range(2))}
            conn = by_port[closed.getsockname()[1]]
            conn.send(b"good bye")
            conn.close()
        with closed, open_:
            assert closed.makefile("rb").read() == b"good bye"
            with pytest.raises(ConnectionResetError):
                open_.recv(1)


def test_what_the_stack_knows_of_a_connection(veth: Any) -> None:
    with (
        receiver(veth.right) as (rt, _view),
        rt.listen((veth.right.ip4, PORT)) as listener,
        dial(veth.left, listener.address) as sock,
        listener.accept(PATIENCE) as conn,
    ):
        sock.sendall(b"x" * 1000)
        batch = conn.recv_frags(timeout=PATIENCE)
        (flow,) = rt.flows()
        assert flow.id == conn.id
        assert flow.state == "ESTABLISHED"
        assert flow.local == conn.local == (veth.right.ip4, PORT)
        assert flow.peer == conn.peer == sock.getsockname()
        assert (flow.rx_bytes, flow.tokens) == (1000, len(batch))
        lent = [frag for frag in rt.frags() if frag.state == "lent"]
        assert [(f.kind, f.owner) for f in lent] == [("net_iov", conn.id)] * len(batch)
        assert {f.offset for f in lent} == {f.offset // 4096 * 4096 for f in batch}
        assert "net_iov    lent" in rt.dump_frags()
        conn.dontneed(batch)


@pytest.mark.parametrize(
    "options", [{"busy_poll": True}, {"spin_us": 50}, {"cpu": 0}, {"rx_csum": "trust"}]
)
def test_ways_to_run_the_loop(veth: Any, options: dict[str, Any]) -> None:
    data = random.Random(7).randbytes(2 * MIB)
    with receiver(veth.right, **options) as (rt, view):
        with rt.listen((veth.right.ip4, PORT)) as listener:
            assert exchange(rt, view, listener, veth.left, data)[0] == data
        stats = rt.stats()
        if "busy_poll" in options:
            assert stats.loop.sleeps == 0
        if "rx_csum" in options:
            assert stats.steer["csum_trusted"] == stats.steer["redirect"]
        else:
            assert stats.steer["csum_trusted"] == 0


def test_an_idle_loop_sleeps(veth: Any) -> None:
    with receiver(veth.right) as (rt, _view):
        rt.stats()
        before = rt.stats().loop
        assert rt.poll(0.5) == []
        after = rt.stats().loop
        assert after.turns - before.turns < 10  # a mail each, and what the link may say
        assert after.cpu_ns - before.cpu_ns < 20_000_000


def test_a_runtime_can_follow_another_on_the_same_interface_and_region(veth: Any) -> None:
    with Region(4 * MIB) as region, region.map() as view:
        for number in range(3):
            with Runtime(veth.right.ifname, region, netns=veth.right.netns) as rt:
                with rt.listen((veth.right.ip4, PORT)) as listener:
                    data = b"%d" % number * 10_000
                    assert exchange(rt, view, listener, veth.left, data)[0] == data
                assert_clean(rt)


def test_nothing_is_left_open_or_mapped(veth: Any) -> None:
    def traces() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text()
        return len(os.listdir("/proc/self/fd")), maps.count("devmemtcp") + maps.count("xsk")

    with Region(4 * MIB) as region:
        with Runtime(veth.right.ifname, region, netns=veth.right.netns):
            pass
        before = traces()
        for _ in range(2):
            with Runtime(veth.right.ifname, region, netns=veth.right.netns) as rt:
                listener = rt.listen((veth.right.ip4, PORT))
                with dial(veth.left, listener.address):
                    listener.accept(PATIENCE).close()
        assert traces() == before


def test_a_call_after_closing_says_so(veth: Any) -> None:
    with Region(4 * MIB) as region:
        rt = Runtime(veth.right.ifname, region, netns=veth.right.netns)
        with rt:
            listener = rt.listen((veth.right.ip4, PORT))
        for call in (rt.stats, rt.flows, rt.check, rt.poll, listener.accept):
            with pytest.raises(OSError, match="closed") as caught:
                call()
            assert caught.value.errno == errno.EBADF
        rt.close()
        listener.close()


def test_threads_may_share_a_runtime(veth: Any) -> None:
    """One thread a connection, blocking, all on one runtime."""
    count = 12
    with receiver(veth.right) as (rt, view), rt.listen((veth.right.ip4, PORT)) as listener:
        got: dict[int, bytes] = {}

        def serve() -> None:
            with listener.accept(PATIENCE) as conn:
                got[conn.peer[1]] = read_all(conn, view)

        servers = [threading.Thread(target=serve) for _ in range(count)]
        for thread in servers:
            thread.start()
        streams = {41_000 + n: random.Random(n).randbytes(50_000) for n in range(count)}
        with ThreadPoolExecutor(4) as pool:
            for port, data in streams.items():
                pool.submit(send_stream, veth.left, listener.address, port, data)
        for thread in servers:
            thread.join(PATIENCE)
        assert got == streams


@pytest.mark.parametrize("isolate", [False, True], ids=["inside", "isolated"])
def test_no_wake_up_is_lost(veth: Any, isolate: bool) -> None:
    """A question and an answer, thousands of times: both sides sleep between any two."""
    rounds = 3000
    with receiver(veth.right, isolate=isolate) as (rt, view):
        with (
            rt.listen((veth.right.ip4, PORT)) as listener,
            dial(veth.left, listener.address) as sock,
        ):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conn = listener.accept(PATIENCE)

            def ask() -> None:
                for number in range(rounds):
                    sock.sendall(struct.pack("=I", number))
                    assert sock.recv(4, socket.MSG_WAITALL) == struct.pack(
                        "=I", ~number & 2**32 - 1
                    )

            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(ask)
                question = bytearray()
                for number in range(rounds):
                    while len(question) < 4:
                        batch = conn.recv_frags(timeout=PATIENCE)
                        for frag in batch:
                            question += view[frag.offset : frag.offset + frag.size]
                        conn.dontneed(batch)
                    assert struct.unpack("=I", question) == (number,)
                    question.clear()
                    conn.send(struct.pack("=I", ~number & 2**32 - 1))
                asked.result(PATIENCE)
            conn.close()
        loop = rt.stats().loop
        assert loop.sleeps >= rounds // 10  # or it would prove little


def test_system_calls_are_by_batch_not_by_packet(veth: Any) -> None:
    with receiver(veth.right, mode="native") as (rt, view):
        with rt.listen((veth.right.ip4, PORT)) as listener:
            exchange(rt, view, listener, veth.left, bytes(8 * MIB))
        stats = rt.stats()
        packets = stats.loop.rx_packets
        assert packets > 8 * MIB // 1500
        calls = stats.loop.tx_kicks + stats.loop.tx_kick_retries
        assert calls + stats.loop.sleeps + stats.loop.wakeups_sent < packets
