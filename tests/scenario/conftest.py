# SPDX-License-Identifier: Apache-2.0
"""Makes each scenario a test for each target and family: ``row66-rst_in_window[native-v6]``.

All scenarios that were selected for a target run there together, before the first of its
tests; each test then tells what became of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from . import core, language
from .language import Scenario, ScenarioError
from .run import Diverged

TARGETS = ("core",)
FAMILIES = (4, 6)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix != ".scn":
        return None
    return ScenarioFile.from_parent(parent, path=file_path)


class ScenarioFile(pytest.File):
    """One .scn file."""

    def collect(self) -> Iterator[pytest.Item]:
        try:
            scenarios = language.parse(self.path.read_text(), self.path)
        except ScenarioError as error:
            raise self.CollectError(str(error)) from None
        for scenario in scenarios:
            for target in TARGETS:
                for family in FAMILIES:
                    if scenario.why_not(target, family) is None:
                        yield ScenarioItem.from_parent(
                            self,
                            name=f"{scenario.id}[{target}-v{family}]",
                            scenario=scenario,
                            target=target,
                            family=family,
                        )


class ScenarioItem(pytest.Item):
    """A scenario against one target, over IPv4 or IPv6."""

    def __init__(self, *, scenario: Scenario, target: str, family: int, **rest: object) -> None:
        super().__init__(**rest)  # type: ignore[arg-type]
        self.scenario, self.target, self.family = scenario, target, family

    def runtest(self) -> None:
        for case in self.scenario.cases:
            core.run(case, self.family)

    def repr_failure(
        self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None
    ) -> str:
        if isinstance(excinfo.value, Diverged):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.scenario.file, self.scenario.line - 1, self.name
