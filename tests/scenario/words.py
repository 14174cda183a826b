# SPDX-License-Identifier: Apache-2.0
"""The words of the scenario language, and the times that it means when it does not say."""

from __future__ import annotations

MS = 1_000_000

#: How long an answer is waited for when the line does not say: RFC 9293's bound on a delayed ACK.
PATIENCE = 500 * MS
QUIET = 100 * MS

FLAGS = frozenset("FSRP.UEW")

GIVEN = {
    "closed": "",
    "listen": "",
    "syn_received": "< S 0\n> S. 0 ack 1",
    "established": "< S 0\n> S. 0 ack 1\n< . 1 ack 1\naccept",
    "close_wait": "established\n< F. 1\n> . 1 ack 2\neof",
    "last_ack": "close_wait\nclose\n> F. 1 ack 2",
    "fin_wait_1": "established\nshutdown\n> F. 1 ack 1",
    "fin_wait_2": "fin_wait_1\n< . 1 ack 2",
    "closing": "fin_wait_1\n< F. 1 ack 1\n> . 2 ack 2\neof",
    "time_wait": "fin_wait_2\n< F. 1 ack 2\n> . 2 ack 2\neof",
}
STATES = (
    "CLOSED", "LISTEN", "SYN-RECEIVED", "ESTABLISHED", "CLOSE-WAIT", "LAST-ACK",
    "FIN-WAIT-1", "FIN-WAIT-2", "CLOSING", "TIME-WAIT",
)  # fmt: skip
ICMP = (
    "net", "host", "protocol", "port", "frag-needed", "source-quench", "ttl", "param",
)  # fmt: skip

APP = (
    "accept", "eof", "reset", "open", "close", "shutdown", "abort", "pause", "resume",
)  # fmt: skip
DAMAGE_NUMBERS = (
    "doff", "res", "urg", "pad", "cut", "ttl", "tos", "df", "ip-version", "ip-ihl", "fragments",
)  # fmt: skip
DAMAGE_PATCHES = ("csum", "ip-csum", "ip-len")
_ADDRESSES = ("broadcast", "multicast", "other", "zero", "loopback", "self")
DAMAGE_WORDS: dict[str, tuple[str, ...]] = {
    "bytes": ("other",),
    "ext": ("dst", "hop", "route"),
    "fragment": (),
    "to-mac": ("broadcast", "multicast", "other"),
    "to-ip": _ADDRESSES,
    "from-ip": _ADDRESSES,
}
SEND_KEYS = frozenset(
    ("ack", "win", "vlan", "ip-options", *DAMAGE_NUMBERS, *DAMAGE_PATCHES, *DAMAGE_WORDS)
)

#: Damage that decides, in the XDP program, whether a frame reaches the stack at all.
XDP_JUDGES = frozenset(
    (
        "csum", "cut", "vlan", "fragments", "fragment", "to-mac", "to-ip", "from-ip", "ip-csum",
        "ip-len", "ip-version", "ip-ihl",
    )
)  # fmt: skip

#: What of an undamaged segment they leave as it is: the stack may act on it.
HARMLESS = frozenset(
    ("res", "vlan", "urg", "pad", "ttl", "tos", "df", "ip-options", "ext", "fragments")
)

OPTION_VALUES = {
    "mss": (1, 1), "ws": (1, 1), "sackok": (0, 0), "ts": (0, 2), "sack": (2, 8),
    "nop": (0, 0), "eol": (0, 0), "hex": (1, 1),
}  # fmt: skip
WANTED = ("mss", "ws", "sackok", "ts", "sack")
