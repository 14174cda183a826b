# SPDX-License-Identifier: Apache-2.0
"""The scenario language: text that reads like a packet trace, made into steps.

README.md describes the language. Nothing here knows how a step is carried out or on what. What
cannot be understood is an error with file and line, found when the file is read and not when
the line is reached.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from .blocks import Raw, ScenarioError, tree
from .expression import Number
from .lines import NAME, Body, known
from .scenario import Case, Offer, Scenario, all_lines
from .words import GIVEN

_HEADERS = ("row", "rows", "given", "peer", "for", "stack", "only", "not")
_RUNS = ("only core", "not core", "not kernel", "only v4", "only v6", "linux differs")
_SINCE = re.compile(r"linux since ([0-9]+\.[0-9]+)")


def parse(text: str, file: Path) -> list[Scenario]:
    """All scenarios of a file; raises ScenarioError."""
    name = file.name
    scenarios: list[Scenario] = []
    for raw in tree(name, text):
        word, _, rest = raw.text.partition(" ")
        if word != "scenario" or not NAME.fullmatch(rest):
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


def _scenario(file: Path, raw: Raw, name: str) -> Scenario:
    header, body = [], list(raw.below)
    while body and (
        body[0].text.split()[0] in _HEADERS
        or body[0].text.startswith(("linux differs", "linux since"))
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
    divided = any(line.only for case in scenario.cases for line in all_lines(case.lines))
    if divided != ("linux differs" in scenario.reasons):
        raise ScenarioError(
            f"{where}: lines for 'ours' or 'linux' and 'linux differs: why' go together"
        )
    if any(case.stack for case in scenario.cases) and "only core" not in scenario.reasons:
        raise ScenarioError(f"{where}: 'stack' goes with 'only core: why'")


_Table = list[dict[str, str]]


def _header(file: str, lines: list[Raw]) -> tuple[tuple[int, ...], dict[str, str], list[_Table]]:
    rows: list[int] = []
    reasons: dict[str, str] = {}
    tables: list[_Table] = []
    for line in lines:
        where = f"{file}:{line.number}"
        word, _, rest = line.text.partition(" ")
        if line.below and word != "for":
            raise ScenarioError(
                f"{file}:{line.below[0].number}: only 'for' has lines below it here"
            )
        if word in ("row", "rows"):
            if not all(part.isdigit() for part in rest.split()):
                raise ScenarioError(f"{where}: rows are numbers, not {rest!r}")
            rows += map(int, rest.split())
        elif word == "for":
            tables.append(_table(where, rest, line.below))
        elif word in ("only", "not", "linux"):
            what, colon, why = line.text.partition(":")
            since = _SINCE.fullmatch(what)
            if not (what in _RUNS or since) or not colon or not why.strip():
                wanted = ", ".join([*_RUNS, "linux since 6.18"])
                raise ScenarioError(f"{where}: wanted one of {wanted}, each with ': why'")
            if since:
                what, why = "linux since", f"{since[1]}:{why}"
            reasons[what] = why.strip()
    return tuple(rows), reasons, tables


def _table(where: str, text: str, below: list[Raw]) -> _Table:
    names, found, values = (text + " ").partition(" in ")
    columns = names.split()
    if not found or not all(map(NAME.fullmatch, columns)) or not columns:
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


def _put_in(raw: Raw, values: Mapping[str, str], file: str) -> Raw:
    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise ScenarioError(f"{file}:{raw.number}: no 'for' has {match[0]}")
        return values[match[1]]

    text = re.sub(r"\$([a-z][a-z0-9_]*)", value, raw.text)
    below = [_put_in(line, values, file) for line in raw.below]
    return Raw(raw.number, raw.indent, text, below)


def _case(file: str, header: list[Raw], body: list[Raw], values: Mapping[str, str]) -> Case:
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
    lines = Body(file, "a").lines([_put_in(line, values, file) for line in body])
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
                chosen[known(words.pop(0), ("mss", "ws", "ts", "sackok"))] = None
            elif name != "sackok":
                key = known(name, ("mss", "ws", "ts", "win", "isn"))
                chosen[key] = Number.parse(words.pop(0), frozenset()).value({})
        except (ValueError, IndexError) as error:
            raise ScenarioError(f"{where}: {error}: {text!r}") from None
    if "sackok" in chosen:
        chosen["sackok"] = False
    return peer, Offer(**chosen)  # type: ignore[arg-type]
