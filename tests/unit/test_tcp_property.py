# SPDX-License-Identifier: Apache-2.0
"""Whatever the network does to a stream, the application gets the same bytes, each exactly once."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from .tcp.bench import DEVICE_MEMORY, Bench, Peer, pattern

#: A stream's length, the pieces [start, end) of it in order of arrival, and whether in one batch.
Delivery = tuple[int, list[tuple[int, int]], bool]

PROPERTY = settings(
    max_examples=120,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

STREAM = pattern(1 << 16, seed=99)


@st.composite
def deliveries(draw: st.DrawFn) -> Delivery:
    """Segments permuted, some lost, some twice, some cut elsewhere."""
    length = draw(st.integers(1, 6000))
    cuts = sorted(draw(st.sets(st.integers(1, length), max_size=25)) | {0, length})
    segments = list(itertools.pairwise(cuts))
    lost = draw(st.sets(st.integers(0, len(segments) - 1), max_size=len(segments) // 2))
    pieces = [piece for n, piece in enumerate(segments) if n not in lost]
    span = st.tuples(st.integers(0, length - 1), st.integers(1, 1500))
    overlaps = [(at, min(at + n, length)) for at, n in draw(st.lists(span, max_size=12))]
    duplicates = draw(st.lists(st.sampled_from(segments), max_size=8))
    order = draw(st.permutations(pieces + overlaps + duplicates))
    batched = draw(st.booleans())
    return length, order, batched


def retransmit(bench: Bench, c: Peer, length: int, size: int = 1448, fin: bool = True) -> None:
    """Go back to the cumulative ACK until all is acknowledged, as the plainest of senders would."""
    for _ in range(200):
        bench.advance(ms=bench.delack_ms)
        c.drain()
        at = c.max_ack
        if at > length:
            break
        c.inject(".", seq=at, data=STREAM[at - 1 : min(at - 1 + size, length)])
    assert c.max_ack in (1 + length, 2 + length)
    if fin:
        c.inject("F.", seq=1 + length)
        c.expect_acked(2 + length)


@PROPERTY
@given(
    delivery=deliveries(),
    isn=st.sampled_from([0, 0xFFFFFFFF, 0xFFFFF800, 0x7FFFFF00]) | st.integers(0, 0xFFFFFFFF),
    options=st.sampled_from([{}, {"ts": None}, {"sackok": False}, {"ts": None, "ws": None}]),
)
def test_any_delivery_yields_the_same_bytes_once(
    delivery: Delivery, isn: int, options: dict[str, Any]
) -> None:
    length, order, batched = delivery
    bench = Bench(niovs=256, fill=128)
    c = bench.established(isn=isn, **options)
    if batched:
        with bench.batch():
            for low, high in order:
                c.inject(".", seq=1 + low, data=STREAM[low:high])
    else:
        for low, high in order:
            c.inject(".", seq=1 + low, data=STREAM[low:high])
    retransmit(bench, c, length)
    assert c.data == STREAM[:length]
    assert c.conn.eof
    assert bench.in_flight() == 0
    bench.finish()


@settings(PROPERTY, max_examples=60)
@given(
    order=st.permutations(range(8)),
    fin_at=st.integers(0, 8),
    noise=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 40)), max_size=6),
)
def test_a_fin_anywhere_among_the_segments_changes_nothing(
    order: list[int], fin_at: int, noise: list[tuple[int, int]]
) -> None:
    bench = Bench(niovs=64, fill=32)
    c = bench.established()
    sequence = list(order)
    sequence.insert(fin_at, 8)
    for where, extra in noise:
        sequence.insert(min(extra, len(sequence)), where)
    for n in sequence:
        if n == 8:
            c.inject("F.", seq=801)
        else:
            c.inject(".", seq=1 + 100 * n, data=STREAM[100 * n : 100 * n + 100])
    bench.advance(ms=40)
    c.drain()
    assert c.max_ack in (801, 802)
    if c.max_ack == 801:  # the FIN came too early and was not queued
        c.inject("F.", seq=801)
        c.expect_acked(802)
    assert c.data == STREAM[:800]
    assert c.conn.eof
    bench.finish()


class Connections(RuleBasedStateMachine):
    """Several connections, an erratic application, and time; the bench judges each frame."""

    connections = Bundle("connections")

    @initialize(
        niovs=st.sampled_from([48, 96, 256]),
        pressure=st.sampled_from(["window", "drop"]),
        fill=st.sampled_from([16, 32]),
        linear=st.sampled_from([0, 0, 20, 78]),
        blocks=st.sampled_from([1, 3, 64]),
    )
    def start(self, niovs: int, pressure: str, fill: int, linear: int, blocks: int) -> None:
        self.bench = Bench(
            niovs=niovs,
            fill=fill,
            flows=8,
            pressure=pressure,
            time_wait_ms=500,
            linear=linear,
            blocks=blocks,
            max_niovs=3 * niovs,
        )
        first = self.bench.area
        self.areas = [
            first,
            self.bench.open_area(niovs),
            self.bench.open_area(niovs, dmabuf_id=2 * DEVICE_MEMORY),
        ]
        self.ended: set[int] = set()  # peers that neither send nor are judged any more
        self.fins: dict[int, int] = {}  # where the FINs of peers are

    @precondition(lambda self: len(self.bench.flows()) < 6)
    @rule(
        target=connections,
        isn=st.integers(0, 0xFFFFFFFF),
        ts=st.sampled_from([None, 7]),
        sackok=st.booleans(),
        ws=st.sampled_from([None, 0, 7]),
    )
    def connect(self, isn: int, ts: int | None, sackok: bool, ws: int | None) -> Peer:
        c = self.bench.peer(isn=isn, ts=ts, sackok=sackok, ws=ws)
        for _ in range(20):
            c.inject("S", seq=0)
            if c.inbox:
                break
            self.give_back(limit=1000)
            self.bench.tx_complete()
            self.bench.advance(ms=100)
        c.expect("S.", ack=1)
        c.inject(".", seq=1, ack=1)
        return c

    @rule(c=connections, ahead=st.integers(-3000, 8000), size=st.integers(1, 1448))
    def data(self, c: Peer, ahead: int, size: int) -> None:
        low = max(0, c.max_ack - 1 + ahead)
        self.segment(c, low, size)

    @rule(c=connections, size=st.integers(1, 1448), count=st.integers(1, 12))
    def stream(self, c: Peer, size: int, count: int) -> None:
        with self.bench.batch():
            for n in range(count):
                self.segment(c, c.max_ack - 1 + n * size, size)

    def segment(self, c: Peer, low: int, size: int) -> None:
        end = min(low + size, 30_000, self.fins.get(id(c), 1 << 31) - 1)
        if id(c) not in self.ended and low < end:
            c.inject(".", seq=1 + low, data=STREAM[low:end])

    @rule(c=connections, ack=st.integers(0, 3000))
    def acknowledge(self, c: Peer, ack: int) -> None:
        if id(c) not in self.ended:
            c.drain()
            c.inject(".")

    @rule(c=connections, flags=st.sampled_from(["S", "R", "S.", "", "F"]), at=st.integers(1, 500))
    def nuisance(self, c: Peer, flags: str, at: int) -> None:
        """In the window but not exact: challenged or dropped, never obeyed."""
        over = c.state in ("TIME_WAIT", "CLOSED")  # a SYN may open a new connection there
        if id(c) not in self.ended and not over and c.window > 1000:
            c.inject(flags, seq=c.max_ack + at)

    @rule(c=connections)
    def reset(self, c: Peer) -> None:
        if id(c) not in self.ended:
            self.ended.add(id(c))
            c.inject("R", seq=c.max_ack)

    @rule(c=connections)
    def fin(self, c: Peer) -> None:
        """The peer has no more to send than what was covered so far; the FIN may come early."""
        if id(c) not in self.ended and id(c) not in self.fins and c.accepted:
            self.fins[id(c)] = c.covered[-1][1]
            c.inject("F.", seq=self.fins[id(c)])

    @rule(c=connections)
    def shutdown(self, c: Peer) -> None:
        if id(c) not in self.ended and c.accepted and not c.conn.done:
            self.bench.app.shutdown(c.conn)
            self.bench.turn()

    @rule(held=st.booleans())
    def transmission(self, held: bool) -> None:
        """Frames stay with the NIC for a while: host pages run short."""
        self.bench.hold_tx = held
        self.bench.turn()

    @rule(c=connections, size=st.integers(1, 3000))
    def reply(self, c: Peer, size: int) -> None:
        if id(c) not in self.ended and c.accepted and not c.conn.done:
            self.bench.app.send(c.conn, pattern(size))
            self.bench.turn()

    @rule(c=connections, abort=st.booleans())
    def close(self, c: Peer, abort: bool) -> None:
        if c.accepted and not c.conn.done:
            self.ended.add(id(c))
            (self.bench.app.abort if abort else self.bench.app.close)(c.conn)
            self.bench.turn()

    @rule(ms=st.sampled_from([1, 10, 40, 200, 1500, 20_000]))
    def time(self, ms: float) -> None:
        self.bench.advance(ms=ms)

    @rule(hold=st.booleans(), paused=st.booleans())
    def application(self, hold: bool, paused: bool) -> None:
        self.bench.app.hold, self.bench.app.paused = hold, paused
        self.bench.turn()

    @rule(which=st.integers(0, 2))
    def restart(self, which: int) -> None:
        """The queue is bound, unbound, bound to something else."""
        self.bench.restart(0, self.areas[which])

    @rule(limit=st.integers(1, 30))
    def give_back(self, limit: int) -> None:
        for conn in self.bench.app.conns.values():
            if not conn.done:
                self.bench.app.give_back_blocks(conn)
            for token in tuple(conn.held)[:limit]:
                if not conn.done:
                    self.bench.app.give_back(conn, token)
        self.bench.turn()

    @invariant()
    def streams_are_prefixes(self) -> None:
        for conn in (*self.bench.app.conns.values(), *self.bench.app.past):
            assert conn.data == STREAM[: len(conn.data)]
        self.bench.check()

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        bench = self.bench
        bench.app.hold = bench.app.paused = bench.hold_tx = False
        bench.turn()
        while any(conn.held or conn.blocks for conn in bench.app.conns.values() if not conn.done):
            self.give_back(limit=1000)
        for c in tuple(bench.peers.values()):
            if id(c) in self.ended or not c.accepted or c.conn.reset is not None:
                continue
            fin = self.fins.get(id(c))
            top = (fin or c.covered[-1][1]) - 1
            if c.state not in ("TIME_WAIT", "CLOSED"):
                retransmit(bench, c, top, fin=fin is not None)
            assert c.data == STREAM[:top]
            assert c.conn.eof == (fin is not None)
        bench.finish()


TestConnections = Connections.TestCase
TestConnections.settings = settings(PROPERTY, max_examples=80, stateful_step_count=50)
