# SPDX-License-Identifier: Apache-2.0
"""docs/tcp.md has every scenario that there is, and every requirement its scenarios or a reason."""

from __future__ import annotations

from .. import conformance


def test_each_row_has_scenarios_or_a_reason() -> None:
    rows = conformance.requirements()
    assert [row.row for row in rows] == list(range(1, 98))
    of_scenarios = {row for each in conformance.scenarios() for row in each.rows}
    assert of_scenarios <= {row.row for row in rows}
    assert {row.row for row in rows if not row.reason} == of_scenarios
    assert set(conformance.unit_tests()) <= {row.row for row in rows}


def test_the_page_is_of_these_scenarios_and_all_of_them_passed() -> None:
    text = conformance.PAGE.read_text()
    assert conformance.page(text, lambda _: "passed") == text, "./dev conformance"


def test_a_failure_and_a_missing_scenario_show_on_the_page() -> None:
    text = conformance.PAGE.read_text()
    first = conformance.names_of(conformance.scenarios()[0], "core")[0]
    failed = conformance.page(text, lambda name: "failed" if name == first else "passed")
    assert failed != text
    assert "**" in failed.partition("<!-- requirements")[2]
