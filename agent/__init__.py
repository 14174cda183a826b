# SPDX-License-Identifier: Apache-2.0
"""Puts the parts together: region, runtime, sockets.

Names are imported on first use, so that the isolated stack process loads only what it runs.
The files, from the interface to the command line:

* the loop, C: ``loop`` turns, ``rings`` moves descriptors, ``mailbox`` takes calls of other
  threads, ``mosaic`` lays the UMEM out, ``netdev`` knows addresses, ``privileges`` drops some
* the application's half of the channel, C: ``app``, ``app_wait``, ``app_requests``, ``frags``
* one taken interface: ``datapath`` (its kernel objects), ``reservation`` (its ports),
  ``linkwatch`` (its addresses and MTU), ``netdev``; ``stackd`` and ``control`` carry a datapath
  into a process of its own
* the API: ``region``, ``runtime`` with ``preflight`` (what the machine lacks) and ``snapshot``
  (what can be looked at), ``socket``, ``errors``, ``closing``
* the verbs: ``cli``, ``options``, ``document``; ``demo``, ``recv``, ``send``, ``netdev_cli``,
  ``bench/``
* what the verbs need: ``lab``, ``journal``, ``namespaces``, ``process``, ``signals``,
  ``endpoint``, ``sizes``, ``pattern``, ``tcp_info``
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devmemtcp.agent.errors import ConfigError, Unsupported, XdpError
    from devmemtcp.agent.region import Region, RegionView
    from devmemtcp.agent.runtime import Runtime
    from devmemtcp.agent.snapshot import FlowInfo, FragInfo, Stats, Unreadable
    from devmemtcp.agent.socket import Connection, Frag, FragBatch, Listener

__all__ = [
    "ConfigError",
    "Connection",
    "FlowInfo",
    "Frag",
    "FragBatch",
    "FragInfo",
    "Listener",
    "Region",
    "RegionView",
    "Runtime",
    "Stats",
    "Unreadable",
    "Unsupported",
    "XdpError",
]

_HOMES = {
    "errors": {"ConfigError", "Unsupported", "XdpError"},
    "region": {"Region", "RegionView"},
    "runtime": {"Runtime"},
    "snapshot": {"FlowInfo", "FragInfo", "Stats", "Unreadable"},
    "socket": {"Connection", "Frag", "FragBatch", "Listener"},
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
