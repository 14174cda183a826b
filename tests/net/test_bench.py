# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, report what they say they report, and leave nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from devmemtcp.agent.bench.plan import CpuPlan
from devmemtcp.agent.bench.soaker import Soaker, busy, rates
from devmemtcp.agent.bench.tcp_rx import (
    TURN_ATTEMPTS,
    Bench,
    TcpRxOptions,
    Turn,
    Variant,
    run_tcp_rx,
)

BENCH = [sys.executable, "-P", "-m", "devmemtcp.agent.cli", "bench"]
TOO_BUSY = "the machine is too busy"  # to be measured: somebody else never leaves a core
VARIANTS = {"devmem", "kernel", "kernel-plain", "kernel-plain-sum", "kernel-pass"}


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BENCH, *args], capture_output=True, text=True, timeout=100)


def report(*args: str) -> dict[str, Any]:
    done = run(*args, "--json")
    if done.returncode == 1 and TOO_BUSY in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert (document["ok"], document["exit_code"]) == (True, 0)
    return document


@pytest.fixture
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and BPF")


@pytest.mark.usefixtures("_root")
def test_every_variant_is_measured_in_every_round() -> None:
    document = report(
        *("tcp-rx", "--rounds", "1", "--duration", "0.1", "--seed", "7"),
        *("--cpu-plan", "none", "--kernel-cpu-plan", "none", "--kernel-cpu-plan", "sender=0"),
    )
    assert document["congestion"] == "cubic"
    assert [s["asked_mode"] for s in document["settings"]] == ["auto", "native"]
    for setting in document["settings"]:
        turns = [(t["variant"], t["plan"]) for t in setting["turns"]]
        plans = {v: ["none"] if v == "devmem" else ["none", "sender=0"] for v in VARIANTS}
        assert sorted(turns) == sorted((v, p) for v in VARIANTS for p in plans[v])
        assert min(t["goodput_gbps"] for t in setting["turns"]) > 0
        rows = {row["variant"]: row for row in setting["rows"]}
        assert set(rows) == VARIANTS
        assert all(row["goodput_ratio"] for name, row in rows.items() if name != "devmem")
        offloads = {t["variant"]: t["offloads"] for t in setting["turns"]}
        assert offloads["kernel"]["tso"]
        assert not offloads["kernel-plain"]["tso"]
        assert offloads["kernel-plain"]["tx-checksum"]
        assert not offloads["kernel-plain-sum"]["tx-checksum"]


@pytest.mark.usefixtures("_root")
@pytest.mark.parametrize("missed", [1, TURN_ATTEMPTS])
def test_a_turn_in_which_nothing_came_is_repeated(
    monkeypatch: pytest.MonkeyPatch, missed: int
) -> None:
    turns: list[Turn] = []

    def turn(bench: Bench, variant: Variant, plan: CpuPlan, number: int, mode: str) -> Turn:
        turns.append(measure(bench, variant, plan, number, mode))
        if len(turns) > missed:
            return turns[-1]
        return replace(turns[-1], goodput_soaked_gbps=0.0)

    measure = Bench._turn
    monkeypatch.setattr(Bench, "_turn", turn)
    options = TcpRxOptions(
        mtus=(1500,),
        modes=("generic",),
        duration=0.1,
        rounds=1,
        plans=(CpuPlan(),),
        kernel_plans=(CpuPlan(),),
        region_size=4 << 20,
        rx_csum="verify",
        window=1 << 20,
        spin_us=0,
        busy_poll=False,
        copy=False,
        variants=("kernel",),
        seed=1,
    )
    if missed == TURN_ATTEMPTS:
        with pytest.raises(OSError, match="too busy: 5 times nothing came to kernel"):
            run_tcp_rx(options, lambda line: None)
    else:
        try:
            (setting,) = run_tcp_rx(options, lambda line: None).settings
        except OSError as error:
            if TOO_BUSY not in str(error):
                raise
            pytest.skip(str(error))
        assert setting.turns == turns[missed:][:1]
        assert setting.turns[0].goodput_soaked_gbps > 0


@pytest.mark.usefixtures("_root")
def test_soak_finds_nothing_that_grows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # What lies in the current directory is no module of ours, nor of the processes we start.
    (tmp_path / "argparse.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    document = report("soak", "--minutes", "0.05", "--connections", "4", "--region-size", "4M")
    assert document["connections"] > 0
    assert document["bytes_received"] > 0
    assert document["at_end"]["tokens"] == 0
    assert document["at_end"]["buffers_away"] == 0


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["tcp-rx", "--rounds", "0"], "--rounds"),
        (["tcp-rx", "--duration", "0"], "--duration"),
        (["tcp-rx", "--variant", "magic"], "kernel-pass"),
        (["tcp-rx", "--cpu-plan", "sender=4711"], "4711"),
        (["tcp-rx", "--cpu-plan", "cook=0"], "cook=0"),
        (["tcp-rx", "--mtu", "70000"], "70000"),
        (["tcp-rx", "--duration", "nan"], "--duration nan"),
        (["soak", "--minutes", "0"], "--minutes"),
        (["soak", "--minutes", "nan"], "--minutes nan"),
        (["soak", "--mtu", "1"], "MTU 1"),
        (["soak", "--region-size", "5"], "5"),
    ],
)
@pytest.mark.usefixtures("_root")
def test_a_wrong_option_gets_one_line_and_changes_nothing(args: list[str], said: str) -> None:
    before = set(Path("/run/netns").glob("*")) if Path("/run/netns").exists() else set()
    done = run(*args)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert said in line
    mine = [path for path in Path("/run/netns").glob("devmemtcp-*") if path not in before]
    assert not [path for path in mine if str(os.getpid()) in path.name]


@contextmanager
def hog(cpu: int) -> Iterator[None]:
    """A process that keeps this core busy."""
    command = f"import os; os.sched_setaffinity(0, [{cpu}]); print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def test_the_soaker_misses_what_a_busy_core_takes() -> None:
    cpu = min(os.sched_getaffinity(0))
    with Soaker([cpu]) as soaker:
        with hog(cpu), soaker.running():
            before = soaker.read()
            time.sleep(0.2)
            left = rates(before, soaker.read())
        whole = whole_core(soaker)
        assert busy(left, [whole]) > 0.8
        assert soaker.calibrate()[0] < 1.5 * whole  # less, when somebody else is busy here


def whole_core(soaker: Soaker) -> float:
    """Units in a second of the thread's own CPU time, however long that takes to get."""
    with soaker.running():
        before, began = soaker.read()[0].work, time_of_others()
        while (took := time_of_others() - began) < 0.003:
            time.sleep(0.02)
        return (soaker.read()[0].work - before) / took


def time_of_others() -> float:
    """CPU time of this process's other threads."""
    return time.process_time() - time.thread_time()


def test_the_soaker_takes_nothing_while_it_rests() -> None:
    with Soaker([min(os.sched_getaffinity(0))]) as soaker:
        resting = soaker.read()
        time.sleep(0.05)
        assert [sample.work for sample in soaker.read()] == [sample.work for sample in resting]
