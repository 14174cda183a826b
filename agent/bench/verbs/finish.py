# SPDX-License-Identifier: Apache-2.0
"""How every measuring command runs: progress, then the result as it was asked for.

The exit code is 0 when it was measured, whatever came out. An aim that is not met is said, on
the terminal and in the document; it depends on the machine, and a benchmark is no test. (`soak`
and `agent` are: `judged`.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devmemtcp.agent.bench.progress import Progress
    from devmemtcp.agent.bench.result import Result


def measure(run: Callable[[Progress], Result], *, as_json: bool, plot: Path | None) -> None:
    """Run it, with progress on stderr, and print the result on stdout.

    Raises ConfigError, before anything is measured, for a plot that could not be made.
    """
    from devmemtcp.agent.bench import plot as plots
    from devmemtcp.agent.bench import saved, tables
    from devmemtcp.agent.bench.progress import shown

    if plot:
        plots.check(plot)
    with shown() as progress:
        result = run(progress)
    if as_json:
        print(saved.text(result))
    else:
        tables.show(result, tables.console())
    if plot:
        plots.draw(result, plot)
