# SPDX-License-Identifier: Apache-2.0
"""The agent as a process, and applications with nothing but its socket."""

from __future__ import annotations

import array
import errno
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import NetNS

from devmemtcp.agent import ConfigError, Connection, FragBatch, Region, RegionView
from devmemtcp.agent.session import Session
from devmemtcp.agent.socket import HostFrag
from devmemtcp.netlink.constants import QueueType
from devmemtcp.netlink.errors import NetlinkError
from devmemtcp.netlink.netdev import Netdev
from devmemtcp.netlink.notifications import Notifications
from devmemtcp.netlink.records import PagePool
from devmemtcp.pyxdp.attach import attached_programs
from devmemtcp.socket import (
    CMSG_SPACE,
    MSG_SOCK_DEVMEM,
    SCM_DEVMEM_DMABUF,
    DevmemSocket,
    DmabufCmsg,
)

from ..slowness import SLOWNESS
from .agent_process import GRANTED, NOBODY, AgentProcess, open_folder, running_agent
from .traffic import until

PORT = 5201
MIB = 1 << 20
PATIENCE = 20.0 * SLOWNESS
CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK = 10, 12, 13, 14


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as made:
        yield made


@pytest.fixture
def agent(veth: Any, folder: Path) -> Iterator[AgentProcess]:
    """Nobody has the admin permission."""
    with running_agent(folder, veth.right) as made:
        yield made


def dial(veth: Any, port: int = PORT) -> socket.socket:
    with veth.left.enter():
        return socket.create_connection((veth.right.ip4, port), timeout=PATIENCE)


def programs(end: Any) -> list[Any]:
    with end.enter():
        return list(attached_programs(end.ifname))


# ---- what it has given up ----


def status_of(task: Path) -> dict[str, str]:
    lines = (task / "status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_no_thread_keeps_what_set_up_needed(agent: AgentProcess) -> None:
    with Session(agent.path) as session:
        session.stacks()  # by a thread that was started for this connection
        tasks = list(Path(f"/proc/{agent.process.pid}/task").iterdir())
        assert len(tasks) >= 4
        for task in tasks:
            status = status_of(task)
            for name in ("CapPrm", "CapEff", "CapBnd"):
                kept = {bit for bit in range(64) if int(status[name], 16) >> bit & 1}
                assert CAP_NET_RAW in kept
                assert kept <= {CAP_NET_RAW, CAP_IPC_LOCK}
            assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@pytest.mark.parametrize(
    ("options", "capability", "port"),
    [
        ({"interface": "busy_poll = true"}, CAP_NET_ADMIN, PORT),
        ({"rules": '[[rule]]\nusers = [0]\nports = ["1-99"]'}, CAP_NET_BIND_SERVICE, 80),
    ],
    ids=["busy polling", "privileged ports"],
)
def test_what_the_configuration_needs_is_kept(
    veth: Any, folder: Path, options: dict[str, Any], capability: int, port: int
) -> None:
    with running_agent(folder, veth.right, **options) as agent, Session(agent.path) as session:
        kept = int(status_of(Path(f"/proc/{agent.process.pid}"))["CapEff"], 16)
        assert kept >> capability & 1
        with Region(4 * MIB) as region:
            session.bind_rx(veth.right.ifname, [0], region).close()
        session.listen((veth.right.ip4, port)).close()


def test_its_user_can_be_another(veth: Any, folder: Path) -> None:
    with running_agent(folder, veth.right, agent=f"user = {NOBODY}") as agent:
        assert set(status_of(Path(f"/proc/{agent.process.pid}"))["Uid"].split()) == {str(NOBODY)}
        with Session(agent.path) as session, Region(4 * MIB) as region:
            with session.bind_rx(veth.right.ifname, [0], region) as binding:
                assert binding.dmabuf_id == 1
            session.listen((veth.right.ip4, PORT)).close()
        assert agent.stop() == 0


# ---- who may do what ----


def test_nobody_may_listen_and_not_bind_unless_a_rule_says_so(veth: Any, folder: Path) -> None:
    code = """
drop()
with Session(path) as session, Region(4 << 20) as region:
    print(session.listen((sys.argv[2], 0)).address[0])
    for attempt in (
        lambda: session.bind_rx(sys.argv[3], [0], region),
        lambda: session.listen((sys.argv[2], 80)),
        lambda: session.stack(sys.argv[3]).listen((sys.argv[2], 0), pressure="drop"),
    ):
        try:
            attempt()
            print("done")
        except PermissionError as error:
            print(error.errno)
"""
    args = (veth.right.ip4, veth.right.ifname)
    with running_agent(folder, veth.right, rules="") as agent:
        said, _ = agent.nobody(code, *args).communicate(timeout=60 * SLOWNESS)
        assert said.split() == [
            veth.right.ip4,
            str(errno.EPERM),
            str(errno.EACCES),
            str(errno.EPERM),
        ]
        agent.write_config(f'[[rule]]\nusers = [{NOBODY}]\nadmin = true\nports = ["1-65535"]\n')
        agent.process.send_signal(signal.SIGHUP)
        assert until(lambda: "read the rules and limits" in agent.log)
        said, _ = agent.nobody(code, *args).communicate(timeout=60 * SLOWNESS)
        # The port: the agent itself has given up what it takes, for no rule asked for it before.
        assert said.split() == [veth.right.ip4, "done", str(errno.EACCES), "done"]
        agent.write_config("[[rule]]\nusers = 3\n")
        agent.process.send_signal(signal.SIGHUP)
        assert until(lambda: "the rules stay as they are" in agent.log)


def test_without_a_rule_there_is_nothing_but_questions(veth: Any, folder: Path) -> None:
    code = """
drop()
with Session(path) as session:
    print(len(session.stacks()))
    try:
        session.listen((sys.argv[2], 5000))
    except PermissionError as error:
        print(error.strerror)
"""
    with running_agent(folder, veth.right, rules="") as agent:
        agent.write_config("")
        agent.config.write_text("rule = []\n" + agent.config.read_text())
        agent.process.send_signal(signal.SIGHUP)
        assert until(lambda: "read the rules and limits" in agent.log)
        said, _ = agent.nobody(code, veth.right.ip4).communicate(timeout=60 * SLOWNESS)
        assert said.splitlines() == ["1", f"no rule lets user {NOBODY} use {veth.right.ifname}"]


def test_a_socket_that_root_opened_gives_nobody_nothing(veth: Any, folder: Path) -> None:
    """Nor does one that nobody opened, when root sends by it."""
    code = """
import socket
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
first, second = (lambda: None, drop) if sys.argv[3] == "root" else (drop, lambda: None)
if sys.argv[3] == "root":
    sock.connect(path)
    drop()
else:
    os.seteuid(65534)
    sock.connect(path)
    os.seteuid(0)
netdev = Netdev(sock)
with Region(4 << 20) as region:
    try:
        print(netdev.bind_rx(int(sys.argv[2]), region.fd, [0]))
    except OSError as error:
        print(error.errno)
"""
    with running_agent(folder, veth.right, rules="") as agent:
        for opener in ("root", "nobody"):
            run = agent.nobody(code, str(veth.right.ifindex), opener)
            said, wrong = run.communicate(timeout=60 * SLOWNESS)
            assert said.split() == [str(errno.EPERM)], wrong


# ---- what may be bound ----


def sealed(size: int, seals: int) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def can_be_sealed(fd: int) -> bool:
    """As a memfd, or a file of a tmpfs, which /tmp is on some machines."""
    try:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return True


def test_only_a_sealed_memfd_of_the_right_size_is_device_memory(
    veth: Any, agent: AgentProcess, folder: Path
) -> None:
    both = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    plain = folder / "plain"
    plain.write_bytes(bytes(4 * MIB))
    refused = {
        "the region must be a memfd": [
            os.open("/dev/zero", os.O_RDWR),
            os.open("/dev/null", os.O_RDWR),
            os.eventfd(0),
        ],
        "sealed with F_SEAL_SHRINK and F_SEAL_GROW": [
            sealed(4 * MIB, 0),
            sealed(4 * MIB, fcntl.F_SEAL_SHRINK),
            sealed(4 * MIB, fcntl.F_SEAL_GROW),
        ],
        "must be writable": [
            sealed(4 * MIB, both | fcntl.F_SEAL_WRITE),
            os.open(f"/proc/self/fd/{sealed(4 * MIB, both)}", os.O_RDONLY),
        ],
        "whole pages, 65536 to 67108864 bytes": [
            sealed(0, both),
            sealed(15 * 4096, both),
            sealed(4 * MIB + 1, both),
            sealed(65 * MIB, both),
        ],
    }
    ours = os.open(plain, os.O_RDWR)
    kind = "sealed with" if can_be_sealed(ours) else "the region must be a memfd"
    refused[next(text for text in refused if text.startswith(kind))].append(ours)
    with Netdev(agent.path) as netdev:
        for text, fds in refused.items():
            for fd in fds:
                with pytest.raises(NetlinkError) as caught:
                    netdev.bind_rx(veth.right.ifindex, fd, [0])
                assert caught.value.errno == errno.EINVAL
                assert text in caught.value.extack
                os.close(fd)
        assert netdev.bind_rx(veth.right.ifindex, sealed(MIB, both), [0]) == 1


def test_the_agent_keeps_neither_descriptor_nor_mapping_of_a_region(
    veth: Any, agent: AgentProcess
) -> None:
    proc = Path(f"/proc/{agent.process.pid}")
    with Session(agent.path) as session, Region(4 * MIB) as region:
        name = os.readlink(f"/proc/self/fd/{region.fd}").split(" ")[0]
        with session.bind_rx(veth.right.ifname, [0], region):
            assert not [fd for fd in (proc / "fd").iterdir() if name in os.readlink(fd)]
            assert name not in (proc / "maps").read_text()


# ---- receiving ----


def send_to(veth: Any, ip4: str, data: bytes) -> bytes:
    """To the end of the stream; returns what came back."""
    with veth.left.enter(), socket.create_connection((ip4, PORT), timeout=PATIENCE) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return sock.recv(1000)


def test_nobody_receives_into_device_memory(veth: Any, agent: AgentProcess, folder: Path) -> None:
    out = folder / "out"
    out.mkdir()
    os.chown(out, NOBODY, NOBODY)
    where = f"{veth.right.ip4}:{PORT}"
    args = ["--agent-socket", str(agent.path), "-i", veth.right.ifname, "--listen", where]
    args += ["--output-dir", str(out), "--validate", "7", "--connections", "2", "--json"]
    run = agent.nobody(f"verb('recv', *{args!r})")
    assert run.stderr is not None
    said = run.stderr.readline()
    assert "listening on" in said, said + run.stderr.read()
    data = b"\1\2\3\4\5\6\n" * (2 * MIB)
    for _ in range(2):
        assert send_to(veth, veth.right.ip4, data) == b""
    printed, _ = run.communicate(timeout=60 * SLOWNESS)
    report = json.loads(printed)
    assert run.returncode == 0
    assert report["bytes"] == 2 * len(data)
    assert report["validated"]
    assert report["tokens_outstanding"] == 0
    assert [file.read_bytes() == data for file in out.iterdir()] == [True, True]
    assert {file.stat().st_uid for file in out.iterdir()} == {NOBODY}


def test_recv_says_what_is_the_agent_s(agent: AgentProcess) -> None:
    run = agent.nobody(
        "verb('recv', '--agent-socket', path, '-i', 'x', '--force', '--listen', ':1')"
    )
    _, said = run.communicate(timeout=60 * SLOWNESS)
    assert run.returncode == 2
    assert "--force is the agent's to choose" in said


def test_status_shows_interfaces_bindings_and_applications(veth: Any, agent: AgentProcess) -> None:
    with ExitStack() as undo:
        session = undo.enter_context(Session(agent.path))
        region = undo.enter_context(Region(4 * MIB))
        undo.enter_context(session.bind_rx(veth.right.ifname, [0], region))
        with dial_later(veth):
            listener = session.listen((veth.right.ip4, PORT))
            conn = listener.accept(PATIENCE)
            report = json.loads(run_status(agent, "--json"))
            (interface,) = report["interfaces"]
            assert interface["interface"] == veth.right.ifname
            assert interface["state"] == "serving"
            assert veth.right.ip4 in interface["addresses"]
            (binding,) = report["bindings"]
            assert (binding["id"], binding["queues"], binding["state"]) == (1, [0], "bound")
            (app,) = report["applications"]
            assert (app["pid"], app["connections"]) == (os.getpid(), 1)
            assert app["listeners"] == [f"{veth.right.ip4}:{PORT}"]
            assert "applications" in run_status(agent)
            conn.close()


def test_an_interface_of_the_configuration_may_have_an_altname(veth: Any, folder: Path) -> None:
    veth.right.run(["ip", "link", "property", "add", "dev", veth.right.ifname, "altname", "alt0"])
    with running_agent(folder, replace(veth.right, ifname="alt0")) as agent:
        (interface,) = json.loads(run_status(agent, "--json"))["interfaces"]
        assert interface["interface"] == "alt0"
        assert veth.right.ip4 in interface["addresses"]


def run_status(agent: AgentProcess, *args: str) -> str:
    command = [sys.executable, "-m", "devmemtcp.agent.cli", "status", "--socket", str(agent.path)]
    return subprocess.check_output([*command, *args], text=True, timeout=60 * SLOWNESS)


class dial_later:  # noqa: N801 - reads as the verb it is
    """A peer that connects once there is a listener, and stays to the end of the block."""

    def __init__(self, veth: Any, port: int = PORT) -> None:
        self._veth, self._port = veth, port
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._end.is_set():
            with suppress(ConnectionRefusedError), dial(self._veth, self._port):
                self._end.wait()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()


def test_the_netdev_family_answers_from_the_live_data_path(veth: Any, agent: AgentProcess) -> None:
    with ExitStack() as undo:
        netdev = undo.enter_context(Netdev(agent.path))
        with veth.right.enter(), Netdev("kernel") as kernel:
            assert netdev.dev_get(veth.right.ifindex) == kernel.dev_get(veth.right.ifindex)
        before = netdev.page_pool_get()
        assert [(pool.ifindex, pool.dmabuf) for pool in before] == [(veth.right.ifindex, None)]
        session = undo.enter_context(Session(agent.path))
        region = undo.enter_context(Region(4 * MIB))
        view = undo.enter_context(region.map())
        binding = undo.enter_context(session.bind_rx(veth.right.ifname, [0], region))
        (pool,) = (p for p in netdev.page_pool_get() if p.dmabuf == binding.dmabuf_id)
        assert pool.id not in {other.id for other in before}
        queues = {(q.id, q.type): q.dmabuf for q in netdev.queue_get(veth.right.ifindex)}
        assert queues[0, QueueType.RX] == binding.dmabuf_id
        listener = session.listen((veth.right.ip4, PORT))
        sender = threading.Thread(target=send_to, args=(veth, veth.right.ip4, bytes(2 * MIB)))
        sender.start()
        with listener.accept(PATIENCE) as conn:
            assert read_all(conn, view) == bytes(2 * MIB)
        sender.join()
        (total,) = netdev.qstats_get(veth.right.ifindex)
        assert total.rx_bytes is not None
        assert total.rx_bytes > 2 * MIB
        assert pool.id is not None
        counted = netdev.page_pool_stats_get(pool.id)
        handed_out = (counted.alloc_fast or 0) + (counted.alloc_refill or 0)
        assert handed_out + (counted.alloc_slow or 0) > 2 * MIB // 4096
        binding.close()
        assert until(lambda: not bound_pools(agent))


def test_a_binding_is_one_page_pool(netns_pair: Any, folder: Path) -> None:
    """Two of one control connection are two, each of them gone with it."""
    end = netns_pair(queues=3).right
    with running_agent(folder, end) as agent, Netdev(agent.path) as asking:
        with Region(4 * MIB) as some, Region(4 * MIB) as other, Netdev(agent.path) as netdev:
            first = netdev.bind_rx(end.ifindex, some.fd, [0, 2])
            second = netdev.bind_rx(end.ifindex, other.fd, [1])
            assert sorted(pool.dmabuf or 0 for pool in asking.page_pool_get()) == [first, second]
            bound = [q.dmabuf for q in asking.queue_get(end.ifindex) if q.type is QueueType.RX]
            assert bound == [first, second, first]
        assert until(lambda: not bound_pools(agent))
        assert len(asking.page_pool_get()) == 3


def test_notifications_tell_of_a_binding_s_pools(veth: Any, agent: AgentProcess) -> None:
    seen: list[tuple[str, int | None]] = []
    with (
        Notifications(agent.path, groups=["page-pool"]) as told,
        Session(agent.path) as session,
        Region(4 * MIB) as region,
    ):
        session.bind_rx(veth.right.ifname, [0], region).close()
        while ("PAGE_POOL_DEL_NTF", 1) not in seen:
            notification = next(told)
            assert isinstance(notification.record, PagePool)
            seen.append((notification.command.name, notification.record.dmabuf))
    assert ("PAGE_POOL_ADD_NTF", 1) in seen
    assert ("PAGE_POOL_DEL_NTF", None) in seen  # the host memory that the queue had before


def test_a_socket_works_by_the_agent(veth: Any, agent: AgentProcess) -> None:
    with ExitStack() as undo:
        session = undo.enter_context(Session(agent.path))
        region = undo.enter_context(Region(4 * MIB))
        view = undo.enter_context(region.map())
        binding = undo.enter_context(session.bind_rx(veth.right.ifname, [0], region))
        server = undo.enter_context(DevmemSocket(session))
        server.bind((veth.right.ip4, PORT))
        server.listen()
        peer = undo.enter_context(dial(veth))
        peer.sendall(b"by the agent into device memory")
        conn, _ = server.accept()
        undo.enter_context(conn)
        received = b""
        while len(received) < 31:
            _, ancillary, _, _ = conn.recvmsg(64, CMSG_SPACE(24) * 8, MSG_SOCK_DEVMEM)
            for level, kind, payload in ancillary:
                assert (level, kind) == (socket.SOL_SOCKET, SCM_DEVMEM_DMABUF)
                cmsg = DmabufCmsg.unpack(payload)
                assert cmsg.dmabuf_id == binding.dmabuf_id
                received += view[cmsg.frag_offset : cmsg.frag_offset + cmsg.frag_size]
        assert received == b"by the agent into device memory"


def test_two_interfaces_are_two_stacks(veth: Any, folder: Path) -> None:
    """Each with a binding, and one application on both; when one goes the other stays."""
    with NetNS(veth.right.netns) as right:
        peer = {"ifname": "veth3", "net_ns_fd": veth.left.netns}
        right.link("add", ifname="veth2", kind="veth", peer=peer)
        index = right.link_lookup(ifname="veth2")[0]
        right.addr("add", index=index, address="10.78.0.2", prefixlen=24)
        right.link("set", index=index, state="up")
    with NetNS(veth.left.netns) as left:
        index = left.link_lookup(ifname="veth3")[0]
        left.addr("add", index=index, address="10.78.0.1", prefixlen=24)
        left.link("set", index=index, state="up")
    both = ((veth.right.ifname, veth.right.ip4), ("veth2", "10.78.0.2"))
    with ExitStack() as undo:
        more = '[[interface]]\nname = "veth2"\nmemory = "16M"\n' + GRANTED
        agent = undo.enter_context(running_agent(folder, veth.right, rules=more))
        session = undo.enter_context(Session(agent.path))
        assert [stack.ifname for stack in session.stacks()] == [name for name, _ in both]
        views, listeners = [], []
        for name, ip4 in both:
            region = undo.enter_context(Region(4 * MIB))
            views.append(undo.enter_context(region.map()))
            undo.enter_context(session.bind_rx(name, [0], region))
            listeners.append(session.listen((ip4, PORT)))
        with pytest.raises(ConfigError, match="several interfaces"):
            session.listen(("0.0.0.0", PORT + 1))
        for (_, ip4), listener, view in zip(both, listeners, views, strict=True):
            data = os.urandom(MIB)
            sender = threading.Thread(target=send_to, args=(veth, ip4, data))
            sender.start()
            with listener.accept(PATIENCE) as conn:
                assert read_all(conn, view) == data
            sender.join()
        veth.right.run(["ip", "link", "delete", "veth2"])
        assert isinstance(error_of(listeners[1].accept), OSError)
        assert until(lambda: session.stack("veth2").state != "serving")
        with dial(veth):
            listeners[0].accept(PATIENCE).close()


# ---- the end of an application ----

_GREEDY = """
drop()
with Session(path) as session, Region(8 << 20) as region, region.map() as view:
    binding = session.bind_rx(sys.argv[2], [0], region) if sys.argv[5] == "bind" else None
    listener = session.listen((sys.argv[3], int(sys.argv[4])))
    print("listens", flush=True)
    conn = listener.accept()
    while batch := conn.recv_frags():
        conn.dontneed(batch)
"""


def await_listening(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "listens\n", process.stderr.read()


def flood(veth: Any, port: int) -> None:
    """Send until the other side is gone."""
    with suppress(OSError), dial(veth, port) as sock:
        while True:
            sock.sendall(bytes(MIB))


def test_an_application_killed_under_load_harms_nobody(veth: Any, agent: AgentProcess) -> None:
    """Both receive into one region: what the killed one held comes back, and nothing else."""
    chance = random.Random(0)
    data = chance.randbytes(8 * MIB)
    with ExitStack() as undo:
        session = undo.enter_context(Session(agent.path))
        region = undo.enter_context(Region(8 * MIB))
        view = undo.enter_context(region.map())
        undo.enter_context(session.bind_rx(veth.right.ifname, [0], region))
        listener = session.listen((veth.right.ip4, PORT))
        args = (veth.right.ifname, veth.right.ip4, str(PORT + 1), "no binding")
        victim = undo.enter_context(agent.nobody(_GREEDY, *args))
        await_listening(victim)
        threads = [
            threading.Thread(target=flood, args=(veth, PORT + 1)),
            threading.Thread(target=send_to, args=(veth, veth.right.ip4, data)),
        ]
        for thread in threads:
            thread.start()
        conn = listener.accept(PATIENCE)
        killer = threading.Timer(chance.uniform(0, 0.2), victim.kill)
        killer.start()
        assert read_all(conn, view) == data
        conn.close()
        killer.join()
        for thread in threads:
            thread.join()
        assert until(lambda: len(session.applications()) == 1, 1)
        stack = session.stack(veth.right.ifname)
        assert until(lambda: all_home(stack.stats().stack), 1)


def read_all(conn: Connection, view: RegionView) -> bytes:
    """To the end of the stream, wherever the bytes are."""
    received = bytearray()
    while batch := conn.recv_frags(timeout=PATIENCE):
        room = bytearray(batch.nbytes)
        batch.copy_to(room, view)
        received += room
        conn.dontneed(batch)
    return bytes(received)


def all_home(counts: dict[str, int]) -> bool:
    """Whether every device buffer is in the pool or in a fill ring."""
    names = ("niovs_lent", "niovs_queued", "niovs_ooo", "tokens_outstanding")
    return not any(counts[name] for name in names)


def test_what_it_closed_before_it_went_is_not_reset(veth: Any, agent: AgentProcess) -> None:
    """As a process that calls close(2) and exits: the kernel sends the FIN."""
    for number in range(20):
        with Session(agent.path) as session:
            listener = session.listen((veth.right.ip4, PORT + number))
            with dial(veth, PORT + number) as peer:
                conn = listener.accept(PATIENCE)
                peer.sendall(b"bye")
                assert read_some(conn) == b"bye"
                conn.send(b"bye")
                conn.close()
                session.close()
                assert peer.recv(10) == b"bye"
                assert peer.recv(10) == b""


def read_some(conn: Connection) -> bytes:
    batch = conn.recv_frags(timeout=PATIENCE)
    data = b"".join(host_bytes(batch))
    conn.dontneed(batch)
    return data


def bound_pools(agent: AgentProcess) -> list[Any]:
    with Netdev(agent.path) as netdev:
        return [pool for pool in netdev.page_pool_get() if pool.dmabuf is not None]


def test_what_a_killed_application_had_can_be_had_again(veth: Any, agent: AgentProcess) -> None:
    args = (veth.right.ifname, veth.right.ip4, str(PORT), "bind")
    for _ in range(2):
        with agent.nobody(_GREEDY, *args) as victim:
            await_listening(victim)
            flooder = threading.Thread(target=flood, args=(veth, PORT))
            flooder.start()
            time.sleep(0.1)  # somewhere in the middle
            victim.kill()
            flooder.join()
        assert until(lambda: not bound_pools(agent), 3)


def test_a_copy_of_the_connection_keeps_the_binding(veth: Any, agent: AgentProcess) -> None:
    with Session(agent.path) as session, Region(4 * MIB) as region:
        binding = session.bind_rx(veth.right.ifname, [0], region)
        copy = os.dup(binding.fileno())
        binding.close()
        time.sleep(0.1)
        assert bound_pools(agent)
        os.close(copy)
        assert until(lambda: not bound_pools(agent))


# ---- the end of the agent ----


def test_a_killed_agent_leaves_nothing_and_another_starts_at_once(
    veth: Any, agent: AgentProcess
) -> None:
    with ExitStack() as undo:
        session = undo.enter_context(Session(agent.path))
        listener = session.listen((veth.right.ip4, PORT))
        undo.enter_context(dial_later(veth))
        conn = listener.accept(PATIENCE)
        quiet = undo.enter_context(Session(agent.path))
        other = quiet.listen((veth.right.ip4, PORT + 2))
        undo.enter_context(dial_later(veth, PORT + 2))
        asleep = other.accept(PATIENCE)  # nobody waits here: only the call itself can notice
        errors: list[OSError] = []
        waiting = threading.Thread(target=lambda: errors.append(error_of(conn.recv_frags)))
        waiting.start()
        assert programs(veth.right)
        agent.process.kill()
        agent.process.wait()
        assert until(lambda: not programs(veth.right), 0.5)
        waiting.join(PATIENCE)
        errors.append(error_of(lambda: asleep.send(b"into the void")))
        for error in (*errors, error_of(session.stacks), error_of(listener.accept)):
            assert isinstance(error, BrokenPipeError)
            assert f"the agent at {agent.path}" in str(error)
    with veth.right.enter(), socket.create_server((veth.right.ip4, PORT + 1)) as kernel:
        kernel.settimeout(PATIENCE)
        with dial(veth, PORT + 1):
            kernel.accept()[0].close()
    started = time.monotonic()
    agent.start()
    assert time.monotonic() - started < 2 * SLOWNESS + interpreter_seconds()
    with Session(agent.path) as session:
        session.listen((veth.right.ip4, PORT)).close()


def error_of(call: Callable[[], object]) -> OSError:
    try:
        call()
    except OSError as error:
        return error
    raise AssertionError("it should have failed")


def interpreter_seconds() -> float:
    """What starting a Python with these modules takes here, which is not the agent's doing."""
    started = time.monotonic()
    code = "import devmemtcp.agent.daemon.agentd, devmemtcp.agent.cli"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60 * SLOWNESS)
    return time.monotonic() - started


def test_sigterm_lets_connections_end_and_opens_nothing_new(veth: Any, folder: Path) -> None:
    with (
        running_agent(folder, veth.right, agent="linger = 15") as agent,
        Session(agent.path) as session,
    ):
        listener = session.listen((veth.right.ip4, PORT))
        with dial(veth) as peer:
            conn = listener.accept(PATIENCE)
            agent.process.send_signal(signal.SIGTERM)
            assert until(lambda: "SIGTERM: ending" in agent.log)
            with pytest.raises(NetlinkError) as caught:
                session.listen((veth.right.ip4, PORT + 1))
            assert caught.value.errno == errno.ESHUTDOWN
            peer.sendall(b"the last words")
            batch = conn.recv_frags(timeout=PATIENCE)
            assert b"".join(host_bytes(batch)) == b"the last words"
            conn.dontneed(batch)
            assert agent.process.poll() is None
            conn.send(b"understood")
            conn.close()
            assert peer.recv(100) == b"understood"
        assert agent.process.wait(PATIENCE) == 0
        assert not programs(veth.right)
        assert not agent.path.exists()


def test_who_goes_on_after_sigterm_is_cut_off(veth: Any, folder: Path) -> None:
    with (
        running_agent(folder, veth.right, agent="linger = 0.3") as agent,
        Session(agent.path) as session,
    ):
        listener = session.listen((veth.right.ip4, PORT))
        with dial(veth) as peer:
            conn = listener.accept(PATIENCE)
            assert agent.stop() == 0
            with pytest.raises(ConnectionResetError):
                peer.recv(1)
            assert isinstance(error_of(conn.recv_frags), BrokenPipeError)


def test_a_second_sigterm_ends_it_at_once(veth: Any, folder: Path) -> None:
    with (
        running_agent(folder, veth.right, agent="linger = 600") as agent,
        Session(agent.path) as session,
    ):
        listener = session.listen((veth.right.ip4, PORT))
        with dial(veth):
            listener.accept(PATIENCE)
            agent.process.send_signal(signal.SIGTERM)
            assert until(lambda: "SIGTERM: ending" in agent.log)
            assert agent.stop() == 128 + signal.SIGTERM
    assert until(lambda: not programs(veth.right), 1)
    assert not agent.path.exists()


def test_the_service_manager_is_kept_informed(veth: Any, folder: Path) -> None:
    with running_agent(folder, veth.right, environ={"WATCHDOG_USEC": "200000"}) as agent:
        assert agent.told() == "WATCHDOG=1"
        assert agent.told() == "WATCHDOG=1"
        agent.process.terminate()
        while (told := agent.told()) == "WATCHDOG=1":
            pass
        assert told.startswith("STOPPING=1\nSTATUS=SIGTERM: ending")
        assert agent.process.wait(PATIENCE) == 0


# ---- mistakes ----


def test_a_second_agent_is_refused_with_one_line(veth: Any, agent: AgentProcess) -> None:
    command = [sys.executable, "-m", "devmemtcp.agent.cli", "agent", "--config", str(agent.config)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60 * SLOWNESS, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"devmemtcp: error: an agent (process {agent.process.pid}) serves {agent.path} already; "
        "give this one another --socket\n"
    )


def test_it_says_what_it_lacks(veth: Any, folder: Path) -> None:
    """And that before anything is touched."""
    command = [sys.executable, "-m", "devmemtcp.agent.cli", "agent"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60 * SLOWNESS, check=False
    )
    assert done.returncode == 2
    assert "no interface to serve; name one with -i IF" in done.stderr
    prefix = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"]
    args = ["-i", veth.right.ifname, "--netns", veth.right.netns, "--socket", str(folder / "s")]
    done = subprocess.run(
        [*prefix, *command, *args],
        capture_output=True,
        text=True,
        timeout=60 * SLOWNESS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "no permission to serve: it needs CAP_NET_RAW" in done.stderr
    config = folder / "agent.toml"
    for option, said in (
        ("cpu = 4096", "CPU 4096 is not among those this process may run on"),
        ('memory = "3G"', "are more than the 2047 MiB that one interface can have"),
    ):
        config.write_text(f'[[interface]]\nname = "{veth.right.ifname}"\n{option}\n')
        done = subprocess.run(
            [*command, *args[2:], "--config", str(config)],
            capture_output=True, text=True, timeout=60 * SLOWNESS, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    assert not programs(veth.right)


def test_garbage_with_descriptors_harms_nobody(veth: Any, agent: AgentProcess) -> None:
    """The server alone is fuzzed elsewhere; here sockets, descriptors and hang-ups are, too."""
    chance = random.Random(3)
    descriptors = len(os.listdir(f"/proc/{agent.process.pid}/fd"))
    with Session(agent.path) as session:
        listener = session.listen((veth.right.ip4, PORT))
        data = chance.randbytes(4 * MIB)
        sender = threading.Thread(target=send_to, args=(veth, veth.right.ip4, data))
        sender.start()
        conn = listener.accept(PATIENCE)
        received = bytearray()
        for _ in range(200):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(str(agent.path))
                garbage(sock, chance)
            with suppress(TimeoutError):
                batch = conn.recv_frags(timeout=0)
                received += b"".join(host_bytes(batch))
                conn.dontneed(batch)
        while batch := conn.recv_frags(timeout=PATIENCE):
            received += b"".join(host_bytes(batch))
            conn.dontneed(batch)
        sender_done = not sender.is_alive()
        conn.close()
        sender.join()
        assert bytes(received) == data, sender_done
    assert agent.process.poll() is None
    assert until(lambda: len(os.listdir(f"/proc/{agent.process.pid}/fd")) <= descriptors)


def host_bytes(batch: FragBatch) -> Iterator[bytes]:
    """Where there is no binding."""
    for piece in batch.pieces():
        assert isinstance(piece, HostFrag)
        yield bytes(piece.data)


def garbage(sock: socket.socket, chance: random.Random) -> None:
    for _ in range(chance.randrange(1, 6)):
        size = chance.choice((0, 15, 16, 20, 100, 3000, 70_000))
        header = size.to_bytes(4, "little") + chance.randrange(14, 24).to_bytes(2, "little")
        data = header + chance.randbytes(max(1, size - len(header)))
        fds = array.array("i", chance.choices((0, 1, 2, sock.fileno()), k=chance.randrange(3)))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
        try:
            sock.sendmsg([data], rights)
        except OSError:  # dropped for what came before
            return


def test_a_session_says_that_nobody_answers(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no agent answers at .*; `devmemtcp agent"):
        Session(folder / "agent.sock")


def test_limits_hold(veth: Any, folder: Path) -> None:
    limits = "[limits]\nlisteners = 2\nchannels = 2\nclients = 3\n"
    code = """
drop()
sessions = []
try:
    first = Session(path)
    for port in (5000, 5001, 5002):
        first.listen((sys.argv[2], port))
except OSError as error:
    print(error.extack)
try:
    second = Session(path)
    second.listen((sys.argv[2], 5003))
except OSError as error:
    print(error.extack)
third = Session(path)
try:
    third.listen((sys.argv[2], 5004))
except OSError as error:
    print(error.extack)
try:
    Session(path)
except (BrokenPipeError, ConnectionError):
    print("refused")
"""
    with running_agent(folder, veth.right, rules=limits + GRANTED) as agent:
        said, wrong = agent.nobody(code, veth.right.ip4).communicate(timeout=60 * SLOWNESS)
        assert said.splitlines() == [
            f"user {NOBODY} has 2 listeners already",
            f"user {NOBODY} has 2 listeners already",
            f"user {NOBODY} has 2 channels already",
            "refused",
        ], wrong
