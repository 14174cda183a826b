# SPDX-License-Identifier: Apache-2.0
"""An sdist, the wheel that it makes, and that wheel at work far from the checkout: `./dev wheel`.

    checkout ──► sdist ──► unpacked elsewhere ──► wheel ──► a fresh virtual environment ──► demo

A line a step; exit code 1 when something is not as docs/packaging.md says. Both files stay in
`--out`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from ..arguments import Arguments
from . import archives, contents, elsewhere, verdicts
from .archives import ROOT
from .broken import Broken

TOOLS = ROOT / "build/wheel-tools"
"""Made by ./dev."""


class Report:
    """A line a step, as it ends."""

    def __init__(self) -> None:
        self.failed = 0

    def make(self, what: str, make: Callable[[], Path], seen: str = "") -> Path:
        """What the steps to come look at: without it there is none. Raises Broken."""
        print(f"wheel: making {what}", file=sys.stderr, flush=True)  # it may take a minute
        started = time.monotonic()
        try:
            made = make()
        except Broken as error:
            self._say("FAILED", started, what, str(error))
            raise
        self._say("ok", started, what, seen or made.name)
        return made

    def look(self, what: str, look: Callable[[], str]) -> None:
        """Whether a promise holds; the next is looked at all the same."""
        started = time.monotonic()
        try:
            self._say("ok", started, what, look())
        except Broken as error:
            self._say("FAILED", started, what, str(error))

    def _say(self, verdict: str, started: float, what: str, seen: str) -> None:
        self.failed += verdict != "ok"
        print(f"{verdict:7}{time.monotonic() - started:6.1f} s  {what}: {seen}", flush=True)


def run(report: Report, out: Path, build: Path, pythons: Sequence[str]) -> None:
    """All steps. `build` is a folder that is not in the checkout. Raises Broken."""
    sdist = report.make("the sdist", lambda: archives.sdist(out))
    report.look("what it has", lambda: contents.check_sdist(sdist))
    wheel = report.make("the wheel from it", lambda: archives.wheel(sdist, build / "unpacked", out))
    places = (ROOT, build, Path(sys.prefix))
    for what, look in (
        ("what it has", lambda: contents.check_files(wheel)),
        ("traces of this machine", lambda: contents.check_traces(wheel, places)),
        ("libraries of the system", lambda: contents.check_libraries(wheel)),
        ("platform", lambda: verdicts.platform(TOOLS, wheel)),
        ("stable ABI", lambda: verdicts.stable_abi(TOOLS, wheel)),
        ("metadata", lambda: verdicts.metadata(TOOLS, contents.metadata(wheel))),
    ):
        report.look(what, look)
    for number, python in enumerate(pythons):
        folder = build / f"elsewhere{number}"
        install = partial(elsewhere.install, wheel, folder, python)
        report.make(f"a fresh environment by {python}", install, "the wheel is installed in it")
        for what, use in elsewhere.USES.items():
            report.look(what, partial(use, folder))


def main() -> int:
    """Exit code: 0, or 1 when something is not as it should be."""
    parser = Arguments("wheel", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="default: %(default)s")
    parser.add_argument(
        "--python",
        action="append",
        metavar="PYTHON",
        help="what the wheel is installed by and used with; repeatable; default: .venv's",
    )
    options = parser.given()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {options.out}: {error.strerror}")
    report = Report()
    with tempfile.TemporaryDirectory(prefix="devmemtcp-wheel-") as build, suppress(Broken):
        run(report, options.out.resolve(), Path(build), options.python or [sys.executable])
    print(f"{'not ' if report.failed else ''}fit to be handed out: {options.out}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
