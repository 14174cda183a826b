# SPDX-License-Identifier: Apache-2.0
"""Passive opening: RFC 9293 sections 3.5 and 3.10.7.1 to 3.10.7.4. Numbers are requirement rows."""

from __future__ import annotations

import errno
import itertools

import pytest

from devmemtcp.stack._stack import lib

from .tcp.bench import LOCAL4, MS, Bench, MakeBench, pattern
from .tcp.wire import Address

CLOSED_PORT = Address(LOCAL4.ip, 5001, LOCAL4.mac)


# ---- 11, 13: MSS ----


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("mtu", [1280, 1500, 9000])
def test_row11_syn_ack_announces_mtu_less_fixed_headers(
    make_bench: MakeBench, family: int, mtu: int
) -> None:
    bench = make_bench(mtu=mtu)
    if family == 6:
        bench.listen(Address(bytes(16), 5000), family=6)
    c = bench.peer(family=family)
    c.inject("S", seq=0)
    c.expect("S.", seq=0, ack=1, mss=mtu - (40 if family == 4 else 60))


def test_row11_the_mss_follows_the_mtu(bench: Bench) -> None:
    bench.mtu = 1400
    assert lib.stack_set_mtu(bench.stack, bench.mtu) == 0
    c = bench.peer()
    c.inject("S", seq=0)
    c.expect("S.", seq=0, ack=1, mss=1360)
    for mtu in (0, 575, 65536):
        assert lib.stack_set_mtu(bench.stack, mtu) == -errno.EINVAL
    c = bench.peer()
    c.inject("S", seq=0)
    c.expect("S.", seq=0, ack=1, mss=1360)


def test_row11_syn_without_mss_means_536(bench: Bench) -> None:
    c = bench.established(mss=None, ts=None)
    bench.app.send(c.conn, pattern(1500))
    bench.turn()
    sizes = [len(s.data) for s in c.drain()]
    assert sum(sizes) == 1500
    assert max(sizes) == 536
    c.inject(".")


# ---- 14: initial sequence numbers ----


def test_row14_isns_differ_by_tuple_and_look_random(make_bench: MakeBench) -> None:
    bench = make_bench(flows=256)
    isns = []
    for _ in range(200):
        c = bench.peer()
        c.inject("S", seq=0)
        isns.append(c.expect("S.").seq)
    assert len(set(isns)) == 200
    steps = {(b - a) & 0xFFFFFFFF for a, b in itertools.pairwise(isns)}
    assert len(steps) > 190, "ISNs of neighbouring ports must not be a fixed distance apart"


def test_row14_isn_of_one_tuple_advances_with_the_clock(bench: Bench) -> None:
    isns = []
    for n in range(12):
        c = bench.peer(port=45000, isn=1000 * n)
        c.inject("S", seq=0)
        isns.append(c.expect("S.").seq)
        c.inject("R", seq=1)
        c.silent()
        bench.advance(ms=100)
    steps = [(b - a) & 0xFFFFFFFF for a, b in itertools.pairwise(isns)]
    assert all(10_000 <= step <= 1 << 26 for step in steps), steps


# ---- 15: CLOSED ----


def test_row15_closed_port_answers_syn_with_rst(bench: Bench) -> None:
    c = bench.peer(local=CLOSED_PORT)
    c.inject("S", seq=0)
    assert c.expect("R.", ack=1).seq == 0


def test_row15_closed_port_counts_data_and_fin_in_the_acknowledgment(bench: Bench) -> None:
    c = bench.peer(local=CLOSED_PORT)
    c.inject("SF", seq=0, data=b"x" * 10)
    assert c.expect("R.", ack=12).seq == 0
    c.inject("P", seq=0, data=b"x" * 10)
    assert c.expect("R.", ack=10).seq == 0


def test_row15_closed_port_answers_ack_with_rst_at_its_ack(bench: Bench) -> None:
    c = bench.peer(local=CLOSED_PORT)
    c.inject(".", seq=7, ack=12345)
    assert c.expect("R").seq == 12345
    c.inject("F.", seq=7, ack=54321)
    assert c.expect("R").seq == 54321


@pytest.mark.parametrize("flags", ["R", "R.", "RS", "RF."])
def test_row15_closed_port_never_answers_rst(bench: Bench, flags: str) -> None:
    c = bench.peer(local=CLOSED_PORT)
    c.inject(flags, seq=7, ack=12345)
    c.silent()
    assert bench.in_flight() == 0


# ---- 16: LISTEN ----


@pytest.mark.parametrize("flags", [".", "S.", "F.", "P.", "FPU.", "SFRPU.EW".replace("R", "")])
def test_row16_listen_answers_ack_with_rst_at_its_ack(bench: Bench, flags: str) -> None:
    c = bench.peer()
    c.inject(flags, seq=7, ack=99_999)
    assert c.expect("R").seq == 99_999
    assert not bench.flows()


@pytest.mark.parametrize("flags", ["R", "R.", "RS", "RFPU.", "SFRPU.EW"])
def test_row16_listen_ignores_rst(bench: Bench, flags: str) -> None:
    c = bench.peer()
    c.inject(flags, seq=0, ack=99_999)
    c.silent()
    assert not bench.flows()


@pytest.mark.parametrize("flags", ["", "F", "P", "U", "FPU", "FP"])
def test_row16_listen_drops_what_has_neither_syn_nor_ack(bench: Bench, flags: str) -> None:
    c = bench.peer()
    c.inject(flags, seq=0, data=b"hello")
    c.silent()
    assert not bench.flows()
    assert bench.in_flight() == 0


# ---- 17: LISTEN + SYN ----


def test_row17_syn_ack_acknowledges_the_syn(bench: Bench) -> None:
    c = bench.peer(isn=0xFFFFFFFF)
    c.inject("S", seq=0)
    c.expect("S.", seq=0, ack=1)
    assert c.state == "SYN_RECEIVED"
    c.inject(".", seq=1, ack=1)
    assert c.state == "ESTABLISHED"
    assert c.accepted


def test_row17_data_on_the_syn_is_delivered_once(bench: Bench) -> None:
    c = bench.peer()
    data = pattern(10)
    c.inject("S", seq=0, data=data)
    s = c.expect("S.", seq=0)
    assert s.rack in (1, 11), "all of the SYN's data or none of it"
    assert not bench.app.conns, "no connection before the handshake is complete"
    c.inject("P.", seq=1, ack=1, data=data)
    c.expect_acked(11)
    assert c.data == data


def test_row17_syn_with_fin_never_harms(bench: Bench) -> None:
    c = bench.peer()
    c.inject("SF", seq=0)
    c.drain()
    c.inject("S", seq=0)
    bench.advance(ms=3000)
    assert any("S" in s.flags for s in c.drain()), "the plain SYN opens"
    c.inject(".", seq=1, ack=1)
    c.inject("P.", seq=1, data=b"abc")
    bench.advance(ms=100)
    assert c.drain()[-1].rack >= 4


# ---- 18, 19, 20, 21: SYN-RECEIVED ----


@pytest.mark.parametrize("wrong", [2, 0, 12346, -1, -(1 << 31) + 10])
def test_row18_unacceptable_ack_gets_rst_and_the_embryo_stays(bench: Bench, wrong: int) -> None:
    c = bench.peer()
    c.inject("S", seq=0)
    iss = c.expect("S.").seq
    c.inject(".", seq=1, ack=wrong)
    assert c.expect("R").seq == (iss + wrong) & 0xFFFFFFFF
    assert c.state == "SYN_RECEIVED"
    c.inject(".", seq=1, ack=1)
    c.silent()
    assert c.state == "ESTABLISHED"


def test_row19_exact_rst_returns_to_listen(bench: Bench) -> None:
    c = bench.peer()
    c.inject("S", seq=0)
    c.expect("S.")
    c.inject("R", seq=1)
    c.silent()
    assert c.state == "CLOSED"
    c.inject(".", seq=1, ack=1)
    assert c.expect("R").seq == (c.irs + 1) & 0xFFFFFFFF
    assert not bench.app.conns


@pytest.mark.parametrize("where", [0, -1000, 1 << 30])
def test_row19_rst_outside_the_window_is_ignored(bench: Bench, where: int) -> None:
    c = bench.peer()
    c.inject("S", seq=0)
    c.expect("S.")
    c.inject("R", seq=where)
    c.silent()
    c.inject(".", seq=1, ack=1)
    assert c.state == "ESTABLISHED"


def test_row20_duplicate_syn_gets_the_same_syn_ack(bench: Bench) -> None:
    c = bench.peer()
    for _ in range(4):
        c.inject("S", seq=0)
        bench.advance(ms=10)
    answers = c.drain()
    assert 1 <= len(answers) <= 4
    assert {s.seq for s in answers} == {c.irs}
    assert len(bench.flows()) == 1
    c.inject(".", seq=1, ack=1)
    assert bench.stats().flows_established == 1


def test_row20_syn_with_another_sequence_number_opens_nothing_new(bench: Bench) -> None:
    c = bench.peer()
    c.inject("S", seq=0)
    c.expect("S.")
    c.inject("S", seq=5000)
    for s in c.drain():  # RFC 5961: a challenge ACK; RFC 9293 3.10.7.4: return to LISTEN
        assert s.rack == 1
    assert len(bench.flows()) <= 1


def test_row21_listener_serves_on_after_an_embryo_was_reset(bench: Bench) -> None:
    for isn in (5, 6, 7):
        c = bench.peer(port=50000, isn=isn)
        c.inject("S", seq=0)
        c.expect("S.")
        c.inject("R", seq=1)
    c = bench.peer(port=50000)
    c.connect()
    c.inject("P.", data=b"still here")
    c.expect_acked(11)
    assert c.data == b"still here"


# ---- 22: the third segment ----


def test_row22_third_segment_carries_data(bench: Bench) -> None:
    c = bench.peer()
    c.inject("S", seq=0)
    c.expect("S.")
    c.inject("P.", seq=1, ack=1, data=b"hello")
    c.expect_acked(6)
    assert c.data == b"hello"


def test_row22_third_segment_carries_data_and_fin(bench: Bench) -> None:
    c = bench.peer()
    c.inject("S", seq=0)
    c.expect("S.")
    c.inject("FP.", seq=1, ack=1, data=b"hello")
    c.expect_acked(7)
    assert c.data == b"hello"
    assert c.conn.eof
    assert c.state == "CLOSE_WAIT"


def test_row22_third_segment_is_out_of_order_data(bench: Bench) -> None:
    c = bench.peer()
    c.inject("S", seq=0)
    c.expect("S.")
    c.inject("P.", seq=6, ack=1, data=b"world")
    c.expect(".", ack=1)
    assert c.state == "ESTABLISHED"
    c.inject("P.", seq=1, ack=1, data=b"hello")
    c.expect(".", ack=11)
    assert c.data == b"helloworld"


def test_row22_third_segment_is_a_bare_fin(bench: Bench) -> None:
    c = bench.peer()
    c.inject("S", seq=0)
    c.expect("S.")
    c.inject("F.", seq=1, ack=1)
    c.expect_acked(2)
    assert c.conn.eof


# ---- 23: many ----


def test_row23_many_connections_are_independent(make_bench: MakeBench) -> None:
    bench = make_bench(niovs=1024, flows=256, fill=256)
    peers = [bench.established(isn=n * 0x01234567) for n in range(200)]
    for n, c in enumerate(peers):
        c.inject("P.", data=pattern(100, seed=n))
    for n, c in enumerate(reversed(peers)):
        c.inject("FP.", data=pattern(50, seed=1000 + n))
        c.expect_acked(152)
    for n, c in enumerate(peers):
        assert c.data == pattern(100, seed=n) + pattern(50, seed=1000 + 199 - n)
        assert c.conn.eof


def test_row23_a_full_flow_table_refuses_and_recovers(make_bench: MakeBench) -> None:
    bench = make_bench(flows=4)
    peers = [bench.established() for _ in range(4)]
    late = bench.peer()
    late.inject("S", seq=0)
    assert not [s for s in late.drain() if "S" in s.flags]
    for c in peers:
        bench.app.abort(c.conn)
    bench.turn()
    for c in peers:
        c.expect("R.")
    again = bench.peer()
    again.connect()


# ---- 24: addresses ----


@pytest.mark.parametrize(
    "source",
    ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1"],
)
def test_row24_invalid_source_is_dropped_silently(bench: Bench, source: str) -> None:
    ip = bytes(map(int, source.split(".")))
    port = 5000 if source == "192.0.2.1" else 40000
    c = bench.peer(ip=ip, port=port)
    c.inject("S", seq=0)
    c.silent()
    assert not bench.flows()


@pytest.mark.parametrize("destination", ["224.0.0.1", "255.255.255.255", "239.1.2.3", "0.0.0.0"])
def test_row24_invalid_destination_is_dropped_silently(
    make_bench: MakeBench, destination: str
) -> None:
    bench = make_bench(listen=False)
    bench.listen(Address(bytes(4), 5000), family=4)
    c = bench.peer(local=Address(bytes(map(int, destination.split("."))), 5000, LOCAL4.mac))
    c.inject("S", seq=0)
    c.silent()
    assert not bench.flows()


@pytest.mark.parametrize("destination", ["ff02::1", "ff0e::1234", "::"])
def test_row24_ipv6_invalid_destination_is_dropped_silently(
    make_bench: MakeBench, destination: str
) -> None:
    import ipaddress

    bench = make_bench(listen=False)
    bench.listen(Address(bytes(16), 5000), family=6)
    packed = ipaddress.IPv6Address(destination).packed
    c = bench.peer(local=Address(packed, 5000, LOCAL4.mac))
    c.inject("S", seq=0)
    c.silent()
    assert not bench.flows()


@pytest.mark.parametrize("source", ["ff02::1", "::", "::1"])
def test_row24_ipv6_invalid_source_is_dropped_silently(make_bench: MakeBench, source: str) -> None:
    import ipaddress

    bench = make_bench(listen=False)
    bench.listen(Address(bytes(16), 5000), family=6)
    c = bench.peer(family=6, ip=ipaddress.IPv6Address(source).packed)
    c.inject("S", seq=0)
    c.silent()
    assert not bench.flows()


# ---- 25: half-open recovery ----


def test_row25_a_restarted_client_gets_in(bench: Bench) -> None:
    old = bench.established(port=47000)
    old.inject("P.", data=b"before the crash")
    old.expect_acked(17)
    old.inject("S", seq=100_000)  # the restarted client: a new ISN
    challenge = old.expect(".", ack=17)
    old.inject("R", seq=17)
    old.silent()
    assert old.conn.reset is not None
    assert challenge.seq == (old.irs + 1) & 0xFFFFFFFF
    bench.app.close(old.conn)
    bench.turn()
    new = bench.peer(port=47000, isn=old.isn + 100_000)
    new.connect()
    new.inject("P.", data=b"after")
    new.expect_acked(6)
    assert new.data == b"after"


# ---- backlog ----


def test_row81_a_flood_of_syns_does_not_break_established_connections(
    make_bench: MakeBench,
) -> None:
    bench = make_bench(flows=32, listen=False)
    bench.listen(backlog=16)
    c = bench.established()
    for n in range(300):
        flood = bench.peer(ip=bytes((198, 51, 100, 1 + n % 200)), port=1024 + n)
        flood.inject("S", seq=0)
        flood.drain()
    assert len(bench.flows()) <= 17 + 1
    c.inject("P.", data=b"through the flood")
    c.expect_acked(18)
    assert c.data == b"through the flood"


def test_row81_embryos_time_out_and_free_their_slots(make_bench: MakeBench) -> None:
    bench = make_bench(flows=8, listen=False)
    bench.listen(backlog=8)
    embryos = [bench.peer() for _ in range(8)]
    for c in embryos:
        c.inject("S", seq=0)
    bench.advance(ms=400_000)
    for c in embryos:
        c.drain()
    assert not bench.flows()
    late = bench.peer()
    late.connect()
    assert bench.now > 400_000 * MS


def test_row81_a_new_client_gets_in_after_a_flood(make_bench: MakeBench) -> None:
    """At once by a cookie; and remembered, when the embryos have had their time to answer."""
    bench = make_bench(flows=32, listen=False)
    bench.listen(backlog=16)
    flood = [bench.peer(port=2000 + n) for n in range(16)]
    for c in flood:
        c.inject("S", seq=0)
        c.drain()
    early = bench.established()
    assert bench.stats().syncookies_recv == 1
    early.inject("P.", data=b"in")
    early.expect_acked(3)
    bench.advance(ms=1100)
    late = bench.established()
    assert bench.stats().syncookies_recv == 1
    late.inject("P.", data=b"in")
    late.expect_acked(3)
    assert late.data == b"in"
    for c in flood:
        c.drain()
