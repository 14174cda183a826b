# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs have, with one name, one default and one help text each."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class ModeChoice(StrEnum):
    """How the XDP program is attached."""

    AUTO = "auto"
    NATIVE = "native"
    GENERIC = "generic"


class NicModeChoice(StrEnum):
    """The same on an interface of the caller's, which may be a NIC."""

    AUTO = "auto"
    NATIVE = "native"
    GENERIC = "generic"
    ZEROCOPY = "zerocopy"


class CsumChoice(StrEnum):
    """What is done about TCP checksums."""

    VERIFY = "verify"
    TRUST = "trust"


class MemoryChoice(StrEnum):
    """Which kind of device memory is received into."""

    MEMFD = "memfd"
    HUGETLB = "hugetlb"
    UDMABUF = "udmabuf"
    DMA_HEAP = "dma-heap"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Mode = Annotated[
    ModeChoice, typer.Option(help="How to attach the XDP program; auto: as suits the driver.")
]
NicMode = Annotated[
    NicModeChoice,
    typer.Option(
        help="How to attach the XDP program; auto: as suits the driver; zerocopy: natively, and "
        "the NIC writes to device memory itself."
    ),
]
RegionSize = Annotated[
    str, typer.Option(metavar="SIZE", help="Device memory: a multiple of the page, e.g. 64M.")
]
MemoryKind = Annotated[
    MemoryChoice, typer.Option("--memory", help="Kind of device memory; udmabuf: a real dma-buf.")
]
Pattern = Annotated[
    int, typer.Option(metavar="N", help="Period of the byte pattern: 1, 2, ... N-1, newline.")
]
DEFAULT_PERIOD = 251
"""A prime: no power of two divides it, so a page or a chunk in the wrong place shows."""
