# SPDX-License-Identifier: Apache-2.0
"""Results in files: what is written is read again, and what is no result gets one line.

The command line is asked: nothing that a file holds may end in a traceback.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devmemtcp.agent.bench import saved
from devmemtcp.agent.bench.compare import compare
from devmemtcp.agent.bench.machine import Noise
from devmemtcp.agent.bench.plot import panels
from devmemtcp.agent.bench.result import (
    Goal,
    Metric,
    Pair,
    Result,
    Run,
    Sample,
    judge,
)
from devmemtcp.agent.errors import ConfigError

from ..slowness import SLOWNESS

METRICS = (
    Metric("ns", "ns", "lower"),
    Metric("ticks", "TSC", "lower", "derived"),
    Metric("instructions", "", "lower", "counted"),
)


def result(rounds: int = 8, factor: float = 1.0, bench: str = "page-pool", seed: int = 1) -> Result:
    """`static` takes 1.1 of `off`, at two sizes; all of it times `factor`."""
    chance = random.Random(seed)
    samples = [
        Sample(
            setting,
            name,
            number,
            place,
            {"ns": (ns := cost * factor * chance.uniform(0.995, 1.005)), "ticks": 2.6 * ns},
            Noise(10.0 * (number == 3), number, None if number == 4 else 0),
            {"frames": number} if number else {},
        )
        for setting in ("size=1", "size=2")
        for number in range(rounds)
        for place, (name, cost) in enumerate((("off", 2.0), ("static", 2.2)))
    ]
    samples += [
        Sample("size=1", name, 0, 0, {"instructions": count})
        for name, count in (("off", 34), ("static", 35))
    ]
    run = Run.begin(
        bench, seed=seed, quick=False, options={"rounds": rounds}, pinning={"core": 0}, veth=True
    )
    pairs, goals = [Pair("static", "off", "ns")], [Goal("fast", 1.2, "static", "ns", "off")]
    return judge(
        run, samples, metrics=METRICS, variants=["off", "static"], pairs=pairs, goals=goals
    )


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(saved.text(result()))
    return values


def written(path: Path, values: Any) -> Path:
    path.write_text(json.dumps(values))
    return path


# ---- there and back ----


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    first = result()
    saved.write(first, tmp_path / "a.json")
    assert saved.load(tmp_path / "a.json") == first
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_sample_is_one_line_without_what_goes_without_saying() -> None:
    lines = saved.text(result()).splitlines()
    (line,) = [
        line
        for line in lines
        if line.startswith('{"setting":"size=2","variant":"off"') and '"round":0' in line
    ]
    assert line.rstrip(",").endswith('"noise":{}}')
    assert "details" not in line
    (line,) = [
        line
        for line in lines
        if line.startswith('{"setting":"size=2","variant":"off"') and '"round":4' in line
    ]
    assert '"noise":{"switched_out":4,"migrations":null},"details":{"frames":4}' in line


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("the old one")
    broken = result()
    broken.details["loss"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        saved.write(broken, path)
    assert path.read_text() == "the old one"
    assert os.listdir(tmp_path) == ["a.json"]


# ---- hostile files ----


def without(*keys: Any) -> Callable[[Any], None]:
    """Remove what is at the end of the path."""

    def change(values: Any) -> None:
        for key in keys[:-1]:
            values = values[key]
        del values[keys[-1]]

    return change


def put(value: Any, *keys: Any) -> Callable[[Any], None]:
    """Set what is at the end of the path."""

    def change(values: Any) -> None:
        for key in keys[:-1]:
            values = values[key]
        values[keys[-1]] = value

    return change


DAMAGE: dict[str, tuple[Callable[[Any], None], str]] = {
    "no schema": (without("schema"), "schema devmemtcp-bench/1"),
    "another schema": (put("devmemtcp-bench/2", "schema"), "schema devmemtcp-bench/1"),
    "no samples": (without("samples"), "no samples"),
    "no machine": (without("machine"), "no machine"),
    "samples are no list": (put({}, "samples"), "Result.samples is no list"),
    "a sample is a number": (put(7, "samples", 3), "is no object"),
    "a value is text": (put("2", "samples", 3, "values", "ns"), "is not a number"),
    "a value is true": (put(True, "samples", 3, "values", "ns"), "is not a number"),
    "a value is huge": (put(10**400, "samples", 3, "values", "ns"), "is no measured size"),
    "a round is a fraction": (put(0.5, "samples", 3, "round"), "is not a whole number"),
    "two samples of a round": (put(0, "samples", 3, "round"), "two samples of round 0"),
    "an unknown variant": (put("x", "samples", 3, "variant"), "unknown variant"),
    "an unknown metric": (put({"x": 1}, "samples", 3, "values"), "unknown metric"),
    "escapes in a name": (put("\x1b[2J", "samples", 3, "variant"), "no short line of text"),
    "a name without end": (put("x" * 9999, "bench"), "no short line of text"),
    "an unknown verdict": (put("fine", "comparisons", 0, "verdict"), "is none of within"),
    "better is up": (put("up", "metrics", 0, "better"), "is none of higher, lower"),
    "better is a list": (put([], "metrics", 0, "better"), "is none of higher, lower"),
    "load of two": (put([1, 2], "load_average"), "has 2 values, not 3"),
    "quick is a number": (put(1, "quick"), "is no truth value"),
    "no metric of that name": (put("x", "estimates", 0, "metric"), "unknown metric, x"),
    "compares no metric": (put("x", "comparisons", 0, "metric"), "unknown metric, x"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_document_gets_one_line(good: dict[str, Any], tmp_path: Path, name: str) -> None:
    change, said = DAMAGE[name]
    values = json.loads(json.dumps(good))
    change(values)
    with pytest.raises(ConfigError, match=r"bad.json is no result of a benchmark: ") as caught:
        saved.load(written(tmp_path / "bad.json", values))
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


CONTENTS = {
    "empty": b"",
    "no JSON": b"Gb/s",
    "no UTF-8": b'{"schema": "\xff"}',
    "a list": b"[]",
    "null": b"null",
    "not a number": b'{"schema": NaN}',
    "deep": b"[" * 100_000,
    "many digits": b'{"schema": ' + b"9" * 10_000 + b"}",
    "a zero byte": b"\0" * 100,
    "another program's": b'{"ok": true, "exit_code": 0, "turns": []}',
}


@pytest.mark.parametrize("name", CONTENTS)
def test_what_is_no_document_gets_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(CONTENTS[name])
    with pytest.raises(ConfigError, match=r"bad.json is no result of a benchmark: "):
        saved.load(path)


def test_what_is_no_file_gets_one_line_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="not a regular file"):
        saved.load(tmp_path / "fifo")
    with pytest.raises(ConfigError, match=f"{tmp_path}: Is a directory|not a regular file"):
        saved.load(tmp_path)
    with pytest.raises(ConfigError, match="No such file"):
        saved.load(tmp_path / "none")


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(saved.MAX_BYTES + 1)
    with pytest.raises(ConfigError, match="more than 16 MiB"):
        saved.load(tmp_path / "large")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(data=st.data())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_damage_is_read_and_used_or_refused(
    good: dict[str, Any], tmp_path: Path, data: st.DataObject
) -> None:
    """One value anywhere is replaced: nothing but ConfigError may come of it."""
    values = json.loads(json.dumps(good))
    values["samples"] = values["samples"][:20]
    place: Any = values
    while True:
        key = data.draw(
            st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place)))
        )
        below = place[key]
        if not (isinstance(below, dict | list) and below) or data.draw(st.integers(0, 3)) == 0:
            break
        place = below
    place[key] = data.draw(JSON)
    with suppress(ConfigError):
        read = saved.load(written(tmp_path / "bad.json", values))
        list(panels(read))
        compare(read, read)


# ---- the commands ----


def run(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "devmemtcp.agent.cli", "bench", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60 * SLOWNESS)


def test_compare_and_plot_refuse_what_is_no_result(tmp_path: Path) -> None:
    saved.write(result(), tmp_path / "a.json")
    (tmp_path / "bad.json").write_text('{"schema": "devmemtcp-bench/1"}')
    for args in (
        ("compare", tmp_path / "a.json", tmp_path / "bad.json"),
        ("plot", tmp_path / "bad.json", "-o", tmp_path / "x.svg"),
    ):
        done = run(*args)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert "bad.json is no result of a benchmark: the document has no bench" in line


def test_markup_in_names_is_text(tmp_path: Path) -> None:
    """rich would take it for a colour, or fail at it."""
    text = saved.text(result()).replace('"off"', '"[/red]off"').replace("size=1", "[bold]")
    (tmp_path / "a.json").write_text(text)
    done = run("compare", tmp_path / "a.json", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    assert "[/red]off" in done.stdout
    assert "[bold]" in done.stdout
