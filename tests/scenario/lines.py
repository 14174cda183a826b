# SPDX-License-Identifier: Apache-2.0
"""One line of a scenario, made into a step."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .blocks import Raw, ScenarioError, tree
from .expression import NAMES, Number, Range, duration
from .steps import (
    Acked,
    Again,
    App,
    Batch,
    Check,
    Damage,
    Expect,
    Fill,
    Icmp,
    Keep,
    Line,
    Option,
    Patch,
    Pattern,
    Repeat,
    Send,
    Silence,
    Step,
    Wait,
    Wanted,
)
from .words import (
    APP,
    DAMAGE_NUMBERS,
    DAMAGE_PATCHES,
    DAMAGE_WORDS,
    FLAGS,
    GIVEN,
    ICMP,
    OPTION_VALUES,
    PATIENCE,
    QUIET,
    SEND_KEYS,
    STATES,
    WANTED,
)

NAME = re.compile(r"[a-z][a-z0-9_]*")
_PEER = re.compile(r"([a-z](?:\[([a-z]\w*)\])?): (.*)")


def given(state: str, peer: str) -> tuple[Line, ...]:
    """The lines that bring a peer's connection into a state."""
    return Body("given", peer).lines(tree("given", GIVEN[state]))


class Body:
    """Makes lines into steps; ``names`` are what sums may contain."""

    def __init__(self, file: str, peer: str, names: frozenset[str] = NAMES) -> None:
        self._file, self._peer, self._names = file, peer, names

    def lines(self, raws: list[Raw]) -> tuple[Line, ...]:
        return tuple(line for raw in raws for line in self._line(raw))

    def _line(self, raw: Raw) -> Iterator[Line]:
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

    def _block(self, raw: Raw, text: str) -> Step:
        words = text.split()
        if words == ["batch"]:
            return Batch(self.lines(raw.below))
        if words[0] != "repeat" or len(words) not in (2, 3):
            raise ValueError("only 'repeat [NAME] N' and 'batch' have lines below them")
        counter = words[1] if len(words) == 3 else None
        names = self._names | {counter} if counter else self._names
        body = Body(self._file, self._peer, names).lines(raw.below)
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
        if not NAME.fullmatch(name) or name in NAMES:
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
        if verb in APP and not rest:
            return App(verb)
        raise ValueError("there is no such step")

    # ---- `<` ----

    def _send(self, text: str) -> Send:
        text, options = _cut_options(text)
        words = _Words(text)
        flags = _flags(words.next("flags"))
        seq = end = length = None
        if words.more() and words.peek() not in SEND_KEYS:
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
        if key in DAMAGE_NUMBERS:
            return self._number(words.next(f"{key}'s number"))
        if key in DAMAGE_PATCHES:
            text = words.next(f"{key}'s +N or =N")
            if text[0] not in "+-=":
                raise ValueError(f"{key} takes +N, -N or =N, not {text!r}")
            return Patch(text[0] == "=", self._number(text.lstrip("+=")))
        if key in DAMAGE_WORDS:
            word = words.next(f"{key}'s word")
            allowed = DAMAGE_WORDS[key]
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
        least, most = OPTION_VALUES.get(name, (1, 0))
        if least > most:
            raise ValueError(f"there is no option {name!r}; there are {', '.join(OPTION_VALUES)}")
        if name == "sack":
            values = [number for block in values for number in block.split(":")]
        if not least <= len(values) <= most or (name == "sack" and len(values) % 2):
            raise ValueError(f"{text!r}: not so many values")
        return Option(name, tuple(map(self._number, values)))

    def _icmp(self, text: str) -> Icmp:
        words = _Words(text.removeprefix("icmp"))
        what = known(words.next("what"), tuple(ICMP))
        about, mtu = self._number("0"), None
        while words.more():
            key = known(words.next("a key"), ("about", "mtu"))
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
            key = known(words.next("a key"), ("ack", "win"))
            found[key] = self._range(words.next(f"{key}'s number"))
        wanted = tuple(map(self._wanted, options or ()))
        return Pattern(flags, seq, end, found.get("ack"), found.get("win"), wanted, text)

    def _wanted(self, text: str) -> Wanted:
        words = text.split()
        if words[0] == "no":
            return Wanted(known(" ".join(words[1:]), tuple(WANTED)), False)
        name = known(words.pop(0), tuple(WANTED))
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


def known(word: str, words: tuple[str, ...]) -> str:
    if word not in words:
        raise ValueError(f"wanted one of {', '.join(words)}, got {word!r}")
    return word
