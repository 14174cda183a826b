# SPDX-License-Identifier: Apache-2.0
"""The scenario language: text that reads like a packet trace, made into steps.

README.md describes the language. Nothing here knows how a step is carried out or on what. What
cannot be understood is an error with file and line, found when the file is read and not when
the line is reached.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .expression import NAMES, Number, Range, duration

MS = 1_000_000

#: How long an answer is waited for when the line does not say: RFC 9293's bound on a delayed ACK.
PATIENCE = 500 * MS
QUIET = 100 * MS

FLAGS = frozenset("FSRP.UEW")


class ScenarioError(Exception):
    """A scenario file that cannot be understood; the text begins with file:line."""


# ---- what a line can be ----


@dataclass(frozen=True, slots=True)
class Option:
    """A TCP option by name, with its numbers; ``hex`` has bytes instead."""

    name: str
    numbers: tuple[Number, ...] = ()
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Patch:
    """``+N`` and ``-N`` add to a field, ``=N`` replaces it."""

    replace: bool
    amount: Number


Damage = Number | Patch | str | bytes | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Send:
    """``<``: the peer sends a segment."""

    flags: str
    seq: Number | None
    end: Number | None
    length: Number | None
    ack: Number | None
    win: Number | None
    options: tuple[Option, ...] | None
    damage: Mapping[str, Damage]


@dataclass(frozen=True, slots=True)
class Icmp:
    """``< icmp``: an error about a segment that was sent to the peer."""

    what: str
    about: Number
    mtu: Number | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """An option of a segment that is waited for."""

    name: str
    present: bool
    ranges: tuple[tuple[str, Range], ...] = ()


@dataclass(frozen=True, slots=True)
class Pattern:
    """One form of a segment that is waited for; what is None is not compared."""

    flags: str
    seq: Range | None
    end: Range | None
    ack: Range | None
    win: Range | None
    options: tuple[Wanted, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Expect:
    """``>``: one of these comes; ``silence``: or nothing at all."""

    patterns: tuple[Pattern, ...]
    silence: bool
    after: int
    within: int | None
    at_once: bool
    times: Range | None


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing comes for so long, ns."""

    time: int


@dataclass(frozen=True, slots=True)
class Acked:
    """ACKs come, the last of which is of this."""

    ack: Range
    within: int
    at_once: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """``+40ms``: time passes, ns."""

    time: int


@dataclass(frozen=True, slots=True)
class App:
    """The application does something, or has seen something."""

    verb: str
    number: Number | None = None
    word: str = ""


@dataclass(frozen=True, slots=True)
class Fill:
    """The peer sends in order until the window is 0."""

    size: Number


@dataclass(frozen=True, slots=True)
class Again:
    """The peer forgets the connection; its new ISN is at this number of the old ones."""

    isn: Number


@dataclass(frozen=True, slots=True)
class Keep:
    """A number is remembered by a name of its own."""

    name: str
    number: Number


@dataclass(frozen=True, slots=True)
class Check:
    """A number lies in a range."""

    number: Number
    range: Range


@dataclass(frozen=True, slots=True)
class Repeat:
    """A block, so many times; ``counter`` counts from 0."""

    counter: str | None
    times: Number
    body: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Segments that arrive together."""

    body: tuple[Line, ...]


Step = (
    Send | Icmp | Expect | Silence | Acked | Wait | App | Fill | Again | Keep | Check | Repeat
    | Batch
)  # fmt: skip

Whose = Literal["ours", "linux"]


@dataclass(frozen=True, slots=True)
class Line:
    """A step, where it is written, for whose stack and of which peer."""

    where: str
    text: str
    only: Whose | None
    peer: str
    step: Step


@dataclass(frozen=True, slots=True)
class Offer:
    """What a peer's SYN offers, and the window it announces."""

    mss: int | None = 1460
    ws: int | None = 7
    ts: int | None = 1000
    sackok: bool = True
    win: int = 65535
    isn: int = 0x10000000


@dataclass(frozen=True, slots=True)
class Case:
    """A scenario with the values of its `for` put in."""

    label: str
    given: str
    offers: Mapping[str, Offer]
    lines: tuple[Line, ...]
    stack: Mapping[str, str]

    @property
    def greedy(self) -> bool:
        """Does it take all the memory that the stack has?"""
        return any(
            isinstance(step, Fill) or (isinstance(step, App) and step.verb == "pause")
            for step in _steps(self.lines)
        )

    @property
    def waits(self) -> int:
        """How much time passes on purpose, ns: the longest are best begun first."""
        return _waits(self.lines)

    @property
    def judged_by_xdp(self) -> bool:
        """Is something sent that never reaches the C core, whatever it would make of it?"""
        return any(
            isinstance(step, Icmp)
            or (isinstance(step, Send) and bool(XDP_JUDGES & set(step.damage)))
            for step in _steps(self.lines)
        )


@dataclass(frozen=True, slots=True)
class Scenario:
    """A name, the rows that it covers, where it runs, and its cases."""

    file: Path
    line: int
    name: str
    rows: tuple[int, ...]
    reasons: Mapping[str, str]  # "only core", "not kernel", "linux differs", ...: why
    cases: tuple[Case, ...] = field(default=())

    @property
    def id(self) -> str:
        return "-".join([*(f"row{row:02}" for row in self.rows), self.name])

    def why_not(self, target: str, family: int) -> str | None:
        """Why it does not run there, or None."""
        if f"only v{10 - family}" in self.reasons:
            return self.reasons[f"only v{10 - family}"]
        if target == "core":
            judged = any(case.judged_by_xdp for case in self.cases)
            return "the XDP program judges it" if judged else self.reasons.get("not core")
        if "only core" in self.reasons:
            return self.reasons["only core"]
        return self.reasons.get("not kernel") if target == "kernel" else None


def _steps(lines: tuple[Line, ...]) -> Iterator[Step]:
    for line in lines:
        yield line.step
        if isinstance(line.step, Repeat | Batch):
            yield from _steps(line.step.body)


def _waits(lines: tuple[Line, ...]) -> int:
    total = 0
    for line in lines:
        if isinstance(line.step, Wait | Silence):
            total += line.step.time
        elif isinstance(line.step, Expect):
            total += line.step.after
        elif isinstance(line.step, Repeat):
            times = line.step.times.tree
            count = times.value if isinstance(times, ast.Constant) else 1
            total += _waits(line.step.body) * int(str(count))
    return total


# ---- lines and blocks ----


@dataclass(slots=True)
class _Raw:
    """A line of text with the deeper-indented ones below it."""

    number: int
    indent: int
    text: str
    below: list[_Raw]


def _tree(file: str, text: str) -> list[_Raw]:
    top = _Raw(0, -1, "", [])
    path = [top]
    for number, whole in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*", "", whole).rstrip()
        if not line:
            continue
        if "\t" in line:
            raise ScenarioError(f"{file}:{number}: indent with spaces, not tabs")
        indent = len(line) - len(line.lstrip())
        while path[-1].indent >= indent:
            path.pop()
        siblings = path[-1].below
        if siblings and siblings[0].indent != indent:
            raise ScenarioError(f"{file}:{number}: indented by {indent}, its neighbours are not")
        raw = _Raw(number, indent, line.strip(), [])
        siblings.append(raw)
        path.append(raw)
    return top.below


_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PEER = re.compile(r"([a-z](?:\[([a-z]\w*)\])?): (.*)")
_HEADERS = ("row", "rows", "given", "peer", "for", "stack", "only", "not")
_RUNS = ("only core", "not core", "not kernel", "only v4", "only v6", "linux differs")


def parse(text: str, file: Path) -> list[Scenario]:
    """All scenarios of a file; raises ScenarioError."""
    name = file.name
    scenarios: list[Scenario] = []
    for raw in _tree(name, text):
        word, _, rest = raw.text.partition(" ")
        if word != "scenario" or not _NAME.fullmatch(rest):
            raise ScenarioError(f"{name}:{raw.number}: wanted 'scenario NAME', got {raw.text!r}")
        if rest in (other.name for other in scenarios):
            raise ScenarioError(f"{name}:{raw.number}: there is another {rest}")
        scenarios.append(_scenario(file, raw, rest))
    return scenarios


def load(folder: Path) -> list[Scenario]:
    """Every scenario of every file of a folder; raises ScenarioError."""
    found: dict[str, Scenario] = {}
    for file in sorted(folder.glob("*.scn")):
        for scenario in parse(file.read_text(), file):
            if scenario.name in found:
                raise ScenarioError(
                    f"{file.name}:{scenario.line}: {scenario.name} is in"
                    f" {found[scenario.name].file.name} too"
                )
            found[scenario.name] = scenario
    return list(found.values())


def given(state: str, peer: str) -> tuple[Line, ...]:
    """The lines that bring a peer's connection into a state."""
    return _Body("given", peer).lines(_tree("given", GIVEN[state]))


def _scenario(file: Path, raw: _Raw, name: str) -> Scenario:
    header, body = [], list(raw.below)
    while body and (
        body[0].text.split()[0] in _HEADERS or body[0].text.startswith("linux differs")
    ):
        header.append(body.pop(0))
    where = f"{file.name}:{raw.number}"
    if not body:
        raise ScenarioError(f"{where}: {name} has no trace")
    rows, reasons, tables = _header(file.name, header)
    if not rows:
        raise ScenarioError(f"{where}: {name} does not say which row it is of")
    per_case = [line for line in header if line.text.split()[0] in ("given", "peer", "stack")]
    cases = []
    for values in itertools.product(*tables):
        chosen = {key: value for row in values for key, value in row.items()}
        cases.append(_case(file.name, per_case, body, chosen))
    scenario = Scenario(file, raw.number, name, rows, reasons, tuple(cases))
    _check_runs(where, scenario)
    return scenario


def _check_runs(where: str, scenario: Scenario) -> None:
    divided = any(line.only for case in scenario.cases for line in _all_lines(case.lines))
    if divided != ("linux differs" in scenario.reasons):
        raise ScenarioError(
            f"{where}: lines for 'ours' or 'linux' and 'linux differs: why' go together"
        )
    if any(case.stack for case in scenario.cases) and "only core" not in scenario.reasons:
        raise ScenarioError(f"{where}: 'stack' goes with 'only core: why'")


def _all_lines(lines: tuple[Line, ...]) -> Iterator[Line]:
    for line in lines:
        yield line
        if isinstance(line.step, Repeat | Batch):
            yield from _all_lines(line.step.body)


_Table = list[dict[str, str]]


def _header(file: str, lines: list[_Raw]) -> tuple[tuple[int, ...], dict[str, str], list[_Table]]:
    rows: list[int] = []
    reasons: dict[str, str] = {}
    tables: list[_Table] = []
    for line in lines:
        where = f"{file}:{line.number}"
        word, _, rest = line.text.partition(" ")
        if word in ("row", "rows"):
            if not all(part.isdigit() for part in rest.split()):
                raise ScenarioError(f"{where}: rows are numbers, not {rest!r}")
            rows += map(int, rest.split())
        elif word == "for":
            tables.append(_table(where, rest, line.below))
        elif word in ("only", "not", "linux"):
            what, colon, why = line.text.partition(":")
            if what not in _RUNS or not colon or not why.strip():
                raise ScenarioError(f"{where}: wanted one of {', '.join(_RUNS)}, each with ': why'")
            reasons[what] = why.strip()
    return tuple(rows), reasons, tables


def _table(where: str, text: str, below: list[_Raw]) -> _Table:
    names, found, values = (text + " ").partition(" in ")
    columns = names.split()
    if not found or not all(map(_NAME.fullmatch, columns)) or not columns:
        raise ScenarioError(f"{where}: wanted 'for NAME... in', values after it or below it")
    if below:
        cells = [row.text.split(None, len(columns) - 1) for row in below]
    else:
        words = [word for each in values.split() for word in _spread(each)]
        cells = [words[at : at + len(columns)] for at in range(0, len(words), len(columns))]
    if not cells or any(len(row) != len(columns) for row in cells):
        raise ScenarioError(f"{where}: each row of 'for' needs {len(columns)} values")
    return [dict(zip(columns, row, strict=True)) for row in cells]


def _spread(word: str) -> Iterator[str]:
    """``1..4`` is each of these numbers."""
    if match := re.fullmatch(r"(\d+)\.\.(\d+)", word):
        yield from map(str, range(int(match[1]), int(match[2]) + 1))
    else:
        yield word


def _put_in(raw: _Raw, values: Mapping[str, str], file: str) -> _Raw:
    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ScenarioError(f"{file}:{raw.number}: no 'for' has {match[0]}")
        return values[match[1]]

    text = re.sub(r"\$([a-z][a-z0-9_]*)", value, raw.text)
    below = [_put_in(line, values, file) for line in raw.below]
    return _Raw(raw.number, raw.indent, text, below)


def _case(file: str, header: list[_Raw], body: list[_Raw], values: Mapping[str, str]) -> Case:
    state, offers, stack = "listen", {"a": Offer()}, {}
    for raw in (_put_in(line, values, file) for line in header):
        where = f"{file}:{raw.number}"
        word, _, rest = raw.text.partition(" ")
        if word == "given":
            if rest not in GIVEN:
                raise ScenarioError(f"{where}: there is {', '.join(GIVEN)}; not {rest!r}")
            state = rest
        elif word == "stack":
            name, _, value = rest.partition(" ")
            stack[name] = value
        else:
            peer, offer = _offer(where, rest)
            offers[peer] = offer
    lines = _Body(file, "a").lines([_put_in(line, values, file) for line in body])
    label = " ".join(f"{name}={value}" for name, value in values.items())
    return Case(label, state, offers, lines, stack)


def _offer(where: str, text: str) -> tuple[str, Offer]:
    words = text.replace(",", " ").split()
    peer = words.pop(0) if words and re.fullmatch("[a-z]", words[0]) else "a"
    chosen: dict[str, int | bool | None] = {}
    while words:
        name = words.pop(0)
        try:
            if name == "no":
                chosen[_known(words.pop(0), ("mss", "ws", "ts", "sackok"))] = None
            elif name != "sackok":
                key = _known(name, ("mss", "ws", "ts", "win", "isn"))
                chosen[key] = Number.parse(words.pop(0), frozenset()).value({})
        except (ValueError, IndexError) as error:
            raise ScenarioError(f"{where}: {error}: {text!r}") from None
    if "sackok" in chosen:
        chosen["sackok"] = False
    return peer, Offer(**chosen)  # type: ignore[arg-type]


def _known(word: str, words: tuple[str, ...]) -> str:
    if word not in words:
        raise ValueError(f"wanted one of {', '.join(words)}, got {word!r}")
    return word


# ---- steps ----


class _Body:
    """Makes lines into steps; ``names`` are what sums may contain."""

    def __init__(self, file: str, peer: str, names: frozenset[str] = NAMES) -> None:
        self._file, self._peer, self._names = file, peer, names

    def lines(self, raws: list[_Raw]) -> tuple[Line, ...]:
        return tuple(line for raw in raws for line in self._line(raw))

    def _line(self, raw: _Raw) -> Iterator[Line]:
        where = f"{self._file}:{raw.number}"
        text, only, peer = raw.text, None, self._peer
        for word in ("ours", "linux"):
            if text.startswith(word + " "):
                only, text = word, text.removeprefix(word).strip()
        if match := _PEER.fullmatch(text):
            peer, text = match[1], match[3].strip()
        try:
            if match and match[2] and match[2] not in self._names:
                raise ValueError(f"no 'repeat' counts {match[2]!r}")
            if text in GIVEN:
                yield from given(text, peer)
                return
            step = self._block(raw, text) if raw.below else self._step(text)
        except ValueError as error:
            raise ScenarioError(f"{where}: {error}\n    {raw.text}") from None
        yield Line(where, text, only, peer, step)  # type: ignore[arg-type]

    def _block(self, raw: _Raw, text: str) -> Step:
        words = text.split()
        if words == ["batch"]:
            return Batch(self.lines(raw.below))
        if words[0] != "repeat" or len(words) not in (2, 3):
            raise ValueError("only 'repeat [NAME] N' and 'batch' have lines below them")
        counter = words[1] if len(words) == 3 else None
        names = self._names | {counter} if counter else self._names
        body = _Body(self._file, self._peer, names).lines(raw.below)
        return Repeat(counter, self._number(words[-1]), body)

    def _step(self, text: str) -> Step:
        word, _, rest = text.partition(" ")
        rest = rest.strip()
        if word == "<":
            return self._icmp(rest) if rest.startswith("icmp") else self._send(rest)
        if word == ">":
            return self._expect(rest)
        if word == "silence":
            return Silence(duration(rest) if rest else QUIET)
        if word == "acked":
            rest, _, within, at_once = _timing(rest)
            return Acked(self._range(rest), within or PATIENCE, at_once)
        if word == "fill":
            return Fill(self._number(rest or "full"))
        if word == "again":
            return Again(self._number(rest or "100000"))
        if word == "keep":
            return self._keep(rest)
        if word == "check":
            number, _, wanted = rest.rpartition(" ")
            return Check(self._number(number), self._range(wanted))
        if word.startswith("+"):
            return Wait(duration(word[1:]))
        return self._app(text.split())

    def _keep(self, text: str) -> Keep:
        name, _, number = text.partition(" ")
        if not _NAME.fullmatch(name) or name in NAMES:
            raise ValueError(f"{name!r} cannot be a name of its own")
        kept = Keep(name, self._number(number))
        self._names |= {name}
        return kept

    def _number(self, text: str) -> Number:
        return Number.parse(text, self._names)

    def _range(self, text: str) -> Range:
        return Range.parse(text, self._names)

    def _app(self, words: list[str]) -> App:
        verb, rest = words[0], words[1:]
        if verb == "no" and rest == ["accept"]:
            return App("no accept")
        if verb == "read" and (len(rest) == 1 or rest[1:] == ["any"]):
            return App("read", self._number(rest[0]), "any" if len(rest) == 2 else "")
        if verb == "send" and len(rest) == 1:
            return App("send", self._number(rest[0]))
        if verb == "state" and len(rest) == 1 and rest[0] in STATES:
            return App("state", None, rest[0])
        if verb in _APP and not rest:
            return App(verb)
        raise ValueError("there is no such step")

    # ---- `<` ----

    def _send(self, text: str) -> Send:
        text, options = _cut_options(text)
        words = _Words(text)
        flags = _flags(words.next("flags"))
        seq = end = length = None
        if words.more() and words.peek() not in _SEND_KEYS:
            first, _, second = words.next("a sequence number").partition(":")
            seq = self._number(first)
            if second.startswith("+"):
                length = self._number(second[1:])
            elif second:
                end = self._number(second)
        ack = win = None
        damage: dict[str, Damage] = {}
        while words.more():
            key = words.next("a key")
            if key == "ack":
                ack = self._number(words.next("ack's number"))
            elif key == "win":
                win = self._number(words.next("win's number"))
            else:
                damage[key] = self._damage(key, words)
        chosen = None if options is None else tuple(map(self._option, options))
        return Send(flags, seq, end, length, ack, win, chosen, damage)

    def _damage(self, key: str, words: _Words) -> Damage:
        if key in _DAMAGE_NUMBERS:
            return self._number(words.next(f"{key}'s number"))
        if key in _DAMAGE_PATCHES:
            text = words.next(f"{key}'s +N or =N")
            if text[0] not in "+-=":
                raise ValueError(f"{key} takes +N, -N or =N, not {text!r}")
            return Patch(text[0] == "=", self._number(text.lstrip("+=")))
        if key in _DAMAGE_WORDS:
            word = words.next(f"{key}'s word")
            allowed = _DAMAGE_WORDS[key]
            if allowed and word not in allowed:
                raise ValueError(f"{key} is one of {', '.join(allowed)}; not {word!r}")
            return word
        if key == "vlan":
            return tuple(int(part, 0) for part in words.next("vlan's number").split(","))
        if key == "ip-options":
            return bytes.fromhex(words.next("ip-options' bytes"))
        raise ValueError(f"there is no {key!r}")

    def _option(self, text: str) -> Option:
        name, *values = text.split()
        if name == "hex":
            return Option(name, raw=bytes.fromhex("".join(values)))
        least, most = _OPTION_VALUES.get(name, (1, 0))
        if least > most:
            raise ValueError(f"there is no option {name!r}; there are {', '.join(_OPTION_VALUES)}")
        if name == "sack":
            values = [number for block in values for number in block.split(":")]
        if not least <= len(values) <= most or (name == "sack" and len(values) % 2):
            raise ValueError(f"{text!r}: not so many values")
        return Option(name, tuple(map(self._number, values)))

    def _icmp(self, text: str) -> Icmp:
        words = _Words(text.removeprefix("icmp"))
        what = _known(words.next("what"), tuple(ICMP))
        about, mtu = self._number("0"), None
        while words.more():
            key = _known(words.next("a key"), ("about", "mtu"))
            number = self._number(words.next(f"{key}'s number"))
            if key == "about":
                about = number
            else:
                mtu = number
        return Icmp(what, about, mtu)

    # ---- `>` ----

    def _expect(self, text: str) -> Expect:
        text, after, within, at_once = _timing(text)
        times = None
        if match := re.search(r" times (\S+)$", text):
            times, text = self._range(match[1]), text[: match.start()]
        forms = [form.strip() for form in text.split(" or ")]
        silence = "silence" in forms
        patterns = tuple(self._pattern(form) for form in forms if form != "silence")
        if not patterns:
            raise ValueError("write 'silence' alone, without '>'")
        return Expect(patterns, silence, after, within, at_once, times)

    def _pattern(self, text: str) -> Pattern:
        rest, options = _cut_options(text)
        words = _Words(rest)
        flags = _flags(words.next("flags"))
        seq, end, found = None, None, {}
        if words.more() and words.peek() not in ("ack", "win"):
            first, colon, second = words.next("a sequence number").partition(":")
            seq = self._range(first)
            if colon:
                plus = second.startswith("+")
                end = self._range(f"({first}){second}" if plus else second)
        while words.more():
            key = _known(words.next("a key"), ("ack", "win"))
            found[key] = self._range(words.next(f"{key}'s number"))
        wanted = tuple(map(self._wanted, options or ()))
        return Pattern(flags, seq, end, found.get("ack"), found.get("win"), wanted, text)

    def _wanted(self, text: str) -> Wanted:
        words = text.split()
        if words[0] == "no":
            return Wanted(_known(" ".join(words[1:]), tuple(_WANTED)), False)
        name = _known(words.pop(0), tuple(_WANTED))
        if name == "sack":
            numbers = [number for block in words for number in block.split(":")]
            return Wanted(name, True, tuple(("", self._range(text)) for text in numbers))
        if name == "ts":
            if len(words) % 2 or any(word not in ("val", "ecr") for word in words[::2]):
                raise ValueError("wanted 'ts', 'ts val N', 'ts ecr N' or both")
            pairs = zip(words[::2], words[1::2], strict=True)
            return Wanted(name, True, tuple((key, self._range(text)) for key, text in pairs))
        return Wanted(name, True, tuple(("", self._range(text)) for text in words))


class _Words:
    """Words of a line, one after the other."""

    def __init__(self, text: str) -> None:
        self._words = text.split()

    def more(self) -> bool:
        return bool(self._words)

    def peek(self) -> str:
        return self._words[0]

    def next(self, what: str) -> str:
        if not self._words:
            raise ValueError(f"{what} is missing")
        return self._words.pop(0)


def _flags(word: str) -> str:
    flags = "" if word == "-" else word
    if not FLAGS.issuperset(flags) or len(set(flags)) != len(flags):
        raise ValueError(f"flags are letters of FSRP.UEW, or - for none; not {word!r}")
    return flags


def _cut_options(text: str) -> tuple[str, list[str] | None]:
    """The line without its ``<...>``, and what is in it."""
    match = re.search(r"<([^<>]*)>", text)
    if match is None:
        return text, None
    parts = [part.strip() for part in match[1].split(",")]
    return text[: match.start()] + " " + text[match.end() :], [part for part in parts if part]


def _timing(text: str) -> tuple[str, int, int | None, bool]:
    """The line without its time; not before, not after (ns), at once."""
    if text.endswith(" at once"):
        return text.removesuffix(" at once"), 0, None, True
    if match := re.search(r" within (\S+)$", text):
        return text[: match.start()], 0, duration(match[1]), False
    if match := re.search(r" after (\S+?)\.\.(\S+)$", text):
        return text[: match.start()], duration(match[1]), duration(match[2]), False
    return text, 0, None, False


# ---- words ----

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

_APP = (
    "accept", "eof", "reset", "open", "close", "shutdown", "abort", "pause", "resume",
)  # fmt: skip
_DAMAGE_NUMBERS = (
    "doff", "res", "urg", "pad", "cut", "ttl", "tos", "df", "ip-version", "ip-ihl", "fragments",
)  # fmt: skip
_DAMAGE_PATCHES = ("csum", "ip-csum", "ip-len")
_ADDRESSES = ("broadcast", "multicast", "other", "zero", "loopback", "self")
_DAMAGE_WORDS: dict[str, tuple[str, ...]] = {
    "bytes": ("other",),
    "ext": ("dst", "hop", "route"),
    "fragment": (),
    "to-mac": ("broadcast", "multicast", "other"),
    "to-ip": _ADDRESSES,
    "from-ip": _ADDRESSES,
}
_SEND_KEYS = frozenset(
    ("ack", "win", "vlan", "ip-options", *_DAMAGE_NUMBERS, *_DAMAGE_PATCHES, *_DAMAGE_WORDS)
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

_OPTION_VALUES = {
    "mss": (1, 1), "ws": (1, 1), "sackok": (0, 0), "ts": (0, 2), "sack": (2, 8),
    "nop": (0, 0), "eol": (0, 0), "hex": (1, 1),
}  # fmt: skip
_WANTED = ("mss", "ws", "sackok", "ts", "sack")
