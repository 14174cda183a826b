# SPDX-License-Identifier: Apache-2.0
"""`devmemtcp demo`: what it proves, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..capability import skip_if_lacking
from ..slowness import SLOWNESS

COMMAND = [sys.executable, "-m", "devmemtcp.agent.cli", "demo"]
NETNS = Path("/run/netns")
JOURNALS = Path("/run/devmemtcp-lab")

pytestmark = pytest.mark.usefixtures("_clean_slate")  # skips without root


def said(stderr: str) -> list[str]:
    """The lines on stderr, without those about killed runs of somebody else, or of waiting."""
    others = ("left behind", "waiting for the link of")
    return [line for line in stderr.splitlines() if not any(each in line for each in others)]


def demo(*args: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    process = subprocess.run([*COMMAND, "--json", *args], capture_output=True, text=True)
    return process, report_of(process)


def report_of(process: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The document of a demo that has ended."""
    assert process.stdout, process.stderr
    report: dict[str, Any] = json.loads(process.stdout)
    skip_if_lacking(report.get("error", ""))
    return report


def assert_proved(report: dict[str, Any], size: int) -> None:
    """So many bytes arrived, all of them right, in device memory, which the stack cannot read."""
    assert (report["failures"], report["ok"]) == ([], True)
    assert report["bytes_received"] == report["bytes_device"] == size
    assert report["bytes_linear"] == 0
    assert report["validated"] is True
    assert report["tokens_outstanding"] == 0
    assert report["unreadable"] is True


def remains(pid: int) -> list[Path]:
    """What is there of the demo with this pid."""
    return [*NETNS.glob(f"devmemtcp-{pid}-*"), *JOURNALS.glob(f"{pid}.journal")]


def inhabitants(name: str) -> list[int]:
    """Processes inside a named namespace."""
    inode = (NETNS / name).stat().st_ino
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.stat(entry / "ns/net").st_ino == inode:
                found.append(int(entry.name))
        except (FileNotFoundError, PermissionError):
            continue  # ended since the listing; or not a child of a demo
    return found


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60 * SLOWNESS
    while not true():
        assert time.monotonic() < deadline, "never came true"
        select.select([], [], [], 0.02)


def received_bytes(name: str) -> int:
    command = ["ip", "-n", name, "-s", "-j", "link", "show", "veth0"]
    process = subprocess.run(command, capture_output=True, text=True)
    return json.loads(process.stdout)[0]["stats64"]["rx"]["bytes"] if process.stdout else 0


@contextmanager
def running_demo() -> Iterator[subprocess.Popen[str]]:
    """A demo in the middle of a transfer that would go on for long."""
    process = subprocess.Popen(
        [*COMMAND, "--size", "1T"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            near = f"devmemtcp-{process.pid}-near"
            wait_until(lambda: process.poll() is not None or received_bytes(near) > 1 << 20)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("mode", "mtu"), [("auto", 1500), ("native", 1500), ("generic", 1500), ("auto", 9000)]
)
def test_every_byte_lands_in_the_device_region(mode: str, mtu: int) -> None:
    size = 64 << 20
    process, report = demo("--size", "64M", "--mode", mode, "--mtu", str(mtu))
    assert process.returncode == 0, process.stderr
    assert_proved(report, size)
    assert report["frags"] >= size // 3840
    assert report["mode"] in ("native", "generic") if mode == "auto" else report["mode"] == mode
    assert report["goodput_gbps"] > 0
    parts = [report[f"cpu_seconds_{part}"] for part in ("stack", "application", "sender")]
    assert all(part > 0 for part in parts)
    assert report["cpu_seconds"] == pytest.approx(sum(parts))
    assert report["mtu"] == mtu
    assert report["kernel"] == os.uname().release
    assert report["congestion"]


def test_without_json_there_is_a_table_and_nothing_else() -> None:
    process = subprocess.run([*COMMAND, "--size", "1M"], capture_output=True, text=True)
    assert (process.returncode, said(process.stderr)) == (0, [])
    for row in ("bytes received", "bytes device", "validated", "unreadable", "goodput (Gb/s)"):
        assert row in process.stdout


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_stopped_demo_leaves_nothing(number: int, code: int) -> None:
    with running_demo() as process:
        process.send_signal(number)
        assert process.wait(60 * SLOWNESS) == code
        assert remains(process.pid) == []


def test_the_next_demo_removes_what_a_killed_one_left() -> None:
    with running_demo() as process:
        names = [path.name for path in NETNS.glob(f"devmemtcp-{process.pid}-*")]
        assert len(names) == 2
        process.kill()
        process.wait()
    # Whatever it had started dies with it: the sender, and the process of the stack.
    wait_until(lambda: not any(inhabitants(name) for name in names))
    assert len(remains(process.pid)) == 3
    with running_demo() as live:
        assert remains(process.pid) == []
        result, _ = demo("--size", "1M")
        assert result.returncode == 0
        assert len(remains(live.pid)) == 3, "a live demo's lab was touched"


NICS = ("nic0", "nic1")
OVER_NICS = ("-i", "nic0", "--peer", "nic1")


def state_of_nics(end: Any) -> list[tuple[int, bool]]:
    """MTU and whether it is up of those that are there."""
    output = end.run(["ip", "-j", "link", "show"], capture_output=True).stdout
    links = {link["ifname"]: link for link in json.loads(output)}
    there = (links[name] for name in NICS if name in links)
    return [(link["mtu"], "UP" in link["flags"]) for link in there]


@pytest.fixture
def host(veth: Any) -> Any:
    """An end in whose namespace there are two NICs on one wire (of another veth)."""
    end = veth.left
    end.run(["ip", "link", "add", "nic0", "mtu", "1400", "type", "veth", "peer", "name", "nic1"])
    end.run(["ip", "link", "set", "nic1", "up"])
    return end


def killed_over_nics(host: Any) -> str:
    """Kill a demo that has lent both NICs; the namespace that one is in is left, by this name."""
    with host.popen([*COMMAND, "--size", "1T", *OVER_NICS]) as process:
        near = f"devmemtcp-{process.pid}-near"
        wait_until(lambda: state_of_nics(host) == [] and bool(inhabitants(near)))
        process.kill()
    return near


def test_two_nics_are_lent_and_come_back_as_they_were(host: Any) -> None:
    before = state_of_nics(host)
    process = host.run(
        [*COMMAND, "--json", "--size", "1M", *OVER_NICS], capture_output=True, check=False
    )
    report = json.loads(process.stdout)
    assert (process.returncode, report["ok"]) == (0, True), process.stderr
    assert (report["interface"], report["mtu"]) == ("nic0", 1500)
    assert before == state_of_nics(host) == [(1400, False), (1500, True)]


# Of a NIC whose kernel makes no address of its own, one for each thing that an address can have.
GIVEN = """
ip link set nic1 addrgenmode none
ip link set nic1 down
ip link set nic1 up
ip address add fe80::1/64 dev nic1 noprefixroute nodad
ip address add fe80::2/64 dev nic1 metric 77 preferred_lft 0
ip address add fe80::3 peer fe80::4/128 dev nic1
ip address add fe80::5/64 dev nic0 home
"""


def link_locals(end: Any) -> list[Any]:
    """All that is known of the IPv6 addresses of the two, but for what DAD is at."""
    found = []
    for what in ("link", "address"):
        command = ["ip", "-j", "-d", "-6", what, "show"]
        output = end.run(command, capture_output=True).stdout
        found += [link for link in json.loads(output) if link.get("ifname") in NICS]
    addresses = [[link["ifname"], each] for link in found for each in link.get("addr_info", [])]
    for _, address in addresses:
        address.pop("tentative", None)
    modes = {link["ifname"]: link.get("inet6_addr_gen_mode") for link in reversed(found)}
    return [modes, sorted(addresses, key=lambda each: str(each[0]))]


def test_link_local_addresses_come_back_with_all_they_had(host: Any) -> None:
    host.run(["sh", "-ec", GIVEN])
    before = link_locals(host)
    assert (before[0], len(before[1])) == ({"nic0": "eui64", "nic1": "none"}, 4)
    process = host.run([*COMMAND, "--size", "1M", *OVER_NICS], capture_output=True, check=False)
    assert process.returncode == 0, process.stderr
    assert link_locals(host) == before
    near = killed_over_nics(host)
    wait_until(lambda: not inhabitants(near))
    process = host.run([*COMMAND, "--size", "1M"], capture_output=True, check=False)
    assert process.returncode == 0, process.stderr
    assert link_locals(host) == before
    assert state_of_nics(host) == [(1400, False), (1500, True)]


def sysctls(end: Any) -> dict[str, str]:
    """All below /proc/sys/net that are of the two."""
    command = ["sysctl", "-ae", "-r", r"^net\.ipv[46]\.(conf|neigh)\.nic[01]\."]
    lines = end.run(command, capture_output=True, text=True).stdout.splitlines()
    return {name: value for name, _, value in (line.partition(" = ") for line in lines)}


def test_sysctls_of_an_interface_come_back(host: Any) -> None:
    for word in (
        *("ipv6.conf.nic1.disable_ipv6=1", "ipv6.conf.nic0.accept_ra=0"),
        *("ipv4.conf.nic0.rp_filter=2", "ipv4.neigh.nic0.gc_stale_time=33"),
    ):
        host.run(["sysctl", "-qw", f"net.{word}"])
    before = sysctls(host)
    assert len(before) > 100
    process = host.run([*COMMAND, "--size", "1M", *OVER_NICS], capture_output=True, check=False)
    assert process.returncode == 0, process.stderr
    assert sysctls(host) == before


def test_nics_go_by_their_names_also_where_altnames_are_given(host: Any) -> None:
    for nic, altname in zip(NICS, ("alt0", "alt1"), strict=True):
        host.run(["ip", "link", "property", "add", "dev", nic, "altname", altname])
    before = state_of_nics(host)
    process = host.run(
        [*COMMAND, "--json", "--size", "1M", "-i", "alt0", "--peer", "alt1"],
        capture_output=True,
        check=False,
    )
    assert state_of_nics(host) == before, "lost"
    assert json.loads(process.stdout)["interface"] == "nic0", process.stderr


def test_a_killed_demo_s_nics_come_back_with_the_next(host: Any) -> None:
    before = state_of_nics(host)
    near = killed_over_nics(host)
    assert state_of_nics(host) == []
    elsewhere, _ = demo("--size", "1M")  # in another namespace, which they are not of
    assert (elsewhere.returncode, state_of_nics(host)) == (0, [])
    assert "nic1 is of another network namespace; run it there" in elsewhere.stderr
    wait_until(lambda: not inhabitants(near))
    process = host.run([*COMMAND, "--size", "1M"], capture_output=True, check=False)
    assert process.returncode == 0, process.stderr
    assert state_of_nics(host) == before


def test_a_killed_demo_s_nic_that_is_in_use_by_now_is_left(host: Any) -> None:
    near = killed_over_nics(host)
    wait_until(lambda: not inhabitants(near))
    # An administrator fetches the one that was down, with an MTU of 1400, and uses it.
    fetch = ["ip", "-n", near, "link", "set", "nic0", "netns", host.netns]
    subprocess.run(fetch, check=True)
    host.run(["ip", "link", "set", "nic0", "mtu", "1300", "up"])
    host.run(["ip", "route", "add", "default", "dev", "nic0"])
    process = host.run([*COMMAND, "--size", "1M"], capture_output=True, check=False)
    assert process.returncode == 0, process.stderr
    assert state_of_nics(host) == [(1300, True), (1500, True)]
    assert b"nic0 is somebody's by now; left as it is" in process.stderr
    routes = host.run(["ip", "route", "show", "default"], capture_output=True).stdout
    assert b"nic0" in routes


@pytest.mark.parametrize(
    ("spoil", "args", "says"),
    [
        ("ip address add 10.9.9.1/24 dev nic1", OVER_NICS, "nic1 has the address 10.9.9.1"),
        ("ip address add 169.254.9.9/16 dev nic1", OVER_NICS, "nic1 has the address 169.254.9.9"),
        (
            "ip link set nic0 up; ip route add default dev nic0",
            OVER_NICS,
            "the default route leaves by nic0",
        ),
        ("ip route add 203.0.113.0/24 dev nic1", OVER_NICS, "nic1 has a route to 203.0.113.0/24"),
        (
            "ip -6 route add 2001:db8::/48 table 7 dev nic1",
            OVER_NICS,
            "nic1 has a route to 2001:db8::/48",
        ),
        (
            "ip neigh add 192.0.2.7 lladdr 02:00:00:00:00:01 dev nic1 nud permanent",
            OVER_NICS,
            "nic1 has the permanent neighbour 192.0.2.7",
        ),
        ("ip link add mac0 link nic1 type macvlan", OVER_NICS, "mac0 is made on nic1"),
        ("ip link add br0 type bridge; ip link set nic0 master br0", OVER_NICS, "nic0 is a port"),
        ("true", ("-i", "lo", "--peer", "nic1"), "lo is the loopback"),
        ("true", ("-i", "gone0", "--peer", "nic1"), "no interface 'gone0'"),
        ("true", ("-i", "", "--peer", ""), "no interface ''"),
        ("true", ("-i", "n" * 200, "--peer", "nic1"), "no interface 'nnn"),
        ("true", ("-i", "nic0"), "-i and --peer go together"),
        ("true", ("-i", "nic0", "--peer", "nic0"), "-i and --peer are both nic0"),
    ],
    ids=[
        "address",
        "link-local",
        "way-out",
        "route",
        "route-6",
        "neighbour",
        "macvlan",
        "bridge",
        "loopback",
        "gone",
        "empty",
        "long",
        "one",
        "same",
    ],
)
def test_nics_that_cannot_be_lent_stay(
    host: Any, spoil: str, args: tuple[str, ...], says: str
) -> None:
    host.run(["sh", "-c", spoil])
    before = state_of_nics(host)
    process = host.run([*COMMAND, "--json", *args], capture_output=True, check=False)
    report = json.loads(process.stdout)
    assert process.returncode == report["exit_code"] == 2
    assert says in report["error"]
    assert state_of_nics(host) == before


def children(pid: int) -> dict[int, str]:
    """The command lines of a process's children."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(each): Path(f"/proc/{each}/cmdline").read_text() for each in found}


@pytest.mark.parametrize(
    ("which", "says"),
    [("send", "the sender failed"), ("devmemtcp.agent.stackd", "the stack's process has died")],
)
def test_a_death_in_the_family_is_one_line_and_1(which: str, says: str) -> None:
    with running_demo() as process:
        (victim,) = (
            pid for pid, line in children(process.pid).items() if which in line.split("\0")
        )
        os.kill(victim, signal.SIGKILL)
        _, errors = process.communicate(timeout=60 * SLOWNESS)
        assert process.returncode == 1
        (line,) = said(errors)
        assert says in line
        assert remains(process.pid) == []


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--region-size", "64K"), "too small"),
        (("--region-size", "2000001"), "multiple"),
        (("--mtu", "70000"), "MTU 70000"),
        (("--size", "0"), "--size"),
    ],
)
def test_what_cannot_work_makes_nothing(args: tuple[str, str], says: str) -> None:
    process, report = demo(*args)
    assert process.returncode == report["exit_code"] == 2
    assert says in report["error"]
    assert said(process.stderr) == [f"devmemtcp: error: {report['error']}"]
