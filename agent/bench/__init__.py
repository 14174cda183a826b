# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: each is a command of this app (`devmemtcp bench NAME`); ``verbs/`` has them."""

from __future__ import annotations

import typer

from devmemtcp.agent.bench.verbs import agent, every, page_pool, results, soak, tcp_rx, xdp_drop

app = typer.Typer(
    help="Measure, interleaved with what a user would have instead.", invoke_without_command=True
)


@app.callback()
def _which(context: typer.Context) -> None:
    """Measure, interleaved with what a user would have instead."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit()


app.command("page-pool")(page_pool.page_pool)
app.command("xdp-drop")(xdp_drop.xdp_drop)
app.command("tcp-rx")(tcp_rx.tcp_rx)
app.command("all")(every.every)
app.command("soak")(soak.soak)
app.command("agent")(agent.agent_rx)
app.command("compare")(results.compare)
app.command("plot")(results.plot)
