# SPDX-License-Identifier: Apache-2.0
"""Plots: every sample is in them, the same result is the same file, and what is missing is said."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from devmemtcp.agent.bench import plot, saved
from devmemtcp.agent.bench.result import Metric, Pair, Result, Run, Sample, judge
from devmemtcp.agent.errors import ConfigError

from ..slowness import SLOWNESS

if TYPE_CHECKING:
    from .conftest import PagePoolRun

METRICS = (
    Metric("ns", "ns", "lower"),
    Metric("ticks", "TSC", "lower", "derived"),
    Metric("instructions", "", "lower", "counted"),
)
NAMES = ("empty", "fast/off", "fast/static", "slow/off")


def result(*, veth: bool = False) -> Result:
    samples = [
        Sample("a", name, number, 0, {"ns": 2.0 + number / 10, "ticks": 5.0 + number})
        for name in NAMES
        for number in range(10)
    ]
    samples.append(Sample("a", "fast/off", 0, 0, {"instructions": 34}))
    run = Run.begin("page-pool", seed=1, quick=False, options={}, pinning={}, veth=veth)
    pairs = [Pair("fast/static", "fast/off", "ns")]
    return judge(run, samples, metrics=METRICS, variants=NAMES, pairs=pairs)


def test_each_family_of_variants_has_a_panel_and_the_ratios_have_one() -> None:
    drawn = list(plot.panels(result()))
    assert [(each.title, [row.label for row in each.rows]) for each in drawn] == [
        ("page-pool a", ["empty"]),
        ("page-pool a fast", ["fast/off", "fast/static"]),
        ("page-pool a slow", ["slow/off"]),
        ("page-pool a, ratios within rounds", ["fast/static : off"]),
    ]
    assert drawn[0].rows[0].values == [2.0 + number / 10 for number in range(10)]
    assert drawn[3].rows[0].values == [1.0] * 10
    assert drawn[3].margins == [0.02]


def test_what_others_vary_is_drawn_beside_them() -> None:
    names = ("kernel", "kernel/discard")
    samples = [Sample("", name, at, 0, {"ns": 1.0}) for name in names for at in range(2)]
    run = Run.begin("tcp-rx", seed=1, quick=False, options={}, pinning={})
    drawn = list(plot.panels(judge(run, samples, metrics=METRICS, variants=names)))
    assert [[row.label for row in each.rows] for each in drawn] == [["kernel"], list(names)]


def test_metrics_can_be_chosen() -> None:
    (empty, *_) = plot.panels(result(), ["ticks"])
    assert (empty.label, empty.rows[0].values[0]) == ("ticks [TSC], lower is better", 5.0)
    with pytest.raises(ConfigError, match="metrics ns, ticks, instructions"):
        plot.figure(result(), ["mpps"])


@pytest.mark.parametrize(("most", "scale"), [(5.0, "linear"), (50.0, "log")])
def test_what_spans_decades_has_a_logarithmic_axis(most: float, scale: str) -> None:
    pytest.importorskip("matplotlib")
    samples = [
        Sample("", name, at, 0, {"ns": value})
        for name, value in (("off", 1.0), ("on", most))
        for at in range(6)
    ]
    run = Run.begin("tcp-rx", seed=1, quick=False, options={}, pinning={})
    (axes,) = plot.figure(judge(run, samples, metrics=METRICS, variants=["off", "on"])).axes
    assert axes.get_xscale() == scale


def test_every_sample_is_a_dot_and_what_lies_far_out_is_a_triangle() -> None:
    pytest.importorskip("matplotlib")
    values = [1.0 + number / 1000 for number in range(99)] + [50.0]
    samples = [Sample("", "off", at, 0, {"ns": value}) for at, value in enumerate(values)]
    run = Run.begin("page-pool", seed=1, quick=False, options={}, pinning={})
    (axes,) = plot.figure(judge(run, samples, metrics=METRICS, variants=["off"])).axes
    lines: list[Any] = list(axes.lines)
    points = {str(line.get_marker()): len(line.get_xdata()) for line in lines}
    assert (points["o"], points["^"]) == (99, 1)
    assert axes.get_xlim()[1] < 2


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_same_result_is_the_same_file(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    drawn, paths = result(), [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        plot.draw(drawn, path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert first.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    assert not re.search(rb"<dc:date>", first)


def test_the_caption_names_the_machine_and_that_a_veth_is_no_nic() -> None:
    pytest.importorskip("matplotlib")
    for veth in (False, True):
        (caption,) = plot.figure(result(veth=veth)).texts
        assert os.uname().release in caption.get_text()
        assert ("is not a NIC" in caption.get_text()) == veth


def test_names_are_text_and_no_formula(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    odd = json.loads(saved.text(result()).replace("fast/", r"$\\frac{$ "))
    (tmp_path / "odd.json").write_text(json.dumps(odd))
    plot.draw(saved.load(tmp_path / "odd.json"), tmp_path / "odd.svg")
    assert (tmp_path / "odd.svg").stat().st_size > 1000


def test_without_samples_there_is_nothing_to_draw() -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError, match="no samples to be drawn"):
        plot.figure(replace(result(), samples=[]))


@pytest.mark.parametrize(
    ("name", "said"), [("x.pdf", r".png or .svg"), ("x", ".png or .svg"), ("no/x.svg", "no folder")]
)
def test_what_cannot_be_drawn_is_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plot.check(tmp_path / name)


def run(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "devmemtcp.agent.cli", "bench", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100 * SLOWNESS, env={**os.environ, **env}
    )


def test_without_matplotlib_nothing_is_measured_and_one_line_says_what_to_install(
    tmp_path: Path,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'matplotlib' else find(name, *more)\n"
    )
    done = run("page-pool", "--plot", tmp_path / "x.svg", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "pip install 'devmemtcp[plot]'" in line


def test_a_result_is_drawn_while_it_is_measured_and_again_from_its_file(
    page_pool_run: PagePoolRun, tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_text(page_pool_run.document)
    done = run("plot", tmp_path / "a.json", "-o", tmp_path / "again.svg")
    assert done.returncode == 0, done.stderr
    assert page_pool_run.plot.read_bytes() == (tmp_path / "again.svg").read_bytes()
