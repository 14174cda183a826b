# SPDX-License-Identifier: Apache-2.0
"""Streams into each kind of device memory that this kernel has, and refusals of the others."""

from __future__ import annotations

import errno
import json
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from devmemtcp.agent import ConfigError, Connection, Region, RegionView, Runtime, Unsupported
from devmemtcp.agent.memory import Memory
from devmemtcp.agent.session import Session
from devmemtcp.netlink.errors import NetlinkError
from devmemtcp.netlink.netdev import Netdev

from .agent_process import open_folder, running_agent
from .traffic import PATIENCE, PORT, dial

MIB = 1 << 20
CLI = [sys.executable, "-m", "devmemtcp.agent.cli"]


def made(memory: Memory, size: int = 4 * MIB) -> Region:
    """A region, or a skip with the reason why there cannot be one."""
    try:
        return Region(size, memory=memory)
    except (Unsupported, PermissionError) as error:
        pytest.skip(str(error))


@pytest.fixture
def udmabuf() -> Iterator[Region]:
    with made("udmabuf") as region:
        yield region


@pytest.fixture
def dma_heap() -> Iterator[Region]:
    with made("dma-heap") as region:
        yield region


def assert_arrives(conn: Connection, peer: socket.socket, view: RegionView) -> None:
    """A stream of five regions' length, read as an application of a real dma-buf would."""
    data = random.Random(1).randbytes(20 * MIB)

    def send() -> None:
        with peer:
            peer.sendall(data)

    sender = threading.Thread(target=send)
    sender.start()
    position = 0
    while batch := conn.recv_frags(timeout=PATIENCE):
        with view.cpu_access():
            for frag in batch:
                wanted = data[position : position + frag.size]
                assert view[frag.offset : frag.offset + frag.size] == wanted
                position += frag.size
        conn.dontneed(batch)
    sender.join(PATIENCE)
    assert position == len(data)


@pytest.mark.parametrize("isolate", [False, True], ids=["inside", "isolated"])
def test_a_stream_is_read_through_the_dma_buf(veth: Any, udmabuf: Region, isolate: bool) -> None:
    with (
        udmabuf.map() as view,
        Runtime(veth.right.ifname, udmabuf, netns=veth.right.netns, isolate=isolate) as rt,
        rt.listen((veth.right.ip4, PORT)) as listener,
        dial(veth.left, listener.address) as peer,
        listener.accept(PATIENCE) as conn,
    ):
        assert_arrives(conn, peer, view)
        assert rt.stats().stack["rx_payload_bytes"] == 20 * MIB
        assert bool(rt.unreadable) == isolate
        if not isolate:
            seen = rt.unreadable
            assert seen.mappings == 1  # the view, which is of the dma-buf and not of the memfd
            assert seen.descriptors >= 3  # the memfd, the dma-buf and the view's


def test_a_stream_by_the_agent_is_read_through_the_dma_buf(veth: Any, udmabuf: Region) -> None:
    with (
        open_folder() as folder,
        running_agent(folder, veth.right) as agent,
        Session(agent.path) as session,
        udmabuf.map() as view,
        session.bind_rx(veth.right.ifname, [0], udmabuf),
        session.listen((veth.right.ip4, PORT)) as listener,
        dial(veth.left, listener.address) as peer,
        listener.accept(PATIENCE) as conn,
    ):
        assert_arrives(conn, peer, view)
        assert session.stack(veth.right.ifname).unreadable


@pytest.mark.parametrize("memory", ["udmabuf", "dma-heap"])
def test_the_agent_takes_no_dma_buf(veth: Any, memory: Memory) -> None:
    """Nothing can be asked of one, not even whose pages it has; so it is not even looked at."""
    with (
        made(memory) as region,
        open_folder() as folder,
        running_agent(folder, veth.right) as agent,
        Netdev(agent.path) as netdev,
    ):
        with pytest.raises(NetlinkError) as caught:
            netdev.bind_rx(veth.right.ifindex, region.dmabuf_fd, [0])
        assert caught.value.errno == errno.EINVAL
        assert "must be a memfd: of a udmabuf, the one it is made of" in caught.value.extack
        files = [os.readlink(each) for each in os.scandir(f"/proc/{agent.process.pid}/fd")]
        assert not [name for name in files if "dmabuf" in name]
        if region.fd >= 0:
            assert netdev.bind_rx(veth.right.ifindex, region.fd, [0]) == 1


def test_a_dma_buf_in_the_stack_s_process_counts_as_reach(veth: Any, udmabuf: Region) -> None:
    """Of any pages: which they are cannot be found out."""
    with (
        Region(4 * MIB) as other,
        Runtime(veth.right.ifname, other, netns=veth.right.netns) as rt,
    ):
        before = rt.unreadable
        with udmabuf.map():
            assert rt.unreadable.mappings == before.mappings + 1
            assert rt.unreadable.descriptors > before.descriptors


def test_a_dma_heap_is_refused_before_anything_is_touched(veth: Any, dma_heap: Region) -> None:
    says = "dma-heap memory cannot be received into: AF_XDP cannot pin the pages of a dma-buf"
    end = veth.right
    with pytest.raises(ConfigError, match=says), Runtime(end.ifname, dma_heap, netns=end.netns):
        pass
    with Runtime(end.ifname, None, netns=end.netns) as rt, pytest.raises(ConfigError, match=says):
        rt.bind(dma_heap, [0])
    with (
        open_folder() as folder,
        running_agent(folder, end) as agent,
        Session(agent.path) as session,
        pytest.raises(ConfigError, match=says),
    ):
        session.bind_rx(end.ifname, [0], dma_heap)


@pytest.mark.parametrize("memory", ["memfd", "udmabuf", "dma-heap"])
@pytest.mark.usefixtures("_clean_slate")
def test_the_demo_says_what_it_used_or_why_it_cannot(memory: Memory) -> None:
    options = ("--json", "--size", "4M", "--region-size", "4M", "--memory", memory)
    process = subprocess.run([*CLI, "demo", *options], capture_output=True, text=True)
    document = json.loads(process.stdout)
    try:
        with Region(4 * MIB, memory=memory) as region:
            receivable = region.fd >= 0
            says = "dma-heap memory cannot be received into"
    except (PermissionError, Unsupported) as error:
        receivable, says = False, str(error)
    if receivable:
        assert process.returncode == 0, process.stderr
        assert (document["memory"], document["validated"], document["unreadable"]) == (
            memory,
            True,
            True,
        )
    else:
        assert process.returncode == 2
        assert says in document["error"]
