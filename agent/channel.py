# SPDX-License-Identifier: Apache-2.0
"""What a stack and one application share: memory, and how each wakes the other.

Wake-ups travel through pipes, not eventfds: O_NONBLOCK belongs to the open file description,
so an application that had the loop's own could make its reads and writes block. The ends of a
pipe are two descriptions.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from typing import NamedTuple

from devmemtcp.agent.closing import Closing
from devmemtcp.agent.datapath_config import DATA_BLOCKS, ChannelGeometry, DatapathConfig

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class ChannelFds(NamedTuple):
    """One side's descriptors, in the order in which they travel. None of them ever blocks."""

    memory: int
    """memfd of the rings."""
    wake: int
    """Application to stack: there are requests."""
    event: int
    """Stack to application: there are events."""
    life: int
    """Stack to application: readable, and hung up, when the stack has ended."""


class Channel(Closing):
    """Both sides of a new channel; whoever opens one side duplicates its descriptors."""

    geometry: ChannelGeometry
    stack: ChannelFds
    app: ChannelFds

    def __init__(self, config: DatapathConfig, nr_blocks: int = DATA_BLOCKS) -> None:
        """For an application of a datapath of this configuration. Raises OSError."""
        self.geometry = config.geometry(nr_blocks)
        with ExitStack() as undo:
            memory = os.memfd_create("devmemtcp-channel", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            undo.callback(os.close, memory)
            os.ftruncate(memory, config.channel_size(self.geometry))
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
            pipes = []
            for _ in range(3):
                reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                undo.callback(os.close, reader)
                undo.callback(os.close, writer)
                pipes.append((reader, writer))
            self._undo = undo.pop_all()
        (wake, wakes), (events, event), (alive, life) = pipes
        self.stack = ChannelFds(memory, wake, event, life)
        self.app = ChannelFds(memory, wakes, events, alive)

    def close(self) -> None:
        """Close all descriptors; idempotent."""
        self._undo.close()
