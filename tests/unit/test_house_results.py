# SPDX-License-Identifier: Apache-2.0
"""docs/benchmarks.md says what docs/results/ holds, and that follows from its samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .. import results

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_and_the_plots_are_of_the_committed_results() -> None:
    found = results.results(results.FOLDER)
    assert set(found) == set(results.ORDER)
    assert results.page(results.PAGE.read_text(), found) == results.PAGE.read_text(), (
        "./dev results"
    )
    assert results.stale_plots(found, results.FOLDER) == [], "run ./dev results"


def test_every_result_is_on_the_page() -> None:
    text = results.PAGE.read_text()
    for name in results.ORDER:
        for part in ("conditions", "estimates", "verdicts"):
            assert f"<!-- results {name} {part}" in text
        assert f"](results/{name}.svg)" in text
    assert "<!-- results all aims -->" in text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "docs/results/xdp-drop.json", tmp_path)
    return tmp_path


def test_a_figure_that_does_not_follow_from_the_samples_is_found(folder: Path) -> None:
    path = folder / "xdp-drop.json"
    values = json.loads(path.read_text())
    values["estimates"][0]["interval"]["estimate"] *= 1.01
    path.write_text(json.dumps(values))
    with pytest.raises(results.Wrong, match="do not follow from its samples"):
        results.results(folder)


def test_a_large_document_and_one_of_another_name_are_found(folder: Path) -> None:
    path = folder / "xdp-drop.json"
    path.write_text(path.read_text() + " " * results.MAX_BYTES)
    with pytest.raises(results.Wrong, match="larger than 500000"):
        results.results(folder)
    shutil.copy(ROOT / "docs/results/xdp-drop.json", path)
    path.rename(folder / "tcp-rx.json")
    with pytest.raises(results.Wrong, match="is of xdp-drop"):
        results.results(folder)


def test_blocks_are_made_anew_and_what_is_between_them_stays() -> None:
    found = results.results(results.FOLDER)
    block = "<!-- results xdp-drop verdicts mpps -->\nold\n<!-- end of results -->"
    made = results.page(f"Before.\n\n{block}\n\nAfter.\n", found)
    assert "old" not in made
    assert made.startswith("Before.\n\n<!-- results xdp-drop verdicts mpps -->\n\n| in |")
    assert made.endswith("\n<!-- end of results -->\n\nAfter.\n")
    assert results.page(made, found) == made


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("<!-- results xdp-drop -->\n<!-- end of results -->", "NAME, then one of"),
        ("<!-- results xdp-drop guesses -->\n<!-- end of results -->", "NAME, then one of"),
        ("<!-- results fly aims -->\n<!-- end of results -->", "no docs/results/fly.json"),
        ("<!-- results xdp-drop aims -->\n", "has no end"),
    ],
)
def test_a_block_that_cannot_be_made_is_refused(block: str, said: str) -> None:
    with pytest.raises(results.Wrong, match=said):
        results.page(block, results.results(results.FOLDER))
