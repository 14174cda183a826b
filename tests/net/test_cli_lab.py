# SPDX-License-Identifier: Apache-2.0
"""The lab: two namespaces that carry traffic and never outlive their use."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devmemtcp.agent import lab as lab_module
from devmemtcp.agent import namespaces
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.journal import sweep
from devmemtcp.agent.lab import Lab, Side

from ..slowness import SLOWNESS

NETNS = Path("/run/netns")

pytestmark = pytest.mark.usefixtures("_clean_slate")  # skips without root


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def exist(*sides: Side) -> list[bool]:
    return [(NETNS / side.netns).exists() for side in sides]


@contextmanager
def lab_in_another_process(run: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A process that holds a lab until it is ended; yields it and its namespaces' names."""
    script = (
        "import json, signal, sys\n"
        "from pathlib import Path\n"
        "from devmemtcp.agent.lab import Lab\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "with Lab(directory=Path(sys.argv[1])) as lab:\n"
        "    print(json.dumps([lab.near.netns, lab.far.netns]), flush=True)\n"
        "    signal.pause()\n"
    )
    command = [sys.executable, "-c", script, str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def test_what_is_not_connected_is_no_lab(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_module, "await_carrier", lambda ifname: ifname == "veth0")
    with pytest.raises(ConfigError, match="veth1 has no carrier: connect veth0 with veth1"):
        Lab(directory=run)
    assert not run.exists()


@pytest.mark.parametrize(
    ("family", "mtu"),
    [
        (socket.AF_INET, 576),  # too small for IPv6, RFC 8200 section 5
        (socket.AF_INET, 1500),
        (socket.AF_INET, 65535),
        (socket.AF_INET6, 1280),
        (socket.AF_INET6, 9000),
    ],
)
def test_the_lab_carries_tcp(run: Path, family: socket.AddressFamily, mtu: int) -> None:
    with Lab(mtu=mtu, directory=run) as lab:
        address = lab.near.ip4 if family == socket.AF_INET else lab.near.ip6
        with lab.near.entered():
            server = socket.create_server((address, 0), family=family)
        with server:
            where = server.getsockname()[:2]
            thread = threading.Thread(target=lambda: server.accept()[0].sendall(b"hello"))
            thread.start()
            with lab.far.entered():
                client = socket.create_connection(where, timeout=60 * SLOWNESS)
            with client:
                assert client.recv(100) == b"hello"
            thread.join()
        assert exist(lab.near, lab.far) == [True, True]
    assert exist(lab.near, lab.far) == [False, False]
    assert not run.exists()


def test_entering_a_side_is_for_the_block_only(run: Path) -> None:
    home = os.stat("/proc/self/ns/net").st_ino
    with Lab(directory=run) as lab:
        with lab.far.entered():
            assert os.stat("/proc/self/ns/net").st_ino == (NETNS / lab.far.netns).stat().st_ino
        assert os.stat("/proc/self/ns/net").st_ino == home
        with pytest.raises(ZeroDivisionError), lab.far.entered():
            _ = 1 // 0
        assert os.stat("/proc/self/ns/net").st_ino == home


def test_an_error_in_the_block_undoes_it(run: Path) -> None:
    with pytest.raises(RuntimeError), Lab(directory=run) as lab:
        raise RuntimeError
    assert exist(lab.near, lab.far) == [False, False]


def test_a_lab_that_cannot_be_finished_is_undone(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(lab: Lab) -> None:
        assert exist(lab.near, lab.far) == [True, True]
        raise OSError("no veth today")

    monkeypatch.setattr(Lab, "_configure", refuse)
    with pytest.raises(OSError, match="no veth today"):
        Lab(directory=run)
    assert not run.exists()
    assert not (NETNS / f"devmemtcp-{os.getpid()}-near").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_nothing(run: Path, number: signal.Signals) -> None:
    with lab_in_another_process(run) as (process, names):
        process.send_signal(number)
        process.wait(60 * SLOWNESS)
    assert not any((NETNS / name).exists() for name in names)
    assert not run.exists()


def test_the_next_lab_undoes_a_killed_one_and_spares_a_live_one(run: Path) -> None:
    with lab_in_another_process(run) as (_, live):
        with lab_in_another_process(run) as (process, dead):
            process.kill()
            process.wait()
        assert all((NETNS / name).exists() for name in dead + live)
        with Lab(directory=run):
            assert not any((NETNS / name).exists() for name in dead)
        assert all((NETNS / name).exists() for name in live)
        assert all(
            f"netns {name}\n" in "".join(p.read_text() for p in run.iterdir()) for name in live
        )
    assert sorted(sweep(run)) == sorted(live)
    assert not run.exists()


def test_the_callers_namespace_never_sees_a_device(run: Path) -> None:
    before = socket.if_nameindex()
    with Lab(directory=run):
        assert socket.if_nameindex() == before


@pytest.fixture
def home() -> Iterator[str]:
    """A namespace by name, in which a killed run was once started."""
    name = f"dmt-{os.getpid()}-home"
    namespaces.create(name)
    try:
        yield name
    finally:
        if namespaces.exists(name):
            namespaces.remove(name)


@contextmanager
def lodger_of(name: str) -> Iterator[None]:
    """A process that lives there."""
    with namespaces.entered(name):
        process = subprocess.Popen(["sleep", "600"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_what_came_from_a_namespace_that_is_gone_is_dropped_with_a_word(
    run: Path, home: str, caplog: pytest.LogCaptureFixture
) -> None:
    if os.stat("/proc/self/ns/pid").st_ino != 0xEFFFFFFC:
        pytest.skip("needs all processes in sight: the first pid namespace")
    with namespaces.entered(home):
        cookie = namespaces.netns_cookie()
    run.mkdir(mode=0o700)
    path = run / "4194305.journal"
    path.write_text(f"nic far nic1 1500 up {cookie} 0\nnic near nic0 1400 down {cookie} -\n")
    with (NETNS / home).open() as descriptor:
        with lodger_of(home):
            assert sweep(run) == []
            namespaces.remove(home)
            assert sweep(run) == []  # it has a process, and a descriptor
        assert sweep(run) == []
        assert descriptor.fileno() >= 0
    assert path.exists()
    assert caplog.text.count("is of another network namespace; run it there") == 3
    caplog.clear()
    assert sweep(run) == []
    assert not run.exists()
    (record,) = caplog.records
    gone = "dropped; the network namespace that nic0 and nic1 came from is gone"
    assert record.getMessage() == f"{path}: {gone}"
