# SPDX-License-Identifier: Apache-2.0
"""What a stack and an application share, and what neither can do to the other by it."""

from __future__ import annotations

import fcntl
import os
import select
from collections.abc import Iterator

import pytest

from devmemtcp.agent.channel import Channel, ChannelFds
from devmemtcp.agent.datapath_config import ChannelGeometry, ring_size

from .channel_config import CONFIG


@pytest.fixture
def channel() -> Iterator[Channel]:
    with Channel(CONFIG, 16) as made:
        yield made


def test_there_is_room_for_every_buffer_and_connection(channel: Channel) -> None:
    assert channel.geometry == ChannelGeometry(2048, 2048, 16)
    assert channel.geometry.nr_events >= CONFIG.max_buffers + 8 * CONFIG.max_flows
    assert os.fstat(channel.stack.memory).st_size == CONFIG.channel_size(channel.geometry)
    assert [ring_size(count) for count in (1, 2, 3, 4, 5)] == [1, 2, 4, 4, 8]


def test_the_memory_cannot_be_cut_short(channel: Channel) -> None:
    """It would kill whoever looks at it by SIGBUS."""
    for size in (0, 1 << 30):
        with pytest.raises(PermissionError):
            os.ftruncate(channel.app.memory, size)


@pytest.mark.parametrize(
    ("sender", "receiver", "name"),
    [("app", "stack", "wake"), ("stack", "app", "event"), ("stack", "app", "life")],
)
def test_a_side_cannot_make_the_other_block(
    channel: Channel, sender: str, receiver: str, name: str
) -> None:
    """O_NONBLOCK is each side's own, and so is reading or writing."""
    writer: int = getattr(getattr(channel, sender), name)
    reader: int = getattr(getattr(channel, receiver), name)
    for one, other in ((writer, reader), (reader, writer)):
        assert not os.get_blocking(other)
        os.set_blocking(one, True)
        assert not os.get_blocking(other)
        os.set_blocking(one, False)
    os.write(writer, bytes(8))
    assert os.read(reader, 64) == bytes(8)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(reader, b"x")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(writer, 1)


def test_the_end_of_one_side_is_seen_by_the_other(channel: Channel) -> None:
    alive = os.dup(channel.app.life)
    assert not select.select([alive], [], [], 0)[0]
    channel.close()
    assert select.select([alive], [], [], 0)[0]
    os.close(alive)


def test_closing_leaves_nothing_open_and_may_be_repeated() -> None:
    before = len(os.listdir("/proc/self/fd"))
    channel = Channel(CONFIG)
    ends: set[int] = {*channel.stack, *channel.app}
    assert len(ends) == 7
    assert all(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for fd in ends)
    assert isinstance(channel.app, ChannelFds)
    channel.close()
    channel.close()
    assert len(os.listdir("/proc/self/fd")) == before
