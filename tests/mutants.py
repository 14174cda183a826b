# SPDX-License-Identifier: Apache-2.0
"""Do the tests notice when the code is wrong? `./dev mutants`.

    mutants.py                  every mutant
    mutants.py --sample 60      that many, chosen by --seed
    mutants.py --only trim      those with this in their name
    mutants.py --resume         go on where an earlier run was stopped
    mutants.py --survivors      only those that survived before

One operator, constant, condition or statement at a time is broken in the frag tracker, the
assembler, the steps of TCP's input and sequence arithmetic (tests/mutation/schema.py says how), and
the quick tests run until one fails: those in C, the fuzz targets on their corpora, and those in
Python that drive the C core, the scenarios among them. A mutant with which they do not end counts
as noticed, too. Those that nobody notices are listed, and docs/mutants.md says why each may live.
Exit code 1 if fewer are noticed than was promised, or one is unexplained.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from random import Random

from tests.arguments import Arguments, positive
from tests.mutation import world
from tests.mutation.schema import ROOT, Mutant
from tests.mutation.world import RESULTS

PROMISED = 85.0
"""Percent that are noticed."""
AT_A_TIME = 2
CPU_SECONDS = 6
"""Of a native test, which take a tenth of that. More is a loop without an end."""
EXPLAINED = ROOT / "docs/mutants.md"


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    noticed_by: str | None
    """A test, or "timeout"; None: nobody."""


class Judge:
    """One server of Python tests and the native ones; for one thread."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.mutation.server"],
            cwd=ROOT,
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "DEVMEMTCP_NETMEM_CHECK": "plain", "MUTANT": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if not self._read().startswith("ready"):
            raise SystemExit("the tests in Python do not start")

    def _read(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if re.match(r"ready|noticed|survived|timeout", line):
                return line.strip()
        raise SystemExit("the tests in Python have ended")

    def close(self) -> None:
        """End the server, whatever it does."""
        self._process.kill()
        self._process.wait()

    def native(self, number: int, commands: Iterable[list[str]]) -> str | None:
        """The program that notices, or None."""
        for command in commands:
            done = subprocess.run(
                command,
                env=os.environ | {"MUTANT": str(number)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                preexec_fn=_limit,
                check=False,
            )
            if done.returncode:
                late = done.returncode in (-signal.SIGXCPU, -signal.SIGKILL)
                return "timeout" if late else Path(command[0]).name
        return None

    def python(self, number: int) -> str | None:
        """The test that notices, or None."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        answer = self._read()
        return None if answer == "survived" else answer.removeprefix("noticed ")

    def who_notices(self, number: int) -> str | None:
        """All of them; the quick ones first."""
        return (
            self.native(number, world.quick_commands())
            or self.python(number)
            or self.native(number, world.slow_commands())
        )


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def judge_all(mutants: Iterable[Mutant], *, check_first: bool) -> Iterator[Verdict]:
    """In any order, two at a time. `check_first`: that the tests pass without any."""
    judges = [Judge() for _ in range(AT_A_TIME)]
    free = SimpleQueue[Judge]()
    if check_first and (who := judges[0].who_notices(0)):
        raise SystemExit(f"{who} fails without any mutant")
    for each in judges:
        free.put(each)

    def judge(mutant: Mutant) -> Verdict:
        judge = free.get()
        try:
            return Verdict(mutant, judge.who_notices(mutant.number))
        finally:
            free.put(judge)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        waiting = [pool.submit(judge, mutant) for mutant in mutants]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            for each in judges:
                each.close()
            pool.shutdown(cancel_futures=True)


# ---- results ----


def _earlier(mutants: Iterable[Mutant]) -> list[Verdict]:
    """What a run before has found of these."""
    if not RESULTS.exists():
        return []
    by_name = {mutant.name: mutant for mutant in mutants}
    rows = dict(map(json.loads, RESULTS.read_text().splitlines()))  # the last one counts
    return [Verdict(by_name[name], who) for name, who in rows.items() if name in by_name]


def explanations() -> dict[str, str]:
    """By mutant, from docs/mutants.md: `* NAME: why`."""
    if not EXPLAINED.exists():
        return {}
    text = EXPLAINED.read_text()
    rows = re.findall(
        r"^\* (\S+: `.+?` -> `.+?`(?: #\d+)?):\s+(.+?)(?=^\*|^$|\Z)", text, re.M | re.S
    )
    return {" ".join(name.split()): " ".join(why.split()) for name, why in rows}


def show(verdicts: list[Verdict]) -> int:
    """Table, survivors and score; the exit code."""
    explained = explanations()
    total, noticed = Counter[str](), Counter[str]()
    for verdict in verdicts:
        for key in (verdict.mutant.file, verdict.mutant.kind, "all"):
            total[key] += 1
            noticed[key] += verdict.noticed_by is not None
    survivors = [verdict.mutant for verdict in verdicts if verdict.noticed_by is None]
    unexplained = [mutant for mutant in survivors if mutant.name not in explained]
    print(f"{'':<24}{'mutants':>8}{'noticed':>9}")
    for key in sorted(total, key=lambda key: (key == "all", "." not in key, key)):
        share = 100 * noticed[key] / total[key]
        print(f"{key:<24}{total[key]:>8}{noticed[key]:>9}{share:>8.1f} %")
    late = sum(verdict.noticed_by == "timeout" for verdict in verdicts)
    print(f"{late} noticed because the tests did not end; {len(survivors)} survived,")
    print(f"{len(survivors) - len(unexplained)} of them explained in {EXPLAINED.name}")
    for mutant in unexplained:
        print(f"unexplained: line {mutant.line}: {mutant.name}")
    enough = noticed["all"] >= PROMISED / 100 * total["all"]
    if not enough:
        print(f"fewer than the {PROMISED:.0f} % that were promised")
    return 0 if enough and not unexplained else 1


def main() -> int:
    parser = Arguments("mutants", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sample", type=positive, metavar="N", help="only so many")
    parser.add_argument("--seed", type=int, default=1, help="which ones (default: %(default)s)")
    parser.add_argument("--only", default="", help="only those with this in their name")
    parser.add_argument("--resume", action="store_true", help="keep what was found before")
    parser.add_argument("--survivors", action="store_true", help="of those, survivors once more")
    parser.add_argument("--report", action="store_true", help="only show what was found before")
    args = parser.given()
    mutants = [mutant for mutant in world.build().mutants if args.only in mutant.name]
    # In an order that says nothing, so that a run that is stopped has seen a fair share.
    mutants = Random(args.seed).sample(mutants, min(args.sample or len(mutants), len(mutants)))
    keeps = args.resume or args.survivors or args.report
    verdicts = _earlier(mutants) if keeps else []
    if args.survivors:
        mutants = [verdict.mutant for verdict in verdicts if verdict.noticed_by is None]
        verdicts = [verdict for verdict in verdicts if verdict.noticed_by is not None]
    done = {verdict.mutant.name for verdict in verdicts}
    left = [] if args.report else [mutant for mutant in mutants if mutant.name not in done]
    begin = time.monotonic()
    if left:
        with RESULTS.open("a" if keeps else "w") as results:
            for verdict in judge_all(left, check_first=not args.resume):
                verdicts.append(verdict)
                print(json.dumps([verdict.mutant.name, verdict.noticed_by]), file=results)
                results.flush()
                if verdict.noticed_by is None:
                    print(f"survived: {verdict.mutant.name}", flush=True)
        seconds = time.monotonic() - begin
        print(f"{len(left)} mutants in {seconds:.0f} s, {seconds / len(left):.1f} s each")
    return show(verdicts)


if __name__ == "__main__":
    sys.exit(main())
