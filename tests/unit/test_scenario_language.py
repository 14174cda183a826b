# SPDX-License-Identifier: Apache-2.0
"""Scenarios are read as they are meant, and one that does not hold is found, with its line."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from ..scenario import core, language
from ..scenario.blocks import ScenarioError
from ..scenario.end import End, Mail
from ..scenario.run import Diverged, Late
from ..scenario.scenario import Scenario
from ..scenario.steps import Batch, Expect, Repeat, Send
from ..scenario.target import Tolerance
from ..scenario.words import MS
from .tcp.wire import Segment

FILE = Path("some.scn")


def read(text: str) -> Scenario:
    """The only scenario of a file."""
    (scenario,) = language.parse(textwrap.dedent(text).lstrip("\n"), FILE)
    return scenario


def trace(lines: str, given: str = "established") -> Scenario:
    body = textwrap.indent(textwrap.dedent(lines).strip("\n"), "  ")
    return read(f"scenario one\n  row 1\n  given {given}\n{body}\n")


# ---- reading ----


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("< Q 1", "flags are letters"),
        ("< . 1+nobody", r"'nobody' in '1\+nobody' is not known"),
        ("< . 1+", r"'1\+' is not a number"),
        ("< . 1 ttl", "ttl's number is missing"),
        ("< . 1 frobnicate 2", "there is no 'frobnicate'"),
        ("< . 1 to-mac mine", "to-mac is one of broadcast"),
        ("< . 1 csum 5", r"csum takes \+N"),
        ("< . 1 <window 5>", "there is no option 'window'"),
        ("< icmp unheard-of", "wanted one of net"),
        ("> . 1 <ts value 5>", "wanted 'ts'"),
        ("> silence", "write 'silence' alone"),
        ("> . 1 after 1s..soon", "'soon' is no time"),
        ("silence 40", "'40' is no time"),
        ("x[n]: < . 1", "no 'repeat' counts 'n'"),
        ("state NOWHERE", "there is no such step"),
        ("sleep 5", "there is no such step"),
        ("< . $n", r"no 'for' has \$n"),
    ],
)
def test_what_cannot_be_understood_is_an_error_with_its_line(line: str, why: str) -> None:
    with pytest.raises(ScenarioError, match=rf"^some\.scn:4: {why}"):
        trace(line)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("scenario A\n  row 1\n  < . 1\n", "some.scn:1: wanted 'scenario NAME'"),
        ("scenario a\n  row 1\n", "some.scn:1: a has no trace"),
        ("scenario a\n  < . 1\n", "some.scn:1: a does not say which row"),
        ("scenario a\n  row x\n  < . 1\n", "some.scn:2: rows are numbers"),
        ("scenario a\n  row 1\n  only v4\n  < . 1\n", "some.scn:3: wanted one of only core"),
        ("scenario a\n  row 1\n    2\n  < . 1\n", "some.scn:3: only 'for' has lines below"),
        ("scenario a\n  row 1\n  for x in\n     1\n    2\n  < . 1\n", "some.scn:5: indented by 4"),
        ("scenario a\n\trow 1\n", "some.scn:2: indent with spaces"),
        ("scenario a\n  row 1\n  for x y in 1 2 3\n  < . 1\n", "some.scn:3: each row of 'for'"),
        ("scenario a\n  row 1\n  ours < . 1\n", "some.scn:1: lines for 'ours'"),
        ("scenario a\n  row 1\n  stack mtu 9000\n  < . 1\n", "some.scn:1: 'stack' goes with"),
        ("scenario a\n  row 1\n  given bliss\n  < . 1\n", "some.scn:3: there is closed"),
        ("scenario a\n  row 1\n  < . 1\n" * 2, "some.scn:4: there is another a"),
    ],
)
def test_headers_that_make_no_sense(text: str, why: str) -> None:
    with pytest.raises(ScenarioError) as error:
        language.parse(text, FILE)
    assert str(error.value).startswith(why)


def test_each_for_multiplies_the_cases() -> None:
    scenario = read(
        """
        scenario many
          row 2 3
          for flags in F R
          for at length in
            1     10
            edge  1+1
          < $flags $at:+$length
        """
    )
    assert scenario.id == "row02-row03-many"
    assert [case.label for case in scenario.cases] == [
        "flags=F at=1 length=10",
        "flags=F at=edge length=1+1",
        "flags=R at=1 length=10",
        "flags=R at=edge length=1+1",
    ]
    step = scenario.cases[3].lines[0].step
    assert isinstance(step, Send)
    assert (step.flags, str(step.seq), str(step.length)) == ("R", "edge", "1+1")


def test_blocks_hold_their_lines() -> None:
    (case,) = trace(
        """
        repeat i 3
          batch
            < . 1+i
            < . 2+i
          > . ack 1 or R 1 within 2s
        """
    ).cases
    step = case.lines[0].step
    assert isinstance(step, Repeat)
    batch, expect = (line.step for line in step.body)
    assert isinstance(batch, Batch)
    assert isinstance(expect, Expect)
    assert len(batch.body) == len(expect.patterns) == 2
    assert expect.within == 2_000_000_000


def test_what_xdp_judges_is_no_matter_of_the_core() -> None:
    assert trace("< . 1:11 csum +1").why_not("core", 4) is not None
    assert trace("< . 1:11 csum +1").why_not("native", 4) is None
    assert trace("< . 1:11 doff 4").why_not("core", 4) is None


# ---- running ----


def run(lines: str, given: str = "established") -> None:
    for case in trace(lines, given).cases:
        core.run(case, 4)


@pytest.mark.parametrize(
    ("lines", "line", "why"),
    [
        ("< P. 1:11\n> . ack 12", 5, "ack 12 wanted"),
        ("< P. 1:11\n> F. ack 11", 5, "[F.] wanted"),
        ("< P. 1:11\n> . 2 ack 11", 5, "seq 2 wanted"),
        ("< P. 1:11\n> . ack 11 win 0", 5, "win 0 wanted"),
        ("< P. 1:11\n> . ack 11 <sack 1:2>", 5, "sack wanted"),
        ("< P. 1:11\n> . ack 11 <no ts>", 5, "no ts wanted"),
        ("< P. 11:21\n> . ack 1 <sack 11:20>", 5, "other sack wanted"),
        ("send 10\n> . 1", 5, "0 bytes wanted"),
        ("send 10\n> . 1:12", 5, "bytes up to 12 wanted"),
        ("< P. 1:11\nacked 10", 5, "ACK of 10 wanted"),
        ("< P. 1:11\nsilence", 5, "silence wanted"),
        ("< P. 1:11", 4, "at the end"),
        ("< P. 1:11\n> . ack 11\nread 9", 6, "10 bytes received, not 9"),
        ("< P. 1:11\n> . ack 11\nread 11", 6, "10 of 11 bytes received"),
        ("< P. 1:11 bytes other\n> . ack 11\nread 10", 6, "wrong bytes from 1 on"),
        ("no accept", 4, "a connection was accepted"),
        ("eof", 4, "no end of stream"),
        ("reset", 4, "no reset"),
        ("< R 1\nopen", 5, "not open any more"),
        ("state CLOSE-WAIT", 4, "state is ESTABLISHED"),
        ("repeat 3\n  < R 5\n> . ack 1 times 4", 6, "4 of these wanted, got 3"),
        ("check acked 2", 4, "it is 1"),
    ],
)
def test_what_does_not_hold_is_found(lines: str, line: int, why: str) -> None:
    with pytest.raises(Diverged) as found:
        run(lines)
    first, second, *rest = str(found.value).splitlines()
    assert first.startswith(f"some.scn:{line}: ")
    assert why in second
    assert "[S.] seq=0 ack=1" in "\n".join(rest)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("> S. 0 ack 1", "nothing came"),
        ("> S. 0 ack 1 at once", "nothing came"),
        ("> S. 0 ack 1 within 900ms", "nothing came"),
        ("> S. 0 ack 1 after 1100ms..2s", "too early"),
    ],
)
def test_lateness_is_told_from_other_faults(line: str, why: str) -> None:
    with pytest.raises(Late, match=why):
        run(line, given="syn_received")
    run("> S. 0 ack 1 after 900ms..1100ms", given="syn_received")


def test_what_is_sent_again_after_all_has_come_is_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who takes a machine for slow waits longer, but not until an RTO has passed."""
    monkeypatch.setattr(core.Core, "tolerance", Tolerance(slowness=10))
    measured = "send 100\n> . 1:101\n< . 1 ack 101"  # its RTO is 200 ms from now on
    run(f"{measured}\nsend 5000\n> . 101..:102.. times 4\nsilence\n< . 1 ack 5101")


@pytest.mark.parametrize(("gap", "fault"), [(30 * MS, Late), (None, Diverged)])
def test_a_tail_loss_probe_at_the_end_is_lateness(
    monkeypatch: pytest.MonkeyPatch, gap: int | None, fault: type[Diverged]
) -> None:
    deliver = End.deliver

    def twice(end: End, segment: Segment, time: int) -> None:
        deliver(end, segment, time)
        if gap and segment.data:
            deliver(end, segment, time + gap)

    monkeypatch.setattr(End, "deliver", twice)
    with pytest.raises(Diverged, match="at the end") as found:
        run("send 10\n> P. 1:11\n< . 1 ack 11" if gap else "send 10")
    assert type(found.value) is fault


def test_what_linux_does_since_some_version_is_not_asked_of_older_ones() -> None:
    scenario = read("scenario one\n  row 1\n  linux since 6.18: answers\n  given listen\n  < S 0\n")
    assert scenario.newer_than((6, 12)) == "Linux 6.18: answers"
    assert scenario.newer_than((6, 18)) is scenario.newer_than((7, 3)) is None
    assert trace("< . 1").newer_than((6, 1)) is None


@pytest.mark.parametrize(("allowed", "fault"), [(149, Late), (2000, Diverged)])
def test_a_tester_that_was_late_itself_says_so(
    monkeypatch: pytest.MonkeyPatch, allowed: int, fault: type[Diverged]
) -> None:
    now, open_letter, spent = core.Core.now, End.open_letter, 0

    def slowly(end: End) -> Mail:
        nonlocal spent
        spent += 150 * MS
        return open_letter(end)

    monkeypatch.setattr(End, "open_letter", slowly)
    monkeypatch.setattr(core.Core, "now", lambda self: now(self) + spent)
    monkeypatch.setattr(core.Core, "tolerance", Tolerance(lag=allowed * MS))
    with pytest.raises(Diverged) as found:
        run("< P. 1:11\nacked 11\n< P. 11:21\n> . ack 22")
    assert type(found.value) is fault
    assert ("a step of the tester's was" in str(found.value)) == (fault is Late)


def test_what_no_answer_may_be_is_found_whoever_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    deliver = End.deliver

    def shut(end: End, segment: Segment, time: int) -> None:
        deliver(end, segment if "S" in segment.flags else replace(segment, win=0), time)

    monkeypatch.setattr(End, "deliver", shut)
    with pytest.raises(Diverged, match="no answer may be so: right edge pulled back"):
        run("< P. 1:11\nacked 11")
