# SPDX-License-Identifier: Apache-2.0
"""Lines of text, and which of them belong to which: by indentation."""

from __future__ import annotations

import re
from dataclasses import dataclass


class ScenarioError(Exception):
    """A scenario file that cannot be understood; the text begins with file:line."""


@dataclass(slots=True)
class Raw:
    """A line of text with the deeper-indented ones below it."""

    number: int
    indent: int
    text: str
    below: list[Raw]


def tree(file: str, text: str) -> list[Raw]:
    top = Raw(0, -1, "", [])
    path = [top]
    for number, whole in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*", "", whole).rstrip()
        if not line:
            continue
        if "\t" in line:
            raise ScenarioError(f"{file}:{number}: indent with spaces, not tabs")
        indent = len(line) - len(line.lstrip())
        while path[-1].indent >= indent:
            path.pop()
        siblings = path[-1].below
        if siblings and siblings[0].indent != indent:
            raise ScenarioError(f"{file}:{number}: indented by {indent}, its neighbours are not")
        raw = Raw(number, indent, line.strip(), [])
        siblings.append(raw)
        path.append(raw)
    return top.below
