# SPDX-License-Identifier: Apache-2.0
"""Runs a scenario: one generator for each case, whatever carries the segments.

``Run.steps()`` yields until when it waits, and whoever drives it goes on with it at that time or as
soon as anything may have happened. So one case can have a virtual clock for itself, and hundreds
can share a real one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace

from . import frame
from .end import End, Mail
from .expression import Number, Range
from .frame import Packet, Sums
from .lines import given
from .matching import mismatch
from .scenario import Case
from .steps import (
    Acked,
    Again,
    App,
    Batch,
    Check,
    Expect,
    Fill,
    Icmp,
    Keep,
    Line,
    Repeat,
    Send,
    Silence,
    Wait,
    Whose,
)
from .target import Application, Target
from .words import HARMLESS, MS, PATIENCE, QUIET

#: How long the application may take to see what has happened.
APP_PATIENCE = 2000 * MS
FILL_LIMIT = 64 << 20

Steps = Generator[int, None, None]


class Diverged(Exception):
    """The stack did what the scenario does not say; the text shows the line and the trace."""


class Late(Diverged):
    """The same, but a busy machine can be the cause: the stack was late, or this tester."""


@dataclass(slots=True)
class _Peer:
    end: End
    app: Application


class Run:
    """One case against one stack."""

    def __init__(self, case: Case, target: Target, *, whose: Whose) -> None:
        self._case, self._target, self._whose = case, target, whose
        self._peers: dict[str, _Peer] = {}
        self._line = Line("", "", None, "a", Silence(0))
        self._trace: list[str] = []
        self._start = self._since = self._due = target.now()
        self._lag = 0
        self._batch: list[Packet] | None = None
        self._counters: dict[str, int] = {}

    # ---- the whole of it ----

    def steps(self) -> Steps:
        """Raises Diverged."""
        try:
            yield from self._block(given(self._case.given, "a"))
            yield from self._block(self._case.lines)
            self._all_is_read()
        except AssertionError as error:  # of the virtual NIC: what holds for each call
            raise self._diverged(f"{error}") from error
        finally:
            self._leave()

    def _block(self, lines: tuple[Line, ...]) -> Steps:
        for line in lines:
            if line.only in (None, self._whose):
                self._line = line
                yield from self._step(line)
                self._unbroken()

    def _all_is_read(self) -> None:
        for peer in self._peers.values():
            for mail in peer.end.letters:
                why = f"at the end: {mail.segment} was not expected"
                if mail.probe:  # our ACK was later than two round trips
                    raise self._late(why)
                if not mail.again:
                    raise self._diverged(why)
            self._check_data(peer, len(peer.app.data), conflicting=True)

    def _leave(self) -> None:
        """Nothing of the case is left in the stack, whatever became of it."""
        for peer in self._peers.values():
            peer.app.resume()
            if peer.end.synced:
                goodbye = Send("R", None, None, None, None, None, (), {})
                sums = Sums(peer.end.max_ack, 0, None, 0)
                packet = frame.craft(peer.end, goodbye, sums, b"", {})
                self._target.transmit(peer.end, [packet])
            if peer.app.accepted:
                peer.app.abort()

    def _called(self, peer: str) -> str:
        """The name of a peer: of ``p[i]``, that with the counter's value."""
        letter, bracket, counter = peer.rstrip("]").partition("[")
        return f"{letter}{self._counters[counter]}" if bracket else letter

    def _peer(self, name: str) -> _Peer:
        if name not in self._peers:
            offer = self._case.offers.get(name[0]) or self._case.offers["a"]
            end = self._target.end(offer, self._case)
            self._peers[name] = _Peer(end, self._target.application(end))
        return self._peers[name]

    def _step(self, line: Line) -> Steps:
        step, name = line.step, self._called(line.peer)
        peer = self._peer(name)
        if isinstance(step, Send):
            self._send(peer, step)
        elif isinstance(step, Icmp):
            if packet := frame.icmp(peer.end, step, self._names(peer)):
                self._transmit(peer, packet)
        elif isinstance(step, Expect):
            yield from self._expect(peer, step)
        elif isinstance(step, Silence):
            yield from self._silence(peer, step.time)
        elif isinstance(step, Acked):
            yield from self._acked(peer, step)
        elif isinstance(step, Wait):
            yield from self._wait(step.time)
        elif isinstance(step, App):
            yield from self._app(peer, step)
        elif isinstance(step, Fill):
            yield from self._fill(peer, step.size.value(self._names(peer)))
        elif isinstance(step, Again):
            self._again(name, peer, step.isn.value(self._names(peer)))
        elif isinstance(step, Keep):
            self._counters[step.name] = step.number.value(self._names(peer))
        elif isinstance(step, Check):
            number = step.number.value(self._names(peer))
            self._hold(step.range.holds(number, self._names(peer)), f"it is {number}")
        elif isinstance(step, Repeat):
            yield from self._repeat(peer, step)
        else:
            yield from self._together(peer, step)

    def _repeat(self, peer: _Peer, step: Repeat) -> Steps:
        for turn in range(step.times.value(self._names(peer))):
            if step.counter:
                self._counters[step.counter] = turn
            yield from self._block(step.body)

    def _together(self, peer: _Peer, step: Batch) -> Steps:
        self._batch = []
        yield from self._block(step.body)
        packets, self._batch = self._batch, None
        self._target.transmit(peer.end, packets)

    # ---- sending ----

    def _names(self, peer: _Peer) -> Mapping[str, int]:
        return peer.end.names(self._counters)

    def _send(self, peer: _Peer, send: Send) -> None:
        end, names = peer.end, self._names(peer)
        seq = end.seq if send.seq is None else send.seq.value(names)
        length = 0
        if send.end is not None:
            length = send.end.value(names) - seq
        elif send.length is not None:
            length = send.length.value(names)
        if length < 0:
            raise self._diverged(f"the segment ends at {seq + length}, before it begins")
        ack = None
        if "." in send.flags:
            ack = end.ack if send.ack is None else send.ack.value(names)
        win = end.win if send.win is None else send.win.value(names)
        if send.options is None:
            opts = end.options(send.flags, True, (), 0)
        else:
            opts = frame.option_bytes(send.options, end, names)
        if send.flags == "S" and not end.synced and not end.covered:
            own_words = any(option.name == "hex" for option in send.options or ())
            end.offered(opts, own_words=own_words)
        sums = Sums(seq, length, ack, win)
        packet = frame.craft(end, send, sums, opts, names)
        if HARMLESS.issuperset(key for key in send.damage if key != "bytes"):
            end.note_sent(send.flags, seq, ack, length, win)
        self._transmit(peer, packet)

    def _transmit(self, peer: _Peer, packet: Packet) -> None:
        self._note(self._target.now(), "<", packet.text)
        self._act()
        if self._batch is not None:
            self._batch.append(packet)
        else:
            self._target.transmit(peer.end, [packet])

    def _fill(self, peer: _Peer, size: int) -> Steps:
        end = peer.end
        plain = Send(".", None, None, None, None, None, None, {})
        while True:
            while end.seq < end.edge:
                part = min(size, end.edge - end.seq)
                length = Number.parse(str(part), frozenset())
                self._send(peer, replace(plain, length=length))
                self._unbroken()
            if end.seq > FILL_LIMIT:
                raise self._diverged(f"the window is still open after {end.seq} bytes")
            full = end.max_ack == end.seq == end.edge and not end.last_window
            until = self._target.now() + (QUIET if full else PATIENCE)
            yield from self._until_mail(end, until)
            if not end.letters:
                if full:
                    return
                raise self._diverged(
                    f"sent up to {end.seq}, the window's edge, and {end.max_ack} is acknowledged"
                )
            self._open(end)

    def _again(self, name: str, peer: _Peer, at: int) -> None:
        old = peer.end
        offer = self._case.offers.get(name[0]) or self._case.offers["a"]
        end = self._target.again(old, replace(offer, isn=(old.isn + at) & 0xFFFFFFFF))
        end.script_time = old.script_time
        self._peers[name] = _Peer(end, self._target.application(end))

    # ---- waiting ----

    def _act(self) -> None:
        """A step of ours: how long after what it follows on?

        A stack that has waited for us for too long may rightly do what the scenario does not say,
        such as sending again.
        """
        self._since = self._target.now()
        self._lag = max(self._lag, self._since - self._due)
        self._due = self._since

    def _until_mail(self, end: End, until: int) -> Steps:
        self._unbroken()
        while not end.letters and self._target.now() < until:
            yield until
            self._unbroken()
        if not end.letters:
            self._due = until

    def _open(self, end: End) -> Mail:
        mail = end.open_letter()
        self._due = max(self._due, mail.time)
        self._note(mail.time, ">", f"{mail.segment}{' (sent again)' if mail.again else ''}")
        self._since = max(self._since, mail.time)
        return mail

    def _wait(self, time: int) -> Steps:
        until = self._since = self._due = self._target.now() + time
        for peer in self._peers.values():
            peer.end.script_time += time
        while self._target.now() < until:
            yield until
            self._unbroken()

    def _silence(self, peer: _Peer, time: int) -> Steps:
        until = self._target.now() + time
        while True:
            yield from self._until_mail(peer.end, until)
            if not peer.end.letters:
                return
            mail = self._open(peer.end)
            if not mail.again:
                raise self._diverged(f"silence wanted, got {mail.segment}")

    def _acked(self, peer: _Peer, step: Acked) -> Steps:
        end, names = peer.end, self._names(peer)
        highest = Range("", None, step.ack.high)
        until = self._since + step.within + self._target.tolerance.late
        since = self._since
        while True:
            yield from self._until_mail(end, until)
            if not end.letters:
                raise self._late(f"no ACK of {step.ack}")
            mail = self._open(end)
            if mail.again:  # a FIN that is sent again, say; it acknowledges like any other
                if step.ack.holds(mail.segment.rack, names):
                    break
                continue
            if mail.segment.flags - {"P"} != {"."} or mail.segment.data:
                raise self._diverged(f"an ACK wanted, got {mail.segment}")
            if not highest.holds(mail.segment.rack, names):
                raise self._diverged(f"ACK of {step.ack} wanted, got {mail.segment}")
            if step.ack.holds(mail.segment.rack, names):
                break
        if step.at_once and mail.time - since > self._target.tolerance.at_once:
            raise self._late(f"came after {(mail.time - since) / MS:.1f} ms: too late")
        while end.letters and _same(end.letters[0], mail):
            self._open(end)

    # ---- expecting ----

    def _expect(self, peer: _Peer, step: Expect) -> Steps:
        if step.times is not None:
            yield from self._expect_times(peer, step)
            return
        since, until = self._since, self._until(step)
        while True:
            yield from self._until_mail(peer.end, until)
            if not peer.end.letters:
                if step.silence:
                    return
                raise self._late("nothing came")
            mail = self._open(peer.end)
            why = mismatch(step, peer.end, mail, self._names(peer))
            if why is None:
                break
            if not mail.again:
                raise self._diverged(f"{why}, got {mail.segment}")
        if step.within is not None or step.at_once:
            self._on_time(step, mail.time - since)

    def _until(self, step: Expect) -> int:
        """Until when to wait for an answer; that it was in time is judged by its own time."""
        slack = self._target.tolerance
        if step.at_once:
            return self._since + (slack.at_once and slack.at_once + slack.late)
        usual = QUIET if step.silence else PATIENCE
        return self._since + (usual if step.within is None else step.within + slack.late)

    def _on_time(self, step: Expect, took: int) -> None:
        slack = self._target.tolerance
        if took < step.after - slack.early:
            raise self._late(f"came after {took / MS:.1f} ms: too early")
        limit = slack.at_once if step.at_once else (step.within or 0) + slack.late
        if took > limit:
            raise self._late(f"came after {took / MS:.1f} ms: too late")

    def _expect_times(self, peer: _Peer, step: Expect) -> Steps:
        assert step.times is not None
        letters = peer.end.letters
        # So long nothing comes when all has come; on a slow machine longer, while more may come.
        settled = int(QUIET * min(self._target.tolerance.slowness, 5))
        quiet = settled if step.within is None else step.within
        some = not step.times.holds(0, self._names(peer))
        until = self._target.now() + (max(quiet, PATIENCE) if some else quiet)
        count, full = 0, False
        while True:
            yield from self._until_mail(peer.end, until)
            if not letters or (full and letters[0].time > until):
                self._due = until
                break
            mail = self._open(peer.end)
            why = mismatch(step, peer.end, mail, self._names(peer))
            if why is not None and not mail.again:
                raise self._diverged(f"{why}, got {mail.segment}")
            count += why is None
            until = self._target.now() + quiet
            if step.within is None and step.times.exhausted(count, self._names(peer)):
                # By its own time: a late tester must not count what an RTO has sent again since.
                full, until = True, mail.time + QUIET
        if not step.times.holds(count, self._names(peer)):
            raise self._diverged(f"{step.times} of these wanted, got {count}")

    # ---- the application ----

    def _app(self, peer: _Peer, step: App) -> Steps:
        self._note(self._target.now(), "-", self._line.text)
        app, verb = peer.app, step.verb
        number = 0 if step.number is None else step.number.value(self._names(peer))
        if verb == "accept":
            yield from self._until_app(lambda: app.accepted, "no connection")
        elif verb == "no accept":
            yield from self._silence(peer, QUIET // 2)
            self._hold(not app.accepted, "a connection was accepted")
        elif verb == "read":
            yield from self._until_app(
                lambda: len(app.data) >= number,
                lambda: f"{len(app.data)} of {number} bytes received",
            )
            self._check_data(peer, number, conflicting=step.word == "any")
        elif verb == "eof":
            yield from self._until_app(lambda: app.eof, "no end of stream")
        elif verb == "reset":
            yield from self._until_app(lambda: app.reset, "no reset")
        elif verb == "open":
            self._hold(app.accepted and not app.eof and not app.reset, "not open any more")
        elif verb == "state":
            yield from self._until_app(
                lambda: app.state in (None, step.word), lambda: f"state is {app.state}"
            )
        elif verb == "send":
            self._act()
            app.send(frame.stream(len(peer.end.sent), number))
        else:
            self._act()
            getattr(app, verb)()

    def _until_app(self, seen: Callable[[], bool], why: str | Callable[[], str]) -> Steps:
        until = self._target.now() + int(APP_PATIENCE * self._target.tolerance.slowness)
        while not seen() and self._target.now() < until:
            yield until
            self._unbroken()
        self._due = self._target.now()
        self._hold(seen(), why if isinstance(why, str) else why())

    def _check_data(self, peer: _Peer, length: int, *, conflicting: bool) -> None:
        data = peer.app.data
        self._hold(len(data) == length, f"{len(data)} bytes received, not {length}")
        usual, other = frame.stream(1, length), frame.stream(1, length, other=True)
        if data != usual:
            wrong = [
                at for at, byte in enumerate(data)
                if byte != usual[at] and not (conflicting and byte == other[at])
            ]  # fmt: skip
            self._hold(not wrong, f"wrong bytes from {wrong[0] + 1 if wrong else 0} on")

    # ---- failing ----

    def _hold(self, truth: bool, why: str) -> None:
        if not truth:
            raise self._diverged(why)

    def _unbroken(self) -> None:
        for peer in self._peers.values():
            if peer.end.broken:
                raise self._diverged(f"no answer may be so: {peer.end.broken}")

    def _note(self, time: int, mark: str, text: str) -> None:
        self._trace.append(f"  {(time - self._start) / MS:10.3f} {mark} {text}")

    def _text(self, why: str) -> str:
        unread = [
            f"  {'unread':>10} > {mail.segment}"
            for peer in self._peers.values()
            for mail in peer.end.letters
        ]
        label = f" ({self._case.label})" if self._case.label else ""
        where = f"{self._line.where}: {self._line.text}{label}"
        trace = self._trace if len(self._trace) < 60 else ["  ...", *self._trace[-58:]]
        return "\n".join([where, f"    {why}", *trace, *unread])

    def _diverged(self, why: str) -> Diverged:
        if self._lag > self._target.tolerance.lag:
            return self._late(f"{why}; a step of the tester's was {self._lag / MS:.0f} ms late")
        return Diverged(self._text(why))

    def _late(self, why: str) -> Diverged:
        return Late(self._text(why))


def _same(mail: Mail, other: Mail) -> bool:
    """Two ACKs that say the same."""
    a, b = mail.segment, other.segment
    return (a.flags, a.rack, a.rseq, a.data) == (b.flags, b.rack, b.rseq, b.data)
