# SPDX-License-Identifier: Apache-2.0
"""The tables and plots of docs/benchmarks.md, from the raw results in docs/results/.

A table stands between two comments, of which the first says what is in it:

    <!-- results NAME PART [METRIC ...] -->
    <!-- end of results -->

NAME is a file of docs/results/ (`all`: each of them), PART one of

    conditions   machine, build, load, seed: a paragraph
    estimates    medians with their intervals, a table for each setting
    verdicts     ratios within rounds
    aims         what was hoped for, and what became of it

and with METRICs only these are shown.

    ./dev results           write the tables, and draw docs/results/NAME.svg
    ./dev results --check   write nothing; fail when that would change anything

Either fails when a document is larger than MAX_BYTES, or when what it says does not follow from
its samples.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from devmemtcp.agent.bench import plot, saved, tables
from devmemtcp.agent.bench.result import Pair, Result
from devmemtcp.agent.errors import ConfigError

from .arguments import Arguments
from .page import write

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/benchmarks.md"
FOLDER = ROOT / "docs/results"
MAX_BYTES = 500_000
ORDER = ("page-pool", "xdp-drop", "tcp-rx")
_BLOCK = re.compile(
    r"(?P<begin><!-- results (?P<words>[^>]*?) -->\n).*?(?P<end><!-- end of results -->)", re.DOTALL
)

WORDS = ("in", "variant", "against", "ratio of", "verdict", "aim", "wanted", "met")
"""Columns of words: the others are numbers, and right-aligned."""

Words = Sequence[str]


class Wrong(Exception):
    """What is wrong with a page or a result, in one line."""


def results(folder: Path) -> dict[str, Result]:
    """All of the folder, by name; each follows from its samples."""
    found = {}
    for path in sorted(folder.glob("*.json"), key=lambda each: _rank(each.stem)):
        try:
            found[path.stem] = saved.load(path)
        except ConfigError as error:
            raise Wrong(str(error)) from None
        _check(path, found[path.stem])
    return found


def _rank(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def _check(path: Path, result: Result) -> None:
    if path.stat().st_size > MAX_BYTES:
        raise Wrong(f"{path} is larger than {MAX_BYTES} bytes")
    if result.bench != path.stem:
        raise Wrong(f"{path} is of {result.bench}")
    found = result.found()
    pairs = [Pair(each.variant, each.against, each.metric, each.margin) for each in _once(result)]
    if found.estimates() != result.estimates or found.comparisons(pairs) != result.comparisons:
        raise Wrong(f"{path}: its estimates and comparisons do not follow from its samples")


def _once(result: Result) -> Iterable[Pair]:
    """Its pairs, without their settings, in their order."""
    return dict.fromkeys(
        Pair(each.variant, each.against, each.metric, each.margin) for each in result.comparisons
    )


def page(text: str, found: dict[str, Result]) -> str:
    """The page with its tables made anew. Raises Wrong for a block that cannot be made."""
    blocks = text.count("<!-- results ")
    if blocks != len(_BLOCK.findall(text)):
        raise Wrong("a block of results has no end")
    return _BLOCK.sub(lambda block: _block(block, found), text)


def _block(block: re.Match[str], found: dict[str, Result]) -> str:
    words = block["words"].split()
    if len(words) < 2 or words[1] not in PARTS:
        raise Wrong(f"<!-- results {block['words']} -->: NAME, then one of {', '.join(PARTS)}")
    name, part, *metrics = words
    if name != "all" and name not in found:
        raise Wrong(f"there is no docs/results/{name}.json; ./dev bench --json-dir docs/results")
    chosen = list(found.values()) if name == "all" else [found[name]]
    return block["begin"] + "\n".join(PARTS[part](chosen, metrics)) + "\n" + block["end"]


def _conditions(chosen: Sequence[Result], metrics: Words) -> Iterator[str]:
    for result in chosen:
        said = "; ".join(tables.conditions(result)).removesuffix(f"; {result.caveat}")
        raw = f"[every sample](results/{result.bench}.json), [drawn](results/{result.bench}.svg)"
        warning = f" **{result.caveat}**" if result.caveat else ""
        yield from ("", f"{said}; {raw}.{warning}", "")


def _estimates(chosen: Sequence[Result], metrics: Words) -> Iterator[str]:
    for result in chosen:
        for setting in result.settings():
            shown = [each for each in result.metrics if not metrics or each.name in metrics]
            mine = [each for each in result.estimates if each.setting == setting]
            shown = [each for each in shown if each.name in {one.metric for one in mine}]
            if not shown:
                continue
            if setting:
                yield from ("", f"`{setting}`:")
            headings = [tables.heading(each.name, each.unit) for each in shown]
            yield from _head(["variant", *headings])
            for variant in dict.fromkeys(each.variant for each in mine):
                cells = [result.estimate(setting, variant, each.name) for each in shown]
                if any(cells):
                    figures = [tables.figures(each.interval) if each else "" for each in cells]
                    yield _row([f"`{variant}`", *figures])
            yield ""


def _verdicts(chosen: Sequence[Result], metrics: Words) -> Iterator[str]:
    yield from _head(["in", "variant", "against", "ratio of", "ratio (95 %)", "verdict"])
    for result in chosen:
        for each in result.comparisons:
            if metrics and each.metric not in metrics:
                continue
            better = result.metric(each.metric).better
            verdict = tables.judged(each.verdict, each.ratio, each.margin, better)
            names = [f"`{each.variant}`", f"`{each.against}`", each.metric]
            where = each.setting or result.bench
            yield _row([where, *names, tables.figures(each.ratio), verdict])
    yield ""


def _aims(chosen: Sequence[Result], metrics: Words) -> Iterator[str]:
    yield from _head(["aim", "in", "value (95 %)", "wanted", "met"])
    for result in chosen:
        for aim in result.aims:
            where = " ".join(filter(None, [result.bench, aim.setting]))
            met = tables.met(aim).replace("NOT MET", "**not met**")
            yield _row([aim.text, where, tables.measured(aim), tables.wanted(aim), met])
    yield ""


PARTS: dict[str, Callable[[Sequence[Result], Words], Iterator[str]]] = {
    "conditions": _conditions,
    "estimates": _estimates,
    "verdicts": _verdicts,
    "aims": _aims,
}


def _head(columns: Sequence[str]) -> Iterator[str]:
    yield from ("", _row(columns))
    yield _row(["---" if each in WORDS else "---:" for each in columns])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(each.replace("|", "\\|") for each in cells) + " |"


def stale_plots(found: dict[str, Result], folder: Path) -> list[str]:
    """Names of the results whose plot is missing, or of another run."""
    stale = []
    for name, result in found.items():
        path = folder / f"{name}.svg"
        if not path.exists() or plot.title(result) not in path.read_text():
            stale.append(name)
    return stale


def main() -> None:
    """Write, or check."""
    parser = Arguments("results", description="The results in docs/benchmarks.md.")
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.given().check
    try:
        found = results(FOLDER)
        text = page(PAGE.read_text(), found)
        if check:
            if text != PAGE.read_text() or stale_plots(found, FOLDER):
                raise Wrong("docs/benchmarks.md or a plot is not of docs/results: ./dev results")
            return
        write(PAGE, text)
        for name, result in found.items():
            plot.draw(result, FOLDER / f"{name}.svg")
    except Wrong as wrong:
        sys.exit(f"results: {wrong}")


if __name__ == "__main__":
    main()
