# SPDX-License-Identifier: Apache-2.0
"""What cannot work is refused with nothing changed; what fails later is told and undone."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import NetNS

from devmemtcp.agent import ConfigError, Region, Runtime, control
from devmemtcp.agent.stackd import RemoteDatapath

from ..slowness import SLOWNESS

PORT = 5201
MIB = 1 << 20
PATIENCE = 60.0 * SLOWNESS
F_SEAL_FUTURE_WRITE = 0x10


@pytest.fixture
def region() -> Iterator[Region]:
    with Region(4 * MIB) as made:
        yield made


def programs(end: Any) -> int:
    """How many XDP programs are on the interface."""
    command = ["ip", "-j", "link", "show", "dev", end.ifname]
    (link,) = json.loads(end.run(command, capture_output=True, text=True).stdout)
    xdp = link.get("xdp")
    return len(xdp.get("attached", [xdp])) if xdp else 0


def refused(end: Any, says: str, region: Region, **options: Any) -> None:
    """A runtime is refused with this text, and leaves neither program nor descriptor."""
    before = len(os.listdir("/proc/self/fd"))
    options = {"netns": end.netns} | options
    ifname = options.pop("ifname", end.ifname)
    with pytest.raises(ConfigError, match=says), Runtime(ifname, region, **options):
        pass
    assert len(os.listdir("/proc/self/fd")) == before
    assert programs(end) == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ifname": "nosuch0"}, "no interface 'nosuch0'"),
        ({"ifname": "a-name-far-too-long-for-one"}, "no interface"),
        ({"netns": "nosuchns"}, "no network namespace 'nosuchns'"),
        ({"cpu": 4096}, "CPU 4096"),
        ({"spin_us": -1}, "spin_us must be 0 to"),
        ({"max_connections": 0}, "max_connections must be 1 to"),
        ({"rcv_wnd": 1000}, "rcv_wnd must be 65536 to"),
        ({"linger": -1}, "linger must be 0 to"),
        ({"mode": "offload"}, "mode must be one of auto, native, generic"),
        ({"pressure": "none"}, "pressure must be one of window, drop"),
        ({"rx_csum": "no"}, "rx_csum must be one of verify, trust"),
    ],
)
def test_what_cannot_be_is_refused(
    veth: Any, region: Region, options: dict[str, Any], says: str
) -> None:
    refused(veth.right, says, region, **options)


def test_the_interface_of_the_default_route_is_refused_unless_forced(
    veth: Any, region: Region
) -> None:
    with NetNS(veth.right.netns) as netns:
        netns.route("add", dst="default", gateway=veth.left.ip4)
        refused(veth.right, "the default route leaves by", region)
        netns.route("del", dst="default", gateway=veth.left.ip4)
        netns.route("add", dst="::/0", gateway=veth.left.ip6)
        refused(veth.right, "the default route leaves by", region)
        with Runtime(veth.right.ifname, region, netns=veth.right.netns, force=True):
            assert programs(veth.right) == 1


@pytest.mark.parametrize(
    "route",
    [
        "default via 198.51.100.2",
        "0.0.0.0/1 via 198.51.100.2",
        "default via 198.51.100.2 table 100",
        "default nexthop via 198.51.100.2 nexthop via 198.51.100.3",
        "-6 default via 2001:db8:7::2",
    ],
)
@pytest.mark.parametrize(
    "on_top",
    [
        ["link add top0 type bridge", "link set {0} master top0"],
        ["link add link {0} name top0 type macvlan"],
    ],
    ids=["bridge", "macvlan"],
)
def test_what_the_default_routes_interface_is_made_of_is_refused_too(
    veth: Any, region: Region, on_top: list[str], route: str
) -> None:
    end = veth.right
    addresses = ["addr add 198.51.100.1/24 dev top0", "addr add 2001:db8:7::1/64 nodad dev top0"]
    family, rest = ("-6", route[3:]) if route.startswith("-6") else ("-4", route)
    for command in [*on_top, "link set top0 up", *addresses, f"{family} route add {rest}"]:
        end.run(["ip", *command.format(end.ifname).split()])
    refused(end, "the default route leaves by", region)


def test_an_interface_that_is_down_is_refused(veth: Any, region: Region) -> None:
    with NetNS(veth.right.netns) as netns:
        netns.link("set", index=veth.right.ifindex, state="down")
    refused(veth.right, "veth1 is down: it receives nothing; `ip link set veth1 up`", region)


def test_a_taken_interface_is_refused(veth: Any, region: Region) -> None:
    with Runtime(veth.right.ifname, region, netns=veth.right.netns):
        with (
            Region(4 * MIB) as other,
            pytest.raises(
                ConfigError, match=r"already: steer_\w+ \(.*\): another agent or receiver has"
            ),
            Runtime(veth.right.ifname, other, netns=veth.right.netns),
        ):
            pass
        assert programs(veth.right) == 1


def test_a_region_too_small_for_the_queues_is_refused(netns_pair: Any) -> None:
    veth = netns_pair(queues=4)
    with Region(MIB) as small:
        refused(veth.right, "too small for 4 queues; take at least 2097152", small)


def test_a_region_with_too_many_pages_is_refused_with_the_way_out(veth: Any) -> None:
    with Region(128 * MIB) as large:
        refused(
            veth.right,
            r"take at most 12\d MiB, or more mappings; `sysctl -w vm.max_map_count=",
            large,
        )


def test_a_closed_region_is_refused(veth: Any, region: Region) -> None:
    region.close()
    refused(veth.right, "the region is closed", region)


@pytest.mark.parametrize("seal", [fcntl.F_SEAL_WRITE, F_SEAL_FUTURE_WRITE])
def test_a_region_sealed_against_writing_is_refused(veth: Any, region: Region, seal: int) -> None:
    fcntl.fcntl(region.fd, fcntl.F_ADD_SEALS, seal)
    refused(veth.right, "the region has been sealed against writing; take a new one", region)
    with (
        Runtime(veth.right.ifname, None, netns=veth.right.netns) as rt,
        pytest.raises(ConfigError, match="sealed against writing"),
    ):
        rt.bind(region, [0])


@pytest.mark.parametrize("isolate", [False, True], ids=["inside", "isolated"])
def test_ports_and_addresses_that_cannot_be_are_refused(
    veth: Any, region: Region, isolate: bool
) -> None:
    ip4, ip6 = veth.right.ip4, veth.right.ip6
    with veth.right.enter():
        taken = socket.create_server((ip4, PORT + 1))
        taken6 = socket.create_server((ip6, PORT + 1), family=socket.AF_INET6)
    with (
        taken,
        taken6,
        Runtime(veth.right.ifname, region, netns=veth.right.netns, isolate=isolate) as rt,
    ):
        rt.listen((ip4, PORT))
        for address, says in (
            ((ip4, PORT), "port 5201 of .* is in use"),
            (("0.0.0.0", PORT), "port 5201 of 0.0.0.0 is in use"),
            ((ip4, PORT + 1), "port 5202 of .* is in use"),
            ((ip6, PORT + 1), "port 5202 of .* is in use"),
            (("::", PORT + 1), "port 5202 of :: is in use"),
            (("192.0.2.77", PORT), "192.0.2.77 is not an address of veth1"),
            ((veth.left.ip4, PORT), "is not an address of veth1"),
            (("127.0.0.1", PORT), "is not an address of veth1"),
            (("2001:db8::77", PORT), "is not an address of veth1"),
            (("example.org", PORT), "'example.org' is not an IP address"),
            ((ip4, 65536), "there is no port 65536"),
        ):
            with pytest.raises(ConfigError, match=says):
                rt.listen(address)
        with pytest.raises(ConfigError, match="backlog must be at least 1"):
            rt.listen((ip4, PORT + 2), backlog=0)


def test_the_port_is_reserved_and_free_again(veth: Any, region: Region) -> None:
    with Runtime(veth.right.ifname, region, netns=veth.right.netns) as rt:
        listener = rt.listen((veth.right.ip4, 0))
        port = listener.address[1]
        assert port > 0
        with veth.right.enter():
            with pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
                socket.create_server((veth.right.ip4, port))
            listener.close()
            socket.create_server((veth.right.ip4, port)).close()


def test_a_closed_listener_refuses_and_its_connections_live_on(veth: Any, region: Region) -> None:
    with region.map() as view, Runtime(veth.right.ifname, region, netns=veth.right.netns) as rt:
        listener = rt.listen((veth.right.ip4, PORT))
        with veth.left.enter():
            sock = socket.create_connection(listener.address, timeout=PATIENCE)
            conn = listener.accept(PATIENCE)
            listener.close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(listener.address, timeout=PATIENCE)
        with sock, conn:
            sock.sendall(b"still here")
            batch = conn.recv_frags(timeout=PATIENCE)
            assert batch.copy_to(bytearray(100), view) == 10
        # The address is taken again by a new listener, connection or not.
        rt.listen((veth.right.ip4, PORT)).close()


def test_without_privileges_nothing_is_tried(veth: Any) -> None:
    code = f"""
import os, sys
from devmemtcp.agent import Region, Runtime
os.setresuid(65534, 65534, 65534)
try:
    with Region(4 << 20) as region, Runtime({veth.right.ifname!r}, region):
        pass
except PermissionError as error:
    print(error.errno, error.strerror)
"""
    done = veth.right.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith(f"{errno.EPERM} ")
    assert "needs CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF, CAP_PERFMON" in done.stdout


def test_locked_memory_is_looked_at_first(veth: Any, region: Region) -> None:
    code = f"""
import resource
from devmemtcp.agent import ConfigError, Region, preflight
from devmemtcp.agent.runtime import Runtime
caps = preflight._effective_capabilities()
preflight._effective_capabilities = lambda: caps & ~(1 << 14)  # CAP_IPC_LOCK
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
try:
    with Region(4 << 20) as region, Runtime({veth.right.ifname!r}, region):
        pass
except ConfigError as error:
    print(error)
"""
    assert resource.getrlimit(resource.RLIMIT_MEMLOCK)
    done = veth.right.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "bytes of locked memory, the limit is 1048576: raise it" in done.stdout


# ---- while it runs ----


@pytest.mark.parametrize("options", [{}, {"spin_us": 100}, {"busy_poll": True}])
@pytest.mark.parametrize("isolate", [False, True], ids=["inside", "isolated"])
def test_an_interface_that_goes_away_ends_the_loop(
    veth: Any, region: Region, isolate: bool, options: dict[str, Any]
) -> None:
    with Runtime(
        veth.right.ifname, region, netns=veth.right.netns, isolate=isolate, **options
    ) as rt:
        listener = rt.listen((veth.right.ip4, PORT))
        with veth.left.enter():
            sock = socket.create_connection(listener.address, timeout=PATIENCE)
        with sock:
            conn = listener.accept(PATIENCE)
            sock.sendall(b"x" * 1000)
            batch = conn.recv_frags(timeout=PATIENCE)
            with NetNS(veth.left.netns) as netns:
                netns.link("del", index=veth.left.ifindex)
            for call in (conn.recv_frags, listener.accept, rt.poll):
                with pytest.raises(OSError, match="veth1 is gone") as caught:
                    call(timeout=PATIENCE)
                assert caught.value.errno == errno.ENXIO
            # What was counted can still be asked.
            assert rt.stats().stack["rx_payload_bytes"] == 1000
            assert rt.stats().tokens_outstanding == len(batch)
            assert rt.check() == 0


def test_an_interface_that_is_down_for_a_while_is_waited_for(veth: Any, region: Region) -> None:
    with region.map() as view, Runtime(veth.right.ifname, region, netns=veth.right.netns) as rt:
        listener = rt.listen((veth.right.ip4, PORT))
        with veth.left.enter():
            sock = socket.create_connection(listener.address, timeout=PATIENCE)
        with sock, listener.accept(PATIENCE) as conn:
            with NetNS(veth.right.netns) as netns:
                netns.link("set", index=veth.right.ifindex, state="down")
                conn.send(b"into the dark")
                before = rt.stats().loop
                assert rt.poll(0.3) == []
                assert rt.stats().loop.turns - before.turns < 100
                netns.link("set", index=veth.right.ifindex, state="up")
            assert sock.makefile("rb").read(13) == b"into the dark"
            sock.sendall(b"back")
            batch = conn.recv_frags(timeout=PATIENCE)
            room = bytearray(4)
            assert batch.copy_to(room, view) == 4
            assert room == b"back"


def test_a_killed_stack_is_reported_and_leaves_nothing(veth: Any, region: Region) -> None:
    with Runtime(veth.right.ifname, region, netns=veth.right.netns, isolate=True) as rt:
        listener = rt.listen((veth.right.ip4, PORT))
        waiting: list[BaseException] = []

        def wait() -> None:
            try:
                listener.accept()
            except OSError as error:
                waiting.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        os.kill(rt.pid, signal.SIGKILL)
        thread.join(PATIENCE)
        assert [str(error) for error in waiting] == ["the stack's process has died: SIGKILL"]
        with pytest.raises(BrokenPipeError, match="has died: SIGKILL"):
            rt.stats()
    assert programs(veth.right) == 0


_HOLDER = """
import ctypes, os, signal, sys
from devmemtcp.agent import Region, Runtime
with Region(4 << 20) as region, Runtime(sys.argv[1], region, isolate=bool(int(sys.argv[2]))) as rt:
    rt.listen((sys.argv[3], 5201))
    # A fork that Python does not see: nothing is closed in the child.
    child = ctypes.PyDLL(None).fork() if sys.argv[4:] else os.getpid()
    if not child:
        signal.pause()  # it holds every descriptor, and outlives us
    print(rt.pid, child, flush=True)
    rt.poll()
"""


def hold(end: Any, isolate: bool, *args: str) -> tuple[subprocess.Popen[str], int, int]:
    """A process with a runtime; the pids of its stack and, if told to fork, its child."""
    holder = end.popen(
        [sys.executable, "-c", _HOLDER, end.ifname, str(int(isolate)), end.ip4, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stack, child = holder.stdout.readline().split()
    return holder, int(stack), int(child)


def await_end(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], PATIENCE)[0], f"process {pid} lives on"
    finally:
        os.close(pidfd)


def test_a_killed_application_ends_its_stack_though_a_child_holds_the_socket(veth: Any) -> None:
    holder, stack, child = hold(veth.right, True, "fork")
    try:
        holder.kill()
        await_end(stack)
        os.kill(child, 0)  # it lives
    finally:
        os.kill(child, signal.SIGKILL)
        holder.communicate()


def test_a_stack_ends_whose_application_was_killed_before_it_was_asked_for_anything() -> None:
    application = subprocess.Popen(["true"])
    pidfd = os.pidfd_open(application.pid)
    application.wait()
    ours, theirs = control.pair()  # a child of the application has `ours`, and lives
    with ours, theirs:
        fds = [theirs.fileno(), pidfd]
        stack = [sys.executable, "-P", "-m", "devmemtcp.agent.stackd", *map(str, fds)]
        assert subprocess.run(stack, pass_fds=fds, timeout=PATIENCE, check=False).returncode == 0
    os.close(pidfd)


@pytest.mark.parametrize("isolate", [False, True], ids=["inside", "isolated"])
def test_ctrl_c_ends_a_wait_and_undoes_everything(veth: Any, isolate: bool) -> None:
    holder, stack, _ = hold(veth.right, isolate)
    holder.send_signal(signal.SIGINT)
    _, errors = holder.communicate(timeout=PATIENCE)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    await_end(stack)
    assert programs(veth.right) == 0


def test_a_call_that_was_given_up_does_not_answer_the_next(veth: Any, region: Region) -> None:
    """As after a Ctrl-C between sending a call and reading its answer."""
    with Runtime(veth.right.ifname, region, netns=veth.right.netns, isolate=True) as rt:
        remote = rt._datapath
        assert isinstance(remote, RemoteDatapath)
        remote._number += 1
        control.send(remote._socket, remote._number, ["frags"])  # a long answer
        assert rt.check() == 0
        assert rt.stats().tokens_outstanding == 0
        assert len(rt.frags()) == 4 * MIB // 4096 + 2048


def test_a_child_made_by_fork_leaves_the_runtime_alone(veth: Any, region: Region) -> None:
    with Runtime(veth.right.ifname, region, netns=veth.right.netns) as rt:
        deadline = time.monotonic() + PATIENCE
        while not rt.stats().loop.turns:  # the loop runs
            assert time.monotonic() < deadline
        child = os.fork()
        if not child:
            rt.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert programs(veth.right) == 1
        assert rt.check() == 0


@pytest.fixture
def bystander() -> Iterator[Callable[[], int]]:
    """Forks a child that does nothing but live, to the end of the test."""
    children: list[int] = []

    def fork() -> int:
        child = os.fork()
        if not child:
            signal.pause()
            os._exit(0)
        children.append(child)
        return child

    yield fork
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_child_keeps_nothing_that_its_parent_closes(
    veth: Any, region: Region, bystander: Callable[[], int]
) -> None:
    """Neither the queue, by its copies of the rings, nor the port."""
    for _ in range(2):
        with Runtime(veth.right.ifname, region, netns=veth.right.netns) as rt:
            rt.listen((veth.right.ip4, PORT))
            bystander()
        assert programs(veth.right) == 0


def test_a_program_started_by_the_application_gets_no_socket(veth: Any, region: Region) -> None:
    with Runtime(veth.right.ifname, region, netns=veth.right.netns):
        shell = subprocess.Popen(
            ["sh", "-c", "echo there; read line"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            close_fds=False,
        )
        assert shell.stdout
        assert shell.stdout.readline() == b"there\n"
        links = (f"/proc/{shell.pid}/fd/{n}" for n in os.listdir(f"/proc/{shell.pid}/fd"))
        targets = [os.readlink(link) for link in links]
        shell.communicate(b"\n")
    assert not [target for target in targets if target.startswith("socket:")]


def test_calls_in_a_child_do_not_speak_for_the_parent(veth: Any, region: Region) -> None:
    with Runtime(veth.right.ifname, region, netns=veth.right.netns) as rt:
        listener = rt.listen((veth.right.ip4, PORT))
        child = os.fork()
        if not child:
            calls = (rt.stats, rt.check, rt.poll, listener.accept)
            os._exit(sum(not _says_closed(call) for call in calls))
        assert os.waitpid(child, 0)[1] == 0
        with veth.left.enter():
            sock = socket.create_connection(listener.address, timeout=PATIENCE)
        with sock, listener.accept(PATIENCE):
            pass


def _says_closed(call: Callable[[], Any]) -> bool:
    try:
        call()
    except OSError as error:
        return error.errno == errno.EBADF
    return False


def test_an_interface_that_goes_away_is_noticed_though_a_child_lives(
    veth: Any, region: Region, bystander: Callable[[], int]
) -> None:
    with Runtime(veth.right.ifname, region, netns=veth.right.netns) as rt:
        listener = rt.listen((veth.right.ip4, PORT))
        bystander()
        with NetNS(veth.right.netns) as netns:
            netns.link("del", index=veth.right.ifindex)
        with pytest.raises(OSError, match=f"{veth.right.ifname} is gone"):
            listener.accept(PATIENCE)


def test_a_runtime_is_entered_once(veth: Any, region: Region) -> None:
    with (
        Runtime(veth.right.ifname, region, netns=veth.right.netns) as rt,
        pytest.raises(RuntimeError, match="entered already"),
        rt,
    ):
        pass


def test_a_set_up_that_fails_half_way_is_undone(
    veth: Any, region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    from devmemtcp.agent import datapath

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOMEM, "no memory for a program")

    monkeypatch.setattr(datapath, "attach", fail)
    with pytest.raises(OSError, match="no memory for a program"):
        Runtime(veth.right.ifname, region, netns=veth.right.netns).__enter__()
    assert len(os.listdir("/proc/self/fd")) == before
    monkeypatch.undo()
    with Runtime(veth.right.ifname, region, netns=veth.right.netns):
        pass


def test_the_memory_of_the_stack_is_bounded(veth: Any) -> None:
    """Header pages, one a page of the region, and 64 MiB for everything else."""
    with (
        Region(32 * MIB) as region,
        region.map() as view,
        Runtime(veth.right.ifname, region, netns=veth.right.netns, isolate=True) as rt,
    ):
        with rt.listen((veth.right.ip4, PORT)) as listener:
            with veth.left.enter():
                sock = socket.create_connection(listener.address, timeout=PATIENCE)
            with sock, listener.accept(PATIENCE) as conn:
                sender = threading.Thread(target=sock.sendall, args=(bytes(64 * MIB),))
                sender.start()
                received = 0
                while received < 64 * MIB:
                    batch = conn.recv_frags(timeout=PATIENCE)
                    received += batch.nbytes
                    conn.dontneed(batch)
                sender.join()
        status = Path(f"/proc/{rt.pid}/status").read_text()
        rss = int(status.split("VmRSS:")[1].split()[0]) * 1024
        assert rss < 32 * MIB + 64 * MIB
        assert len(view) == 32 * MIB


@pytest.mark.parametrize("address", [("192.0.2.77", PORT), ("10.77.0.2", PORT + 1)])
def test_addresses_that_cannot_be_are_refused_before_anything_is_attached(
    veth: Any, region: Region, monkeypatch: pytest.MonkeyPatch, address: tuple[str, int]
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the interface was touched")

    monkeypatch.setattr("devmemtcp.agent.runtime.Runtime._make_datapath", never)
    with veth.right.enter(), socket.create_server((veth.right.ip4, PORT + 1)):
        runtime = Runtime(veth.right.ifname, region, listen=[address])
        with pytest.raises(ConfigError, match=r"is not an address of veth1|is in use"):
            runtime.__enter__()
