# SPDX-License-Identifier: Apache-2.0
"""The XDP program on packets made by scapy, by BPF_PROG_TEST_RUN.

A test run returns the verdict without acting on it, so no interface is needed:
the frame comes in on queue 0 of the loopback, for which an AF_XDP socket with a
receive ring (that is all an XSKMAP asks for) stands ready.
"""

from __future__ import annotations

import errno
import random
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import mac2str

from devmemtcp import xdp_prog
from devmemtcp.agent.header_path import HeaderPath, configure, header_path
from devmemtcp.pyxdp import (
    XDP_DROP,
    XDP_PASS,
    XDP_REDIRECT,
    BpfObject,
    XdpContext,
    XdpError,
    XskMap,
)

from ..rx_metadata import (
    CSUM_PARTIAL,
    CSUM_TRUSTED,
    CSUM_VERIFIED,
    HEAD_MAX,
    MAGIC,
    META_LEN,
    MIN_LINEAR,
    Metadata,
    RxInfo,
    Slot,
    SlotRef,
    linear_len,
)

AF_XDP = 44
SOL_XDP = 283
XDP_RX_RING = 2
RX_SLOT_WRITING = 2**64 - 1

MAC = "02:00:00:00:00:01"
OURS4, OURS6, PORT = "10.0.0.1", "fd00::1", 80
ALSO_OURS4, ALSO_OURS6 = "10.0.0.8", "fd00::8"
OTHER4, OTHER6 = "10.0.0.9", "fd00::9"
PEER4, PEER6 = "10.0.0.2", "fd00::2"
ANY_PORT, MIXED_PORT, ANY6_PORT, LINEAR_PORT = 81, 82, 83, 85
PORTS = (PORT, ANY_PORT, MIXED_PORT, ANY6_PORT, LINEAR_PORT)

COUNTERS_OF_REDIRECTED = (
    "csum_verified",
    "csum_partial",
    "csum_trusted",
    "redirect_bytes",
    "linear_bytes",
)


@dataclass(frozen=True)
class Outcome:
    action: int
    reason: str  # the one counter of reasons that went up
    detail: dict[str, int]  # what else went up
    metadata: bytes
    packet: bytes

    @cached_property
    def head(self) -> Metadata:
        return Metadata.unpack(self.metadata)

    @property
    def info(self) -> RxInfo:
        return self.head.info


class Steer:
    """One program of a loaded object, with listeners and a socket on queue 0."""

    def __init__(self, obj: BpfObject, program: str, xsk: socket.socket, path: HeaderPath) -> None:
        xsk.setsockopt(SOL_XDP, XDP_RX_RING, 64)
        self.path = path
        self._program = obj.programs[program]
        self._maps = obj.maps
        self._xsk = xsk
        self.frags = self._program.frags
        self.enter_socket()

    @property
    def _xsks(self) -> XskMap:
        xsks = self._maps["xsks"]
        assert isinstance(xsks, XskMap)
        return xsks

    def enter_socket(self) -> None:
        self._xsks.set_socket(0, self._xsk.fileno())

    def remove_socket(self) -> None:
        self._xsks.delete(0)

    def listen(self, ip: str, port: int, *, csum_trust: bool = False, linear: int = 0) -> None:
        key, value = xdp_prog.listener_key(ip, port), xdp_prog.listener_value(csum_trust, linear)
        self._maps["listeners"].set(key, value)

    def unlisten(self, ip: str, port: int) -> None:
        self._maps["listeners"].delete(xdp_prog.listener_key(ip, port))

    def counters(self) -> dict[str, int]:
        values = []
        for index in range(self._maps["counters"].max_entries):
            cpus = self._maps["counters"].get_percpu(struct.pack("=I", index))
            assert cpus is not None
            values.append([int.from_bytes(value, "little") for value in cpus])
        return xdp_prog.read_counters(values)

    def __call__(
        self, frame: bytes | Packet, *, metadata: bytes = b"", first: int | None = None
    ) -> Outcome:
        """Run on a frame; ``first`` bytes of it (default: all that fit) in the first buffer."""
        data = metadata + bytes(frame)
        ctx = XdpContext(data=len(metadata), data_end=first and len(metadata) + first)
        before = self.counters()
        run = self._program.test_run(data, ctx=ctx)
        after = self.counters()
        moved = {name: after[name] - before[name] for name in after if after[name] != before[name]}
        reasons = {name: n for name, n in moved.items() if name not in COUNTERS_OF_REDIRECTED}
        assert list(reasons.values()) == [1], f"not counted exactly once: {moved}"
        reason = next(iter(reasons))
        detail = {name: n for name, n in moved.items() if name != reason}
        metadata = run.metadata
        if self.path == "slot" and run.retval == XDP_REDIRECT:
            metadata = self.slot_of(metadata).as_metadata()
        return Outcome(run.retval, reason, detail, metadata, run.packet)

    def slot_of(self, metadata: bytes) -> Slot:
        """The slot that a packet's metadata names, which has that packet's number."""
        ref = SlotRef.unpack(metadata)
        assert (ref.magic, ref.zero) == (MAGIC, 0)
        slot = self.slot(ref.seq % self.slots)
        assert slot.seq == ref.seq
        return slot

    @property
    def slots(self) -> int:
        return self._maps["heads"].max_entries

    def slot(self, index: int) -> Slot:
        raw = self._maps["heads"].get(struct.pack("=I", index))
        assert raw is not None
        return Slot.unpack(raw)

    def slot_seq(self, segment: Packet) -> int:
        """The number that a packet is given."""
        run = self._program.test_run(bytes(ip4() / segment))
        assert run.retval == XDP_REDIRECT
        return self.slot_of(run.metadata).seq

    def put_slot(self, index: int, slot: Slot) -> None:
        self._maps["heads"].set(struct.pack("=I", index), slot.pack())


def object_path() -> Path:
    path = xdp_prog.object_path()
    assert isinstance(path, Path)
    return path


# Kernels that take enough metadata have packets of several buffers, and old ones neither.
PROGRAMS: list[tuple[str, HeaderPath]] = [
    (xdp_prog.PROGRAM_FRAGS, "metadata"),
    (xdp_prog.PROGRAM_LINEAR, "slot"),
]
SLOTS = 8


def has_room(path: HeaderPath) -> bool:
    """Whether this kernel takes the metadata that a path needs."""
    return path == "slot" or header_path() == path


def programs(*which: tuple[str, HeaderPath]) -> pytest.MarkDecorator:
    """Only with these."""
    return pytest.mark.parametrize("steer", which, indirect=True, ids="-".join)


FRAGS_ONLY = programs((xdp_prog.PROGRAM_FRAGS, "metadata"), (xdp_prog.PROGRAM_FRAGS, "slot"))
SLOTS_ONLY = programs((xdp_prog.PROGRAM_LINEAR, "slot"))


@pytest.fixture(scope="module", params=PROGRAMS, ids="-".join)
def steer(request: pytest.FixtureRequest) -> Iterator[Steer]:
    program, path = request.param
    try:
        if not has_room(path):
            pytest.skip("this kernel takes too little metadata for that")
        obj = BpfObject.open(object_path(), programs=[program])
        configure(obj, path, SLOTS // 2)
        obj.load()
    except PermissionError:
        pytest.skip("needs CAP_BPF and CAP_NET_ADMIN")
    with obj, socket.socket(AF_XDP, socket.SOCK_RAW) as xsk:
        steer = Steer(obj, program, xsk, path)
        obj.maps["mac"].set(bytes(4), xdp_prog.mac_value(mac2str(MAC)))
        for ip in (OURS4, OURS6, ALSO_OURS4, ALSO_OURS6):
            obj.maps["addresses"].set(xdp_prog.address_key(ip), bytes(4))
        steer.listen(OURS4, PORT)
        steer.listen(OURS6, PORT)
        steer.listen("0.0.0.0", ANY_PORT)
        steer.listen(OURS4, MIXED_PORT, csum_trust=True)
        steer.listen("0.0.0.0", MIXED_PORT)
        steer.listen("::", ANY6_PORT)
        steer.listen(OURS4, LINEAR_PORT, csum_trust=True, linear=33)
        yield steer


# Packets


def noise(length: int) -> bytes:
    """Bytes that look like nothing else, the same for each length."""
    return random.Random(length).randbytes(length)


def eth(**fields: Any) -> Packet:
    return Ether(**{"dst": MAC, "src": "02:00:00:00:00:02"} | fields)


def ip4(**fields: Any) -> Packet:
    return eth() / IP(**{"src": PEER4, "dst": OURS4} | fields)


def ip6(*extensions: Packet, **fields: Any) -> Packet:
    packet = eth() / IPv6(**{"src": PEER6, "dst": OURS6} | fields)
    for extension in extensions:
        packet /= extension
    return packet


def tcp(payload: bytes = b"", **fields: Any) -> Packet:
    defaults: dict[str, Any] = {"sport": 4321, "dport": PORT, "flags": "A"}
    segment = TCP(**defaults | fields)
    return segment / Raw(payload) if payload else segment


def cooked(packet: Packet) -> Packet:
    """The packet with all computed fields filled in, to be changed by hand."""
    return Ether(bytes(packet))


def changed(packet: Packet, layer: type[Packet], **fields: Any) -> bytes:
    """The finished packet with some fields set, the checksums (mostly) not following."""
    packet = cooked(packet)
    for name, value in fields.items():
        setattr(packet[layer], name, value)
    return bytes(packet)


def ip_changed(packet: Packet, **fields: Any) -> bytes:
    """Like changed() on the IPv4 header, but its checksum is made to follow."""
    packet = cooked(packet)
    for name, value in fields.items():
        setattr(packet[IP], name, value)
    del packet[IP].chksum
    return bytes(packet)


def folded_sum(data: bytes) -> int:
    """The one's complement sum of RFC 1071, not complemented; zero bits make the last byte up."""
    words = struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))
    return (sum(words) - 1) % 0xFFFF + 1 if any(words) else 0


def add16(checksum: int, number: int) -> int:
    return (checksum + number) % 0x10000


NOP40 = [IPOption(b"\x01")] * 39 + [IPOption(b"\x00")]
RECORD_ROUTE = IPOption(b"\x07\x27\x04" + bytes(36))
ROUTER_ALERT = IPOption(b"\x94\x04\x00\x00")
TIMESTAMP = IPOption(b"\x44\x24\x05\x00" + bytes(32))
TCP40 = [("Timestamp", (1, 2)), ("SAck", (1, 2, 3, 4))] + [("NOP", None)] * 12
SYN_OPTIONS = [
    ("MSS", 1460),
    ("SAckOK", b""),
    ("Timestamp", (7, 0)),
    ("NOP", None),
    ("WScale", 7),
]
DEST_OPT = IPv6ExtHdrDestOpt(options=[])
HOP_BY_HOP = IPv6ExtHdrHopByHop(options=[])


# What is ours: the row is a description, the frame without padding, and its payload.


def ours() -> Iterator[tuple[str, Packet, bytes]]:
    for family, ip in (("IPv4", ip4()), ("IPv6", ip6())):
        yield f"{family} SYN", ip / tcp(flags="S", options=SYN_OPTIONS), b""
        yield f"{family} bare ACK", ip / tcp(), b""
        yield f"{family} FIN", ip / tcp(flags="FA"), b""
        yield f"{family} RST", ip / tcp(flags="R"), b""
        for length in (*range(1, 21), 1000, 1459, 1460):
            yield f"{family} {length} bytes", ip / tcp(noise(length)), noise(length)
        yield f"{family} TCP options, 40 bytes", ip / tcp(noise(99), options=TCP40), noise(99)
    for name, options in {
        "NOP, 40 bytes": NOP40,
        "router alert": [ROUTER_ALERT],
        "record route": [RECORD_ROUTE],
        "timestamp": [TIMESTAMP],
    }.items():
        yield f"IP option {name}", ip4(options=options) / tcp(noise(50)), noise(50)
    for length in (0, 1, 600):
        both = ip4(options=NOP40) / tcp(noise(length), options=TCP40)
        yield f"40 bytes of IP and of TCP options, {length} bytes", both, noise(length)
    for ttl in (1, 2, 255):
        yield f"TTL {ttl}", ip4(ttl=ttl) / tcp(noise(9)), noise(9)
        yield f"hop limit {ttl}", ip6(hlim=ttl) / tcp(noise(9)), noise(9)
    for tos in (0x00, 0x01, 0x02, 0x03, 0x2E << 2, 0xFF):
        yield f"TOS {tos:#x}", ip4(tos=tos) / tcp(noise(9)), noise(9)
        yield f"traffic class {tos:#x}", ip6(tc=tos) / tcp(noise(9)), noise(9)
    yield "DF", ip4(flags="DF") / tcp(noise(9)), noise(9)
    yield "IPv6 flow label", ip6(fl=0xFFFFF) / tcp(noise(9)), noise(9)
    yield "IPv6 hop-by-hop options", ip6(HOP_BY_HOP) / tcp(noise(9)), noise(9)
    yield "IPv6 destination options", ip6(DEST_OPT) / tcp(noise(9)), noise(9)
    arrived = IPv6ExtHdrRouting(segleft=0, addresses=[])
    yield "IPv6 routing, none left", ip6(arrived) / tcp(noise(9)), noise(9)
    three = ip6(HOP_BY_HOP, DEST_OPT, arrived)
    yield "IPv6 three extension headers", three / tcp(noise(9)), noise(9)
    yield "wildcard listener", ip4(dst=ALSO_OURS4) / tcp(noise(9), dport=ANY_PORT), noise(9)
    yield "IPv6 wildcard listener", ip6(dst=ALSO_OURS6) / tcp(noise(9), dport=ANY6_PORT), noise(9)


def check_split(outcome: Outcome, frame: bytes, payload: bytes, linear: int = 0) -> None:
    """The frame came out split: headers and ``linear`` bytes of payload as metadata, the
    rest of the payload as data, nothing else."""
    assert (outcome.action, outcome.reason) == (XDP_REDIRECT, "redirect")
    assert len(outcome.metadata) == META_LEN
    hdr_len = len(frame) - len(payload)
    family = 4 if frame[12:14] == b"\x08\x00" else 6
    info = outcome.info
    assert info.magic == MAGIC
    assert info.hdr_len == hdr_len
    assert (info.l3_off, info.family, info.queue) == (14, family, 0)
    assert info.l4_off + (frame[info.l4_off + 12] >> 4) * 4 == hdr_len
    assert info.payload_len == len(payload)
    assert (info.linear, info.zero) == (linear, 0)
    assert info.grown == max(0, MIN_LINEAR - (len(payload) - linear))
    assert outcome.head.headers == frame[:hdr_len]
    assert outcome.head.linear == payload[:linear]
    assert outcome.metadata == outcome.head.expected()
    assert outcome.packet == payload[linear:] + bytes(info.grown)
    assert outcome.detail.get("redirect_bytes", 0) == len(payload)
    assert outcome.detail.get("linear_bytes", 0) == linear


@pytest.mark.parametrize(
    ("packet", "payload"), [pytest.param(*row[1:], id=row[0]) for row in ours()]
)
def test_our_segments_are_split(steer: Steer, packet: Packet, payload: bytes) -> None:
    frame = bytes(packet)
    outcome = steer(frame)
    check_split(outcome, frame, payload)
    assert outcome.info.csum == CSUM_VERIFIED
    assert outcome.info.l4_off == len(frame) - len(payload) - cooked(packet)[TCP].dataofs * 4


@pytest.mark.parametrize("padding", [1, 6, 13, 14, 500])
@pytest.mark.parametrize("length", [0, 1, 13, 14, 15, 1000])
@pytest.mark.parametrize("ip", [ip4(), ip6()], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("flags", ["S", "A", "FA"])
def test_padding_is_never_payload(
    steer: Steer, ip: Packet, length: int, padding: int, flags: str
) -> None:
    frame = bytes(ip / tcp(noise(length), flags=flags))
    check_split(steer(frame + b"\xee" * padding), frame, noise(length))


def test_metadata_of_others_is_dropped(steer: Steer) -> None:
    frame = bytes(ip4() / tcp(noise(100)))
    check_split(steer(frame, metadata=b"\xaa" * 32), frame, noise(100))


# What is not: it goes to the kernel as it came, or is dropped, and is counted.


def cut(packet: Packet | bytes, length: int) -> bytes:
    return bytes(packet)[:length]


def foreign() -> Iterator[tuple[str, bytes | Packet, str]]:
    data = ip4() / tcp(noise(100))
    data6 = ip6() / tcp(noise(100))
    yield "ARP", eth() / ARP(), "pass_not_ip"
    yield "unknown protocol", eth(type=0x88B5) / Raw(noise(60)), "pass_not_ip"
    yield "802.3 with a length", eth(type=60) / Raw(noise(60)), "pass_not_ip"
    yield "broadcast", changed(data, Ether, dst="ff:ff:ff:ff:ff:ff"), "pass_not_unicast"
    yield "multicast", changed(data, Ether, dst="01:00:5e:00:00:01"), "pass_not_unicast"
    yield "IPv6 multicast frame", changed(data6, Ether, dst="33:33:00:00:00:01"), "pass_not_unicast"
    for name, mac in {"first": "06", "last": "02"}.items():
        other = mac + MAC[2:-2] + ("01" if name == "first" else "03")
        yield f"another {name} byte", changed(data, Ether, dst=other), "pass_other_host"
    yield "frame to zeros", changed(data6, Ether, dst="00:00:00:00:00:00"), "pass_other_host"
    for dst in ("224.0.0.1", "239.255.255.255", "255.255.255.255"):
        yield f"to {dst}", ip4(dst=dst) / tcp(dport=ANY_PORT), "pass_not_unicast"
    yield "to ff02::1", ip6(dst="ff02::1") / tcp(dport=ANY6_PORT), "pass_not_unicast"
    for name, tag in {
        "VID 5": Dot1Q(vlan=5),
        "VID 0": Dot1Q(vlan=0, prio=5),
        "802.1ad": Dot1AD(vlan=5),
        "QinQ": Dot1AD(vlan=5) / Dot1Q(vlan=6),
    }.items():
        tagged = eth() / tag / IP(src=PEER4, dst=OURS4) / tcp(noise(100))
        yield f"tagged, {name}", tagged, "pass_vlan"
    yield "UDP", ip4() / UDP(dport=PORT) / Raw(noise(100)), "pass_not_tcp"
    yield "ICMP", ip4() / ICMP() / Raw(noise(100)), "pass_not_tcp"
    yield "UDP over IPv6", ip6() / UDP(dport=PORT) / Raw(noise(100)), "pass_not_tcp"
    yield "IPv6 without a next header", ip6(nh=59) / Raw(noise(60)), "pass_not_tcp"
    yield "IPv6 authentication header", ip6(nh=51) / Raw(noise(60)), "pass_not_tcp"
    yield "IPv6 in IPv4", ip4(proto=41) / Raw(noise(60)), "pass_not_tcp"
    yield "another port", ip4() / tcp(dport=8080), "pass_no_listener"
    yield "our port as source", ip4() / tcp(sport=PORT, dport=1024), "pass_no_listener"
    yield "another address", ip4(dst=OTHER4) / tcp(), "pass_no_listener"
    yield "another IPv6 address", ip6(dst=OTHER6) / tcp(), "pass_no_listener"
    yield "wildcard, not ours", ip4(dst=OTHER4) / tcp(dport=ANY_PORT), "pass_no_listener"
    yield "IPv6 wildcard, not ours", ip6(dst=OTHER6) / tcp(dport=ANY6_PORT), "pass_no_listener"
    yield "IPv6 to an IPv4 wildcard", ip6() / tcp(dport=ANY_PORT), "pass_no_listener"
    yield "IPv4 to an IPv6 wildcard", ip4() / tcp(dport=ANY6_PORT), "pass_no_listener"
    mapped = ip6(dst="::ffff:10.0.0.1") / tcp()
    yield "IPv6 to an IPv4-mapped address", mapped, "pass_no_listener"
    yield "another's with a bad checksum", ip4(dst=OTHER4) / tcp(chksum=1), "pass_no_listener"


def fragments() -> Iterator[tuple[str, bytes | Packet, str]]:
    segment = tcp(noise(100))
    places: dict[str, dict[str, Any]] = {
        "first": {"flags": "MF", "frag": 0},
        "middle": {"flags": "MF", "frag": 10},
        "last": {"frag": 10},
        "last, DF": {"flags": "DF", "frag": 1},
        "furthest": {"frag": 0x1FFF},
    }
    for name, fields in places.items():
        yield f"{name} fragment", ip4(**fields) / segment, "pass_ip_fragment"
    yield "fragment of UDP", ip4(flags="MF") / UDP() / Raw(noise(50)), "pass_not_tcp"
    for name, more, offset in (("first", 1, 0), ("middle", 1, 9), ("last", 0, 9), ("atomic", 0, 0)):
        fragment = IPv6ExtHdrFragment(m=more, offset=offset)
        yield f"IPv6 {name} fragment", ip6(fragment) / segment, "pass_ip_fragment"
        behind = ip6(HOP_BY_HOP, fragment) / segment
        yield f"IPv6 {name} fragment behind options", behind, "pass_ip_fragment"


def extensions() -> Iterator[tuple[str, bytes | Packet, str]]:
    on_the_way = IPv6ExtHdrRouting(segleft=1, addresses=[OTHER6])
    yield "routing with a segment left", ip6(on_the_way) / tcp(), "pass_ipv6_routing"
    yield "seven headers", ip6(*[DEST_OPT] * 7) / tcp(), "pass_headers_too_long"
    pad = ip6(nh=60) / Raw(b"\x06\x09" + bytes(78)) / tcp()
    yield "options of 80 bytes", pad, "pass_headers_too_long"
    cut_short = ip6(nh=60) / Raw(b"\x06\xff" + bytes(6)) / tcp()
    yield "options beyond the frame", cut_short, "pass_malformed"
    yield "options cut in the middle", ip6(nh=60) / Raw(b"\x06\x00\x00"), "pass_malformed"


def malformed() -> Iterator[tuple[str, bytes | Packet, str]]:
    data, data6 = ip4() / tcp(noise(100)), ip6() / tcp(noise(100))
    for version in (0, 5, 6, 15):
        yield f"IPv4 of version {version}", ip_changed(data, version=version), "pass_malformed"
    for version in (0, 4, 7):
        yield f"IPv6 of version {version}", changed(data6, IPv6, version=version), "pass_malformed"
    for ihl in (0, 1, 4):
        yield f"IHL {ihl}", ip_changed(data, ihl=ihl), "pass_malformed"
    yield "IHL beyond the frame", cut(ip_changed(ip4() / tcp(), ihl=15), 60), "pass_malformed"
    for length in (0, 1, 19):
        yield f"{length} bytes of IPv4 header", cut(data, 14 + length), "pass_malformed"
    for length in (0, 1, 39):
        yield f"{length} bytes of IPv6 header", cut(data6, 14 + length), "pass_malformed"
    for length in (0, 1, 19, 20, 23):
        yield f"total length {length}", ip_changed(data, len=length), "pass_malformed"
    for length in (0, 3):
        yield f"IPv6 payload length {length}", changed(data6, IPv6, plen=length), "pass_malformed"
    # From here on the port can be read: ours, so dropped.
    for length in (24, 39):
        yield f"total length {length}", ip_changed(data, len=length), "drop_tcp_malformed"
    for length in (4, 19):
        short = changed(data6, IPv6, plen=length)
        yield f"IPv6 payload length {length}", short, "drop_tcp_malformed"
    for beyond in (1, 1000, 65535 - 140):
        beyond_frame = ip_changed(data, len=140 + beyond)
        yield f"total length {beyond} beyond the frame", beyond_frame, "drop_ip_malformed"
        beyond_frame = changed(data6, IPv6, plen=120 + beyond)
        yield f"IPv6 length {beyond} beyond the frame", beyond_frame, "drop_ip_malformed"
    yield "cut by a byte", cut(data, len(data) - 1), "drop_ip_malformed"
    for length in range(20):
        short4 = ip_changed(ip4() / Raw(bytes(tcp())[:length]), proto=6)
        short6 = ip6(nh=6) / Raw(bytes(tcp())[:length])
        reason = "pass_malformed" if length < 4 else "drop_tcp_malformed"
        yield f"IPv4 with {length} bytes of TCP", short4, reason
        yield f"IPv4 with {length} bytes of TCP, padded", short4 + bytes(tcp(noise(30))), reason
        yield f"IPv6 with {length} bytes of TCP", short6, reason
    for offset in (0, 1, 4):
        yield f"TCP data offset {offset}", ip4() / tcp(dataofs=offset), "drop_tcp_malformed"
    yield "TCP data offset beyond the segment", ip4() / tcp(dataofs=6), "drop_tcp_malformed"
    padded = bytes(ip4() / tcp(dataofs=15)) + bytes(60)
    yield "TCP data offset into the padding", padded, "drop_tcp_malformed"


def reasons() -> list[Any]:
    rows = [*foreign(), *fragments(), *extensions(), *malformed()]
    return [pytest.param(bytes(frame), reason, id=name) for name, frame, reason in rows]


@pytest.mark.parametrize(("frame", "reason"), reasons())
def test_the_rest_is_passed_or_dropped(steer: Steer, frame: bytes, reason: str) -> None:
    outcome = steer(frame)
    assert outcome.reason == reason
    assert outcome.detail == {}
    assert outcome.action == (XDP_PASS if reason.startswith("pass") else XDP_DROP)
    assert outcome.packet == frame, "a frame that is not ours was changed"
    assert outcome.metadata == b""


def test_without_a_socket_the_kernel_gets_the_frame(steer: Steer) -> None:
    frame = bytes(ip4() / tcp(noise(100)))
    steer.remove_socket()
    try:
        outcome = steer(frame)
    finally:
        steer.enter_socket()
    assert (outcome.action, outcome.reason) == (XDP_PASS, "pass_no_socket")
    assert outcome.packet == frame


# Checksums


def partial(packet: Packet) -> bytes:
    """As a local sender leaves it: the folded sum of the pseudo header, not complemented."""
    packet = cooked(packet)
    if IP in packet:
        addresses = socket.inet_aton(packet[IP].src) + socket.inet_aton(packet[IP].dst)
    else:
        ends = packet[IPv6].src, packet[IPv6].dst
        addresses = b"".join(socket.inet_pton(socket.AF_INET6, end) for end in ends)
    pseudo = addresses + struct.pack(">HH", socket.IPPROTO_TCP, len(bytes(packet[TCP])))
    return changed(packet, TCP, chksum=folded_sum(pseudo))


def zero_checksum(packet: Packet) -> tuple[bytes, bytes]:
    """The packet twice, changed so that its sum is zero: with checksum 0 and with 0xffff."""
    packet = cooked(packet)
    # Adding the checksum to a field that is summed makes the new checksum zero.
    packet[TCP].window = add16(packet[TCP].window, packet[TCP].chksum)
    if packet[TCP].window < packet[TCP].chksum:  # the carry comes around
        packet[TCP].window = add16(packet[TCP].window, 1)
    return changed(packet, TCP, chksum=0), changed(packet, TCP, chksum=0xFFFF)


IPS = pytest.mark.parametrize("ip", [ip4(), ip6(), ip4(options=NOP40)], ids=["v4", "v6", "v4+40"])
LENGTHS = pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 63, 64, 511, 512, 513, 1459, 1460])


@IPS
@LENGTHS
def test_tcp_checksum_is_verified(steer: Steer, ip: Packet, length: int) -> None:
    packet = cooked(ip / tcp(noise(length)))
    right = packet[TCP].chksum
    for wrong in (add16(right, 1), add16(right, 0x100), add16(right, 0x8000), right ^ 0xFFFF, 0):
        outcome = steer(changed(packet, TCP, chksum=wrong))
        assert (outcome.action, outcome.reason) == (XDP_DROP, "drop_tcp_csum"), hex(wrong)
    outcome = steer(packet)
    check_split(outcome, bytes(packet), noise(length))
    assert outcome.info.csum == CSUM_VERIFIED
    assert outcome.detail.get("csum_verified") == 1


@pytest.mark.parametrize("flags", ["S", "A", "FA", "R"])
def test_control_segments_are_verified_too(steer: Steer, flags: str) -> None:
    packet = cooked(ip4() / tcp(flags=flags))
    outcome = steer(changed(packet, TCP, chksum=add16(packet[TCP].chksum, 1)))
    assert outcome.reason == "drop_tcp_csum"


@LENGTHS
def test_every_byte_counts(steer: Steer, length: int) -> None:
    frame = bytearray(bytes(ip4() / tcp(noise(length))))
    for place in {34, 35, 54 + length // 2, len(frame) - 2, len(frame) - 1} - {len(frame)}:
        frame[place] ^= 0x10
        assert steer(bytes(frame)).reason in ("drop_tcp_csum", "pass_no_listener"), place
        frame[place] ^= 0x10
    assert steer(bytes(frame)).reason == "redirect"


@IPS
@LENGTHS
def test_zero_has_two_representations(steer: Steer, ip: Packet, length: int) -> None:
    for frame in zero_checksum(ip / tcp(noise(length))):
        outcome = steer(frame)
        check_split(outcome, frame, noise(length))
        assert outcome.info.csum == CSUM_VERIFIED


@IPS
@LENGTHS
def test_unfinished_checksum_of_a_local_sender(steer: Steer, ip: Packet, length: int) -> None:
    frame = partial(ip / tcp(noise(length)))
    outcome = steer(frame)
    check_split(outcome, frame, noise(length))
    assert outcome.info.csum == CSUM_PARTIAL
    assert outcome.detail.get("csum_partial") == 1


@pytest.mark.parametrize("ports", range(0, 65536, 4096))
def test_sums_that_carry_more_than_once(steer: Steer, ports: int) -> None:
    """Addresses whose sum is large: folding it makes a carry, which is to be folded again."""
    for peer in ("192.168.255.254", "191.255.255.255", f"10.{ports >> 8}.255.245"):
        for make, verdict in ((bytes, CSUM_VERIFIED), (partial, CSUM_PARTIAL)):
            frame = make(ip4(src=peer) / tcp(noise(100), sport=ports + 1))
            assert steer(frame).info.csum == verdict


def test_almost_unfinished_is_wrong(steer: Steer) -> None:
    packet = Ether(partial(ip4() / tcp(noise(100))))
    for number in (-1, 1, 0x100):
        frame = changed(packet, TCP, chksum=add16(packet[TCP].chksum, number))
        assert steer(frame).reason == "drop_tcp_csum"
    complement = changed(packet, TCP, chksum=packet[TCP].chksum ^ 0xFFFF)
    assert steer(complement).reason == "drop_tcp_csum"


def test_trust_skips_the_payload_but_not_the_headers(steer: Steer) -> None:
    packet = cooked(ip4() / tcp(noise(100), dport=MIXED_PORT))
    frame = changed(packet, TCP, chksum=0x1234)
    outcome = steer(frame)
    check_split(outcome, frame, noise(100))
    assert outcome.info.csum == CSUM_TRUSTED
    assert outcome.detail.get("csum_trusted") == 1
    assert steer(changed(packet, IP, chksum=0x1234)).reason == "drop_ip_csum"
    assert steer(cut(packet, len(packet) - 1)).reason == "drop_ip_malformed"


def test_the_exact_listener_goes_before_the_wildcard(steer: Steer) -> None:
    exact, also = (cooked(ip4(dst=dst) / tcp(dport=MIXED_PORT)) for dst in (OURS4, ALSO_OURS4))
    assert steer(exact).info.csum == CSUM_TRUSTED
    assert steer(also).info.csum == CSUM_VERIFIED


@pytest.mark.parametrize("options", [[], [ROUTER_ALERT], NOP40], ids=["none", "4", "40"])
def test_ip_checksum_is_verified(steer: Steer, options: list[Packet]) -> None:
    packet = cooked(ip4(options=options) / tcp(noise(100)))
    right = packet[IP].chksum
    for wrong in (add16(right, 1), add16(right, 0x100), right ^ 0xFFFF, 0, 0xFFFF):
        outcome = steer(changed(packet, IP, chksum=wrong))
        assert (outcome.action, outcome.reason) == (XDP_DROP, "drop_ip_csum"), hex(wrong)
    if options:
        frame = bytearray(bytes(packet))
        frame[34 + len(options[0]) - 1] ^= 0x40
        assert steer(bytes(frame)).reason == "drop_ip_csum"
    assert steer(packet).reason == "redirect"


# Packets of several buffers


@FRAGS_ONLY
@pytest.mark.parametrize("length", [3500, 4095, 4096, 4097, 8191, 9000, 32769, 65494, 65495])
@pytest.mark.parametrize("ip", [ip4(), ip6()], ids=["IPv4", "IPv6"])
def test_several_buffers(steer: Steer, ip: Packet, length: int) -> None:
    packet = cooked(ip / tcp(noise(length)))
    frame = bytes(packet)
    outcome = steer(frame)
    check_split(outcome, frame, noise(length))
    assert outcome.info.csum == CSUM_VERIFIED
    for place in range(len(frame) - 1, 54 + 20, -1777):
        damaged = frame[:place] + bytes([frame[place] ^ 1]) + frame[place + 1 :]
        assert steer(damaged).reason == "drop_tcp_csum", place
    unfinished = partial(packet)
    outcome = steer(unfinished)
    check_split(outcome, unfinished, noise(length))
    assert outcome.info.csum == CSUM_PARTIAL


@FRAGS_ONLY
@pytest.mark.parametrize("padding", [1, 100, 5000])
def test_padding_behind_several_buffers(steer: Steer, padding: int) -> None:
    frame = bytes(ip4() / tcp(noise(9000)))
    check_split(steer(frame + b"\xee" * padding), frame, noise(9000))


def run_with_first(steer: Steer, frame: bytes, first: int) -> Outcome:
    try:
        return steer(frame, first=first)
    except XdpError as error:
        if error.errno != errno.EINVAL:
            raise
        pytest.skip("this kernel does not let a test choose the length of the linear part")


@FRAGS_ONLY
@pytest.mark.parametrize("first", [68, 69, 71, 1001, 3001])
@pytest.mark.parametrize("length", [4000, 9001, 65495])
def test_odd_buffer_boundaries(steer: Steer, first: int, length: int) -> None:
    frame = bytes(ip4() / tcp(noise(length)))
    check_split(run_with_first(steer, frame, first), frame, noise(length))
    damaged = frame[: first + 1] + bytes([frame[first + 1] ^ 4]) + frame[first + 2 :]
    assert steer(damaged, first=first).reason == "drop_tcp_csum"


@FRAGS_ONLY
def test_headers_across_buffers_cannot_be_split(steer: Steer) -> None:
    """adjust_head leaves 14 bytes; the headers themselves are only looked for in the first."""
    frame = bytes(ip4() / tcp(noise(4000)))
    for first, reason in ((54 + 13, "drop_adjust_failed"), (53, "drop_tcp_malformed")):
        outcome = run_with_first(steer, frame, first)
        assert (outcome.action, outcome.reason) == (XDP_DROP, reason)
    assert steer(frame, first=37).reason == "pass_malformed"


# The first payload bytes left with the headers


@pytest.fixture
def linear_port(steer: Steer) -> Iterator[Callable[[int], int]]:
    """Choose how much of the payload stays with the headers: a port where it is so."""
    port = 84
    where = (OURS4, OURS6)

    def choose(linear: int) -> int:
        for ip in where:
            steer.listen(ip, port, linear=linear)
        return port

    yield choose
    for ip in where:
        steer.unlisten(ip, port)


TCP36 = [*TCP40[:2], *[("NOP", None)] * 8]
LINEAR_HEADERS = {  # 54, 74, 134, 114 and 142 bytes: the most that 144 bytes can hold
    "v4": (ip4(), []),
    "v6": (ip6(), []),
    "v4 longest": (ip4(options=NOP40), TCP40),
    "v6 longest": (ip6(), TCP40),
    "v6 extensions": (ip6(HOP_BY_HOP, *[DEST_OPT] * 3), TCP36),
}


@pytest.mark.parametrize("headers", LINEAR_HEADERS)
def test_linear_of_every_length(
    steer: Steer, linear_port: Callable[[int], int], headers: str
) -> None:
    """All of 0..64 and the limit, with payloads around it and around what must stay behind."""
    ip, options = LINEAR_HEADERS[headers]
    for linear in (*range(65), xdp_prog.LINEAR_MAX):
        port = linear_port(linear)
        around = (linear - 1, linear, linear + 1, linear + MIN_LINEAR - 1, linear + MIN_LINEAR)
        for length in sorted({0, 1, 1400, *(n for n in around if n >= 0)}):
            frame = bytes(ip / tcp(noise(length), dport=port, options=options))
            stays = linear_len(linear, len(frame) - length, length)
            outcome = steer(frame)
            check_split(outcome, frame, noise(length), stays)
            assert outcome.info.csum == CSUM_VERIFIED


def test_linear_beside_the_shortest_headers(
    steer: Steer, linear_port: Callable[[int], int]
) -> None:
    frame = bytes(ip4() / tcp(noise(200), dport=linear_port(xdp_prog.LINEAR_MAX)))
    outcome = steer(frame)
    check_split(outcome, frame, noise(200), xdp_prog.LINEAR_MAX)
    assert outcome.head.unused == b""


@pytest.mark.parametrize("padding", [1, 6, 13, 14, 500])
@pytest.mark.parametrize("length", [0, 1, 10, 11, 12, 24, 25, 26])
def test_padding_behind_linear(
    steer: Steer, linear_port: Callable[[int], int], length: int, padding: int
) -> None:
    frame = bytes(ip4() / tcp(noise(length), dport=linear_port(11)))
    outcome = steer(frame + b"\xee" * padding, metadata=b"\xaa" * 16)
    check_split(outcome, frame, noise(length), min(11, length))


@pytest.mark.parametrize("linear", [1, 7, 64])
@pytest.mark.parametrize("ip", [ip4(), ip6()], ids=["v4", "v6"])
def test_linear_leaves_the_checksum_alone(
    steer: Steer, linear_port: Callable[[int], int], ip: Packet, linear: int
) -> None:
    packet = cooked(ip / tcp(noise(333), dport=linear_port(linear)))
    frame = bytes(packet)
    start = len(frame) - 333
    for place in (start, start + linear - 1, start + linear, len(frame) - 1):
        damaged = frame[:place] + bytes([frame[place] ^ 1]) + frame[place + 1 :]
        assert steer(damaged).reason == "drop_tcp_csum", place
    unfinished = partial(packet)
    outcome = steer(unfinished)
    check_split(outcome, unfinished, noise(333), linear)
    assert outcome.info.csum == CSUM_PARTIAL


@FRAGS_ONLY
@pytest.mark.parametrize("linear", [1, 13, 14, 64])
@pytest.mark.parametrize("length", [3500, 4096, 9001, 65475])
@pytest.mark.parametrize("ip", [ip4(), ip6()], ids=["v4", "v6"])
def test_linear_of_several_buffers(
    steer: Steer, linear_port: Callable[[int], int], ip: Packet, length: int, linear: int
) -> None:
    frame = bytes(ip / tcp(noise(length), dport=linear_port(linear)))
    check_split(steer(frame), frame, noise(length), linear)
    check_split(steer(frame + b"\xee" * 5000), frame, noise(length), linear)


@FRAGS_ONLY
@pytest.mark.parametrize("first", [54 + 14, 54 + 15, 54 + 24, 54 + 33, 54 + 34, 54 + 35])
def test_linear_is_what_the_first_buffer_can_spare(
    steer: Steer, linear_port: Callable[[int], int], first: int
) -> None:
    """adjust_head leaves 14 bytes: a packet is not dropped for having fewer than wanted."""
    frame = bytes(ip4() / tcp(noise(4000), dport=linear_port(20)))
    spare = min(20, first - 54 - MIN_LINEAR)
    check_split(run_with_first(steer, frame, first), frame, noise(4000), spare)


def test_linear_is_limited() -> None:
    assert xdp_prog.listener_value(True, 90) == struct.pack("=II", 1, 90)
    for linear in (-1, 91, 1 << 32):
        with pytest.raises(ValueError, match=r"0\.\.90"):
            xdp_prog.listener_value(linear=linear)


# Slots


@SLOTS_ONLY
def test_each_packet_takes_the_slot_of_its_number(steer: Steer) -> None:
    numbers = [steer.slot_seq(tcp(noise(length))) for length in range(2 * SLOTS)]
    assert numbers == list(range(numbers[0], numbers[0] + 2 * SLOTS))
    kept = {steer.slot(number % SLOTS).seq for number in numbers}
    assert kept == set(numbers[SLOTS:])  # the first ones have been overwritten


@SLOTS_ONLY
def test_a_slot_that_another_cpu_is_writing_to_is_left_alone(steer: Steer) -> None:
    before = steer.slot_seq(tcp(noise(100)))
    index = (before + 1) % SLOTS
    busy = Slot(RX_SLOT_WRITING, steer.slot(index).info, bytes(HEAD_MAX))
    steer.put_slot(index, busy)
    outcome = steer(ip4() / tcp(noise(100)))
    assert (outcome.action, outcome.reason) == (XDP_DROP, "drop_slot_busy")
    assert steer.slot(index).seq == RX_SLOT_WRITING
    steer.put_slot(index, busy._replace(seq=before))
    assert steer.slot_seq(tcp(noise(100))) == before + 2  # the number is used up


@SLOTS_ONLY
def test_what_is_not_redirected_takes_no_slot(steer: Steer) -> None:
    before = steer.slot_seq(tcp(noise(9)))
    steer(ip4() / tcp(noise(9), dport=9))
    steer(changed(ip4() / tcp(noise(9)), TCP, chksum=1))
    assert steer.slot_seq(tcp(noise(9))) == before + 1


# Any bytes


def check_consistent(frame: bytes, outcome: Outcome) -> None:
    """What must hold for whatever was taken for a segment, judged from the frame alone."""
    if outcome.action != XDP_REDIRECT:
        assert outcome.action in (XDP_PASS, XDP_DROP)
        return
    info = outcome.info
    assert info.magic == MAGIC
    assert 14 + 20 + 20 <= info.hdr_len <= HEAD_MAX
    assert info.hdr_len + info.payload_len <= len(frame)
    assert outcome.metadata == outcome.head.expected()
    assert outcome.head.headers == frame[: info.hdr_len]
    payload = frame[info.hdr_len :][: info.payload_len]
    assert outcome.head.linear + outcome.packet == payload + bytes(info.grown)
    assert info.l3_off == 14
    assert info.l3_off + (20 if info.family == 4 else 40) <= info.l4_off
    assert info.l4_off + (frame[info.l4_off + 12] >> 4) * 4 == info.hdr_len
    assert not frame[0] & 1
    assert frame[info.l3_off] >> 4 == info.family
    assert int.from_bytes(frame[info.l4_off + 2 :][:2]) in PORTS


SEEDS = [
    bytes(ip4() / tcp(noise(40), dport=MIXED_PORT)),
    bytes(ip4(options=NOP40) / tcp(noise(3), dport=MIXED_PORT, options=TCP40)),
    bytes(ip6(HOP_BY_HOP, DEST_OPT) / tcp(noise(40))),
    bytes(ip4() / tcp(dport=MIXED_PORT)) + bytes(6),
    bytes(ip4() / tcp(noise(60), dport=LINEAR_PORT)),
]
ANY_FRAME = settings(
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(frame=st.binary(min_size=14, max_size=200))
@ANY_FRAME
def test_any_bytes(steer: Steer, frame: bytes) -> None:
    check_consistent(frame, steer(frame))


@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=4),
    length=st.integers(14, 200),
)
@ANY_FRAME
def test_mutated_segments(
    steer: Steer, seed: bytes, edits: list[tuple[int, int]], length: int
) -> None:
    frame = bytearray(seed.ljust(length, b"\xee")[:length])
    for place, value in edits:
        if place < len(frame):
            frame[place] = value
    if len(frame) >= 34 and frame[12:14] == b"\x08\x00":  # get past the header checksum
        header = frame[14 : 14 + (frame[14] & 15) * 4]
        if 20 <= len(header) <= len(frame) - 14:
            header[10:12] = b"\0\0"
            frame[24:26] = struct.pack(">H", folded_sum(bytes(header)) ^ 0xFFFF)
    check_consistent(bytes(frame), steer(bytes(frame)))


# What userspace is told


def test_counters_are_those_of_the_program(steer: Steer) -> None:
    names = set(xdp_prog.COUNTERS)
    assert len(names) == len(xdp_prog.COUNTERS)
    assert names == steer.counters().keys()
    assert names.issuperset(COUNTERS_OF_REDIRECTED)
    with pytest.raises(ValueError, match=r"in steer\.h"):
        xdp_prog.read_counters([[0, 0]] * (len(names) - 1))


def test_listener_keys() -> None:
    expected = bytes(10) + b"\xff\xff" + bytes([10, 0, 0, 1]) + b"\x00\x50" + struct.pack("=H", 4)
    assert xdp_prog.listener_key("10.0.0.1", 80) == expected
    assert xdp_prog.listener_key("::1", 0x1234) == bytes(15) + b"\1\x12\x34" + struct.pack("=H", 6)
    for port in (0, -1, 65536):
        with pytest.raises(ValueError, match="port"):
            xdp_prog.listener_key("::1", port)
    with pytest.raises(ValueError, match="address"):
        xdp_prog.listener_key("localhost", 80)
