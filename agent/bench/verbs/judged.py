# SPDX-License-Identifier: Apache-2.0
"""The end of a benchmark that is a test: its verdict is the exit code."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, TypeVar

from devmemtcp.agent.verb import finish

if TYPE_CHECKING:
    from devmemtcp.agent.bench.agent_rx import AgentRxReport
    from devmemtcp.agent.bench.flood import FloodReport
    from devmemtcp.agent.bench.idle import IdleReport
    from devmemtcp.agent.bench.progress import Progress
    from devmemtcp.agent.bench.soak import SoakReport

    Judged = TypeVar("Judged", SoakReport, AgentRxReport, FloodReport, IdleReport)


def judged(
    run: Callable[[Progress], Judged], as_json: bool, show: Callable[[Judged], None]
) -> NoReturn:
    """Run it, say what failed, print the report, and leave with its verdict."""
    from devmemtcp.agent.bench.progress import shown

    with shown() as progress:
        report = run(progress)
    for failure in report.failures:
        logging.error("%s", failure)
    finish(report, as_json, show, exit_code=0 if report.ok else 1)
