# SPDX-License-Identifier: Apache-2.0
"""`bench page-pool`: all forms of the check do the same, and what each of them is made of."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from devmemtcp.agent.bench import callgrind, saved, tables
from devmemtcp.agent.bench.page_pool import (
    BASELINES,
    CASES,
    FORMS,
    PAIRS,
    RUNS,
    Pool,
    variants,
)

from ..slowness import SLOWNESS

if TYPE_CHECKING:
    from .conftest import PagePoolRun

HOLDS_NET_IOVS = ("plain", "static-bound")


@pytest.fixture(params=[(form, "host") for form in FORMS] + [(f, "device") for f in HOLDS_NET_IOVS])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with Pool(*request.param) as made:
        yield made


def instructions(form: str, case: str = "fast", provider: str = "host") -> float:
    with Pool(form, provider) as made:
        try:
            return made.instructions(case)
        except PermissionError as error:
            pytest.skip(f"ptrace(2): {error}")


# ---- behaviour ----


@pytest.mark.parametrize("form", HOLDS_NET_IOVS)
def test_a_net_iov_taken_for_a_page_is_null_and_a_warning_once(form: str) -> None:
    with Pool(form, "device") as made:
        before = made.warnings()
        assert made.misuse()
        assert made.misuse()
        assert made.warnings() <= before + 1  # each site once; another test may have been there
        assert made.warnings() > 0


@pytest.mark.parametrize("form", FORMS)
def test_a_page_is_a_page(form: str) -> None:
    with Pool(form, "host") as made:
        assert not made.misuse()


def test_a_build_without_device_memory_cannot_have_any() -> None:
    with pytest.raises(OSError, match="no pool of device memory") as caught:
        Pool("off", "device")
    assert caught.value.errno == errno.EOPNOTSUPP


def test_the_key_is_up_as_long_as_a_pool_of_device_memory_lives() -> None:
    down = instructions("static")
    with Pool("static", "device"):
        assert instructions("static") > down
        with Pool("static", "device"):
            pass
        assert instructions("static") > down
    assert instructions("static") == down


@pytest.mark.parametrize("case", [*BASELINES, *CASES])
def test_every_case_takes_time_and_leaves_the_pool_as_it_was(pool: Pool, case: str) -> None:
    for _ in range(2):
        sample = pool.sample(case, 2000)
        assert sample.ns > 0
        assert sample.ticks is None or sample.ticks > 0


# ---- instructions ----


def test_the_static_branch_is_one_instruction_and_the_plain_one_a_few() -> None:
    off = instructions("off")
    assert instructions("static") - off in (0, 1)
    assert 1 <= instructions("plain") - off <= 4
    assert 1 <= instructions("static-bound") - off <= 4


@pytest.mark.skipif(not callgrind.available(), reason="valgrind is not installed")
def test_callgrind_counts_the_same() -> None:
    names = ["fast/host/off", "fast/host/static", "ring/host/static", "slow/device/plain"]
    counted = callgrind.counts(names)
    assert list(counted) == names
    for name, count in counted.items():
        case, provider, form = name.split("/")
        assert count == pytest.approx(instructions(form, case, provider), rel=0.01), name


def test_what_callgrind_writes_is_read_with_all_that_was_called() -> None:
    lines = """ob=(1) a.so
fn=(1) caller
cfn=(2) run_fast
calls=1 0
0 100
cob=(2) b.so
cfn=(3) run_ring
calls=1 0
0 7
cfn=(4) other
calls=1 0
0 1000

ob=(2)
fn=(1)
cfn=(2)
calls=1 0
0 5""".splitlines()
    assert callgrind.inclusive(lines, "run_") == {"a.so": 100, "b.so": 12}


def test_an_empty_loop_is_counted_right() -> None:
    assert instructions("off", "empty") in (2, 3)  # add, compare and jump; or count down
    for two_accesses in ("loads", "chase", "slot"):
        assert instructions("off", two_accesses) == instructions("off", "empty") + 2
    assert instructions("off", "lifo") > instructions("off", "slot")


def test_the_fast_path_is_named_instruction_by_instruction() -> None:
    pytest.importorskip("capstone")
    paths = {}
    for form in FORMS:
        count = instructions(form)
        with Pool(form, "host") as made:
            paths[form] = made.fast_path()
        assert len(paths[form]) == count
    nops = {form: sum(line.startswith("nop") for line in path) for form, path in paths.items()}
    # What the compiler put there to align a jump's target is in there too.
    assert nops["static"] == nops["off"] + 1
    assert nops["static-bound"] == nops["static"] - 1
    # Inline: a call and its return would take longer than all the rest.
    assert not any(line.startswith(("ret", "call", "bl")) for line in paths["static"])


def test_copies_of_a_module_are_elsewhere() -> None:
    places = set()
    for layout in range(3):
        with Pool("off", "host", layout) as made:
            try:
                _, pcs = made.trace("empty", 100)
            except PermissionError as error:
                pytest.skip(f"ptrace(2): {error}")
            places.add(max(pcs, key=pcs.count))
    assert len(places) == 3


# ---- the command ----


def run(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "devmemtcp.agent.cli", "bench", "page-pool", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=100 * SLOWNESS)


def test_the_report_has_all_that_was_measured(page_pool_run: PagePoolRun) -> None:
    document: dict[str, Any] = json.loads(page_pool_run.document)
    assert "page-pool takes about" in page_pool_run.said
    assert "valgrind is not installed" in page_pool_run.said
    names = [each.name for each in variants()]
    options = document["options"]
    assert (document["ok"], options["runs"], options["layouts"]) == (True, RUNS, 7)
    timed = [each for each in document["samples"] if "ns" in each["values"]]
    for number in range(6):
        turns = [turn["variant"] for turn in timed if turn["round"] == number]
        assert sorted(turns) == sorted(names)
    assert all(turn["noise"] is not None for turn in timed)
    times = [each for each in document["estimates"] if each["metric"] == "ns"]
    assert [each["variant"] for each in times] == names
    for each in times:
        assert 0 < each["interval"]["low"] <= each["interval"]["estimate"]
        assert each["interval"]["estimate"] <= each["interval"]["high"]
    pairs = [(pair["variant"], pair["against"]) for pair in document["comparisons"]]
    assert pairs == [(a.name, b.name) for a, b in PAIRS]
    assert [aim["wanted"] for aim in document["aims"]] == [0.02, 1, 1.5]
    assert set(document["details"]["fast_path"]) <= set(FORMS)


def test_there_is_a_table_for_people(
    page_pool_run: PagePoolRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text(page_pool_run.document)
    tables.show(saved.load(tmp_path / "a.json"), tables.console())
    said = capsys.readouterr().out
    assert all(each.name in said for each in variants())


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--rounds", "0"], "--rounds 0"),
        (["--loops", "1"], "--loops 1"),
        (["--cpu", "4711"], "core 4711"),
    ],
)
def test_a_wrong_option_gets_one_line(args: list[str], said: str) -> None:
    done = run(*args)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
