# SPDX-License-Identifier: Apache-2.0
"""Instructions of an alloc and put by valgrind's callgrind: a second count beside that of ptrace.

A child runs every variant once below valgrind, each in a copy of its module of its own, so that
the copies' names tell the variants apart in what callgrind writes (its format is described in
valgrind's manual, "Callgrind Format Specification"). Only what the cases themselves execute is
collected. That takes some ten seconds, most of them Python's.

    counts(["fast/host/off", "fast/host/static"])       # {"fast/host/off": 23.0, ...}
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from devmemtcp.agent.bench.page_pool import CASES, Pool, module, variants

_LOOPS = 1 << 15
_TIMED = _LOOPS + _LOOPS // 16
"""Loops in all: pool_bench_time() warms up with a sixteenth."""
_PATIENCE_SECONDS = 120.0
_NAME = re.compile(r"\((\d+)\)(?: (.*))?")
_OPTIONS = (
    "--tool=callgrind",
    "--smc-check=all",  # a static key patches code
    *(f"--toggle-collect=run_{case}*" for case in CASES),
)


def available() -> bool:
    """Whether valgrind is installed."""
    return shutil.which("valgrind") is not None


def counts(names: Sequence[str]) -> dict[str, float]:
    """Instructions for one loop, by name of variant (`page_pool.variants()`), in their order.

    Raises OSError: valgrind fails, or says nothing of a variant, whose module then has been
    stripped of the names of its functions.
    """
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "callgrind.out"
        valgrind = ["valgrind", *_OPTIONS, f"--callgrind-out-file={out}"]
        child = [sys.executable, "-P", "-m", "devmemtcp.agent.bench.callgrind", *names]
        try:
            done = subprocess.run(
                [*valgrind, *child], capture_output=True, text=True, timeout=_PATIENCE_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"valgrind took longer than {_PATIENCE_SECONDS:.0f} s") from error
        if done.returncode:
            raise OSError(f"valgrind: {done.stderr.strip().splitlines()[-1]}")
        files: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        executed = inclusive(out.read_text().splitlines(), "run_")
    silent = [name for name in names if not executed[files[name]]]
    if silent:
        raise OSError(f"callgrind has no count for {silent[0]}: is its module stripped?")
    return {name: round(executed[files[name]] / _TIMED, 2) for name in names}


def inclusive(lines: Iterable[str], prefix: str) -> dict[str, int]:
    """By object file, what calls of such functions cost, with all that those call in turn."""
    names: dict[tuple[str, str], str] = {}
    costs: dict[str, int] = defaultdict(int)
    here = called = function = ""
    rest = iter(lines)
    for line in rest:
        key, _, value = line.partition("=")
        if key in ("ob", "cob", "fn", "cfn"):
            kind = key.removeprefix("c")
            found = _NAME.fullmatch(value)
            assert found is not None
            number, text = found.groups()
            name = names.setdefault((kind, number), text or "")
            if key == "ob":
                here = name
            elif key == "cob":
                called = name
            elif key == "cfn":
                function = name
        elif key == "calls":
            cost = int(next(rest).split()[1])
            if function.startswith(prefix):
                costs[called or here] += cost
            called = ""
    return costs


def _main(names: Sequence[str]) -> None:
    """The child: run them, and print which file each one's module was loaded from."""
    chosen = {each.name: each for each in variants()}
    files = {}
    for layout, name in enumerate(names):
        variant = chosen[name]
        form, provider = variant.form or "plain", variant.provider or "host"
        with Pool(form, provider, layout) as pool:
            pool.sample(variant.case, _LOOPS, runs=1)
        files[name] = module(form.partition("-")[0], layout).__file__
    print(json.dumps(files))


if __name__ == "__main__":
    _main(sys.argv[1:])
