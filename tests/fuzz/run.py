# SPDX-License-Identifier: Apache-2.0
"""Runs the fuzz targets, several at a time, and says what each has done.

    run.py --seconds 60                 all targets, in each build that is there
    run.py --seconds 60 stack wire      those
    run.py --short                      for 5 s each, and without MSan: what a test run has time for
    run.py --replay                     the inputs of the corpora alone
    run.py --keep                       what was found goes into the corpora, as few as do

A target is `fuzz_NAME.c`, built with AddressSanitizer and UBSan in build/fuzz and with
MemorySanitizer in build/msan, or `fuzz_NAME.py`, which needs atheris. Its corpus is
`corpus/NAME`: inputs that libFuzzer has found, named by their hash, and those that once broke
something, named by what that was. What is found meanwhile is kept in build/corpus, for the next
run; an input that breaks something is left in build/crashes. Exit code 1 if there is any.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..arguments import Arguments, end_if_only_asked, positive

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build"
CORPUS = HERE / "corpus"
FOUND = BUILD / "corpus"
CRASHES = BUILD / "crashes"

NAMES = sorted({path.stem[5:] for path in HERE.glob("fuzz_*.[cp]*")})
"""Of all targets, also those that cannot run here."""
LONGEST = {"app": 8192, "config": 2048, "control": 1024, "wire": 168}
"""Bytes of an input; of the others 4096."""
KEEP_BYTES = 48 << 10
"""Of a corpus at most: what is kept is sorted by size, and the largest stay behind."""
AT_A_TIME = 2
SECONDS_AN_INPUT = 20

ENVIRONMENT = {
    # Freed memory is refused for that long: enough for one input.
    "ASAN_OPTIONS": "quarantine_size_mb=16:detect_stack_use_after_return=1:abort_on_error=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
}
_HASH = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Target:
    """One program to run."""

    name: str
    checks: str
    """Its sanitizers, or the language's own checks."""
    command: tuple[str, ...]

    @property
    def kept(self) -> Path:
        """The corpus in the repository."""
        return CORPUS / self.name

    @property
    def found(self) -> Path:
        """The one that grows from run to run."""
        return FOUND / self.name


@dataclass(frozen=True)
class Outcome:
    """What libFuzzer said at the end."""

    target: Target
    code: int
    seconds: float
    log: str

    def _last(self, pattern: str) -> int:
        numbers = re.findall(pattern, self.log)
        return int(numbers[-1]) if numbers else 0

    @property
    def executions(self) -> int:
        """Inputs tried."""
        return self._last(r"Done (\d+) runs") or self._last(r"#(\d+)\s")

    @property
    def edges(self) -> int:
        """Branches of the program that any input has reached."""
        return self._last(r"\bcov: (\d+)")

    @property
    def inputs(self) -> int:
        """In the corpus at the end."""
        return self._last(r"\bcorp: (\d+)")


def targets() -> Iterator[Target]:
    """All that can run here, in each build there is."""
    for source in sorted(HERE.glob("fuzz_*.c")):
        for folder, checks in (("fuzz", "ASan, UBSan"), ("msan", "MSan")):
            program = BUILD / folder / "tests/fuzz" / source.stem
            if program.exists():
                yield Target(source.stem[5:], checks, (str(program),))
    if importlib.util.find_spec("atheris") is None:
        print("fuzz: no atheris for this Python: control and config are left out", file=sys.stderr)
        return
    for source in sorted(HERE.glob("fuzz_*.py")):
        yield Target(source.stem[5:], "Python", (sys.executable, str(source)))


def run(target: Target, *arguments: str | Path) -> Outcome:
    """Run to the end, the two corpora being read."""
    CRASHES.mkdir(parents=True, exist_ok=True)
    target.found.mkdir(parents=True, exist_ok=True)
    command = [
        *target.command,
        f"-max_len={LONGEST.get(target.name, 4096)}",
        f"-timeout={SECONDS_AN_INPUT}",
        f"-artifact_prefix={CRASHES}/{target.name}-",
        *map(str, arguments),
    ]
    begin = time.monotonic()
    done = subprocess.run(
        command,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return Outcome(target, done.returncode, time.monotonic() - begin, done.stdout)


def fuzz(target: Target, seconds: int) -> Outcome:
    """Look for new inputs that long."""
    return run(target, f"-max_total_time={seconds}", target.found, target.kept)


def replay(target: Target) -> Outcome:
    """Try what is known."""
    return run(target, "-runs=0", target.kept)


def keep(target: Target) -> Outcome:
    """The fewest inputs that reach each edge that any has reached replace the corpus."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        outcome = run(target, "-merge=1", "-use_counters=0", folder, target.kept, target.found)
        if outcome.code == 0:
            for old in target.kept.iterdir():
                if _HASH.fullmatch(old.name):
                    old.unlink()
            left = KEEP_BYTES
            for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_size):
                left -= path.stat().st_size
                if left >= 0:
                    shutil.copy(path, target.kept)
    return outcome


def show(outcome: Outcome) -> None:
    """One row of the table; all of the log if something broke."""
    target = outcome.target
    rate = outcome.executions / outcome.seconds
    print(
        f"{target.name:<10} {target.checks:<12} {outcome.executions:>11,} {rate:>9,.0f}"
        f" {outcome.edges:>6,} {outcome.inputs:>7,}  {'broke' if outcome.code else 'held'}",
        flush=True,
    )
    if outcome.code:
        print(outcome.log, flush=True)


def main() -> int:
    parser = Arguments("fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--seconds", type=positive, default=60, help="for each (default: %(default)s)"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--replay", action="store_true", help="only what is in the corpora")
    how.add_argument("--keep", action="store_true", help="put what was found into the corpora")
    how.add_argument("--short", action="store_true", help="5 s for each, and without MSan")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    args = parser.parse_args()
    if unknown := set(args.targets) - set(NAMES):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    end_if_only_asked()
    there = list(targets())
    if unknown := set(args.targets) - {target.name for target in there}:
        parser.error(f"no target {', '.join(sorted(unknown))} here")
    chosen = [target for target in there if target.name in (args.targets or [target.name])]
    if args.short or args.keep:
        chosen = [target for target in chosen if target.checks != "MSan"]

    def work(target: Target) -> Outcome:
        if args.replay:
            return replay(target)
        return keep(target) if args.keep else fuzz(target, 5 if args.short else args.seconds)

    print(f"{'target':<10} {'checks':<12} {'executions':>11} {'a second':>9}  edges  inputs")
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        outcomes = []
        for outcome in pool.map(work, chosen):
            show(outcome)
            outcomes.append(outcome)
    tried = sum(outcome.executions for outcome in outcomes)
    broken = sum(outcome.code != 0 for outcome in outcomes)
    print(f"{len(outcomes)} targets, {tried:,} executions, {broken} broke")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
