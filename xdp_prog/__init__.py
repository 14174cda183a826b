# SPDX-License-Identifier: Apache-2.0
"""The XDP program: where its object is, and how to speak to its maps.

The object holds two programs with the same logic, ``steer_frags`` (multi-buffer
packets, ``xdp.frags``) and ``steer_linear``, two small ones beside, and maps for userspace:

============ ============ ================================== ===========================
map          type         key                                value
============ ============ ================================== ===========================
xsks         XSKMAP       rx_queue_index, u32                AF_XDP socket fd, u32
listeners    HASH         :func:`listener_key`               :func:`listener_value`
closed_ports ARRAY        word, u32: :func:`closed_ports`    the same
mac          ARRAY        0, u32                             :func:`mac_value`
addresses    HASH         :func:`address_key`                u32, not used
counters     PERCPU_ARRAY index into :data:`COUNTERS`, u32   u64 for each possible CPU
heads        ARRAY        slot, u32                          ``struct rx_slot``, to be mapped
============ ============ ================================== ===========================

``.rodata.headers`` takes a ``struct header_config`` before loading.
``steer.h``, which is installed beside this file, is the authority on all layouts.
"""

import re
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from ipaddress import IPv4Address, IPv6Address, ip_address

__all__ = [
    "COUNTERS",
    "LINEAR_MAX",
    "PROGRAM_DEAF",
    "PROGRAM_FRAGS",
    "PROGRAM_LINEAR",
    "PROGRAM_PROBE",
    "address_key",
    "closed_ports",
    "closed_word",
    "head_range",
    "listener_key",
    "listener_value",
    "mac_value",
    "object_path",
    "read_counters",
]

PROGRAM_FRAGS = "steer_frags"
PROGRAM_LINEAR = "steer_linear"
PROGRAM_DEAF = "deaf"
"""A socket filter that lets nothing in."""
PROGRAM_PROBE = "probe_metadata"
"""To be test-run, not attached: XDP_PASS (2) if the kernel takes the metadata the split needs."""

LINEAR_MAX = 90
"""Payload bytes that fit beside the shortest headers at most (``RX_LINEAR_MAX``)."""

_CSUM_TRUST = 0x1  # STEER_CSUM_TRUST
_V4_MAPPED = b"\0" * 10 + b"\xff\xff"  # RFC 4291, 2.5.5.2


def object_path(name: str = "devmemtcp") -> Traversable:
    """The compiled object, ``<name>.bpf.o``, in a wheel or an editable install.

    ``devmemtcp`` is the one described above; ``zerocopy`` is the same for sockets in zero-copy
    mode, with one more map, ``head_ranges`` (:func:`head_range`). For benchmarks there are
    ``pass``, with one program of that name that lets everything pass, and ``drop``, whose programs
    drop everything.
    """
    return resources.files(__name__) / f"{name}.bpf.o"


def _counter_names() -> tuple[str, ...]:
    header = (resources.files(__name__) / "steer.h").read_text(encoding="ascii")
    return tuple(re.findall(r"^\tX\((\w+)\)", header, flags=re.MULTILINE))


COUNTERS: tuple[str, ...] = _counter_names()
"""Names of the counters in the order of ``enum steer_counter``, read from steer.h."""


def listener_key(ip: str | IPv4Address | IPv6Address, port: int) -> bytes:
    """``struct steer_key``, 20 bytes: address (16), port (2, big endian), family (2, native).

    IPv4 addresses are stored as ``::ffff:a.b.c.d``; ``0.0.0.0`` and ``::`` listen on
    every address of their family that is in the map ``addresses``, and an exact address
    goes before them.

    Raises:
        ValueError: *ip* is not an address, or *port* not within 1..65535.
    """
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} is not within 1..65535")
    return _key(ip, port)


def address_key(ip: str | IPv4Address | IPv6Address) -> bytes:
    """``struct steer_key`` without a port: an address that a wildcard listener stands for.

    Raises:
        ValueError: *ip* is not an address.
    """
    return _key(ip, 0)


def _key(ip: str | IPv4Address | IPv6Address, port: int) -> bytes:
    address = ip_address(ip)
    packed = address.packed if address.version == 6 else _V4_MAPPED + address.packed
    return packed + struct.pack("=HH", socket.htons(port), address.version)


def closed_ports(open_ports: Collection[int]) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of the map ``closed_ports``, all of them, given the ports with listeners.

    Before a listener is entered its port is opened, and closed after the last one is gone.
    """
    for number in range(65536 // 64):
        yield closed_word(socket.ntohs(number * 64), open_ports)


def closed_word(port: int, open_ports: Iterable[int]) -> tuple[bytes, bytes]:
    """Key and value of the entry of ``closed_ports`` in which *port* is."""
    word = socket.htons(port) // 64
    bits = (1 << 64) - 1
    for each in open_ports:
        if socket.htons(each) // 64 == word:
            bits &= ~(1 << socket.htons(each) % 64)
    return struct.pack("=I", word), struct.pack("=Q", bits)


def mac_value(mac: bytes) -> bytes:
    """``struct steer_mac``, 8 bytes: the Ethernet address whose frames are ours.

    Raises:
        ValueError: *mac* has not 6 bytes.
    """
    if len(mac) != 6:
        raise ValueError(f"an Ethernet address has 6 bytes, not {len(mac)}")
    return mac + bytes(2)


def listener_value(csum_trust: bool = False, linear: int = 0) -> bytes:
    """``struct steer_value``, 8 bytes: flags, linear (u32, native).

    *csum_trust* skips the sum over TCP header and payload; the IPv4 header
    checksum and all length checks stay. The first *linear* bytes of a packet's
    payload stay with its headers, or as many as are there and fit beside them.

    Raises:
        ValueError: *linear* is not within 0..:data:`LINEAR_MAX`.
    """
    if not 0 <= linear <= LINEAR_MAX:
        raise ValueError(f"linear {linear} is not within 0..{LINEAR_MAX}")
    return struct.pack("=II", _CSUM_TRUST if csum_trust else 0, linear)


def head_range(first: int, count: int) -> bytes:
    """``struct head_range``, 8 bytes: the entries of ``heads`` that a queue's UMEM has."""
    return struct.pack("=II", first, count)


def read_counters(percpu_values: Iterable[Sequence[int]]) -> dict[str, int]:
    """Counter values by name, summed over the CPUs.

    *percpu_values* holds, for each index of the ``counters`` map in order, its
    value on every possible CPU.

    Raises:
        ValueError: there are more or fewer indices than counters, so the map
            belongs to a program of another version.
    """
    totals = [sum(values) for values in percpu_values]
    if len(totals) != len(COUNTERS):
        raise ValueError(f"{len(totals)} counters in the map, {len(COUNTERS)} in steer.h")
    return dict(zip(COUNTERS, totals, strict=True))
