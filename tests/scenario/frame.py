# SPDX-License-Identifier: Apache-2.0
"""What a `<` line puts on the wire: the segment, and the damage that was asked for."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..unit.tcp import wire
from ..unit.tcp.bench import pattern
from ..unit.tcp.far_end import FarEnd
from ..unit.tcp.wire import Address, checksum
from .steps import Damage, Icmp, Option, Patch, Send

_PERIOD = 65_521
_STREAM = pattern(_PERIOD)
_OTHER = bytes(byte ^ 0x55 for byte in _STREAM)

_MACS = {
    "broadcast": b"\xff" * 6,
    "multicast": bytes.fromhex("01005e000001"),
    "other": bytes.fromhex("020000000077"),
}
_IPS = {
    4: {
        "broadcast": bytes((255, 255, 255, 255)),
        "multicast": bytes((224, 0, 0, 1)),
        "other": bytes((10, 77, 0, 77)),
        "zero": bytes(4),
        "loopback": bytes((127, 0, 0, 1)),
    },
    6: {
        "broadcast": bytes.fromhex("ff02" + "00" * 13 + "01"),
        "multicast": bytes.fromhex("ff02" + "00" * 13 + "01"),
        "other": bytes.fromhex("fd000077" + "00" * 11 + "77"),
        "zero": bytes(16),
        "loopback": bytes(15) + b"\x01",
    },
}

#: IPv6 extension headers of 8 bytes that lead to TCP, by name: (next header, header).
_EXTENSIONS = {
    "dst": (60, bytes.fromhex("0600010400000000")),
    "hop": (0, bytes.fromhex("0600010400000000")),
    "route": (43, bytes.fromhex("0600fd0000000000")),  # a type for experiments, at its end
}

#: (type, code) of ICMP and of ICMPv6; None where the one has no such message.
_ICMP: dict[str, tuple[tuple[int, int], tuple[int, int] | None]] = {
    "net": ((3, 0), (1, 0)),
    "host": ((3, 1), (1, 3)),
    "protocol": ((3, 2), (4, 1)),
    "port": ((3, 3), (1, 4)),
    "frag-needed": ((3, 4), (2, 0)),
    "source-quench": ((4, 0), None),
    "ttl": ((11, 0), (3, 0)),
    "param": ((12, 0), (4, 0)),
}


def stream(start: int, length: int, *, other: bool = False) -> bytes:
    """Bytes of the peer's stream from a relative sequence number on (1 is the first)."""
    source = _OTHER if other else _STREAM
    at = (start - 1) % _PERIOD
    return (source[at:] + source * (length // _PERIOD + 1))[:length]


@dataclass(frozen=True, slots=True)
class Packet:
    """A segment as a header split sees it; ``frames`` is what goes on a wire for it."""

    headers: bytes
    payload: bytes
    l3_off: int
    l4_off: int
    family: int
    trailer: bytes
    frames: tuple[bytes, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Sums:
    """The numbers of a `<` line, worked out."""

    seq: int
    length: int
    ack: int | None  # relative; None without the ACK flag
    win: int


# ---- options ----


def option_bytes(options: tuple[Option, ...], end: FarEnd, names: Mapping[str, int]) -> bytes:
    """The list as written, padded to a word with NOPs, after an EOL with zeros."""
    out = bytearray()
    eol = False
    for option in options:
        numbers = [number.value(names) for number in option.numbers]
        out += _option(option, numbers, end)
        eol = eol or option.name == "eol"
    return bytes(out) + (b"\0" if eol else b"\1") * (-len(out) % 4)


def _option(option: Option, numbers: list[int], end: FarEnd) -> bytes:
    if option.name == "hex":
        return option.raw
    if option.name == "ts":
        value = numbers[0] if numbers else end.tsval()
        echo = numbers[1] if len(numbers) > 1 else end.ts_recent
        return struct.pack("!BBII", wire.OPT_TS, 10, value & 0xFFFFFFFF, echo & 0xFFFFFFFF)
    if option.name == "sack":
        edges = [(end.irs + number) & 0xFFFFFFFF for number in numbers]
        return struct.pack(f"!BB{len(edges)}I", wire.OPT_SACK, 2 + 4 * len(edges), *edges)
    if option.name == "mss":
        return struct.pack("!BBH", wire.OPT_MSS, 4, numbers[0])
    if option.name == "ws":
        return bytes((wire.OPT_WS, 3, numbers[0]))
    return {"sackok": bytes((wire.OPT_SACKOK, 2)), "nop": b"\1", "eol": b"\0"}[option.name]


# ---- segments ----


def craft(end: FarEnd, send: Send, sums: Sums, opts: bytes, names: Mapping[str, int]) -> Packet:
    """The frames of a segment."""
    damage = send.damage
    start = sums.seq + ("S" in send.flags)
    payload = stream(start, sums.length, other="bytes" in damage)
    src = _misplaced(end.addr, end.local, damage, "from")
    dst = _misplaced(end.local, end.addr, damage, "to")
    next_header, extension = 60, damage.get("ip-options", b"") if src.family == 4 else b""
    if "ext" in damage:
        next_header, extension = _EXTENSIONS[str(damage["ext"])]
    assert isinstance(extension, bytes)
    headers, l3, l4 = wire.build_headers(
        src, dst, flags=send.flags, seq=end.isn + sums.seq,
        ack=0 if sums.ack is None else end.irs + sums.ack, win=sums.win, opts=opts,
        payload=payload, urg=_number(damage, "urg", names, 0),
        reserved=_number(damage, "res", names, 0),
        doff=_number(damage, "doff", names, 5 + len(opts) // 4), ip_options=extension,
        tos=_number(damage, "tos", names, 0), ttl=_number(damage, "ttl", names, 64),
    )  # fmt: skip
    front = bytearray(headers)
    if "ext" in damage:
        front[l3 + 6] = next_header
    _patch(front, l4 + 16, damage.get("csum"), names)
    datagram = _damaged(bytes(front[l3:]) + payload, l4 - l3, damage, names)
    front[l3:] = datagram[: len(front) - l3].ljust(len(front) - l3, b"\0")
    trailer = b"\xd7" * _number(damage, "pad", names, 0)
    ethernet = _tagged(bytes(front[:l3]), damage)
    frames = tuple(
        ethernet + piece + trailer for piece in _pieces(datagram, l4 - l3, damage, names)
    )
    text = describe(send.flags, sums, opts, payload, damage)
    return Packet(bytes(front), payload, l3, l4, src.family, trailer, frames, text)


def describe(
    flags: str, sums: Sums, opts: bytes, payload: bytes, damage: Mapping[str, Damage]
) -> str:
    """A sent segment for the trace, in the words of ``Segment.__str__()``."""
    ack = "" if sums.ack is None else f" ack={sums.ack}"
    extra = f" options={opts.hex()}" if opts else ""
    harm = "".join(f" {key}" for key in damage)
    return f"[{flags}] seq={sums.seq}{ack} win={sums.win} len={len(payload)}{extra}{harm}"


def _number(damage: Mapping[str, Damage], key: str, names: Mapping[str, int], usual: int) -> int:
    found = damage.get(key)
    return usual if found is None else found.value(names)  # type: ignore[union-attr]


def _misplaced(
    address: Address, other: Address, damage: Mapping[str, Damage], side: str
) -> Address:
    if (word := damage.get(f"{side}-mac")) is not None:
        address = replace(address, mac=_MACS[str(word)])
    if (word := damage.get(f"{side}-ip")) is not None:
        ip = other.ip if word == "self" else _IPS[address.family][str(word)]
        address = replace(address, ip=ip)
    return address


def _tagged(ethernet: bytes, damage: Mapping[str, Damage]) -> bytes:
    tags = damage.get("vlan", ())
    assert isinstance(tags, tuple)
    kinds = [wire.ETH_P_8021Q] * len(tags)
    if len(tags) > 1:
        kinds[0] = 0x88A8  # 802.1ad: the outer tag of two
    extra = b"".join(struct.pack("!HH", *tag) for tag in zip(kinds, tags, strict=True))
    return ethernet[:12] + extra + ethernet[12:]


def _patch(data: bytearray, at: int, how: Damage | None, names: Mapping[str, int]) -> None:
    """A 16-bit field in network order."""
    if how is None:
        return
    assert isinstance(how, Patch)
    old = 0 if how.replace else int(struct.unpack_from("!H", data, at)[0])
    struct.pack_into("!H", data, at, (old + how.amount.value(names)) & 0xFFFF)


def _damaged(
    datagram: bytes, header: int, damage: Mapping[str, Damage], names: Mapping[str, int]
) -> bytes:
    """An IP datagram with what its header should say instead; its checksum follows."""
    if "cut" in damage:
        datagram = datagram[: header + _number(damage, "cut", names, 0)]
    data = bytearray(datagram)
    v4 = data[0] >> 4 == 4
    if "cut" in damage:
        struct.pack_into("!H", data, 2 if v4 else 4, len(data) if v4 else len(data) - 40)
    _patch(data, 2 if v4 else 4, damage.get("ip-len"), names)
    data[0] = _number(damage, "ip-version", names, data[0] >> 4) << 4 | data[0] & 0x0F
    if v4:
        data[0] = data[0] & 0xF0 | _number(damage, "ip-ihl", names, data[0] & 0x0F)
        if _number(damage, "df", names, 1) == 0:
            data[6] &= 0xBF
        _sum_up(data, header)
        _patch(data, 10, damage.get("ip-csum"), names)
    return bytes(data)


def _sum_up(data: bytearray, header: int) -> None:
    data[10:12] = bytes(2)
    struct.pack_into("!H", data, 10, checksum(bytes(data[:header])))


def _pieces(
    datagram: bytes, header: int, damage: Mapping[str, Damage], names: Mapping[str, int]
) -> list[bytes]:
    """The datagram, or the fragments of it that were asked for."""
    if "fragment" in damage:
        text = str(damage["fragment"])
        return [_fragment(datagram, header, int(text.rstrip("+")), 0, None, text.endswith("+"))]
    if "fragments" not in damage:
        return [datagram]
    count = _number(damage, "fragments", names, 1)
    size = max(8, (-(-(len(datagram) - header) // count) + 7) // 8 * 8)
    starts = range(0, len(datagram) - header, size)
    return [
        _fragment(datagram, header, at // 8, at, size, at + size < len(datagram) - header)
        for at in starts
    ]


def _fragment(
    datagram: bytes, header: int, offset: int, start: int, size: int | None, more: bool
) -> bytes:
    """One fragment: ``offset`` in units of 8 bytes, the bytes from ``start`` on."""
    body = datagram[header:][start : None if size is None else start + size]
    if datagram[0] >> 4 == 4:
        front = bytearray(datagram[:header])
        struct.pack_into("!HHH", front, 2, header + len(body), 0x4242, offset | more << 13)
        _sum_up(front, header)
        return bytes(front) + body
    front = bytearray(datagram[:40])
    extension = struct.pack("!BBHI", 6, 0, offset << 3 | more, 0x42424242)
    struct.pack_into("!HB", front, 4, 8 + len(body), 44)
    return bytes(front) + extension + body


# ---- ICMP ----


def icmp(end: FarEnd, message: Icmp, names: Mapping[str, int]) -> Packet | None:
    """An error about a segment of the other side's; None where the family has none such."""
    kind = _ICMP[message.what][end.local.family == 6]
    if kind is None:
        return None
    about = (end.irs + message.about.value(names)) & 0xFFFFFFFF
    mtu = 1400 if message.mtu is None else message.mtu.value(names)
    quoted, l3, _ = wire.build_headers(
        end.local, end.addr, flags=".", seq=about, ack=end.isn + end.seq, win=1024
    )
    rest = struct.pack("!I", mtu if message.what == "frag-needed" else 0)
    body = bytearray(bytes((*kind, 0, 0)) + rest + quoted[l3:])
    v4 = end.local.family == 4
    pseudo = b"" if v4 else end.addr.ip + end.local.ip + struct.pack("!II", len(body), 58)
    struct.pack_into("!H", body, 2, checksum(pseudo + bytes(body)))
    head = end.local.mac + end.addr.mac + struct.pack("!H", 0x0800 if v4 else 0x86DD)
    if v4:
        ip = bytearray(struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, 1, 0, end.addr.ip, end.local.ip
        ))  # fmt: skip
        _sum_up(ip, 20)
    else:
        ip = bytearray(struct.pack(
            "!IHBB16s16s", 6 << 28, len(body), 58, 64, end.addr.ip, end.local.ip
        ))  # fmt: skip
    frame = head + bytes(ip) + bytes(body)
    return Packet(b"", b"", 14, 14, end.local.family, b"", (frame,), f"icmp {message.what}")
