# SPDX-License-Identifier: Apache-2.0
"""Puts the parts together: region, runtime, sockets.

Names are imported on first use, so that the isolated stack process loads only what it runs.
The files, from the interface to the command line:

* the loop, C: ``loop`` turns, ``watch`` sleeps, ``rings`` moves descriptors, ``heads`` finds a
  packet's headers, ``mailbox`` takes calls of other threads, ``loops`` stops all loops at once,
  ``members`` lets areas, queues and applications join and leave, ``mosaic`` lays a UMEM out,
  ``netdev`` knows addresses, ``privileges`` drops some; ``_loop`` is all of it in one form of the
  check of netmem
* the application's half of the channel, C: ``app`` and its verbs, which ``app.h`` lists, ``frags``
* one taken interface: ``datapath`` (its kernel objects) as ``datapath_config`` wants it
  (``tcp_timeouts``: how patient it is), ``loop_records`` (what its loop tells), ``header_path``
  (how headers come), ``head_ranges`` (where to, in zero-copy mode), ``zerocopy`` (what that asks
  of a driver), ``area`` (memory, and the sockets of queues on it), ``channel`` (what an application
  shares), ``ports`` and ``reservation`` (who listens where), ``linkwatch`` (addresses and MTU),
  ``carrier`` (waits for the link), ``netdev``, ``way_out`` (where default routes lead),
  ``rtnetlink`` (how these three hear of links), ``napi`` (where a veth polls); ``stackd`` and
  ``control`` carry a datapath into a process of its own
* device memory: ``memory/`` has where it comes from, ``region`` is a piece of it
* the API: ``runtime`` with ``preflight`` (what the machine lacks, each a ``refusal``; ``holders``:
  who has the interface), ``snapshot`` (what can be looked at) and ``readability`` (who can read
  payload), ``socket``, ``errors``, ``closing``, ``thread``
* the API as of sockets, which is `devmemtcp.socket`: ``devmem_socket``, ``devmem_options``,
  ``devmem_frags``, ``devmem_messages``, ``devmem_stream``, ``devmem_abi``; ``provider`` is what
  they need of a runtime
* the agent is ``daemon/``; ``session`` is the application's side of it
* the verbs: ``cli``, ``options``, ``verb`` (how each ends), ``document``, ``table``, ``terminal``
  (what can be printed of others' names); ``demo``, ``recv``, ``send``, ``netdev_cli``,
  ``agent_cli``, ``bench/``, ``doctor/`` (what can be done here, and what mends what cannot),
  ``nic/`` (sets a NIC up for our flows, and puts it back)
* what the verbs need: ``lab``, ``lent_nic`` with its ``link_local`` addresses and ``if_sysctl``,
  ``journal`` and ``journal_file``, ``namespaces``, ``process``, ``signals``, ``endpoint``,
  ``sizes``, ``pattern``, ``tcp_info``
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from devmemtcp.agent.errors import (
        ConfigError,
        NotInDeviceMemoryError,
        Unsupported,
        XdpError,
    )
    from devmemtcp.agent.readability import Unreadable
    from devmemtcp.agent.region import Region, RegionView
    from devmemtcp.agent.runtime import Runtime
    from devmemtcp.agent.session import Binding, Session
    from devmemtcp.agent.snapshot import FlowInfo, FragInfo, Stats
    from devmemtcp.agent.socket import Connection, Frag, FragBatch, HostFrag, Listener
    from devmemtcp.agent.tcp_timeouts import TcpTimeouts

__all__ = [
    "Binding",
    "ConfigError",
    "Connection",
    "FlowInfo",
    "Frag",
    "FragBatch",
    "FragInfo",
    "HostFrag",
    "Listener",
    "NotInDeviceMemoryError",
    "Region",
    "RegionView",
    "Runtime",
    "Session",
    "Stats",
    "TcpTimeouts",
    "Unreadable",
    "Unsupported",
    "XdpError",
]

_HOMES = {
    "errors": {"ConfigError", "NotInDeviceMemoryError", "Unsupported", "XdpError"},
    "readability": {"Unreadable"},
    "region": {"Region", "RegionView"},
    "runtime": {"Runtime"},
    "session": {"Binding", "Session"},
    "snapshot": {"FlowInfo", "FragInfo", "Stats"},
    "socket": {"Connection", "Frag", "FragBatch", "HostFrag", "Listener"},
    "tcp_timeouts": {"TcpTimeouts"},
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
