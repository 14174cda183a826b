# SPDX-License-Identifier: Apache-2.0
"""Windows and buffers: RFC 9293 section 3.8.6, and the two answers to a slow application.

``pressure="window"``: the window follows the free device buffers, so a sender that keeps to it
never loses a segment for want of one. ``pressure="drop"``: outstanding tokens are not charged, as
in the kernel.
"""

from __future__ import annotations

import pytest

from .tcp.bench import Bench, MakeBench, Peer, pattern

MSS = 1448


def push(bench: Bench, c: Peer, limit: int = 1 << 30) -> bytes:
    """Send full segments while the window has room for one; the bytes that were sent."""
    out = bytearray()
    while c.window - (c.seq - c.max_ack) >= MSS and len(out) < limit:
        piece = pattern(MSS, seed=c.seq)
        assert c.inject(".", data=piece), "the NIC had no buffer for a segment inside the window"
        out += piece
        c.drain()
    return bytes(out)


def fill(bench: Bench, c: Peer) -> bytes:
    """push() until the window stays shut."""
    out = bytearray()
    while True:
        piece = push(bench, c)
        bench.advance(ms=bench.delack_ms)
        c.drain()
        out += piece
        if not piece:
            return bytes(out)


# ---- 34 to 38 ----


def test_row34_the_window_is_large_when_buffers_are(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=1024, fill=512, rcv_wnd_max=1 << 20)
    c = bench.established()
    push(bench, c, limit=1_000_000)
    assert c.window > 200_000


@pytest.mark.parametrize("niovs", [32, 64, 256])
def test_row38_window_update_once_the_application_reads_again(
    make_bench: MakeBench, niovs: int
) -> None:
    bench = make_bench(niovs=niovs, fill=niovs // 2)
    c = bench.established()
    bench.app.hold = True
    data = fill(bench, c)
    assert c.window < MSS, "the application holds it all"
    assert bench.nic_drops == 0
    bench.advance(ms=5000)
    c.drain()
    bench.app.hold = False
    bench.app.give_back(c.conn)
    bench.turn()
    s = c.drain()[-1]
    assert s.rack == 1 + len(data)
    assert c.window >= MSS
    assert bench.stats().tx_window_updates >= 1
    more = push(bench, c, limit=100_000)
    bench.advance(ms=40)
    assert c.max_ack == 1 + len(data) + len(more)
    assert c.data == data + more


def test_an_ack_without_its_flag_is_not_heard_by_a_shut_window(make_bench: MakeBench) -> None:
    bench = make_bench(rcv_wnd_max=4000, blocks=1)
    bench.app.hold = True
    c = bench.established()
    fill(bench, c)
    c.inject(".", data=pattern(c.window))
    bench.app.send(c.conn, b"reply")
    bench.turn()
    c.drain()
    assert c.window == 0
    at = c.seq
    c.inject("P", seq=at, raw_ack=c.irs + 6, data=b"x")
    assert c.conn.sent == 0
    c.inject("P.", seq=at, ack=6, data=b"x")
    assert c.conn.sent == 5
    bench.app.hold = False
    bench.app.give_back(c.conn)
    c.drain()


def test_after_the_fin_no_window_is_told_of(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=64, fill=32)
    c = bench.established()
    bench.app.hold = True
    fill(bench, c)
    assert c.window < MSS, "more would be of use"
    before = bench.stats().tx_window_updates
    c.inject("F.")
    c.drain()
    assert c.state == "CLOSE_WAIT"
    bench.app.hold = False
    bench.app.give_back(c.conn)
    bench.turn()
    bench.advance(ms=1000)
    assert bench.stats().tx_window_updates == before


@pytest.mark.parametrize("size", [100, MSS])
def test_row36_the_window_reopens_in_steps_worth_a_segment(
    make_bench: MakeBench, size: int
) -> None:
    bench = make_bench(niovs=64, fill=32, rcv_wnd_max=32768)
    c = bench.established()
    bench.app.hold = True
    sent = 0
    while c.window - (c.seq - c.max_ack) >= size and sent < 400 and bench.fill_level() > 1:
        c.inject(".", data=pattern(size))
        sent += 1
        bench.advance(ms=40)
        c.drain()
    shut = c.window
    edge = c.edge
    for token in sorted(c.conn.held):
        bench.app.give_back(c.conn, token)
        bench.turn()
        for s in c.drain():
            assert not s.data
        if c.edge > edge and shut < MSS:
            assert c.edge - edge >= min(MSS, 32768 // 2) - (1 << c.rcv_wscale), "a silly window"
        edge = c.edge
    assert c.window >= MSS


def test_row35_many_connections_share_buffers_and_no_edge_goes_back(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=256, fill=64, rcv_wnd_max=1 << 18)
    bench.app.hold = True
    peers = [bench.established() for _ in range(8)]
    for _ in range(30):
        for c in peers:
            push(bench, c, limit=4 * MSS)
        bench.advance(ms=5)
    bench.advance(ms=100)
    assert bench.nic_drops == 0, "windows promised more buffers than there are"
    for c in peers:
        c.drain()
        bench.app.give_back(c.conn)
        bench.turn()
    bench.app.hold = False
    for c in peers:
        before = len(c.data)
        sent = push(bench, c, limit=4 * MSS)
        bench.advance(ms=100)
        assert len(c.data) == before + len(sent)


def test_a_connection_that_hoards_does_not_starve_the_others(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=128, fill=32)
    hoarder = bench.established()
    bench.app.hold = True
    fill(bench, hoarder)
    other = bench.peer()
    other.inject("S", seq=0)
    other.expect("S.")
    other.inject(".", seq=1, ack=1)
    bench.advance(ms=100)
    other.inject(".", data=b"x" * 100)
    bench.advance(ms=100)
    other.drain()
    if other.data == b"":  # no buffer was left for it: then it gets one as soon as there is one
        bench.app.give_back(hoarder.conn)
        bench.turn()
        other.inject(".", seq=1, data=b"x" * 100)
        other.expect_acked(101)
    assert other.data == b"x" * 100


def test_out_of_order_data_never_eats_the_buffer_of_the_next_segment(make_bench: MakeBench) -> None:
    """A window full of islands must leave the missing segment room: else nothing moves again."""
    bench = make_bench(niovs=48, fill=16)
    c = bench.established()
    data = pattern(40_000)
    edge = c.edge
    at = 1 + MSS
    while at + MSS <= edge:
        c.inject(".", seq=at, data=data[at - 1 : at - 1 + MSS])
        at += MSS
    c.drain()
    c.inject(".", seq=1, data=data[:MSS])
    bench.advance(ms=40)
    c.drain()
    assert c.max_ack >= 1 + MSS
    assert c.data == data[: len(c.data)]


def test_tiny_segments_run_out_of_buffers_and_recover(make_bench: MakeBench) -> None:
    """One byte a buffer: the window in bytes cannot prevent it, but nothing may hang or be lost."""
    bench = make_bench(niovs=48, fill=16)
    c = bench.established()
    bench.app.hold = True
    data = pattern(400)
    for n in range(400):
        c.inject(".", seq=1 + n, data=data[n : n + 1])
    bench.advance(ms=100)
    c.drain()
    bench.app.hold = False
    for _ in range(400):
        if c.max_ack == 401:
            break
        bench.app.give_back(c.conn)
        bench.advance(ms=10)
        at = c.max_ack
        for n in range(at, min(at + 10, 401)):
            c.inject(".", seq=n, data=data[n - 1 : n])
        bench.advance(ms=50)
        c.drain()
    assert c.data == data


def test_idle_connections_do_not_keep_new_ones_out(make_bench: MakeBench) -> None:
    """Windows once promised stay promised: a newcomer must not find all of them taken for ever."""
    bench = make_bench(niovs=256, fill=64, flows=512)
    busy = bench.established()
    busy.send_stream(pattern(200_000))
    bench.advance(ms=100)
    for _ in range(400):
        bench.established()
    late = bench.established()
    assert late.window >= MSS
    data = pattern(20_000)
    for _ in range(100):
        if late.max_ack > len(data):
            break
        late.send_stream(data[late.seq - 1 :][: late.window // MSS * MSS or late.window])
        bench.advance(ms=40)
        late.drain()
    assert late.data == data


def test_row81_embryos_do_not_shut_the_windows_of_others(make_bench: MakeBench) -> None:
    """A flood of SYNs that nobody acknowledges holds promises for minutes."""
    bench = make_bench(niovs=256, fill=64, flows=512)
    old = bench.established()
    for _ in range(400):
        bench.peer().inject("S", seq=0)
    for c in (old, bench.established()):
        data = pattern(100_000)
        c.send_stream(data)
        bench.advance(ms=40)
        c.drain()
        assert c.data == data
        assert c.window > 10 * MSS


def test_the_window_grows_with_what_comes(make_bench: MakeBench) -> None:
    """It stays ahead of a sender that doubles each round trip."""
    bench = make_bench(niovs=2048, fill=1024, rcv_wnd_max=1 << 20)
    c = bench.established()
    sizes = [c.window]
    while c.window < 1 << 19:
        with bench.batch():
            push_all = c.window // MSS
            for _ in range(push_all):
                c.inject(".", data=bytes(MSS))
        bench.advance(ms=40)
        c.drain()
        assert c.window >= min(2 * sizes[-1], 1 << 19)
        sizes.append(c.window)
    assert sizes[0] <= 16 * 1460, "what an idle connection keeps from the others"
    assert len(sizes) <= 8


# ---- pressure="drop" ----


def test_drop_mode_does_not_charge_tokens_to_the_window(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=64, fill=32, pressure="drop", rcv_wnd_max=65536)
    c = bench.established()
    bench.app.hold = True
    first = c.window
    sent = bytearray()
    while bench.fill_level():
        piece = pattern(MSS, seed=len(sent))
        if not c.inject(".", data=piece):
            break
        sent += piece
        c.drain()
    bench.advance(ms=40)
    c.drain()
    assert c.window >= min(first, 65536) - (1 << c.rcv_wscale)
    assert not c.inject(".", data=b"dropped by the NIC")
    assert bench.nic_drops == 1
    bench.app.give_back(c.conn)
    bench.turn()
    c.inject(".", seq=1 + len(sent), data=b"through")
    c.expect_acked(1 + len(sent) + 7)
    assert c.data == bytes(sent) + b"through"


def test_drop_mode_counts_the_empty_pool(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=32, fill=16, pressure="drop")
    c = bench.established()
    bench.app.hold = True
    for n in range(40):
        c.inject(".", seq=1 + n, data=b"x")
    assert bench.stats().pool_empty > 0
    assert bench.stats().niovs_free == 0
    c.drain()


# ---- queues and sizes ----


def test_queues_have_fill_rings_of_their_own(make_bench: MakeBench) -> None:
    bench = make_bench(queues=3, niovs=256, fill=32)
    peers = [bench.established(queue=n) for n in range(3)]
    assert all(bench.fill_level(n) >= 16 for n in range(3))
    for n, c in enumerate(peers):
        c.send_stream(pattern(50_000, seed=n))
        c.expect_acked(50_001)
        assert c.data == pattern(50_000, seed=n)


def test_large_segments_with_jumbo_windows(make_bench: MakeBench) -> None:
    bench = make_bench(mtu=65535, niovs=512, fill=128, rcv_wnd_max=1 << 20)
    c = bench.established(mss=65495)
    data = pattern(500_000)
    at = 0
    while at < len(data):
        size = min(60_000, c.window - (c.seq - c.max_ack), len(data) - at)
        assert size > 0
        assert c.inject(".", data=data[at : at + size])
        at += size
        bench.advance(ms=1)
        c.drain()
    c.inject("F.")
    c.expect_acked(500_002)
    assert c.data == data


@pytest.mark.parametrize("rcv_wnd_max", [4096, 65535, 65536, 1 << 20, 1 << 30])
def test_window_limits_of_any_size(make_bench: MakeBench, rcv_wnd_max: int) -> None:
    bench = make_bench(rcv_wnd_max=rcv_wnd_max)
    c = bench.established()
    data = pattern(30_000)
    at = 0
    while at < len(data):
        size = min(1000, c.window - (c.seq - c.max_ack), len(data) - at)
        if size > 0:
            c.inject(".", data=data[at : at + size])
            at += size
        else:
            bench.advance(ms=40)
        c.drain()
        assert c.window <= rcv_wnd_max + (1 << c.rcv_wscale)
    bench.advance(ms=40)
    assert c.data == data


def test_a_window_that_cannot_be_told_of_is_no_reason_for_an_update(make_bench: MakeBench) -> None:
    """Without scaling 65535 is all there is, and an ACK that says nothing new looks like loss."""
    bench = make_bench()
    c = bench.established(ws=None)
    for _ in range(200):
        c.inject(".", data=pattern(1000))
        c.inject(".", data=pattern(1000))
        bench.advance(1)
        told = [(s.rack, s.win) for s in c.drain()]
        assert len(told) == len(set(told))
    assert told == [(c.seq, 65535)]
