# SPDX-License-Identifier: Apache-2.0
"""What all verbs have in common: how one ends, and what one says that has verbs of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, TypeVar

import typer

from devmemtcp.agent.document import document

Report = TypeVar("Report")


def finish(
    report: Report, as_json: bool, show: Callable[[Report], None], *, exit_code: int = 0
) -> NoReturn:
    """Print a report (a dataclass), as a JSON document or by `show`, and leave with `exit_code`."""
    if as_json:
        print(document(report, exit_code))
    else:
        show(report)
    raise typer.Exit(exit_code)


def group(about: str) -> typer.Typer:
    """Return a verb that has verbs of its own; called without one it shows its help.

    Not by typer's `no_args_is_help`: with some versions of click that is an error, exit code 2.
    """
    app = typer.Typer(help=about, invoke_without_command=True)

    @app.callback()
    def show_help(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            print(context.get_help())
            raise typer.Exit()

    return app
