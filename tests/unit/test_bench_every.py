# SPDX-License-Identifier: Apache-2.0
"""`bench all`, the tables that benchmarks end in, and what is said while they run."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import typer
from rich.console import Console

from devmemtcp.agent.bench import saved, tables
from devmemtcp.agent.bench.bar import Bar
from devmemtcp.agent.bench.page_pool import PagePoolOptions
from devmemtcp.agent.bench.progress import Lines, Progress, duration
from devmemtcp.agent.bench.result import Aim, Goal, Metric, Pair, Result, Run, Sample, judge
from devmemtcp.agent.bench.tcp_options import TcpRxOptions
from devmemtcp.agent.bench.verbs import every
from devmemtcp.agent.bench.verdict import Interval
from devmemtcp.agent.bench.xdp_drop import XdpDropOptions
from devmemtcp.agent.errors import ConfigError, Unsupported


def result(bench: str, *, wanted: float = 0.5, veth: bool = False) -> Result:
    samples = [
        Sample("mtu=1500", name, number, 0, {"mpps": rate * (1 + number / 1000)})
        for name, rate in (("drop", 5.0), ("steer", 4.0))
        for number in range(6)
    ]
    run = Run.begin(bench, seed=1, quick=True, options={}, pinning={"core": 0}, veth=veth)
    return judge(
        run,
        samples,
        metrics=[Metric("mpps", "Mpps", "higher")],
        variants=["drop", "steer"],
        pairs=[Pair("steer", "drop", "mpps")],
        goals=[
            Goal(f"rate of {bench}", wanted, "steer", "mpps", "drop"),
            Goal("the other one", 1, "xsk", "mpps", "drop"),
        ],
    )


def shown(of: Result) -> str:
    out = Console(file=io.StringIO(), width=200)
    tables.show(of, out)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


# ---- tables ----


def test_the_tables_say_everything() -> None:
    text = shown(result("xdp-drop", wanted=0.9, veth=True))
    for said in (
        "xdp-drop mtu=1500: median (95 %)",
        "differs: worse (2%)",
        "at least 0.9",
        "NOT MET",
        "not measured",
        "is not a NIC",
        "pinned: core 0",
        "quick, ",
        "check ",
    ):
        assert said in text, said


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (1.1, 1.05, 1.2, "yes"),
        (1.1, 0.9, 1.2, "yes, interval has both"),
        (0.9, 0.8, 0.95, "NOT MET"),
        (0.9, 0.8, 1.1, "NOT MET, interval has both"),
        (1.1, None, None, "yes"),
    ],
)
def test_an_aim_that_its_interval_leaves_open_says_so(
    value: float, low: float | None, high: float | None, said: str
) -> None:
    aim = Aim("goodput", "", value, 1.0, True, value >= 1, Interval(value, low, high))
    assert tables.met(aim) == said


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.4274, "2.427"),
        (35.0, "35"),
        (0.0123456, "0.01235"),
        (65.8, "65.80"),
        (181250.4, "181,250"),
    ],
)
def test_a_figure_has_four_digits(value: float, text: str) -> None:
    assert tables.figure(value) == text


# ---- all of them ----


def benches(monkeypatch: pytest.MonkeyPatch, **made: Result | Exception) -> None:
    def run_of(what: Result | Exception, progress: Progress) -> Result:
        progress.expect("it", 1, 1.0)
        progress.turn("round 1 of 1")
        if isinstance(what, Exception):
            raise what
        return what

    def fake(*, quick: bool, seed: int) -> Iterator[every.Bench]:
        assert (quick, seed) == (True, 7)
        for name, what in made.items():
            yield name, 100.0, partial(run_of, what)

    monkeypatch.setattr(every, "_benches", fake)


def test_verdicts_and_aims_come_together_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    benches(monkeypatch, one=result("one"), two=result("two", wanted=0.9))
    every.every(quick=True, seed=7, json_dir=tmp_path)
    out = capsys.readouterr().out
    medians = out.rindex("two mtu=1500: median")
    assert out.index("one mtu=1500: median") < medians < out.index("differs: worse")
    assert out.index("differs: worse") < out.index("rate of one") < out.index("rate of two")
    assert out.count("NOT MET") == 1
    assert saved.load(tmp_path / "one.json").bench == "one"
    assert {path.name for path in tmp_path.iterdir()} == {"one.json", "two.json"}


@pytest.mark.parametrize("error", [ConfigError("no"), Unsupported("no"), PermissionError(1, "no")])
def test_what_cannot_be_measured_does_not_keep_the_others_from_it(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    benches(monkeypatch, one=error, two=result("two"))
    with pytest.raises(typer.Exit) as left:
        every.every(quick=True, seed=7, json_dir=None)
    assert left.value.exit_code == 1
    assert "rate of two" in capsys.readouterr().out
    assert any("one was not measured" in line for line in caplog.messages)


def test_a_folder_that_is_not_there_is_said_before(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        every.every(quick=True, seed=7, json_dir=tmp_path / "none")


def test_the_quick_ones_take_less_than_five_minutes_together_and_a_tenth_of_the_full_ones() -> None:
    def seconds(*, quick: bool) -> float:
        return sum(each for _, each, _ in every._benches(quick=quick, seed=1))

    assert seconds(quick=True) < 270
    assert seconds(quick=False) > 2 * seconds(quick=True)


@pytest.mark.parametrize("options", [PagePoolOptions, XdpDropOptions, TcpRxOptions])
def test_usual_options_can_work(
    options: type[PagePoolOptions | XdpDropOptions | TcpRxOptions],
) -> None:
    for quick in (True, False):
        usual = options.usual(quick=quick, seed=1)
        usual.check()
        assert usual.turns() > 0
        assert math.isfinite(usual.seconds())


# ---- progress ----


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [1000.0]
    monkeypatch.setattr("devmemtcp.agent.bench.progress.time.monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lines = Lines()
    lines.expect("page-pool", 20, 40.0)
    clock[0] += 100.0  # of warm-up
    for number in range(10):
        clock[0] += 2.0
        lines.turn(f"round {number + 1} of 20")
    assert caplog.messages == [
        "page-pool takes about 40 s",
        "round 2 of 20; 36 s left",
        "round 5 of 20; 30 s left",
        "round 8 of 20; 24 s left",
    ]


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")  # a dumb one gets none
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Bar(console) as bar:
        bar.expect("xdp-drop", 2, 3.0)
        bar.turn("xdp-drop, round [1] of 2")
        bar.say("instructions are [not] counted")
        bar.turn("xdp-drop, round [2] of 2")
    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue()
    assert "xdp-drop takes about 3 s" in written
    assert "round [1] of 2" in written
    assert "devmemtcp: instructions are [not] counted\n" in written
    assert "1/2" in written


@pytest.mark.parametrize(
    ("seconds", "text"), [(22.4, "22 s"), (240.0, "4.0 min"), (3600, "60 min")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
