# SPDX-License-Identifier: Apache-2.0
"""Makes each scenario a test for each target and family: ``row66-rst_in_window[native-v6]``.

What was selected of a target behind a veth runs there all at a time, before the first of its tests;
each test then tells what became of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..capability import RELEASE
from ..net.veth import remove_leavings
from ..slowness import SLOWNESS
from . import language
from .blocks import ScenarioError
from .run import Diverged
from .scenario import Scenario
from .targets import FAMILIES, TARGETS, Results, run_on_core

_RESULTS = pytest.StashKey[dict[str, Results | Exception]]()
_SETUP_SECONDS = 280


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
        for target in TARGETS:
            for scenario in scenarios:
                for family in FAMILIES:
                    if scenario.why_not(target, family) is None:
                        yield self._item(scenario, target, family)

    def _item(self, scenario: Scenario, target: str, family: int) -> ScenarioItem:
        name = f"{scenario.id}[{target}-v{family}]"
        # A scope for each target: tests that are spread over processes by file keep together.
        folder = self.nodeid.rpartition("/")[0]
        item: ScenarioItem = ScenarioItem.from_parent(
            self, name=name, nodeid=f"{folder}/{target}::{name}",
            scenario=scenario, target=target, family=family,
        )  # fmt: skip
        item.add_marker(pytest.mark.timeout(_SETUP_SECONDS * SLOWNESS))
        return item


class ScenarioItem(pytest.Item):
    """A scenario against one target, over IPv4 or IPv6."""

    def __init__(self, *, scenario: Scenario, target: str, family: int, **rest: object) -> None:
        super().__init__(**rest)  # type: ignore[arg-type]
        self.scenario, self.target, self.family = scenario, target, family

    def runtest(self) -> None:
        if self.target == "core":
            run_on_core(self.scenario, self.family)
            return
        if os.geteuid() != 0:
            pytest.skip("needs root: network namespaces, BPF and packet sockets")
        if self.target == "kernel" and (why := self.scenario.newer_than(RELEASE)):
            pytest.skip(why)
        _results(self.session, self.target).judge(self.scenario, self.family)

    def repr_failure(
        self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None
    ) -> str:
        if isinstance(excinfo.value, Diverged):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.scenario.file, self.scenario.line - 1, self.name


def _results(session: pytest.Session, target: str) -> Results:
    """Of all selected tests of this target; what kept them from being run is raised each time."""
    known = session.stash.setdefault(_RESULTS, {})
    if target not in known:
        remove_leavings()
        mine = [
            (item.scenario, item.family)
            for item in session.items
            if isinstance(item, ScenarioItem) and item.target == target
        ]
        try:
            known[target] = Results(target, mine)
        except Exception as error:
            known[target] = error
            raise
    found = known[target]
    if isinstance(found, Exception):
        raise found
    return found
