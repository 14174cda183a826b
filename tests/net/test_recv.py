# SPDX-License-Identifier: Apache-2.0
"""`devmemtcp recv` as a user runs it, with kernel sockets at the other end of a veth."""

from __future__ import annotations

import array
import fcntl
import json
import os
import random
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ..slowness import SLOWNESS

COMMAND = [sys.executable, "-m", "devmemtcp.agent.cli", "recv"]
PORT = 5201
READY_SECONDS = 60 * SLOWNESS
SEND_SECONDS = 60 * SLOWNESS

TCPI_SND_WND = 228  # offset of tcpi_snd_wnd in struct tcp_info


class Recv:
    """A running `devmemtcp recv --json` that listens."""

    def __init__(self, end: Any, *args: str) -> None:
        self.process = end.popen(
            [*COMMAND, "-i", end.ifname, "--json", *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.wait_for("listening on")

    def _read(self) -> None:
        for line in self.process.stderr:
            with self._more:
                self.said.append(line)
                self._more.notify_all()
        with self._more:
            self.said.append("")  # the end
            self._more.notify_all()

    def wait_for(self, text: str) -> None:
        """Wait until a line on stderr has this text."""
        deadline = time.monotonic() + READY_SECONDS
        with self._more:
            while not any(text in line for line in self.said):
                ended = "" in self.said or not self._more.wait(deadline - time.monotonic())
                assert not ended, f"no {text!r} in {''.join(self.said)!r}"

    def finish(self) -> tuple[int, dict[str, Any]]:
        """Wait for the end; returns the exit code and the JSON document."""
        code = self.process.wait(READY_SECONDS)
        self._reader.join()
        output = self.process.stdout.read()
        assert output, "".join(self.said)
        return code, json.loads(output)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, dict[str, Any]]:
        self.process.send_signal(number)
        return self.finish()


@pytest.fixture
def start(veth: Any) -> Iterator[Callable[..., Recv]]:
    """Start `recv` on the right end of the veth; it is killed at the latest after the test."""
    with ExitStack() as undo:

        def start_one(*args: str) -> Recv:
            process = Recv(veth.right, *args)
            undo.callback(process.process.wait)
            undo.callback(process.process.kill)
            return process

        yield start_one


def connect(veth: Any, port: int = PORT, *, ip6: bool = False) -> socket.socket:
    """A kernel socket in the left namespace, connected to the receiver."""
    address = veth.right.ip6 if ip6 else veth.right.ip4
    with veth.left.enter():
        return socket.create_connection((address, port), timeout=SEND_SECONDS)


def send_and_wait_for_end(sock: socket.socket, data: bytes) -> bytes:
    """Send, half-close, and return what came back until the receiver's FIN."""
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    with sock.makefile("rb") as stream:
        return stream.read()


def xdp_of(end: Any) -> Any:
    """What `ip link` says about XDP on the interface, or None."""
    output = end.run(["ip", "-j", "link", "show", end.ifname], capture_output=True).stdout
    return json.loads(output)[0].get("xdp")


# ---- bytes ----


def test_200_connections_at_once_into_files(
    veth: Any, start: Callable[..., Recv], tmp_path: Path
) -> None:
    receiver = start("--listen", f"{veth.right.ip4}:{PORT}", "--output-dir", str(tmp_path))
    rng = random.Random(200)
    socks = [connect(veth) for _ in range(200)]
    contents = [
        rng.randbytes(rng.choice([0, 1, 13, 14, 1448, 4096, 100_000, 300_000])) for _ in socks
    ]

    def one(sock: socket.socket, content: bytes) -> bool:
        with sock:
            port = sock.getsockname()[1]
            assert send_and_wait_for_end(sock, content) == b""
            # Not after the run: the FIN itself says that the file is complete.
            return (tmp_path / str(port)).read_bytes() == content

    with ThreadPoolExecutor(len(socks)) as pool:
        assert all(pool.map(one, socks, contents))
    code, report = receiver.stop()
    assert (code, report["ok"]) == (0, True)
    assert report["outcomes"] == {"complete": 200}
    assert report["bytes"] == sum(map(len, contents))
    assert report["tokens_outstanding"] == 0
    assert len(report["connections"]) == len(list(tmp_path.iterdir())) == 200


def test_ipv6(veth: Any, start: Callable[..., Recv], tmp_path: Path) -> None:
    receiver = start(
        *("--listen", f"[{veth.right.ip6}]:{PORT}"),
        *("--output-dir", str(tmp_path), "--connections", "1"),
    )
    content = random.Random(6).randbytes(1_000_000)
    with connect(veth, ip6=True) as sock:
        send_and_wait_for_end(sock, content)
        assert (tmp_path / str(sock.getsockname()[1])).read_bytes() == content
    code, report = receiver.finish()
    assert code == 0
    assert report["connections"][0]["local"] == f"[{veth.right.ip6}]:{PORT}"


def test_the_options_reach_the_runtime(
    veth: Any, start: Callable[..., Recv], tmp_path: Path
) -> None:
    receiver = start(
        *("--listen", f"{veth.right.ip4}:{PORT}", "--output-dir", str(tmp_path)),
        *("--mode", "native", "--rx-csum", "trust", "--pressure", "drop", "--region-size", "8M"),
        *("--connections", "1"),
    )
    content = random.Random(3).randbytes(5_000_000)
    with connect(veth) as sock:
        send_and_wait_for_end(sock, content)
        assert (tmp_path / str(sock.getsockname()[1])).read_bytes() == content
    code, report = receiver.finish()
    assert (code, report["mode"], report["region_size"]) == (0, "native", 8 << 20)
    assert report["steer"]["csum_trusted"] > 0
    assert "csum_verified" not in report["steer"]


def test_close_first_half_closes_and_receives_on(
    veth: Any, start: Callable[..., Recv], tmp_path: Path
) -> None:
    receiver = start(
        *("--listen", f"{veth.right.ip4}:{PORT}"),
        *("--close-first", f"{veth.right.ip4}:{PORT + 1}"),
        *("--output-dir", str(tmp_path), "--connections", "2"),
    )
    first, rest = b"hello", random.Random(1).randbytes(3_000_000)
    with connect(veth, PORT + 1) as sock:
        sock.settimeout(1)
        with pytest.raises(TimeoutError):
            sock.recv(1)  # nothing sent yet: nothing closed yet
        sock.settimeout(SEND_SECONDS)
        sock.sendall(first)
        assert sock.recv(1) == b""  # their FIN
        sock.sendall(rest)
        sock.shutdown(socket.SHUT_WR)
        port = sock.getsockname()[1]
    receiver.wait_for(f":{port}: complete")
    assert (tmp_path / str(port)).read_bytes() == first + rest
    with connect(veth) as sock:
        sock.sendall(first)
        sock.settimeout(1)
        with pytest.raises(TimeoutError):
            sock.recv(1)  # the other address does not close first
        sock.settimeout(SEND_SECONDS)
        assert send_and_wait_for_end(sock, b"") == b""
    assert receiver.finish()[0] == 0


@pytest.mark.parametrize(("period", "validated"), [(4, True), (5, False)])
def test_validate_what_yes_sends(
    veth: Any, start: Callable[..., Recv], period: int, validated: bool
) -> None:
    receiver = start(
        *("--listen", f"{veth.right.ip4}:{PORT}"),
        *("--validate", str(period), "--connections", "1"),
    )
    script = rf"""yes "$(printf '\1\2\3')" | head -c 64M > /dev/tcp/{veth.right.ip4}/{PORT}"""
    veth.left.run(["bash", "-c", script])
    code, report = receiver.finish()
    assert report["bytes"] == 64 << 20
    assert (report["validated"], code) == (validated, 0 if validated else 1)
    assert (report["wrong_bytes"] == 0) is validated
    assert report["tokens_outstanding"] == 0


# ---- signals ----


def send_window(sock: socket.socket) -> int:
    """Bytes that the receiver last allowed (tcpi_snd_wnd)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCPI_SND_WND + 4)
    if len(info) < TCPI_SND_WND + 4:
        pytest.skip("tcpi_snd_wnd needs Linux 5.4")
    window: int = struct.unpack_from("=I", info, TCPI_SND_WND)[0]
    return window


def wait_until(true: Callable[[], bool]) -> None:
    """For what raises no event."""
    deadline = time.monotonic() + READY_SECONDS
    while not true():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.01)


def unacknowledged(sock: socket.socket) -> int:
    """Bytes that the receiver's stack has not taken yet (SIOCOUTQ of tcp(7))."""
    count = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, count)
    return count[0]


def fill(sock: socket.socket, data: memoryview) -> int:
    """Send until window and send buffer are full; returns the number of bytes taken."""
    sock.setblocking(False)
    sent = 0

    def full() -> bool:
        nonlocal sent
        while sent < len(data) and select.select([], [sock], [], 0)[1]:
            sent += sock.send(data[sent : sent + (1 << 20)])
        return sent == len(data) or send_window(sock) < 4096

    wait_until(full)
    sock.settimeout(SEND_SECONDS)
    return sent


def test_usr1_closes_the_window_and_usr2_opens_it(
    veth: Any, start: Callable[..., Recv], tmp_path: Path
) -> None:
    region = 4 << 20
    receiver = start(
        *("--listen", f"{veth.right.ip4}:{PORT}", "--region-size", str(region)),
        *("--output-dir", str(tmp_path), "--connections", "1"),
    )
    content = random.Random(2).randbytes(16 * region)
    with connect(veth) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, region // 4)
        sock.sendall(content[:1000])  # accepted, and its loop is waiting in poll
        assert send_window(sock) > 0
        receiver.process.send_signal(signal.SIGUSR1)
        receiver.wait_for("paused")
        sent = 1000 + fill(sock, memoryview(content)[1000:])
        assert sent < 2 * region, "more was taken than region and send buffer hold"
        assert send_window(sock) < 4096
        receiver.process.send_signal(signal.SIGUSR2)
        receiver.wait_for("resumed")
        wait_until(lambda: send_window(sock) > 4096)
        assert send_and_wait_for_end(sock, content[sent:]) == b""
        assert (tmp_path / str(sock.getsockname()[1])).read_bytes() == content
    code, report = receiver.finish()
    assert (code, report["bytes"]) == (0, len(content))


def test_stopping_an_idle_run_is_success(start: Callable[..., Recv]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        code, report = start("--listen", f":{PORT}").stop(number)
        assert (code, report["ok"], report["outcomes"]) == (0, True, {})


def test_stopping_in_the_middle_resets_and_says_so(veth: Any, start: Callable[..., Recv]) -> None:
    receiver = start("--listen", f":{PORT}")
    with connect(veth) as sock:
        sock.sendall(b"unfinished")
        # Connected is what this end is already when the other has not seen its ACK yet.
        wait_until(lambda: unacknowledged(sock) == 0)
        receiver.process.send_signal(signal.SIGUSR1)  # also in a pause
        receiver.wait_for("paused")
        code, report = receiver.stop(signal.SIGINT)
        assert (code, report["outcomes"]) == (130, {"interrupted": 1})
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_a_killed_run_leaves_the_interface_usable(
    veth: Any, start: Callable[..., Recv], tmp_path: Path
) -> None:
    assert xdp_of(veth.right) is None
    receiver = start("--listen", f":{PORT}")
    with connect(veth) as sock:
        sock.sendall(b"hello")
        assert xdp_of(veth.right) is not None
        receiver.process.kill()
        receiver.process.wait()
        wait_until(lambda: xdp_of(veth.right) is None)  # the stack's process ends a moment later
    receiver = start("--listen", f":{PORT}", "--output-dir", str(tmp_path), "--connections", "1")
    with connect(veth) as sock:
        send_and_wait_for_end(sock, b"again")
        assert (tmp_path / str(sock.getsockname()[1])).read_bytes() == b"again"
    assert receiver.finish()[0] == 0


def test_a_reset_by_the_peer_is_a_failure(veth: Any, start: Callable[..., Recv]) -> None:
    receiver = start("--listen", f":{PORT}", "--connections", "1")
    sock = connect(veth)
    sock.sendall(b"hello")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    code, report = receiver.finish()
    assert (code, report["outcomes"]) == (1, {"reset": 1})


def test_an_interface_that_goes_away_is_one_line_and_1(
    veth: Any, start: Callable[..., Recv]
) -> None:
    receiver = start("--listen", f":{PORT}")
    veth.right.run(["ip", "link", "del", "veth1"])
    code, report = receiver.finish()
    assert code == report["exit_code"] == 1
    assert "veth1" in report["error"]
    assert receiver.said[-2:] == [f"devmemtcp: error: {report['error']}\n", ""]


# ---- what is refused: one line, exit code 2, and nothing changed ----


def refused(end: Any, *args: str) -> str:
    """Run `recv` with what cannot work; returns its one line."""
    before = end.run(["ip", "-j", "-d", "addr"], capture_output=True, text=True).stdout
    process = end.run([*COMMAND, *args], capture_output=True, text=True, check=False)
    assert process.returncode == 2, process.stderr
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    after = end.run(["ip", "-j", "-d", "addr"], capture_output=True, text=True).stdout
    assert strip_lifetimes(after) == strip_lifetimes(before)
    assert line.startswith("devmemtcp: error: ")
    return str(line)


def strip_lifetimes(text: str) -> Any:
    links = json.loads(text)
    for address in (a for link in links for a in link["addr_info"]):
        address.pop("tentative", None)  # duplicate address detection goes on meanwhile
    return links


def test_no_such_interface(veth: Any) -> None:
    assert "nowhere0" in refused(veth.right, "-i", "nowhere0", "--listen", f":{PORT}")


def test_the_loopback_device(veth: Any) -> None:
    veth.right.run(["ip", "link", "set", "lo", "mtu", "1500"])
    line = refused(veth.right, "-i", "lo", "--listen", f":{PORT}")
    assert "veth pair" in line


def test_interface_that_is_down(veth: Any) -> None:
    veth.right.run(["ip", "link", "set", "veth1", "down"])
    assert "down" in refused(veth.right, "-i", "veth1", "--listen", f":{PORT}")


def test_port_in_use(veth: Any) -> None:
    with veth.right.enter():
        server = socket.create_server((veth.right.ip4, PORT))
    with server:
        line = refused(veth.right, "-i", "veth1", "--listen", f"{veth.right.ip4}:{PORT}")
    assert str(PORT) in line
    assert "in use" in line


@pytest.mark.parametrize("address", ["192.0.2.99", "[2001:db8::99]"])
def test_address_of_somebody_else(veth: Any, address: str) -> None:
    line = refused(veth.right, "-i", "veth1", "--listen", f"{address}:{PORT}")
    assert address.strip("[]") in line
    assert "veth1" in line


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("64K", "too small"),
        ("0", "too small"),
        (str((64 << 20) + 1), "multiple"),
        ("64T", "this machine's memory"),
    ],
)
def test_region_sizes_that_cannot_work(veth: Any, size: str, says: str) -> None:
    args = ("-i", "veth1", "--listen", f":{PORT}", "--region-size", size)
    assert says in refused(veth.right, *args)


def test_a_region_of_more_mappings_than_allowed(veth: Any) -> None:
    """Between what vm.max_map_count allows, 127 MiB by default, and the machine's memory."""
    size = max(1 << 30, int(Path("/proc/sys/vm/max_map_count").read_text()) * 4096)
    if size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        pytest.skip("needs memory for more than vm.max_map_count allows")
    args = ("-i", "veth1", "--listen", f":{PORT}", "--region-size", str(size))
    assert "sysctl -w vm.max_map_count=" in refused(veth.right, *args)


def test_no_permission(veth: Any) -> None:
    # --help, as root, loads the modules: an installation below /root is not readable without.
    script = (
        "import contextlib, os, sys\n"
        "from devmemtcp.agent import cli, recv\n"
        "sys.argv = ['devmemtcp', 'recv', '--help']\n"
        "with contextlib.suppress(SystemExit):\n"
        "    cli.main()\n"
        "os.setgid(65534)\n"
        "os.setuid(65534)\n"
        f"sys.argv = ['devmemtcp', 'recv', '-i', 'veth1', '--listen', ':{PORT}']\n"
        "cli.main()\n"
    )
    process = veth.right.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert "permission" in line
    assert "root" in line
    assert xdp_of(veth.right) is None


def test_the_default_routes_interface_needs_force(veth: Any, start: Callable[..., Recv]) -> None:
    veth.right.run(["ip", "route", "add", "default", "via", veth.left.ip4])
    line = refused(veth.right, "-i", "veth1", "--listen", f":{PORT}")
    assert "default route" in line
    assert "insist (--force; " in line
    assert start("--listen", f":{PORT}", "--force").stop()[0] == 0


def test_an_output_directory_must_be_there_first(veth: Any, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    args = ("-i", "veth1", "--listen", f":{PORT}", "--output-dir", str(missing))
    assert "does not exist" in refused(veth.right, *args)
    assert not missing.exists()


def test_one_file_a_connection_up_to_the_hard_limit(
    veth: Any, start: Callable[..., Recv], tmp_path: Path
) -> None:
    """The soft limit of open files (often 1024) is no limit for connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        receiver = start("--listen", f":{PORT}", "--output-dir", str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    socks = [connect(veth) for _ in range(100)]
    for sock in socks:
        with sock:
            assert send_and_wait_for_end(sock, b"x") == b""
    assert receiver.stop()[1]["outcomes"] == {"complete": 100}
    assert len(os.listdir(tmp_path)) == 100
