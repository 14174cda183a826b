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
from pathlib import Path
from typing import Any

import pytest

from devmemtcp.agent.bench import tcp_turn
from devmemtcp.agent.bench.cores import CoreClocks, process_seconds
from devmemtcp.agent.bench.plan import CpuPlan
from devmemtcp.agent.bench.tcp_turn import TURN_ATTEMPTS, Bench, Conditions, Turn
from devmemtcp.agent.bench.tcp_variants import Factors, Variant, catalogue
from devmemtcp.agent.bench.worker import Worker
from devmemtcp.agent.journal import RUN_DIRECTORY
from devmemtcp.stack.form import FORMS

from ..slowness import SLOWNESS

BENCH = [sys.executable, "-P", "-m", "devmemtcp.agent.cli", "bench"]
TOO_BUSY = "the machine is too busy"  # to be measured: somebody else never leaves a core
SHORT = Conditions(
    duration=0.1 * SLOWNESS, ask_seconds=0.1, region_size=4 << 20, rx_csum="verify", window=1 << 20
)
EVERYTHING = catalogue(
    Factors(("auto", "native"), "plain", FORMS, acks=(1, 8), spins=(50,), busy_poll=True, copy=True)
)


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BENCH, *args], capture_output=True, text=True, timeout=100 * SLOWNESS)


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
def test_a_quick_run_has_every_sample_and_judges_the_aims() -> None:
    document = report(
        *("tcp-rx", "--quick", "--rounds", "1", "--duration", "0.1", "--ask", "0.1"),
        *("--mtu", "1500", "--mtu", "9000", "--check", "off", "--seed", "7"),
        *("--cpu-plan", "none", "--kernel-cpu-plan", "none"),
    )
    base, other = "mtu=1500 connections=1", "mtu=9000 connections=1"
    families = {"devmem-generic", "devmem-native", "kernel", "kernel-plain"}
    families |= {"kernel-pass-generic", "kernel-pass-native"}
    seen: dict[str, dict[str, dict[str, Any]]] = {}
    for sample in document["samples"]:
        seen.setdefault(sample["setting"], {})[sample["variant"]] = sample
    bounds = {"bound-our-copies", "bound-one-core"}
    measured = families | {
        "copies/recv",
        "copies/discard",
        "copies/discard-xdp",
        "devmem-generic/host-off",
    }
    assert measured <= seen[base].keys() <= measured | bounds  # noise may leave no bound
    assert families == seen[other].keys() - bounds
    assert f"copies, {other}" not in seen
    assert seen[f"copies, {base}"].keys() == {"copy-to-user", "copy-for-xdp", "copy-to-umem"}

    kernel = seen[base]["kernel"]
    assert "tso" in kernel["details"]["offloads"]
    assert "tso" not in seen[base]["kernel-plain"]["details"]["offloads"]
    for name in measured:
        sample = seen[base][name]
        assert sample["values"]["goodput_gbps"] > 0
        assert sample["values"]["cpu_s_per_gb"] > 0
        assert sample["values"]["latency_us_p50"] > 0
        # An emulated CPU's time is accounted in lumps, which a window this short cannot level out.
        assert 0 < sample["values"]["sender_cpu"] < 1.2 * SLOWNESS
        assert 0 < sample["values"]["busiest_core"] <= 1
        assert sample["details"]["acks_per_gb"] > 0
        assert sum(count for _, count in sample["details"]["latency_us_histogram"]) > 0
    details = document["details"][base]
    assert details["congestion"] == "cubic"
    assert not details["left_out"]
    assert details["plans"]["devmem-generic"] == "none"
    assert details["plans"]["kernel"] == "none"
    aims = document["aims"]
    assert [aim["wanted"] for aim in aims] == [1.0, 1.3, 0.9, 1.2]
    assert all(aim["setting"] == base and aim["value"] is not None for aim in aims)


@pytest.fixture
def bench() -> Iterator[Bench]:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and BPF")
    with Bench(1500, SHORT) as bench:
        yield bench


@pytest.mark.usefixtures("_root")
def test_nothing_is_left_of_a_bench_that_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, **__: object) -> Any:
        raise TimeoutError("no answer")

    monkeypatch.setattr(Worker, "ask", silent)
    with pytest.raises(TimeoutError), Bench(1500, SHORT):
        pass
    assert not (RUN_DIRECTORY / f"{os.getpid()}.journal").exists()


@pytest.mark.parametrize("variant", EVERYTHING, ids=[each.name for each in EVERYTHING])
def test_each_variant_receives_as_it_says(bench: Bench, variant: Variant) -> None:
    turn = bench.turn(variant, CpuPlan(), 1)
    assert turn.details["mode"] == variant.mode
    assert turn.details["asked"] > 0
    native = variant.receiver == "devmem" and variant.mode == "native"
    assert turn.details["mss"] == (1406 if native else 1448)
    counted = turn.details["per_gb"]
    if variant.receiver == "kernel":
        assert counted["calls"] > 0
        assert turn.details["processes"].keys() == {"sender", "app"}
        return
    assert turn.details["processes"].keys() == {"sender", "app", "stack"}
    assert counted["rx_packets"] > 0
    if variant.busy_poll:
        assert "sleeps" not in counted
    assert ("bytes_device" in counted) != variant.host


@pytest.mark.parametrize("mtu", [9000, 65535])
@pytest.mark.parametrize("mode", ["generic", "native"])
@pytest.mark.usefixtures("_root")
def test_sixteen_connections_at_large_mtus(mtu: int, mode: str) -> None:
    with Bench(mtu, SHORT) as bench:
        for variant in EVERYTHING:
            if variant.base and variant.mode in (mode, None):
                turn = bench.turn(variant, CpuPlan(), 16)
                assert turn.values["goodput_gbps"] > 0
                assert turn.details["mss"] == mtu - 52


@pytest.mark.parametrize("missed", [1, TURN_ATTEMPTS])
def test_a_turn_in_which_nothing_came_is_repeated(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, missed: int
) -> None:
    turns: list[Turn] = []

    def evaluated(got: Any, about: dict[str, Any]) -> Turn:
        if len(turns) < missed:
            got.received["bytes"] = 0
        turns.append(evaluate(got, about))
        return turns[-1]

    evaluate = tcp_turn._evaluated
    monkeypatch.setattr(tcp_turn, "_evaluated", evaluated)
    variant = next(each for each in EVERYTHING if each.name == "kernel")
    if missed == TURN_ATTEMPTS:
        with pytest.raises(OSError, match="too busy: 5 times nothing came to kernel"):
            bench.turn(variant, CpuPlan(), 1)
    else:
        assert bench.turn(variant, CpuPlan(), 1) is turns[missed]


def test_a_copy_takes_time(bench: Bench) -> None:
    assert 0.001 < bench.copy(None, 4 << 20) < 10


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
        (["tcp-rx", "--ask", "-1"], "--ask -1"),
        (["tcp-rx", "--connections", "0"], "--connections 0"),
        (["tcp-rx", "--ack", "256"], "--ack 256"),
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
def hog(cpu: int, share: float) -> Iterator[int]:
    """A process that keeps this core busy for that share of each 20 ms; yields its pid."""
    command = (
        f"import os, time; os.sched_setaffinity(0, [{cpu}]); print(flush=True)\n"
        f"while True:\n"
        f"    end = time.monotonic() + 0.02\n"
        f"    while time.monotonic() < end - 0.02 * (1 - {share}): pass\n"
        f"    time.sleep(max(0, end - time.monotonic()))"
    )
    with subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.mark.parametrize("share", [0.25, 0.75])
def test_a_core_is_as_busy_as_what_runs_on_it(share: float) -> None:
    core = max(os.sched_getaffinity(0))
    for _ in range(5):  # whoever else runs here meanwhile makes it busier
        with hog(core, share) as pid:
            before, began = CoreClocks.now([core]), process_seconds(pid)
            time.sleep(0.6)
            seen = CoreClocks.now([core])
            spent = (process_seconds(pid) - began) / (seen.at - before.at)
        busy = seen.busy_since(before)[core]
        assert busy > spent - 0.05
        if busy < share + 0.1:
            return
    pytest.skip("somebody else is busy on this core")
