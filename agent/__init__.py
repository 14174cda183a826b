# SPDX-License-Identifier: Apache-2.0
"""Puts the parts together: region, runtime, sockets.

Names are imported on first use, so that the isolated stack process loads only what it runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devmemtcp.agent.errors import ConfigError, Unsupported, XdpError
    from devmemtcp.agent.region import Region, RegionView
    from devmemtcp.agent.runtime import FlowInfo, FragInfo, Runtime, Stats, Unreadable
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
    "runtime": {"FlowInfo", "FragInfo", "Runtime", "Stats", "Unreadable"},
    "socket": {"Connection", "Frag", "FragBatch", "Listener"},
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
