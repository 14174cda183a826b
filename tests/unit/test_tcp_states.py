# SPDX-License-Identifier: Apache-2.0
"""Every state of a connection, and every event in it: RFC 9293 sections 3.3.2, 3.10.4 and 3.10.7.

A real connection is taken to the state, then the event happens to it, also where it makes no sense.
Where it goes is what the table says (tcp_next_state()); an event that cannot happen there leaves
state, sequence numbers and buffers as they are, and is answered as the RFC has it (``ANSWERS``).

OPEN is no event of its own here: the SYN that a listener takes is both.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from devmemtcp.stack._stack import ffi, lib

from .tcp.bench import LOCAL4, LOCAL6, Bench, Peer
from .tcp.wire import Address

GIVEN_UP_MS = 2_000_000
"""Longer than any time that a peer has."""


def names(enum: str) -> list[str]:
    elements: dict[int, str] = ffi.typeof(f"enum {enum}").elements
    return [elements[n].removeprefix("TCP_").removeprefix("EV_") for n in range(max(elements))]


STATES = names("tcp_state")
EVENTS = names("tcp_event")


def next_state(state: str, event: str) -> str | None:
    """By the table; None: it cannot happen."""
    to = lib.tcp_next_state(STATES.index(state), EVENTS.index(event))
    return None if to == lib.TCP_STATES else STATES[to]


# ---- how to get there ----


def nobody_listens(bench: Bench, local: Address) -> Peer:
    assert bench.unlisten(bench.listen(local)) == 0
    return bench.peer(local=local)


def listening(bench: Bench, local: Address) -> Peer:
    bench.listen(local)
    return bench.peer(local=local)


def syn_received(bench: Bench, local: Address) -> Peer:
    c = listening(bench, local)
    c.inject("S", seq=0)
    c.expect("S.", seq=0, ack=1)
    return c


def by_handshake(how: str) -> Callable[[Bench, Address], Peer]:
    def go(bench: Bench, local: Address) -> Peer:
        bench.listen(local)
        c: Peer = getattr(bench, how)(local=local)
        return c

    return go


GO_TO: dict[str, Callable[[Bench, Address], Peer]] = {
    "CLOSED": nobody_listens,
    "LISTEN": listening,
    "SYN_RECEIVED": syn_received,
} | {
    state: by_handshake(state.lower())
    for state in STATES
    if state not in ("CLOSED", "LISTEN", "SYN_RECEIVED", "LAST_ACK")
}


def last_ack(bench: Bench, local: Address) -> Peer:
    """As bench.last_ack(), but the application keeps its end open."""
    bench.listen(local)
    c = bench.close_wait(local=local)
    bench.app.shutdown(c.conn)
    bench.turn()
    c.expect("F.", seq=1, ack=2)
    return c


GO_TO["LAST_ACK"] = last_ack
assert set(GO_TO) == set(STATES)


# ---- what can happen ----


def syn(bench: Bench, c: Peer, state: str) -> None:
    """The connection's own SYN, again if it was there before."""
    c.inject("S", seq=0)


def syn_acked(bench: Bench, c: Peer, state: str) -> None:
    c.inject(".", ack=1)


def fin(bench: Bench, c: Peer, state: str) -> None:
    """Again, if it was there before. Without an ACK until our SYN is acknowledged, or it would be
    two events."""
    had_one = state in ("CLOSE_WAIT", "CLOSING", "LAST_ACK", "TIME_WAIT")
    if state in ("CLOSED", "LISTEN", "SYN_RECEIVED"):
        c.inject("F", ts=None)
    else:
        c.inject("F.", seq=1 if had_one else None, ack=1)


def close(bench: Bench, c: Peer, state: str) -> None:
    """The application has no more to send. Of what it was not told of it can only guess the id."""
    if state in ("CLOSED", "LISTEN"):
        bench.app.request(lib_request("SHUTDOWN"), 1)
    elif state == "SYN_RECEIVED":
        bench.app.request(lib_request("SHUTDOWN"), c.info.id)
    else:
        bench.app.shutdown(c.conn)
    bench.turn()


def lib_request(name: str) -> int:
    from .tcp import app

    return int(getattr(app, name))


def fin_acked(bench: Bench, c: Peer, state: str) -> None:
    c.inject(".", ack=2)


def timeout(bench: Bench, c: Peer, state: str) -> None:
    """The peer is silent: it owes an ACK, or there is nothing left that it could have to say."""
    if state in ("ESTABLISHED", "CLOSE_WAIT"):
        bench.app.send(c.conn, b"is there anybody?")
        bench.turn()
        c.expect("P.")
    elif state == "FIN_WAIT_2":
        bench.app.close(c.conn)
    bench.advance(ms=GIVEN_UP_MS)


def rst_in(bench: Bench, c: Peer, state: str) -> None:
    c.inject("R")


def rst_out(bench: Bench, c: Peer, state: str) -> None:
    """The application gives up the connection; before it knows of it, it can only guess."""
    if state in ("CLOSED", "LISTEN", "SYN_RECEIVED"):
        bench.app.request(lib_request("ABORT"), 1 if state != "SYN_RECEIVED" else c.info.id)
    else:
        bench.app.abort(c.conn)
    bench.turn()


class Event(NamedTuple):
    name: str
    happen: Callable[[Bench, Peer, str], None]


HAPPEN = {
    each.__name__: Event(name, each)
    for name, each in (
        ("SYN", syn),
        ("SYN_ACKED", syn_acked),
        ("FIN", fin),
        ("CLOSE", close),
        ("FIN_ACKED", fin_acked),
        ("TIMEOUT", timeout),
        ("RESET", rst_in),
        ("RESET", rst_out),
    )
}
assert {event.name for event in HAPPEN.values()} | {"OPEN"} == set(EVENTS)

# (state, event): where the table has no arrow, the flags of what is answered; "" is nothing.
SYNCHRONIZED = STATES[STATES.index("ESTABLISHED") :]
AFTER_FIN = ("CLOSE_WAIT", "CLOSING", "LAST_ACK", "TIME_WAIT")
ANSWERS = (
    # 3.10.7.1: no connection, a RST to all but RSTs
    {("CLOSED", "syn"): "R.", ("CLOSED", "fin"): "R."}
    | {("CLOSED", "syn_acked"): "R", ("CLOSED", "fin_acked"): "R"}
    # 3.10.7.2: a RST to ACKs; what else is no SYN is dropped
    | {("LISTEN", "syn_acked"): "R", ("LISTEN", "fin_acked"): "R", ("LISTEN", "fin"): ""}
    # 3.10.7.4: the SYN-ACK was lost; an ACK of what we have not sent; a FIN without an ACK
    | {("SYN_RECEIVED", "syn"): "S.", ("SYN_RECEIVED", "fin_acked"): "R"}
    | {("SYN_RECEIVED", "fin"): ""}
    # RFC 5961 4.2 and 5.2: challenge ACKs
    | {(state, "syn"): "." for state in SYNCHRONIZED}
    | {("ESTABLISHED", "fin_acked"): ".", ("CLOSE_WAIT", "fin_acked"): "."}
    # a FIN that was sent again has not seen our ACK
    | {(state, "fin"): "." for state in AFTER_FIN}
)

IMPOSSIBLE = [
    (state, how)
    for state, (how, event) in itertools.product(STATES, HAPPEN.items())
    if next_state(state, event.name) is None and (state, how) != ("LISTEN", "syn")
]
POSSIBLE = [
    (state, how)
    for state, (how, event) in itertools.product(STATES, HAPPEN.items())
    if next_state(state, event.name) is not None
    and (state, how) not in (("SYN_RECEIVED", "rst_out"), ("LISTEN", "syn"))
]


def seen(c: Peer, state: str) -> tuple[Any, ...]:
    """What of a connection an event that cannot happen must not change."""
    info = c.info
    if info is None:
        return (state if state in ("CLOSED", "LISTEN") else "CLOSED",)
    return c.state, info.rcv_nxt, info.snd_una, info.snd_nxt, info.rx_bytes, info.ooo_frags


def levels(bench: Bench) -> tuple[int, ...]:
    now = bench.stats()
    return now.niovs_free + now.niovs_fill, now.host_free + now.host_fill, now.pages_free


@pytest.fixture(params=[LOCAL4, LOCAL6], ids=["v4", "v6"])
def local(request: pytest.FixtureRequest) -> Address:
    address: Address = request.param
    return replace(address, port=6000)  # where nobody listens yet


@pytest.mark.parametrize(("state", "how"), POSSIBLE)
def test_an_event_leads_where_the_table_says(
    bench: Bench, local: Address, state: str, how: str
) -> None:
    c = GO_TO[state](bench, local)
    event = HAPPEN[how]
    event.happen(bench, c, state)
    assert c.state == next_state(state, event.name)
    sent = [s for s in c.drain() if "R" in s.flags]
    # Who aborts says so, and so does who gives up on a peer that owes an answer.
    silent = how != "rst_out" and (how, state) not in OWED
    assert bool(sent) != silent


OWED = {
    ("timeout", state)
    for state in ("ESTABLISHED", "CLOSE_WAIT", "FIN_WAIT_1", "CLOSING", "LAST_ACK")
}


@pytest.mark.parametrize(("state", "how"), IMPOSSIBLE)
def test_an_event_that_cannot_happen_changes_nothing(
    bench: Bench, local: Address, state: str, how: str
) -> None:
    c = GO_TO[state](bench, local)
    before, buffers, rejected = seen(c, state), levels(bench), bench.stats().requests_rejected
    HAPPEN[how].happen(bench, c, state)
    wanted = ANSWERS.get((state, how))
    assert [s.flags for s in c.drain()] == ([frozenset(wanted)] if wanted else [])
    assert (seen(c, state), levels(bench)) == (before, buffers)
    guessed = how in ("close", "rst_out") and state in ("CLOSED", "LISTEN", "SYN_RECEIVED")
    again = how == "close" and state in ("FIN_WAIT_1", "FIN_WAIT_2", "CLOSING", "LAST_ACK")
    assert bench.stats().requests_rejected == rejected + (guessed or again)


def test_a_listener_opens_and_receives_the_syn_at_once(bench: Bench, local: Address) -> None:
    """CLOSED -OPEN-> LISTEN -SYN-> SYN-RECEIVED"""
    assert next_state("CLOSED", "OPEN") == "LISTEN"
    c = syn_received(bench, local)
    assert c.state == next_state("LISTEN", "SYN") == "SYN_RECEIVED"


def test_an_application_that_goes_resets_what_is_not_established(
    bench: Bench, local: Address
) -> None:
    """The other RESET of SYN-RECEIVED: its listener's application is gone."""
    bench.listen(local, app=(other := bench.open_app()))
    c = bench.peer(local=local)
    c.inject("S", seq=0)
    c.expect("S.")
    bench.close_app(other)
    assert c.state == next_state("SYN_RECEIVED", "RESET")


def test_every_pair_is_here() -> None:
    """What is left out above stands in tests of its own."""
    pairs = {(state, HAPPEN[how].name) for state, how in POSSIBLE + IMPOSSIBLE}
    wanted = set(itertools.product(STATES, set(EVENTS) - {"OPEN"}))
    assert wanted - pairs == {("LISTEN", "SYN")}
    opens = {state for state in STATES if next_state(state, "OPEN")}
    assert opens == {"CLOSED"}
