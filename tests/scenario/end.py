# SPDX-License-Identifier: Apache-2.0
"""The peer's side of a connection in a scenario: a judge, and an inbox that knows when."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from ..unit.tcp import wire
from ..unit.tcp.far_end import FarEnd
from ..unit.tcp.wire import Address, Segment
from .scenario import Offer
from .words import MS

#: Nothing is sent again sooner than this (Linux: TCP_RTO_MIN is 200 ms).
SENT_AGAIN = 190 * MS


@dataclass(frozen=True, slots=True)
class Mail:
    """A segment, when it came (ns), and whether it is one that was sent again."""

    time: int
    segment: Segment
    again: bool
    probe: bool
    """Sent again sooner than after an RTO, as a tail loss probe is (RFC 8985)."""


class End(FarEnd):
    """One peer of a scenario, at an address of its own."""

    def __init__(self, addr: Address, local: Address, offer: Offer, mtu: int) -> None:
        super().__init__(
            addr, local, isn=offer.isn, mss=offer.mss, ws=offer.ws,
            sackok=offer.sackok, ts=offer.ts, win=offer.win,
        )  # fmt: skip
        self._mtu = mtu
        self.script_time = 0  # of explicit waits, ns
        self.letters: deque[Mail] = deque()
        self.broken: str | None = None
        self.uncertain = False  # what of the SYN's options counts is left to the stack
        self.last_window = 0
        self._sent: dict[tuple[int, frozenset[str], int], int] = {}

    @property
    def mtu(self) -> int:
        return self._mtu

    def tsval(self) -> int:
        """1 kHz, and only explicit waits count: a script knows each value."""
        base = self.ts_base if self.ts_base is not None else 1000
        return (base + self.script_time // MS) & 0xFFFFFFFF

    def deliver(self, segment: Segment, time: int) -> None:
        """A segment has come. What no answer may do is kept in ``broken``."""
        try:
            assert (segment.dst.ip, segment.dst.port) == (self.addr.ip, self.addr.port), (
                "sent to somebody else's address"
            )
            assert (segment.src.ip, segment.src.port) == (self.local.ip, self.local.port), (
                "sent from somebody else's address"
            )
            if self.uncertain and not self.synced:
                self._believe(segment)
            self.receive(segment)
        except AssertionError as error:
            self.broken = self.broken or f"{error}: {segment}"
            return
        self._keep(self.inbox.popleft(), time)

    def _keep(self, segment: Segment, time: int) -> None:
        if segment.flags.isdisjoint("R"):
            shift = 0 if "S" in segment.flags else self.rcv_wscale
            self.last_window = segment.win << shift
        again = probe = False
        if segment.data or segment.flags & {"S", "F"}:
            key = (segment.rseq, segment.flags - {"P"}, len(segment.data))
            again = time - self._sent.get(key, time) >= SENT_AGAIN
            probe = key in self._sent and not again
            self._sent[key] = time
        self.letters.append(Mail(time, segment, again, probe))

    def open_letter(self) -> Mail:
        """Take the next segment; the acknowledgment number follows it."""
        mail = self.letters.popleft()
        self.inbox.append(mail.segment)
        self.take()
        return mail

    # ---- what the SYN offers ----

    def offered(self, opts: bytes, *, own_words: bool) -> None:
        """The options of the SYN as it is sent. ``own_words``: with bytes of unknown meaning."""
        found = well_formed(opts)
        self.mss, self.ws = found.get("mss"), found.get("ws")
        self.sackok = "sackok" in found
        self.ts_base = (self.ts_base or 1000) if "ts" in found else None
        self.uncertain = own_words

    def _believe(self, segment: Segment) -> None:
        """Of an unclear list the stack may have taken a part: its answer says which."""
        self.ws = self.ws if segment.ws is not None else None
        self.sackok = self.sackok and segment.sackok
        self.ts_base = self.ts_base if segment.ts is not None else None

    def names(self, counters: Mapping[str, int]) -> dict[str, int]:
        """What a scenario's sums may contain."""
        mss = self.mtu - (40 if self.local.family == 4 else 60)
        known = {
            "edge": self.edge,
            "acked": self.max_ack,
            "mss": mss,
            "full": mss - (12 if self.ts_on else 0),
            "win": self.last_window,
            "tsval": self.last_tsval or 0,
            "isn": self.isn,
            "irs": self.irs,
        }
        return {**known, **counters}


def well_formed(opts: bytes) -> dict[str, int]:
    """The options of a list up to the first that is malformed, as a receiver may read them."""
    found: dict[str, int] = {}
    sizes = {wire.OPT_MSS: ("mss", 4), wire.OPT_WS: ("ws", 3), wire.OPT_SACKOK: ("sackok", 2)}
    sizes[wire.OPT_TS] = ("ts", 10)
    at = 0
    while at < len(opts) and opts[at] != wire.OPT_EOL:
        if opts[at] == wire.OPT_NOP:
            at += 1
            continue
        size = opts[at + 1] if at + 1 < len(opts) else 0
        if size < 2 or at + size > len(opts):
            break
        name, wanted = sizes.get(opts[at], ("", 0))
        if size == wanted:
            found[name] = int.from_bytes(opts[at + 2 : at + size], "big")
        at += size
    return found
