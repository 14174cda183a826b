# SPDX-License-Identifier: Apache-2.0
"""The command line from outside: one clear line, the right exit code, and clean JSON."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..slowness import SLOWNESS

COMMAND = [sys.executable, "-m", "devmemtcp.agent.cli"]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *args], capture_output=True, text=True, timeout=60 * SLOWNESS)


def one_line(process: subprocess.CompletedProcess[str]) -> str:
    lines = process.stderr.splitlines()
    assert len(lines) == 1, process.stderr
    assert lines[0].startswith("devmemtcp: error: ")
    return lines[0].removeprefix("devmemtcp: error: ")


RECV = ["recv", "-i", "nowhere0"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "Missing command"),
        (["fly"], "fly"),
        (["send"], "HOST:PORT"),
        (["send", "192.0.2.1:1"], "--size"),
        (["send", "192.0.2.1:1", "--size", "1M", "--fast"], "--fast"),
        (["send", "192.0.2.1", "--size", "1M"], "no port"),
        (["send", ":80", "--size", "1M"], "no host"),
        (["send", "host.invalid:80", "--size", "1M"], "cannot resolve 'host.invalid'"),
        (["send", "192.0.2.1:1", "--size", "huge"], "--size 'huge'"),
        (["send", "192.0.2.1:1", "--size", "1M", "--pattern", "0"], "2 to 256"),
        (["send", "192.0.2.1:1", "--size", "1M", "--congestion", "magic"], "'magic'"),
        (["send", "192.0.2.1:1", "--size", "1", "--connect-timeout", "inf"], "timeout inf: more"),
        (["send", "192.0.2.1:1", "--size", "1", "--connect-timeout", "nan"], "timeout nan: more"),
        (["send", "192.0.2.1:1", "--size", "1", "--connect-timeout", "-1"], "timeout -1: more"),
        (["recv", "--listen", ":80"], "--interface"),
        (RECV, "--listen"),
        ([*RECV, "--listen", ":80", "--mode", "turbo"], "'turbo'"),
        ([*RECV, "--listen", ":80", "--rx-csum", "skip"], "'skip'"),
        ([*RECV, "--listen", ":80", "--pressure", "high"], "'high'"),
        ([*RECV, "--listen", ":0"], "1 to 65535"),
        ([*RECV, "--listen", "name:80"], "not an IP address"),
        ([*RECV, "--listen", ":80", "--listen", ":80"], "twice"),
        ([*RECV, "--listen", ":80", "--listen", "192.0.2.1:80"], ":80 and 192.0.2.1:80 contradict"),
        ([*RECV, "--listen", ":80", "--close-first", "[::]:80"], ":80 and [::]:80 contradict"),
        ([*RECV, "--listen", ":80", "--connections", "0"], "--connections 0"),
        ([*RECV, "--listen", ":80", "--validate", "257"], "2 to 256"),
        ([*RECV, "--listen", ":80", "--region-size", "lots"], "--region-size 'lots'"),
        ([*RECV, "--listen", ":80", "--output-dir", "/nonexistent"], "/nonexistent does not exist"),
        ([*RECV, "--listen", ":80", "--output-dir", "/etc/passwd"], "is not a directory"),
        ([*RECV, "--listen", ":80", "--memory", "hugetlb"], "take memfd or udmabuf, or zero-copy"),
        (["demo", "--memory", "hugetlb"], "take memfd or udmabuf, or zero-copy mode"),
        (["demo", "--size", "0"], "--size '0'"),
        (["doctor", "--region-size", "1"], "a region of 1 bytes is too small"),
        (["doctor", "--region-size", "1048577"], "multiple of the page"),
        (["demo", "--size", "1M", "--pattern", "1000"], "2 to 256"),
        (["demo", "--size", "1M", "--mtu", "100"], "MTU 100"),
        (["netdev", "dump"], "Choose from: dev-get, queue-get"),
        (["netdev", "dump", "bind-rx"], "'bind-rx'"),
        (["netdev", "dump", "dev-get", "--scope", "queue"], "--scope is for qstats-get"),
        (["netdev", "dump", "dev-get", "--socket", "/run/x"], "--socket is for --target agent"),
        (["netdev", "dump", "dev-get", "-i", "nowhere0"], "no interface 'nowhere0'"),
        (["netdev", "dump", "queue-get", "-i", "2147483648"], "no interface '2147483648'"),
        (["netdev", "dump", "queue-get", "-i", "9" * 5000], "no interface '999"),
    ],
)
def test_wrong_input_is_one_line_and_2(args: list[str], says: str) -> None:
    process = run(*args)
    assert process.returncode == 2
    assert says in one_line(process)
    assert process.stdout == ""


def test_without_an_agent_netdev_dump_says_where_it_looked() -> None:
    process = run("netdev", "dump", "dev-get", "--target", "agent", "--socket", "/run/no.sock")
    assert process.returncode == 2
    assert one_line(process).startswith("no agent answers at /run/no.sock; ")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ([], "Missing command (see 'devmemtcp --help')"),
        (["send"], "Missing argument 'HOST:PORT' (see 'devmemtcp send --help')"),
        (["doctor", "-i"], "Option '-i' requires an argument (see 'devmemtcp doctor --help')"),
        (
            ["nic", "plan", "-i"],
            "Option '-i' requires an argument (see 'devmemtcp nic plan --help')",
        ),
        (["bench", "fly"], "No such command 'fly' (see 'devmemtcp bench --help')"),
        (
            ["demo", "--mode", "foo"],
            "Invalid value for '--mode': 'foo' is not one of 'auto', 'native', 'generic', "
            "'zerocopy' (see 'devmemtcp demo --help')",
        ),
        (
            ["bench", "tcp-rx", "--mtu", "x"],
            "Invalid value for '--mtu': it must be a valid integer "
            "(see 'devmemtcp bench tcp-rx --help')",
        ),
    ],
)
def test_a_wrong_option_is_said_plainly_and_names_the_verbs_help(
    args: list[str], line: str
) -> None:
    assert one_line(run(*args)) == line


def test_the_help_is_named_as_the_program_was_called() -> None:
    process = subprocess.run(
        [*COMMAND, "send"],
        env={**os.environ, "DEVMEMTCP_CALLED_AS": "./dev run"},
        capture_output=True,
        text=True,
    )
    assert one_line(process).endswith("(see './dev run send --help')")


def test_bench_alone_says_what_there_is() -> None:
    process = run("bench")
    assert (process.returncode, process.stderr) == (0, "")
    assert "tcp-rx" in process.stdout
    assert "soak" in process.stdout
    assert len(process.stdout.splitlines()) <= 24


@pytest.mark.parametrize("args", [["send", "nowhere", "--size", "1", "--json"], ["bench"]])
def test_nobody_reads_stdout(args: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as stdout:
        process = subprocess.run(
            [*COMMAND, *args], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert process.returncode == 128 + signal.SIGPIPE
    assert "Traceback" not in process.stderr
    assert "BrokenPipe" not in process.stderr


@pytest.mark.parametrize("args", [["netdev", "dump", "dev-get", "--json"], ["--version"]])
def test_stdout_is_full(args: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, *args], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_started_without_a_standard_stream(closed: str) -> None:
    shell = f'exec "$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *COMMAND, "--version"],
        capture_output=True,
        text=True,
        timeout=60 * SLOWNESS,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_connections_broken_pipe_is_not_stdouts() -> None:
    script = (
        "import errno, sys\n"
        "from devmemtcp.agent import cli, send\n"
        "def broken(*args, **kwargs):\n"
        "    raise OSError(errno.EPIPE, 'connection to nowhere failed: Broken pipe')\n"
        "send.send = broken\n"
        "sys.argv = ['devmemtcp', 'send', '192.0.2.1:1', '--size', '1', '--json']\n"
        "cli.main()\n"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.returncode == 1
    assert one_line(process) == "connection to nowhere failed: Broken pipe"
    assert json.loads(process.stdout)["exit_code"] == 1


def test_json_of_an_error() -> None:
    process = run("send", "192.0.2.1", "--size", "1M", "--json")
    document = json.loads(process.stdout)
    assert document == {"ok": False, "error": one_line(process), "exit_code": 2}


def test_debug_shows_where() -> None:
    process = run("send", "192.0.2.1", "--size", "1M", "--debug")
    assert process.returncode == 2
    assert "Traceback" in process.stderr
    assert "split_endpoint" in process.stderr


@pytest.mark.parametrize("verb", [[], ["demo"], ["recv"], ["send"], ["bench"]])
def test_help_says_what_each_option_is_for(verb: list[str]) -> None:
    process = run(*verb, "--help")
    assert process.returncode == 0
    assert "--help" in process.stdout


@pytest.mark.parametrize("verb", [[], ["doctor"], ["nic", "apply"], ["bench", "tcp-rx"]])
def test_a_flag_is_not_shown_as_if_it_took_a_value(verb: list[str]) -> None:
    said = run(*verb, "--help").stdout
    assert "bool" not in said.lower()
    assert re.search(r"--help +Show", said)


def test_version() -> None:
    process = run("--version")
    assert (process.returncode, process.stdout) == (0, "devmemtcp 0.1.0\n")


def test_help_is_quick() -> None:
    """--help must not load what only the verbs need."""
    heavy = ("pyroute2", "devmemtcp.pyxdp", "devmemtcp.agent.runtime")
    script = (
        "import sys\n"
        "from devmemtcp.agent import cli\n"
        "sys.argv = ['devmemtcp', '--help']\n"
        "try:\n"
        "    cli.main()\n"
        "except SystemExit:\n"
        f"    print('HEAVY', [name for name in {heavy!r} if name in sys.modules])\n"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout
    assert output.endswith("HEAVY []\n")


def test_without_capabilities_no_lab_is_made() -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv, to give capabilities up")
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    command = [*powerless, *COMMAND, "demo", "--size", "1M"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        _, errors = process.communicate(timeout=60 * SLOWNESS)
    assert process.returncode == 2
    *others, line = errors.splitlines()
    assert all("next run" in other for other in others)  # about somebody else's killed run
    assert line.startswith("devmemtcp: error: no permission to make network namespaces")
    assert "unshare: Operation not permitted" in line
    assert "root" in line
    assert not list(Path("/run").glob(f"*/*{process.pid}*"))


def test_a_missing_kernel_feature_is_one_line_and_2() -> None:
    """The runtime says Unsupported; which features it misses is its own tests' matter."""
    script = (
        "import sys\n"
        "from devmemtcp.agent import cli, recv\n"
        "from devmemtcp.agent.errors import Unsupported\n"
        "def runtime(*args, **kwargs):\n"
        "    raise Unsupported('the kernel has no AF_XDP (CONFIG_XDP_SOCKETS)')\n"
        "recv.Runtime = runtime\n"
        "sys.argv = ['devmemtcp', 'recv', '-i', 'lo', '--listen', ':80']\n"
        "cli.main()\n"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.returncode == 2
    assert one_line(process) == "the kernel has no AF_XDP (CONFIG_XDP_SOCKETS)"


# ---- send, against kernel sockets on the loopback device ----


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(60 * SLOWNESS)
        yield sock


def address(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


def start_send(listener: socket.socket, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "send", address(listener), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_send_sends_exactly_the_pattern(listener: socket.socket) -> None:
    size = 3 * (1 << 20) + 17
    process = start_send(listener, "--size", str(size), "--pattern", "7", "--json")
    with listener.accept()[0] as conn, conn.makefile("rb") as stream:
        received = stream.read()
        conn.sendall(b"thanks")
    output, _ = process.communicate(timeout=60 * SLOWNESS)
    assert process.returncode == 0
    assert received == (b"\1\2\3\4\5\6\n" * (size // 7 + 1))[:size]
    document = json.loads(output)
    assert (document["ok"], document["exit_code"]) == (True, 0)
    assert document["bytes_sent"] == size
    assert document["bytes_replied"] == 6
    assert document["pattern"] == 7
    assert document["goodput_gbps"] > 0
    with open("/proc/sys/net/ipv4/tcp_available_congestion_control") as file:
        if "cubic" in file.read().split():
            assert document["congestion"] == "cubic"


def test_send_waits_for_the_receivers_end(listener: socket.socket) -> None:
    process = start_send(listener, "--size", "100")
    conn, _ = listener.accept()
    with conn:
        assert len(conn.recv(1000, socket.MSG_WAITALL)) == 100  # returns at the sender's FIN
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
    assert process.wait(60 * SLOWNESS) == 0


def test_send_waits_when_the_receiver_half_closes_first(listener: socket.socket) -> None:
    """The receiver's FIN comes first, while most of the bytes wait in the sender's buffer."""
    size = 200_000
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the least the kernel grants
    process = start_send(listener, "--size", str(size))
    with listener.accept()[0] as conn:
        conn.shutdown(socket.SHUT_WR)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        with conn.makefile("rb") as stream:
            assert len(stream.read()) == size
    assert process.wait(60 * SLOWNESS) == 0


def test_a_refused_connection_is_one_line_and_1(listener: socket.socket) -> None:
    where = address(listener)
    listener.close()
    process = run("send", where, "--size", "1")
    assert process.returncode == 1
    assert one_line(process) == f"cannot connect to {where}: Connection refused"


def test_a_reset_connection_is_one_line_and_1(listener: socket.socket) -> None:
    process = start_send(listener, "--size", "64M")
    conn, _ = listener.accept()
    assert conn.recv(1) == b"\1"  # a reset before that would be the connect()'s failure
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close() resets
    conn.close()
    _, errors = process.communicate(timeout=60 * SLOWNESS)
    assert process.returncode == 1
    assert f"connection to {address(listener)} failed: " in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_signals_end_it_with_the_shells_code(
    listener: socket.socket, number: int, code: int
) -> None:
    process = start_send(listener, "--size", "1G", "--json")
    with listener.accept()[0]:
        process.send_signal(number)
        output, errors = process.communicate(timeout=60 * SLOWNESS)
    assert process.returncode == code
    document = json.loads(output)
    assert (document["ok"], document["exit_code"]) == (False, code)
    assert errors == f"devmemtcp: error: {document['error']}\n"


def test_the_sender_of_a_dead_parent_dies(listener: socket.socket) -> None:
    """What the demo relies on when it is killed."""
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, sys\n"
            "subprocess.run(sys.argv[1:] + ['--die-with-parent', str(os.getpid())])\n",
            *COMMAND,
            *("send", address(listener), "--size", "1T"),  # it cannot just finish
        ]
    )
    with listener.accept()[0] as conn:
        assert conn.recv(1) == b"\1"
        parent.kill()
        parent.wait()
        ended = threading.Event()

        def drain() -> None:
            while conn.recv(1 << 20):
                pass
            ended.set()

        threading.Thread(target=drain, daemon=True).start()
        assert ended.wait(60 * SLOWNESS), "the sender goes on"
