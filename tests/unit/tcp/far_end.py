# SPDX-License-Identifier: Apache-2.0
"""The far end of one connection, and the judge of all that is sent to it.

Whoever carries the segments (a virtual NIC, a packet socket), the invariants of every answer are
here: RFC 9293, 7323, 2018 and 2883 as far as they can be seen from outside, on each segment,
whether anybody expects it or not. Sequence numbers are relative: 0 is the SYN of the side in
question.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import replace

from . import wire
from .wire import Address, Segment


def signed(value: int) -> int:
    """A difference of sequence numbers as RFC 9293 section 3.4 compares them."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


class FarEnd(ABC):
    """What one end knows of a connection from what it has sent and received."""

    def __init__(
        self,
        addr: Address,
        local: Address,
        *,
        isn: int = 0x10000000,
        mss: int | None = 1460,
        ws: int | None = 7,
        sackok: bool = True,
        ts: int | None = 1000,
        win: int = 65535,
    ) -> None:
        """``addr`` is the far end's, ``local`` the stack's; the rest is what the SYN offers."""
        self.addr, self.local = addr, local
        self.isn, self.mss, self.ws, self.sackok, self.win = isn, mss, ws, sackok, win
        self.forgotten = False  # a cookie answers its SYN: no timestamps, no options
        self.ts_base = ts
        self.inbox: deque[Segment] = deque()
        self.irs = 0  # the stack's ISN, once it has sent a SYN-ACK
        self.synced = False
        self.seq = 0  # the next byte to send, relative
        self.ack = 0  # the next byte expected from the stack, relative
        self.covered: list[tuple[int, int]] = []  # what was ever sent, relative, merged
        self.max_ack = 0  # the highest acknowledgment seen
        self.edge = 0  # the right edge of the stack's window, relative
        self.una = 0  # the highest acknowledgment of ours, relative to the stack's ISN
        self.room = 0  # the right edge of our window, likewise
        self.sent = bytearray(1)  # the stack's stream, by relative sequence number; [0] is its SYN
        self.fin_at: int | None = None  # the stack's FIN
        self.ts_recent = 0
        self.rcv_wscale = 0  # what the stack's windows are shifted by
        self.snd_wscale = 0
        self.ts_on = self.sack_on = False
        self.last_tsval: int | None = None

    @property
    @abstractmethod
    def mtu(self) -> int:
        """Of the stack's interface, bytes."""

    @abstractmethod
    def tsval(self) -> int:
        """The timestamp clock, RFC 7323 section 5.4: now."""

    # ---- sending ----

    def options(
        self, flags: str, ts: tuple[int, int] | int | bool | None, sack: wire.Blocks, ack: int
    ) -> bytes:
        """The option list that the connection calls for, see Bench's ``Peer.inject()``."""
        syn = "S" in flags
        stamp: tuple[int, int] | None = None
        if isinstance(ts, tuple):
            stamp = ts
        elif isinstance(ts, bool):
            if self.ts_base is not None and (self.ts_on or syn):
                stamp = (self.tsval(), self.ts_recent if "." in flags else 0)
        elif ts is not None:
            stamp = (ts, self.ts_recent if "." in flags else 0)
        irs = self.irs
        blocks = tuple(((irs + a) & 0xFFFFFFFF, (irs + b) & 0xFFFFFFFF) for a, b in sack)
        if syn:
            return wire.options(mss=self.mss, ws=self.ws, sackok=self.sackok, ts=stamp)
        return wire.options(ts=stamp, sack=blocks)

    def note_sent(self, flags: str, seq: int, ack: int | None, length: int, win: int) -> None:
        """A segment goes out whole and undamaged: what the stack may know from now on."""
        end = seq + length + ("S" in flags) + ("F" in flags)
        if seq >= -(1 << 31) and end < 1 << 31 and "R" not in flags and end > seq:
            merged = [(seq, end)]
            for low, high in self.covered:
                if high < merged[0][0] or low > merged[0][1]:
                    merged.append((low, high))
                else:
                    merged[0] = (min(low, merged[0][0]), max(high, merged[0][1]))
            self.covered = sorted(merged)
        if seq == self.seq:
            self.seq = end
        if ack is not None and self.synced and self.una <= ack <= len(self.sent) + 1:
            self.una = max(self.una, ack)
            self.room = max(self.room, ack + (win << (0 if "S" in flags else self.snd_wscale)))

    # ---- receiving ----

    def receive(self, s: Segment) -> None:
        """Hold a segment against the invariants of every answer, then put it into the inbox."""
        assert s.dst.mac == self.addr.mac, "not sent back to the MAC it came from"
        assert s.src.mac == self.local.mac
        if "S" in s.flags:
            self._syn_ack(s)
        rack = signed(s.ack - self.isn) if "." in s.flags else 0
        blocks = tuple((signed(a - self.isn), signed(b - self.isn)) for a, b in s.sack)
        s = replace(s, rseq=signed(s.seq - self.irs), rack=rack, rsack=blocks)
        if "R" in s.flags:
            assert not s.data, "data in a reset"
        else:
            self._check_timestamps(s)
            self._check_ack(s)
            self._check_window(s)
            self._check_sack(s)
            self._check_sequence(s)
        self.inbox.append(s)

    def _syn_ack(self, s: Segment) -> None:
        assert s.flags - {"E"} == {"S", "."}, "a passive side only sends SYN-ACK"
        if not self.synced:
            self.irs, self.synced = s.seq, True
        assert s.seq == self.irs, "a SYN-ACK sent again keeps its ISN"
        overhead = 40 if self.local.family == 4 else 60
        assert s.mss == self.mtu - overhead, "MSS = MTU - fixed headers (RFC 6691)"
        kept = self.ts_base is not None or not self.forgotten
        assert (s.ws is not None) == (self.ws is not None and kept), "window scale: only if offered"
        assert s.ws is None or s.ws <= 14
        assert s.sackok == (self.sackok and kept), "SACK-permitted: only if offered"
        assert (s.ts is not None) == (self.ts_base is not None), "timestamps: only if offered"
        self.rcv_wscale = s.ws or 0
        self.snd_wscale = min(self.ws, 14) if self.ws is not None and kept else 0
        self.ts_on, self.sack_on = self.ts_base is not None, s.sackok

    def _check_timestamps(self, s: Segment) -> None:
        assert (s.ts is not None) == self.ts_on, "timestamps: on every segment, or on none"
        if s.ts is None:
            return
        if self.last_tsval is not None:
            assert signed(s.ts[0] - self.last_tsval) >= 0, "TSval went back"
        self.last_tsval = s.ts[0]
        self.ts_recent = s.ts[0]

    def _check_ack(self, s: Segment) -> None:
        assert "." in s.flags, "every segment of a connection carries an ACK"
        top = next((high for low, high in self.covered if low <= 0 < high), 0)
        assert s.rack <= top, f"acknowledges {s.rack}, sent without a gap was {top}"
        assert s.rack >= self.max_ack, f"ACK went back from {self.max_ack} to {s.rack}"
        self.max_ack = s.rack

    def _check_window(self, s: Segment) -> None:
        shift = 0 if "S" in s.flags else self.rcv_wscale
        edge = s.rack + (s.win << shift)
        assert edge > self.edge - (1 << self.rcv_wscale), (
            f"right edge pulled back from {self.edge} to {edge}"
        )
        self.edge = max(edge, self.edge)

    def _check_sack(self, s: Segment) -> None:
        assert not s.sack or self.sack_on, "SACK was not permitted"
        for n, (low, high) in enumerate(s.rsack):
            assert low < high, f"SACK block [{low}, {high})"
            sent = any(a <= low and high <= b for a, b in self.covered)
            assert sent, f"SACK block [{low}, {high}) was never sent"
            assert low > s.rack or (n == 0 and self._is_dsack(s)), f"block {n} below the ACK"
        blocks = s.rsack[1:] if self._is_dsack(s) else s.rsack
        for n, (low, high) in enumerate(blocks):
            apart = all(high < a or b < low for a, b in blocks[n + 1 :])
            assert apart, f"SACK blocks that overlap or touch: {s.rsack}"

    @staticmethod
    def _is_dsack(s: Segment) -> bool:
        """RFC 2883 section 4: first block below the ACK, or inside the second block."""
        if not s.rsack:
            return False
        (low, high), *rest = s.rsack
        return high <= s.rack or bool(rest and rest[0][0] <= low and high <= rest[0][1])

    def _check_sequence(self, s: Segment) -> None:
        if "S" in s.flags:
            return
        snd_nxt = len(self.sent) + (self.fin_at is not None)
        length = len(s.data)
        if not length and "F" not in s.flags:
            assert s.rseq == snd_nxt, f"SEQ {s.rseq} of a bare ACK is not SND.NXT {snd_nxt}"
            return
        limit = self.mss if self.mss is not None else (536 if self.local.family == 4 else 1220)
        assert length + s.option_bytes <= limit, "more than the peer's MSS less options"
        assert 1 <= s.rseq <= len(self.sent), f"SEQ {s.rseq}: a gap in what is sent"
        known = bytes(self.sent[s.rseq : s.rseq + length])
        assert s.data[: len(known)] == known, "a retransmission with other bytes"
        if length > len(known):
            assert self.fin_at is None, "data after the FIN"
            probe = self.room <= s.rseq and length == 1
            assert s.rseq + length <= self.room or probe, "beyond the peer's window"
            self.sent += s.data[len(known) :]
        if "F" in s.flags:
            assert self.fin_at in (None, s.rseq + length), "the FIN moved"
            self.fin_at = s.rseq + length

    # ---- the inbox ----

    def mail(self) -> list[str]:
        return [str(s) for s in self.inbox]

    def take(self) -> Segment:
        assert self.inbox, "nothing was sent"
        s = self.inbox.popleft()
        end = s.rseq + len(s.data) + ("S" in s.flags) + ("F" in s.flags)
        if "R" not in s.flags and s.rseq <= self.ack < end:
            self.ack = end
        return s
