# SPDX-License-Identifier: Apache-2.0
"""What is read from a packet before TCP looks at it: the record, the headers, the options."""

from __future__ import annotations

import struct

import pytest

from devmemtcp.stack._stack import ffi, lib

from ..rx_metadata import CSUM_PARTIAL, CSUM_TRUSTED
from .tcp.bench import LOCAL4, PEER4, Bench, MakeBench, Peer, pattern
from .tcp.wire import Address, build_headers

SYN_LISTS = {
    "nops": b"\x01" * 8 + b"\x02\x04\x05\xb4",
    "eol": b"\x02\x04\x05\xb4\x00\x00\x00\x00",
    "odd offsets": b"\x01\x02\x04\x05\xb4\x01\x03\x03\x07\x04\x02\x01",
    "40 bytes": b"\x02\x04\x05\xb4" + b"\x01" * 36,
    "unknown kinds": b"\xfd\x06abcd\x4d\x02\xc8\x08bcdefg\x02\x04\x05\xb4",
}

MALFORMED = {
    "length 0": b"\x02\x00\x05\xb4",
    "length 1": b"\x02\x01\x05\xb4",
    "unknown length 0": b"\x4d\x00\x01\x01",
    "unknown length 1": b"\x4d\x01\x01\x01",
    "beyond the header": b"\x02\x28\x05\xb4",
    "255": b"\x4d\xff\x00\x00",
    "kind at the very end": b"\x01\x01\x01\x02",
    "mss of 3": b"\x02\x03\x05\x01",
    "ws of 4": b"\x03\x04\x07\x07",
    "ts cut off": b"\x01\x01\x08\x0a" + bytes(4),
    "sack of 9": b"\x05\x09" + bytes(6),
}


def settled(bench: Bench, peer: Peer) -> None:
    """The connection still works: a byte is taken and acknowledged."""
    before = peer.seq
    peer.inject("P.", data=b"!")
    peer.expect_acked(before + 1)


@pytest.mark.parametrize("name", SYN_LISTS)
def test_row03_row04_row06_option_lists_on_syn(bench: Bench, name: str) -> None:
    c = bench.peer(ts=None, sackok=name == "odd offsets", ws=7 if name == "odd offsets" else None)
    c.inject("S", seq=0, opts=SYN_LISTS[name])
    c.expect("S.", ack=1)
    c.inject(".", seq=1, ack=1)
    settled(bench, c)


@pytest.mark.parametrize("name", MALFORMED)
def test_row05_malformed_options_on_syn_do_no_harm(bench: Bench, name: str) -> None:
    c = bench.peer(ts=None, sackok=False, ws=None, mss=None)
    c.inject("S", seq=0, opts=MALFORMED[name])
    if not c.inbox:  # dropping is right as well
        c.inject("S", seq=0)
    c.expect("S.", ack=1)
    c.inject(".", seq=1, ack=1)
    settled(bench, c)


@pytest.mark.parametrize("name", MALFORMED)
def test_row05_malformed_options_on_data_do_no_harm(bench: Bench, name: str) -> None:
    c = bench.established(ts=None)
    c.inject("P.", data=b"hello", opts=MALFORMED[name])
    bench.advance(ms=40)
    taken = [s.rack for s in c.drain()]
    assert set(taken) <= {1, 6}
    c.inject("P.", seq=1, data=b"hello")
    c.expect_acked(6)
    assert c.data == b"hello"


@pytest.mark.parametrize(
    "opts", [b"\x00\x00\x00\x00", b"\xfd\x04\x12\x34", b"\x4d\x02\xc8\x02", b"\x01" * 40]
)
def test_row03_row04_unknown_options_on_data_are_skipped(bench: Bench, opts: bytes) -> None:
    c = bench.established(ts=None)
    c.inject("P.", data=b"hello", opts=opts)
    c.expect_acked(6)
    assert c.data == b"hello"


def test_row12_mss_ws_and_sackok_are_ignored_off_the_syn(bench: Bench) -> None:
    c = bench.established(ts=None, sackok=False, ws=None)
    c.inject("P.", data=b"hello", opts=b"\x02\x04\x00\x01\x03\x03\x0e\x04\x02\x01\x01\x01")
    c.expect_acked(6)
    c.inject("P.", seq=100, data=b"later")
    c.expect(".", ack=6, sack=[])
    bench.app.send(c.conn, pattern(1400))
    bench.turn()
    assert [len(s.data) for s in c.drain()] == [1400]
    c.inject(".")


@pytest.mark.parametrize("words", [0, 1, 4, 15])
@pytest.mark.parametrize("flags", ["S", "P."])
def test_row08_impossible_data_offset_is_dropped(bench: Bench, words: int, flags: str) -> None:
    c = bench.peer(ts=None) if flags == "S" else bench.established(ts=None)
    before = bench.in_flight()
    data = b"" if flags == "S" else b"hello"
    c.inject(flags, data=data, seq=c.seq, doff=words, opts=b"")
    c.silent()
    assert bench.in_flight() == before
    if flags == "P.":
        assert c.data == b""


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 15])
def test_row09_reserved_bits_are_ignored(bench: Bench, bits: int) -> None:
    c = bench.peer()
    c.inject("S", seq=0, reserved=bits & ~1)
    c.expect("S.")
    c.inject(".", seq=1, ack=1, reserved=bits)
    c.inject("P.", data=b"hello", reserved=bits)
    c.expect_acked(6)
    assert c.data == b"hello"


@pytest.mark.parametrize("size", [4, 12, 40])
def test_row87_ip_options_do_no_harm(bench: Bench, size: int) -> None:
    c = bench.established()
    c.inject("P.", data=b"hello", ip_options=b"\x01" * size)
    c.expect_acked(6)
    assert c.data == b"hello"


def test_row87_longest_headers_with_a_priority_tag(bench: Bench) -> None:
    c = bench.peer(ts=None, sackok=False, ws=None)
    c.inject("S", seq=0, vlan=0, ip_options=b"\x01" * 40, opts=b"\x01" * 36 + b"\x02\x04\x05\xb4")
    c.expect("S.", ack=1)
    c.inject(".", seq=1, ack=1, vlan=0)
    settled(bench, c)


def test_row92_ipv6_transfer_and_extension_headers(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.listen(Address(bytes(16), 5000), family=6)
    c = bench.established(family=6)
    c.inject("P.", data=b"hello")
    c.inject("FP.", data=b"world", ip_options=bytes((6, 0, 1, 4, 0, 0, 0, 0)))
    c.expect_acked(12)
    assert c.data == b"helloworld"
    assert c.conn.eof


@pytest.mark.parametrize("family", [4, 6])
def test_row83_marks_are_echoed_until_the_sender_slows_down(bench: Bench, family: int) -> None:
    if family == 6:
        bench.listen(Address(bytes(16), 5000), family=6)
    c = bench.peer(family=family)
    c.inject("SEW", seq=0)
    c.expect("SE.", ack=1)
    c.inject(".", seq=1, ack=1, tos=3)
    c.inject("P.", data=b"fine", tos=2)
    assert "E" not in c.expect_acked(5).flags
    c.inject("P.", data=b"congested", tos=3)
    assert "E" in c.expect_acked(14).flags
    c.inject("P.", data=b"still", tos=2)
    assert "E" in c.expect_acked(19).flags
    bench.app.send(c.conn, b"reply")
    bench.turn()
    c.expect("P.E", data=b"reply")
    c.inject("PW.", data=b"again", tos=3)
    assert "E" in c.expect_acked(24).flags
    c.inject("PW.", data=b"reduced", tos=2)
    assert "E" not in c.expect_acked(31).flags
    assert c.data == b"finecongestedstillagainreduced"


def test_row83_a_client_that_tries_without_ecn_gets_none(bench: Bench) -> None:
    c = bench.peer()
    c.inject("SEW", seq=0)
    c.expect("SE.", ack=1)
    c.inject("S", seq=0)
    c.expect("S.", ack=1)
    c.inject(".", seq=1, ack=1)
    c.inject("P.", data=b"congested", tos=3)
    assert "E" not in c.expect_acked(10).flags


@pytest.mark.parametrize("flags", ["S", "SE", "SW"])
def test_row84_no_echo_without_negotiation(bench: Bench, flags: str) -> None:
    c = bench.peer()
    c.inject(flags, seq=0)
    c.expect("S.", ack=1)
    c.inject(".", seq=1, ack=1)
    c.inject("P.", data=b"congested", tos=3)
    assert "E" not in c.expect_acked(10).flags


@pytest.mark.parametrize("tos", [0x01, 0x02, 0x03, 0xB8, 0xFF])
def test_row84_row89_any_dscp_and_ecn_without_negotiation(bench: Bench, tos: int) -> None:
    c = bench.established()
    c.inject("P.", data=b"hello", tos=tos)
    last = c.expect_acked(6)
    assert not last.flags & {"E", "W"}
    assert c.data == b"hello"


@pytest.mark.parametrize("verdict", [CSUM_PARTIAL, CSUM_TRUSTED])
def test_checksum_verdicts_that_count_as_good(bench: Bench, verdict: int) -> None:
    c = bench.established()
    c.inject("P.", data=b"hello", record={"csum": verdict})
    c.expect_acked(6)
    assert bench.stats().rx_csum_partial == (verdict == CSUM_PARTIAL)


@pytest.mark.parametrize("size", [0, 1, 13, 14, 15, 1448, 3839, 3840, 3841, 7680, 30000, 65000])
def test_payload_of_any_size_through_any_number_of_chunks(make_bench: MakeBench, size: int) -> None:
    bench = make_bench(mtu=65535, niovs=128, fill=64)
    c = bench.established(mss=65495)
    data = pattern(size)
    assert c.window > 65000
    c.inject("P.", data=data)
    if size:
        c.expect_acked(1 + size)
    assert c.data == data


BAD_RECORDS = {
    "magic": {"magic": 0},
    "headers of nothing": {"hdr_len": 0},
    "headers longer than the metadata": {"hdr_len": 255},
    "headers shorter than TCP": {"hdr_len": 40},
    "IP beyond the headers": {"l3_off": 200},
    "TCP beyond the headers": {"l4_off": 200},
    "TCP before IP": {"l4_off": 10},
    "TCP cut off": {"l4_off": 60},
    "no such family": {"family": 5},
    "the other family": {"family": 6},
    "checksum not looked at": {"csum": 0},
    "checksum out of range": {"csum": 9},
    "more payload than bytes": {"payload_len": 4000},
    "payload of gigabytes": {"payload_len": 0xFFFFFFFF},
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_record_that_does_not_hold_together_is_dropped(bench: Bench, name: str) -> None:
    c = bench.established()
    before = bench.in_flight()
    c.inject("P.", seq=1, data=b"hello", record=BAD_RECORDS[name])
    for s in c.drain():
        assert s.rack == 1
    assert c.data == b""
    assert bench.in_flight() == before
    c.inject("P.", seq=1, data=b"hello")
    c.expect_acked(6)
    assert c.data == b"hello"


def test_row86_bytes_behind_the_payload_are_never_delivered(bench: Bench) -> None:
    c = bench.established()
    c.inject("P.", seq=1, data=b"hello", trailer=b"JUNKJUNK")
    bench.advance(ms=40)
    c.drain()
    c.inject("P.", seq=1, data=b"hello")
    bench.advance(ms=40)
    c.drain()
    assert c.data == b"hello"


def test_discarded_chunks_go_home(bench: Bench) -> None:
    bench.discard(3)
    bench.discard(1)
    assert bench.in_flight() == 0


@pytest.mark.parametrize("how", ["lent", "free", "twice", "beyond", "none", "too many", "queue"])
def test_descriptors_that_the_nic_was_never_given_are_nobodys(bench: Bench, how: str) -> None:
    bench.app.hold = True
    c = bench.established()
    c.inject(".", data=pattern(100))
    bench.advance(ms=40)
    c.drain()
    lent = c.conn.frags[0]
    before = bytes(bench.region[lent.offset : lent.offset + lent.length])
    packet = ffi.new("struct rx_packet *")
    filled = [bench.take_niov() for _ in range(2)]
    niovs = {
        "lent": [lent.offset // 4096],
        "free": [next(n for n in range(bench.nr_niovs) if not bench.nic_may_write(n))],
        "twice": [filled[0], filled[0]],
        "beyond": [filled[0], bench.nr_niovs, 0xFFFFFFFF],
        "none": [],
        "too many": filled,
        "queue": filled,
    }[how]
    packet.nr_chunks = 1000 if how == "too many" else len(niovs)
    packet.queue = 64 if how == "queue" else 0
    for n in range(lib.STACK_MAX_CHUNKS):
        packet.chunk[n].niov = 0xFFFFFFFF
    for n, niov in enumerate(niovs):
        packet.chunk[n].niov, packet.chunk[n].len = niov, 100
    lib.stack_rx(bench.stack, packet, bench.now)
    bench.check()
    lib.stack_rx_discard(bench.stack, packet, lib.DROP_TRUNCATED)
    bench.check()
    assert bench.stats().niovs_lent == 1
    assert bytes(bench.region[lent.offset : lent.offset + lent.length]) == before
    held = filled if how in ("lent", "free", "none", "queue") else filled[1:]
    for niov in held if how != "too many" else []:  # what is left of them comes as it should
        packet.nr_chunks, packet.queue = 1, 0
        packet.chunk[0].niov = niov
        lib.stack_rx_discard(bench.stack, packet, lib.DROP_TRUNCATED)
    bench.turn()
    assert bench.in_flight() == 1


def test_the_headers_of_a_neighbour_are_not_mistaken(bench: Bench) -> None:
    """A packet whose ports nobody listens on, and one to another address."""
    headers, l3, l4 = build_headers(
        Address(PEER4, 40000),
        Address(bytes((203, 0, 113, 9)), 5000, LOCAL4.mac),
        flags="S",
        seq=0,
        ack=0,
        win=1000,
    )
    bench.nic(headers, b"", record={"l3_off": l3, "l4_off": l4})
    assert not bench.flows()
    assert all("R" in s.flags for s in bench.stray)
    bench.stray.clear()


def test_row82_random_headers_do_no_harm(bench: Bench) -> None:
    import random

    rng = random.Random(1)
    c = bench.established()
    for n in range(3000):
        headers = bytearray(
            build_headers(
                c.addr, LOCAL4, flags=".", seq=rng.getrandbits(32), ack=rng.getrandbits(32),
                win=rng.getrandbits(16), opts=rng.randbytes(4 * rng.randrange(11)),
            )[0]
        )  # fmt: skip
        for _ in range(rng.randrange(4)):
            headers[rng.randrange(34, len(headers))] = rng.getrandbits(8)
        if rng.random() < 0.3:
            struct.pack_into("!H", headers, 34, 1024 + n)
        record = {"l3_off": 14, "l4_off": 34, "family": 4}
        bench.nic(bytes(headers), rng.randbytes(rng.randrange(40)), record=record)
        bench.stray.clear()
        c.inbox.clear()
        if not c.accepted:
            break
    assert bench.stats().niovs_ooo < 512
    bench.answers_to_anybody = True
