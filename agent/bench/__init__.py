# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: each is a command of this app (`devmemtcp bench NAME`).

The files, from what is measured to what is said about it:

* ``page_pool`` with ``pool_cost.c``; ``xdp_drop`` with ``live_frames``, ``xsk_receiver`` and
  ``xsk_recycle.c``
* ``tcp_rx`` with ``tcp_options``, ``tcp_variants``, ``tcp_turn``, ``copies``; its processes are
  ``worker`` and what begins with that, ``plan`` says on which cores; ``stream.c``
* ``soak`` with ``trend`` and ``soak_plot``, ``agent_rx`` with ``receiver``, ``flood`` with
  ``syn_flood.c``, ``idle``, which are tests
* who has a turn when: ``rounds``; what was seen beside it: ``machine``, ``conditions``, ``cores``,
  ``latency``, ``resident``
* the document: ``result`` makes it of samples, ``verdict`` has the statistics, ``saved`` writes
  and reads it; ``tables``, ``plot`` and ``compare`` show it, ``progress`` what happens meanwhile
* the commands: ``verbs/``
"""

from __future__ import annotations

from devmemtcp.agent.bench.verbs import (
    agent,
    every,
    flood,
    idle,
    page_pool,
    results,
    soak,
    tcp_rx,
    xdp_drop,
)
from devmemtcp.agent.verb import group

app = group("Measure, interleaved with what a user would have instead.")

for _name, _verb, _short in (
    ("page-pool", page_pool.page_pool, "What a buffer costs, and the check whether it is a page."),
    ("xdp-drop", xdp_drop.xdp_drop, "What it costs the traffic that is not ours."),
    ("tcp-rx", tcp_rx.tcp_rx, "What it costs to receive TCP: ours, and the kernel's recv()."),
    ("all", every.every, "These three, one after another."),
    ("soak", soak.soak, "Receive for minutes, and look whether anything grows."),
    ("flood", flood.flood, "What a flood of SYNs does to those who are honest."),
    ("idle", idle.idle, "What connections cost that do nothing."),
    ("agent", agent.agent_rx, "What the agent costs, and what killed applications leave."),
    ("compare", results.compare, "Hold two results of one benchmark side by side."),
    ("plot", results.plot, "Draw a result that was kept."),
):
    app.command(_name, short_help=_short)(_verb)
