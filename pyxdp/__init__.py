# SPDX-License-Identifier: Apache-2.0
"""libxdp and libbpf for Python: programs, maps, AF_XDP sockets.

    with BpfObject.open("drop.bpf.o").load() as obj, attach(obj.programs["drop"], "eth1") as on:
        print(on.mode, on.reason)

One noun a module; every call into the libraries releases the GIL. Objects that hold kernel
state are context managers and close in reverse order. Interfaces, and sockets bound to them,
are those of the calling thread's network namespace.
"""

from devmemtcp.pyxdp.attach import (
    AttachedProgram,
    Attachment,
    Mode,
    Sharing,
    attach,
    attached_programs,
)
from devmemtcp.pyxdp.dispatcher import DispatcherSupport, dispatcher_supported
from devmemtcp.pyxdp.errors import Unsupported, XdpError
from devmemtcp.pyxdp.features import Features, features
from devmemtcp.pyxdp.map import Map, XskMap
from devmemtcp.pyxdp.netdev import XdpAct
from devmemtcp.pyxdp.object import BpfObject
from devmemtcp.pyxdp.program import (
    LIVE_FRAMES,
    XDP_ABORTED,
    XDP_DROP,
    XDP_PASS,
    XDP_REDIRECT,
    XDP_TX,
    Program,
    TestRun,
    XdpContext,
)
from devmemtcp.pyxdp.ring import (
    XDP_PKT_CONTD,
    CompRing,
    ConsumerRing,
    Desc,
    FillRing,
    ProducerRing,
    Ring,
    RxRing,
    TxRing,
)
from devmemtcp.pyxdp.socket import BindFlags, XskOptions, XskSocket, XskStatistics
from devmemtcp.pyxdp.umem import Umem

__all__ = [
    "LIVE_FRAMES",
    "XDP_ABORTED",
    "XDP_DROP",
    "XDP_PASS",
    "XDP_PKT_CONTD",
    "XDP_REDIRECT",
    "XDP_TX",
    "AttachedProgram",
    "Attachment",
    "BindFlags",
    "BpfObject",
    "CompRing",
    "ConsumerRing",
    "Desc",
    "DispatcherSupport",
    "Features",
    "FillRing",
    "Map",
    "Mode",
    "ProducerRing",
    "Program",
    "Ring",
    "RxRing",
    "Sharing",
    "TestRun",
    "TxRing",
    "Umem",
    "Unsupported",
    "XdpAct",
    "XdpContext",
    "XdpError",
    "XskMap",
    "XskOptions",
    "XskSocket",
    "XskStatistics",
    "attach",
    "attached_programs",
    "dispatcher_supported",
    "features",
]
