# SPDX-License-Identifier: Apache-2.0
"""docs/kernels.md is made of the doctor's probes, and what it said on real kernels fits them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .. import kernels
from ..doctor_table import differences


def test_the_tables_are_what_is_in_docs() -> None:
    text = kernels.PAGE.read_text()
    assert kernels.page(text, kernels.records()) == text, "run ./dev kernels"


def test_no_kernel_that_was_seen_says_otherwise() -> None:
    found = kernels.records()
    assert found != []
    assert list(kernels.contradictions(found)) == []


def test_what_was_said_of_each_nic_is_right() -> None:
    for record in kernels.records():
        assert differences(record.said, record.release) == []


@pytest.fixture
def said() -> dict[str, Any]:
    """What the doctor said on some kernel."""
    path = sorted(kernels.FOLDER.glob("*.json"))[0]
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def kept(said: dict[str, Any], folder: Path) -> list[Any]:
    (folder / "1.2-veth.json").write_text(json.dumps(said))
    found: list[Any] = kernels.records(folder)
    return found


def test_a_kernel_that_has_what_it_is_too_old_for_is_a_contradiction(
    said: dict[str, Any], tmp_path: Path
) -> None:
    said["kernel"] = "4.17.0"
    assert "Linux 4.17 has AF_XDP" in list(kernels.contradictions(kept(said, tmp_path)))


def test_what_was_not_built_is_none(said: dict[str, Any], tmp_path: Path) -> None:
    said["kernel"] = "99.0-rc1"
    for check in said["checks"]:
        if check["name"] == "configuration":
            check["found"] = "/boot/config: without CONFIG_UDMABUF"
        else:
            check["state"] = "ok" if check["name"] != "memory udmabuf" else "note"
    found = kept(said, tmp_path)
    assert list(kernels.contradictions(found)) == []
    assert "| not built |" in kernels.floors_table(found)


def test_a_record_that_lacks_a_line_is_refused(said: dict[str, Any], tmp_path: Path) -> None:
    said["checks"] = [check for check in said["checks"] if check["name"] != "AF_XDP"]
    with pytest.raises(kernels.Wrong, match="no line 'AF_XDP'"):
        kept(said, tmp_path)


def test_a_page_without_a_place_for_it_is_refused() -> None:
    with pytest.raises(kernels.Wrong, match="no <!-- floors"):
        kernels.page("# Kernels\n", [])
