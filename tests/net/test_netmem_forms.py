# SPDX-License-Identifier: Apache-2.0
"""The forms of the check "page or net_iov?" where it matters: in an agent that has locked itself
down, in a runtime, and over a veth pair. A process uses one form, so each is one of its own."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devmemtcp.agent import ConfigError, Region
from devmemtcp.agent.session import Session, SessionStack
from devmemtcp.agent.socket import Connection, Frag, HostFrag
from devmemtcp.netlink.constants import QueueType
from devmemtcp.netlink.errors import NetlinkError
from devmemtcp.netlink.netdev import Netdev

from .agent_process import AgentProcess, open_folder, running_agent
from .traffic import MIB, PATIENCE, PORT, dial, until

VARIABLE = "DEVMEMTCP_NETMEM_CHECK"
# What MemoryDenyWriteExecute= of a unit does, before there is an interpreter.
MDWE = (
    sys.executable,
    "-c",
    "import ctypes, os, sys\n"
    "PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1\n"
    "if ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0): sys.exit(77)\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])",
)


@contextmanager
def agent_of(
    veth: Any, form: str, python: Sequence[str] = (sys.executable,)
) -> Iterator[AgentProcess]:
    with (
        open_folder() as folder,
        running_agent(folder, veth.right, environ={VARIABLE: form}, python=python) as agent,
    ):
        yield agent


def exchange(veth: Any, stack: SessionStack, view: Any = None) -> set[type]:
    """A stream there, whole; and in what its bytes came."""
    data = random.Random(4).randbytes(3 * MIB + 1)
    kinds = set()

    def send() -> None:
        with dial(veth.left, (veth.right.ip4, PORT)) as sock:
            sock.sendall(data)

    with stack.listen((veth.right.ip4, PORT)) as listener, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(send)
        with listener.accept(PATIENCE) as conn:
            got = bytearray()
            for piece in pieces(conn):
                kinds.add(type(piece))
                if isinstance(piece, HostFrag):
                    got += piece.data
                else:
                    got += view[piece.offset : piece.offset + piece.size]
        sent.result(PATIENCE)
    assert got == data
    return kinds


def pieces(conn: Connection) -> Iterator[Frag | HostFrag]:
    while batch := conn.recv_frags(timeout=PATIENCE):
        yield from batch.pieces()
        conn.dontneed(batch)


def key(stack: SessionStack) -> int:
    """Users of the static key in the agent."""
    return stack.stats().netmem["key"]


def writable_code(pid: int) -> list[str]:
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line for line in maps if " rwx" in line]


# ---- static: default false, up with the first binding, down with the last ----


def test_a_confined_agent_raises_its_key_for_as_long_as_there_are_bindings(veth: Any) -> None:
    with agent_of(veth, "static") as agent, Session(agent.path) as session:
        stack = session.stack(veth.right.ifname)
        assert stack.netmem_check == "static"
        assert key(stack) == 0
        assert exchange(veth, stack) == {HostFrag}
        for _ in range(3):
            with Region(4 * MIB) as region, region.map() as view:
                with session.bind_rx(veth.right.ifname, [0], region):
                    assert key(stack) > 0
                    assert writable_code(agent.process.pid) == []
                    assert exchange(veth, stack, view) == {Frag}
                assert until(lambda: key(stack) == 0), "the last token is back"
        assert exchange(veth, stack) == {HostFrag}
        assert writable_code(agent.process.pid) == []
        assert stack.stats().netmem["warnings"] == 0
        assert agent.stop() == 0


def test_a_key_stays_up_while_any_binding_is_left(netns_pair: Any) -> None:
    veth = netns_pair(queues=2)
    with agent_of(veth, "static") as agent, Session(agent.path) as session:
        stack = session.stack(veth.right.ifname)
        with Region(4 * MIB) as one, Region(4 * MIB) as other:
            first = session.bind_rx(veth.right.ifname, [0], one)
            with session.bind_rx(veth.right.ifname, [1], other):
                both = key(stack)
                first.close()
                assert until(lambda: key(stack) < both)
                assert key(stack) > 0
            assert until(lambda: key(stack) == 0)


def test_where_code_may_not_be_written_the_check_is_plain_and_says_so(veth: Any) -> None:
    if subprocess.run([*MDWE, "-c", ""], check=False).returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE (before Linux 6.3)")
    with agent_of(veth, "static", MDWE) as agent, Session(agent.path) as session:
        stack = session.stack(veth.right.ifname)
        assert stack.netmem_check == "plain, not static"
        assert "may not change its code" in agent.log
        status = verb("status", "--socket", str(agent.path))
        assert "plain, not static" in " ".join(status.stdout.split())
        with (
            Region(4 * MIB) as region,
            region.map() as view,
            session.bind_rx(veth.right.ifname, [0], region),
        ):
            assert exchange(veth, stack, view) == {Frag}


# ---- off: as a kernel with CONFIG_NET_DEVMEM=n ----


def verb(*args: str, form: str = "plain") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "devmemtcp.agent.cli", *args],
        env=os.environ | {VARIABLE: form, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def only_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a verb said that could not work; it exited with 2."""
    assert done.returncode == 2, done.stderr
    *_, line = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    return line


def test_an_agent_without_device_memory_refuses_bindings_and_serves_the_rest(veth: Any) -> None:
    ifname = veth.right.ifname
    with agent_of(veth, "off") as agent, Session(agent.path) as session, Region(4 * MIB) as region:
        stack = session.stack(ifname)
        assert stack.netmem_check == "off"
        with Netdev(str(agent.path)) as netdev:
            with pytest.raises(NetlinkError, match="no device memory") as refused:
                netdev.bind_rx(stack.ifindex, region.fd, [0])
            assert refused.value.errno == errno.EOPNOTSUPP
            with pytest.raises(NetlinkError) as earlier:
                netdev.bind_rx(stack.ifindex, region.fd, [99])
            assert earlier.value.errno == errno.EINVAL, "the queues are looked at before"
            assert [pool.dmabuf for pool in netdev.page_pool_get()] == [None]
            assert netdev.page_pool_stats_get()
            rx = [q for q in netdev.queue_get() if q.ifindex == stack.ifindex]
            assert {q.dmabuf for q in rx if q.type == QueueType.RX} == {None}
        with pytest.raises(ConfigError, match="no device memory") as told:
            session.bind_rx(ifname, [0], region)
        assert told.value.errno == errno.EOPNOTSUPP
        listen = ("--listen", f"{veth.right.ip4}:{PORT}")
        line = only_line(verb("recv", "--agent-socket", str(agent.path), "-i", ifname, *listen))
        assert "this build has no device memory" in line
        assert exchange(veth, stack) == {HostFrag}
        stats = stack.stats().stack
        assert (stats["bytes_device"], stats["bytes_data"]) == (0, 3 * MIB + 1)
        assert agent.stop() == 0


_RUNTIME = """
import sys
from devmemtcp.agent import ConfigError, Region, Runtime
ifname, netns, address, port = sys.argv[1:]
with Region(4 << 20) as region:
    try:
        with Runtime(ifname, region, netns=netns):
            raise SystemExit("it was bound")
    except ConfigError as error:
        print(error.errno, error)
    with Runtime(ifname, None, netns=netns) as rt, rt.listen((address, int(port))) as listener:
        try:
            rt.bind(region, [0])
        except ConfigError as error:
            print(error.errno, error, flush=True)
        with listener.accept(60) as conn:
            while batch := conn.recv_frags(timeout=60):
                for piece in batch.pieces():
                    sys.stdout.flush()
                    sys.stdout.buffer.write(piece.data)
                conn.dontneed(batch)
        assert rt.check() == 0
"""


def test_a_runtime_without_device_memory_receives_into_host_memory(veth: Any) -> None:
    end = veth.right
    data = random.Random(5).randbytes(MIB + 7)
    with subprocess.Popen(
        [sys.executable, "-c", _RUNTIME, end.ifname, str(end.netns), end.ip4, str(PORT)],
        env=os.environ | {VARIABLE: "off"},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        for _ in range(2):  # the second one comes when it listens
            words = process.stdout.readline().decode()
            assert words.startswith(f"{errno.EOPNOTSUPP} this build has no device memory")
        with ThreadPoolExecutor(1) as pool:
            got = pool.submit(process.stdout.read)
            with dial(veth.left, (end.ip4, PORT)) as sock:
                sock.sendall(data)
            assert got.result(PATIENCE) == data
        assert process.wait(PATIENCE) == 0


def test_verbs_that_need_a_region_say_what_is_missing() -> None:
    assert "this build has no device memory" in only_line(verb("demo", "--size", "1M", form="off"))


def test_verbs_say_which_forms_there_are() -> None:
    line = only_line(verb("demo", form="fast"))
    assert line == (
        "devmemtcp: error: DEVMEMTCP_NETMEM_CHECK must be one of off, plain, static, not 'fast'"
    )
