# SPDX-License-Identifier: Apache-2.0
"""Frames to and from bytes, for the TCP bench: written from the RFCs, shares nothing with the core.

Two directions, two habits. ``build_headers()`` makes whatever it is asked for, also what no
sane peer would send. ``parse_frame()`` reads what the stack sent and accepts nothing but the one
right form: checksums, lengths, reserved bits, the shape and the place of every option.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
ETH_P_8021Q = 0x8100

#: Letters as tcpdump prints them, low bit first; "." is ACK.
FLAG_LETTERS = "FSRP.UEW"

OPT_EOL, OPT_NOP, OPT_MSS, OPT_WS, OPT_SACKOK, OPT_SACK, OPT_TS = 0, 1, 2, 3, 4, 5, 8

Blocks = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Address:
    """One end of a connection: 4 or 16 address bytes in network order, a port, a MAC."""

    ip: bytes
    port: int
    mac: bytes = b"\x02\x00\x00\x00\x00\x01"

    @property
    def family(self) -> int:
        return 4 if len(self.ip) == 4 else 6

    @property
    def mapped(self) -> bytes:
        """The 16-byte form of struct stack_addr: IPv4 as ::ffff:a.b.c.d."""
        return self.ip if len(self.ip) == 16 else bytes(10) + b"\xff\xff" + self.ip


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment that the stack sent. Sequence numbers as on the wire."""

    src: Address
    dst: Address
    flags: frozenset[str]
    seq: int
    ack: int
    win: int
    data: bytes
    mss: int | None = None
    ws: int | None = None
    sackok: bool = False
    ts: tuple[int, int] | None = None
    sack: Blocks = ()
    option_bytes: int = 0
    ip_len: int = 0
    rseq: int = field(default=0, compare=False)
    rack: int = field(default=0, compare=False)
    rsack: Blocks = field(default=(), compare=False)

    @property
    def tsval(self) -> int:
        assert self.ts is not None, "no timestamps"
        return self.ts[0]

    @property
    def tsecr(self) -> int:
        assert self.ts is not None, "no timestamps"
        return self.ts[1]

    def __str__(self) -> str:
        letters = "".join(letter for letter in "SFRPUEW." if letter in self.flags)
        extra = "".join(
            f" {name}={value}"
            for name, value in (("mss", self.mss), ("ws", self.ws), ("ts", self.ts))
            if value is not None
        )
        sack = f" sack={list(self.rsack)}" if self.rsack else ""
        return (
            f"[{letters}] seq={self.rseq} ack={self.rack} win={self.win}"
            f" len={len(self.data)}{extra}{sack}"
        )


def checksum(data: bytes) -> int:
    """RFC 1071 over ``data``: 0 when a right checksum is part of it."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def pseudo_header(src: bytes, dst: bytes, length: int) -> bytes:
    if len(src) == 4:
        return src + dst + struct.pack("!BBH", 0, 6, length)
    return src + dst + struct.pack("!II", length, 6)


def flag_byte(flags: str) -> int:
    return sum(1 << FLAG_LETTERS.index(letter) for letter in set(flags))


def options(
    *,
    mss: int | None = None,
    ws: int | None = None,
    sackok: bool = False,
    ts: tuple[int, int] | None = None,
    sack: Blocks = (),
) -> bytes:
    """An option list in Linux's order, padded to 32 bits with NOPs."""
    out = b""
    if mss is not None:
        out += struct.pack("!BBH", OPT_MSS, 4, mss)
    if sackok:
        out += bytes((OPT_SACKOK, 2))
    if ts is not None:
        out += struct.pack("!BBII", OPT_TS, 10, ts[0] & 0xFFFFFFFF, ts[1] & 0xFFFFFFFF)
    if ws is not None:
        out += bytes((OPT_WS, 3, ws))
    if sack:
        out += bytes((OPT_SACK, 2 + 8 * len(sack)))
        out += b"".join(struct.pack("!II", *block) for block in sack)
    return out + bytes((OPT_NOP,)) * (-len(out) % 4)


def build_headers(
    src: Address,
    dst: Address,
    *,
    flags: str,
    seq: int,
    ack: int,
    win: int,
    opts: bytes = b"",
    payload: bytes = b"",
    urg: int = 0,
    doff: int | None = None,
    reserved: int = 0,
    ip_options: bytes = b"",
    vlan: int | None = None,
    tos: int = 0,
    ttl: int = 64,
) -> tuple[bytes, int, int]:
    """Ethernet, IP and TCP headers of a segment; returns them with l3_off and l4_off.

    ``doff`` overrides the data offset (in words); ``ip_options`` are IPv4 options or IPv6 extension
    headers, which must chain to TCP themselves.
    """
    l3 = dst.mac + src.mac
    if vlan is not None:
        l3 += struct.pack("!HH", ETH_P_8021Q, vlan)
    l3 += struct.pack("!H", ETH_P_IP if src.family == 4 else ETH_P_IPV6)
    words = 5 + len(opts) // 4 if doff is None else doff
    tcp_len = 20 + len(opts) + len(payload)
    if src.family == 4:
        ihl = 5 + len(ip_options) // 4
        ip = struct.pack(
            "!BBHHHBBH4s4s",
            0x40 | ihl, tos, ihl * 4 + tcp_len, 0, 0x4000, ttl, 6, 0, src.ip, dst.ip,
        )  # fmt: skip
        ip += ip_options
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    else:
        next_header = 60 if ip_options else 6
        ip = struct.pack(
            "!IHBB16s16s",
            6 << 28 | tos << 20, len(ip_options) + tcp_len, next_header, ttl, src.ip, dst.ip,
        )  # fmt: skip
        ip += ip_options
    tcp = struct.pack(
        "!HHIIBBHHH",
        src.port, dst.port, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF,
        words << 4 | reserved, flag_byte(flags), win, 0, urg,
    )  # fmt: skip
    tcp += opts
    total = checksum(pseudo_header(src.ip, dst.ip, tcp_len) + tcp + payload)
    tcp = tcp[:16] + struct.pack("!H", total) + tcp[18:]
    return l3 + ip + tcp, len(l3), len(l3) + len(ip)


def parse_options(data: bytes, *, syn: bool) -> dict[str, object]:
    """Options of a segment the stack sent; AssertionError for what a receiver could frown at."""
    out: dict[str, object] = {}
    seen: set[int] = set()
    at = 0
    while at < len(data):
        kind = data[at]
        if kind == OPT_EOL:
            assert not any(data[at:]), "padding after EOL must be zero (MUST-69)"
            break
        if kind == OPT_NOP:
            at += 1
            continue
        assert at + 2 <= len(data), "an option is cut off"
        size = data[at + 1]
        body = data[at + 2 : at + size]
        assert 2 <= size <= len(data) - at, f"option {kind} has length {size}"
        assert kind not in seen, f"option {kind} twice"
        seen.add(kind)
        if kind == OPT_MSS:
            assert (syn, size) == (True, 4), "MSS only on SYN, 4 bytes (MUST-65)"
            out["mss"] = struct.unpack("!H", body)[0]
        elif kind == OPT_WS:
            assert (syn, size) == (True, 3), "window scale only on SYN, 3 bytes"
            out["ws"] = body[0]
        elif kind == OPT_SACKOK:
            assert (syn, size) == (True, 2), "SACK-permitted only on SYN, 2 bytes"
            out["sackok"] = True
        elif kind == OPT_TS:
            assert (size, (at + 2) % 4) == (10, 0), "timestamps: 10 bytes, values on a word"
            out["ts"] = struct.unpack("!II", body)
        elif kind == OPT_SACK:
            assert size in (10, 18, 26, 34), f"SACK option of {size} bytes"
            assert (at + 2) % 4 == 0, "SACK blocks start on a word"
            values = struct.unpack(f"!{(size - 2) // 4}I", body)
            out["sack"] = tuple(zip(values[::2], values[1::2], strict=True))
        else:
            raise AssertionError(f"option {kind} was never offered")
        at += size
    return out


def parse_frame(frame: bytes) -> Segment:
    """Read a frame that the stack sent; AssertionError for whatever is not exactly right."""
    dst_mac, src_mac, proto = struct.unpack_from("!6s6sH", frame)
    if proto == ETH_P_IP:
        header = frame[14:34]
        first, tos, total, _, frag, ttl, protocol, _, src, dst = struct.unpack(
            "!BBHHHBBH4s4s", header
        )
        assert first == 0x45, f"IPv4 version and header length {first:#x}"
        assert checksum(header) == 0, "IPv4 header checksum"
        assert frag & 0xBFFF == 0, "sent as a fragment, or with the reserved bit"
        l4 = frame[34:]
    else:
        assert proto == ETH_P_IPV6, f"EtherType {proto:#x}"
        first, total, protocol, ttl, src, dst = struct.unpack("!IHBB16s16s", frame[14:54])
        assert first >> 28 == 6, "IPv6 version"
        tos = first >> 20 & 0xFF
        total += 40
        l4 = frame[54:]
    assert len(frame) == 14 + total, f"frame of {len(frame)} bytes, IP says {total}"
    assert (ttl >= 32, protocol) == (True, 6), f"TTL {ttl}, protocol {protocol}"
    assert tos & 3 == 0, "ECN-capable transport was not negotiated"
    assert checksum(pseudo_header(src, dst, len(l4)) + l4) == 0, "TCP checksum (MUST-2)"
    sport, dport, seq, ack, off, flags, win, _, urg = struct.unpack_from("!HHIIBBHHH", l4)
    size = (off >> 4) * 4
    assert 20 <= size <= len(l4), f"data offset {off >> 4}"
    assert off & 0x0F == 0, "reserved bits must be zero"
    letters = frozenset(letter for bit, letter in enumerate(FLAG_LETTERS) if flags >> bit & 1)
    assert ("U" in letters, urg) == (False, 0), "urgent data is never sent"
    assert ack == 0 or "." in letters, "acknowledgment number without ACK"
    parsed = parse_options(l4[20:size], syn="S" in letters)
    return Segment(
        src=Address(src, sport, src_mac),
        dst=Address(dst, dport, dst_mac),
        flags=letters,
        seq=seq,
        ack=ack,
        win=win,
        data=l4[size:],
        option_bytes=size - 20,
        ip_len=total,
        **parsed,  # type: ignore[arg-type]
    )
