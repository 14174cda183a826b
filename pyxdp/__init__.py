# SPDX-License-Identifier: Apache-2.0
"""libxdp and libbpf for Python: programs, maps, AF_XDP sockets.

    with BpfObject.open("drop.bpf.o").load() as obj, attach(obj.programs["drop"], "eth1") as on:
        print(on.mode, on.reason)

One noun a module; every call into the libraries releases the GIL. Objects that hold kernel
state are context managers and close in reverse order. Interfaces, and sockets bound to them,
are those of the calling thread's network namespace.
"""

from .attach import (
    AttachedProgram,
    Attachment,
    Mode,
    Sharing,
    attach,
    attached_programs,
)
from .dispatcher import DispatcherSupport, dispatcher_supported
from .errors import Unsupported, XdpError
from .map import Map, XskMap
from .object import BpfObject
from .program import (
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
from .ring import (
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
from .socket import BindFlags, XskOptions, XskSocket, XskStatistics
from .umem import Umem

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
    "XdpContext",
    "XdpError",
    "XskMap",
    "XskOptions",
    "XskSocket",
    "XskStatistics",
    "attach",
    "attached_programs",
    "dispatcher_supported",
]
