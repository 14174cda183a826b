# SPDX-License-Identifier: Apache-2.0
"""Listeners: exact and wildcard addresses, both families, coming and going."""

from __future__ import annotations

import errno

import pytest

from devmemtcp.stack._stack import ffi, lib

from .tcp.bench import LOCAL4, LOCAL6, Bench, MakeBench, Peer
from .tcp.wire import Address

OTHER4 = Address(bytes((192, 0, 2, 77)), 5000, LOCAL4.mac)
ANY4 = Address(bytes(4), 5000)
ANY6 = Address(bytes(16), 5000)


@pytest.fixture
def bare(make_bench: MakeBench) -> Bench:
    return make_bench(listen=False)


def test_exact_address_takes_only_its_own(bare: Bench) -> None:
    listener = bare.listen(LOCAL4)
    c = bare.established()
    assert c.conn.listener == listener
    stranger = bare.peer(local=OTHER4)
    stranger.inject("S", seq=0)
    stranger.expect("R.")


def test_wildcard_takes_every_address_of_its_family(bare: Bench) -> None:
    listener = bare.listen(ANY4, family=4)
    for local in (LOCAL4, OTHER4):
        assert bare.established(local=local).conn.listener == listener


@pytest.mark.parametrize("wildcard_first", [True, False])
def test_exact_goes_before_wildcard(bare: Bench, wildcard_first: bool) -> None:
    order = [ANY4, LOCAL4] if wildcard_first else [LOCAL4, ANY4]
    ids = {local: bare.listen(local, family=4) for local in order}
    assert all(i >= 0 for i in ids.values())
    assert bare.established().conn.listener == ids[LOCAL4]
    assert bare.established(local=OTHER4).conn.listener == ids[ANY4]


def test_ipv6_exact_and_wildcard(bare: Bench) -> None:
    ids = {local: bare.listen(local, family=6) for local in (ANY6, LOCAL6)}
    assert bare.established(local=LOCAL6).conn.listener == ids[LOCAL6]
    other = Address(bytes.fromhex("20010db80000000000000000000000aa"), 5000, LOCAL4.mac)
    c = bare.established(local=other)
    assert c.conn.listener == ids[ANY6]
    c.inject("P.", data=b"six")
    c.expect_acked(4)
    assert c.data == b"six"


def test_families_are_separate(bare: Bench) -> None:
    six, four = bare.listen(ANY6, family=6), bare.listen(ANY4, family=4)
    assert six >= 0 <= four
    assert six != four
    assert bare.established(local=LOCAL6).conn.listener == six
    assert bare.established(local=LOCAL4).conn.listener == four


def test_ports_are_separate(bare: Bench) -> None:
    ids = {port: bare.listen(Address(LOCAL4.ip, port, LOCAL4.mac)) for port in range(5000, 5008)}
    assert len(set(ids.values())) == 8
    for port, listener in ids.items():
        c = bare.established(local=Address(LOCAL4.ip, port, LOCAL4.mac))
        assert c.conn.listener == listener
        assert c.conn.local == (LOCAL4.ip, port)


def test_same_address_twice_is_in_use(bare: Bench) -> None:
    assert bare.listen(LOCAL4) >= 0
    assert bare.listen(LOCAL4) == -errno.EADDRINUSE


def test_too_many_listeners(make_bench: MakeBench) -> None:
    bench = make_bench(listen=False, listeners=2)
    assert bench.listen(Address(LOCAL4.ip, 1)) >= 0
    assert bench.listen(Address(LOCAL4.ip, 2)) >= 0
    assert bench.listen(Address(LOCAL4.ip, 3)) == -errno.ENOSPC


def test_unlisten_refuses_new_and_keeps_old(bare: Bench) -> None:
    listener = bare.listen(LOCAL4)
    c = bare.established()
    assert bare.unlisten(listener) == 0
    late = bare.peer()
    late.inject("S", seq=0)
    late.expect("R.", ack=1)
    c.inject("FP.", data=b"lives on")
    c.expect_acked(10)
    assert c.data == b"lives on"
    assert bare.listen(LOCAL4) >= 0
    bare.established()


@pytest.mark.parametrize("listener", [-1, 1, 7, 1 << 30, -(1 << 31)])
def test_unlisten_of_what_is_no_listener(bare: Bench, listener: int) -> None:
    assert bare.listen(LOCAL4) == 0 or listener != 0
    assert bare.unlisten(listener) == -errno.ENOENT


def test_unlisten_twice(bare: Bench) -> None:
    listener = bare.listen(LOCAL4)
    assert bare.unlisten(listener) == 0
    assert bare.unlisten(listener) == -errno.ENOENT


def test_unlisten_with_an_embryo_does_no_harm(bare: Bench) -> None:
    listener = bare.listen(LOCAL4)
    c = bare.peer()
    c.inject("S", seq=0)
    c.expect("S.")
    assert bare.unlisten(listener) == 0
    c.inject(".", seq=1, ack=1)
    assert c.state in ("ESTABLISHED", "CLOSED")
    c.drain()


def test_the_backlog_bounds_embryos_not_connections(bare: Bench) -> None:
    bare.listen(LOCAL4, backlog=4)
    embryos = [bare.peer() for _ in range(10)]
    for c in embryos:
        c.inject("S", seq=0)
        c.expect("S.")
    assert len(bare.flows()) == 4
    assert bare.stats().syncookies_sent == 6
    for c in embryos:
        c.inject(".", seq=1, ack=1)
    for _ in range(20):
        bare.established()


def waiting(bench: Bench, nr: int) -> list[Peer]:
    """Connections that are established, and that the application does not accept."""
    bench.app.accepts = False
    return [bench.established() for _ in range(nr)]


def refused(bench: Bench) -> None:
    before = bench.stats()
    late = bench.peer()
    late.inject("S", seq=0)
    late.silent()
    after = bench.stats()
    assert after.drops("BACKLOG") == before.drops("BACKLOG") + 1
    assert after.syncookies_sent == before.syncookies_sent


def test_the_backlog_bounds_connections_that_nobody_accepts(bare: Bench) -> None:
    """As the kernel's accept queue: SYNs are dropped, and come again."""
    bare.listen(LOCAL4, backlog=4)
    peers = waiting(bare, 4)
    refused(bare)
    bare.app.accept(peers[0].conn.flow)
    bare.advance(ms=1)
    assert bare.established().state == "ESTABLISHED"
    refused(bare)
    for c in peers:  # they work as ever
        c.inject("P.", data=b"waiting")
        c.expect_acked(8)


def test_who_has_gone_does_not_wait_any_more(bare: Bench) -> None:
    bare.listen(LOCAL4, backlog=4)
    peers = waiting(bare, 4)
    refused(bare)
    bare.app.abort(peers[0].conn)
    bare.turn()
    peers[0].drain()
    bare.advance(ms=1)
    bare.established()


def test_queues_of_two_listeners_are_their_own(bare: Bench) -> None:
    bare.listen(LOCAL4, backlog=2)
    other = Address(LOCAL4.ip, 5001, LOCAL4.mac)
    bare.listen(other, backlog=2)
    waiting(bare, 2)
    refused(bare)
    bare.established(local=other)


def test_a_cookie_waits_for_the_accept_queue(bare: Bench) -> None:
    bare.listen(LOCAL4, backlog=2)
    for _ in range(2):
        bare.peer().inject("S", seq=0)  # embryos
    late = bare.peer()
    late.inject("S", seq=0)
    late.expect("S.")
    assert bare.stats().syncookies_sent == 1
    peers = waiting(bare, 2)
    late.inject("P.", seq=1, ack=1, data=b"late")
    late.silent()
    assert bare.stats().drops("BACKLOG") == 1
    bare.app.accept(peers[0].conn.flow)
    bare.advance(ms=1)
    late.inject("P.", seq=1, ack=1, data=b"late")
    late.expect_acked(5)
    assert late.data == b"late"


def test_one_client_port_to_two_local_addresses(bare: Bench) -> None:
    bare.listen(ANY4, family=4)
    one = bare.established(port=33333)
    two = bare.established(port=33333, local=OTHER4)
    one.inject("P.", data=b"one")
    two.inject("P.", data=b"two")
    assert one.data == b"one"
    assert two.data == b"two"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_niovs", 0),
        ("max_areas", 0),
        ("max_areas", 257),
        ("max_apps", 0),
        ("max_apps", 257),
        ("nr_pages", 0),
        ("nr_queues", 0),
        ("nr_queues", 65),
        ("max_flows", 0),
        ("mtu", 0),
        ("mtu", 67),
        ("delack_ns", 500_000_000),
        ("ack_segments", 0),
        ("ack_segments", 256),
        ("fill_max", 0),
    ],
)
def test_configurations_that_cannot_work_are_refused(bench: Bench, field: str, value: int) -> None:
    config = ffi.new("struct stack_config *", bench._config[0])
    assert lib.stack_size(config) > 0
    setattr(config, field, value)
    memory = ffi.new("char[]", 1 << 20)
    assert lib.stack_size(config) == 0
    assert lib.stack_channel_size(config, bench.app_config()) == 0
    assert lib.stack_init(ffi.cast("struct stack *", memory), config) == -errno.EINVAL


def test_a_flood_of_one_listener_leaves_room_at_another(bare: Bench) -> None:
    bare.listen(LOCAL4, backlog=10_000)
    other = Address(LOCAL4.ip, 5001, LOCAL4.mac)
    bare.listen(other)
    for _ in range(64):
        c = bare.peer()
        c.inject("S", seq=0)
        c.drain()
    for local in (LOCAL4, other):
        assert bare.established(local=local).state == "ESTABLISHED"
    assert bare.stats().syncookies_recv == 2
    bare.advance(1100)  # the flood's embryos may go now
    assert bare.established(local=other).state == "ESTABLISHED"
    assert bare.stats().syncookies_recv == 2
