# SPDX-License-Identifier: Apache-2.0
"""What a verb that writes a page of docs/ says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from .. import page


def test_it_is_said_whether_the_page_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "ROOT", tmp_path)
    for text, said in (
        ("new", "wrote kernels.md\n"),
        ("new", "kernels.md is up to date\n"),
        ("newer", "wrote kernels.md\n"),
    ):
        page.write(tmp_path / "kernels.md", text)
        assert capsys.readouterr().out == said
        assert (tmp_path / "kernels.md").read_text() == text
