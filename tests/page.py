# SPDX-License-Identifier: Apache-2.0
"""Pages of docs/ that verbs of ./dev write."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def write(page: Path, text: str) -> None:
    """And say whether that has changed it."""
    if page.exists() and page.read_text() == text:
        print(f"{page.relative_to(ROOT)} is up to date")
        return
    page.write_text(text)
    print(f"wrote {page.relative_to(ROOT)}")
