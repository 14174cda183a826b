# SPDX-License-Identifier: Apache-2.0
"""doctor on a veth: what is wrong has its line, and the command it names mends it.

Each misconfiguration is made for real; the doctor has to see it, and no longer once its own
command has been run, as it stands, in a shell.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from devmemtcp.agent import preflight
from devmemtcp.agent.doctor import agents, host, peer, program, taken
from devmemtcp.agent.doctor.examine import examine
from devmemtcp.agent.doctor.program import Loaded
from devmemtcp.agent.doctor.record import Check, Report, State
from devmemtcp.netlink.errors import Unsupported
from devmemtcp.netlink.link import Links
from devmemtcp.pyxdp import BpfObject, Mode, Sharing, attach, features

from ..slowness import SLOWNESS
from .agent_process import open_folder, running_agent

if TYPE_CHECKING:
    from tests.net.veth import Veth

MIB = 1 << 20
PATIENCE = 20.0 * SLOWNESS
MAX_MAP_COUNT = Path("/proc/sys/vm/max_map_count")

Pairs = Callable[..., "Veth"]
Compile = Callable[[str], Path]


class Patient:
    """An interface with something wrong, and who caused it."""

    def __init__(self, veth: Veth, compiled: Compile, causes: ExitStack) -> None:
        self.veth = veth
        self.compiled = compiled
        self.causes = causes
        self.region_size = 64 * MIB

    def seen(self) -> Report:
        right = self.veth.right
        with right.enter():
            return examine(right.ifname, region_size=self.region_size, try_zero_copy=False)

    def shell(self, command: str) -> None:
        self.veth.right.run(["sh", "-ec", command])


@pytest.fixture(scope="module")
def loaded(_clean_slate: None) -> Loaded:
    return program.tried()


@pytest.fixture(autouse=True)
def _load_once(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verifying the program takes most of the time, and none of these tests touches it."""
    monkeypatch.setattr(program, "tried", lambda: loaded)


def line(report: Report, name: str) -> Check:
    (found,) = [check for check in report.checks if check.name == name]
    return found


def is_down(patient: Patient) -> None:
    patient.veth.right.set_link(state="down")


def has_no_carrier(patient: Patient) -> None:
    patient.veth.left.set_link(state="down")


def has_too_small_an_mtu(patient: Patient) -> None:
    patient.veth.right.set_link(mtu=500)


def has_a_peer_with_a_larger_mtu(patient: Patient) -> None:
    patient.veth.left.set_link(mtu=9000)


def has_no_address(patient: Patient) -> None:
    patient.shell("ip address flush dev veth1")


def is_a_port_of_a_bridge(patient: Patient) -> None:
    patient.shell("ip link add br0 type bridge && ip link set veth1 master br0")


def has_a_foreign_program(patient: Patient, mode: str) -> None:
    path = patient.compiled("pyxdp")
    patient.shell(f"ip link set veth1 {mode} object {path} section xdp")


def has_a_foreign_native_program(patient: Patient) -> None:
    has_a_foreign_program(patient, "xdpdrv")


def has_a_foreign_generic_program(patient: Patient) -> None:
    has_a_foreign_program(patient, "xdpgeneric")


def has_a_program_on_a_link(patient: Patient) -> None:
    opened = BpfObject.open(patient.compiled("pyxdp"), programs=["drop"])
    patient.causes.enter_context(opened).load()
    with patient.veth.right.enter():
        patient.causes.enter_context(
            attach(opened.programs["drop"], "veth1", mode=Mode.GENERIC, sharing=Sharing.EXCLUSIVE)
        )


def test_who_is_refused_hears_who_has_the_interface(veth: Veth, bpf_object: Compile) -> None:
    """As `recv` says it: nobody has to look for the process with other tools."""
    with ExitStack() as causes, veth.right.enter():
        has_a_program_on_a_link(Patient(veth, bpf_object, causes))
        (refusal,) = preflight.program_refusals("veth1", features("veth1").programs)
        assert f", by process {os.getpid()} (" in str(refusal)


HOLDER = """
import signal
from devmemtcp.pyxdp import Umem, XskSocket
with Umem.allocate(1 << 16) as umem, XskSocket("veth1", 0, umem):
    print("bound", flush=True)
    signal.pause()
"""


def has_an_af_xdp_user(patient: Patient) -> None:
    command = [sys.executable, "-c", HOLDER]
    holder = patient.veth.right.popen(command, stdout=subprocess.PIPE, text=True)
    patient.causes.callback(holder.wait)
    patient.causes.callback(holder.kill)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "bound\n"


def has_too_few_mappings(patient: Patient) -> None:
    """For a region of half as much again; the limit is put back afterwards."""
    limit = MAX_MAP_COUNT.read_text()
    patient.causes.callback(MAX_MAP_COUNT.write_text, limit)
    patient.region_size = int(limit) * 3 // 4 * 4096


MISCONFIGURED: list[tuple[Callable[[Patient], None], str, State]] = [
    (is_down, "link", State.FAIL),
    (has_no_carrier, "link", State.WARN),
    (has_too_small_an_mtu, "MTU", State.FAIL),
    (has_a_peer_with_a_larger_mtu, "MTU", State.WARN),
    (has_no_address, "addresses", State.FAIL),
    (is_a_port_of_a_bridge, "port", State.WARN),
    (has_a_foreign_native_program, "XDP program on it", State.FAIL),
    (has_a_foreign_generic_program, "XDP program on it", State.FAIL),
    (has_a_program_on_a_link, "XDP program on it", State.FAIL),
    (has_an_af_xdp_user, "AF_XDP users", State.FAIL),
    (has_too_few_mappings, "max_map_count", State.FAIL),
]


@pytest.mark.parametrize(
    ("misconfigured", "name", "state"),
    MISCONFIGURED,
    ids=[row[0].__name__ for row in MISCONFIGURED],
)
def test_what_is_wrong_has_a_line_and_its_command_mends_it(
    veth: Veth,
    bpf_object: Compile,
    misconfigured: Callable[[Patient], None],
    name: str,
    state: State,
) -> None:
    with ExitStack() as causes:
        patient = Patient(veth, bpf_object, causes)
        misconfigured(patient)
        before = patient.seen()
        wrong = line(before, name)
        assert wrong.state is state
        assert wrong.mend is not None
        assert before.ok == (state is State.WARN)
        tool = wrong.mend.split()[0]
        if tool == "bpftool" and shutil.which(tool) is None:
            pytest.skip("bpftool is not installed: nothing else detaches another's BPF link")
        patient.shell(wrong.mend)
        mended = await_mended(patient, name)
        assert [check for check in mended.checks if check == wrong] == []
        assert mended.ok


def await_mended(patient: Patient, name: str) -> Report:
    """A queue is free, and a carrier seen, a moment later."""
    deadline = time.monotonic() + PATIENCE
    while True:
        report = patient.seen()
        states = {check.state for check in report.checks if check.name == name}
        if states <= {State.OK} or time.monotonic() > deadline:
            assert states <= {State.OK}, line(report, name)
            return report
        time.sleep(0.02)


@pytest.mark.parametrize("release", [(6, 1), (6, 18)], ids=["tried", "asked"])
def test_sockets_are_found_where_the_kernel_does_not_list_them(
    netns_pair: Pairs,
    bpf_object: Compile,
    monkeypatch: pytest.MonkeyPatch,
    release: tuple[int, int],
) -> None:
    """By binding to each queue or, on kernels that tell of queues who has them, by asking."""

    def does_not_list() -> None:
        raise Unsupported("no CONFIG_XDP_SOCKETS_DIAG")

    if release > host.release():
        pytest.skip("this kernel does not tell of queues that AF_XDP has them")
    monkeypatch.setattr(taken, "xdp_sockets", does_not_list)
    monkeypatch.setattr(host, "release", lambda: release)
    with ExitStack() as causes:
        patient = Patient(netns_pair(queues=2), bpf_object, causes)
        assert line(patient.seen(), "AF_XDP users").state is State.OK
        has_an_af_xdp_user(patient)
        found = line(patient.seen(), "AF_XDP users")
    assert found.state is State.FAIL
    assert re.fullmatch(r"queue 0: process \d+ \(python\S*\)", found.found)


def test_its_own_sockets_are_not_taken_for_somebody_elses(veth: Veth, bpf_object: Compile) -> None:
    """The kernel releases a queue some time after the socket that tried it was closed."""
    with ExitStack() as causes:
        patient = Patient(veth, bpf_object, causes)
        for _ in range(10):
            assert line(patient.seen(), "AF_XDP users").state is State.OK


def test_a_stale_name_of_a_namespace_hides_no_peer(
    veth: Veth, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As a namespace that is no longer mounted leaves one; it sorts before the peer's."""
    (tmp_path / "+stale").touch()
    (tmp_path / veth.left.netns).symlink_to(Path("/run/netns") / veth.left.netns)
    monkeypatch.setattr(peer, "_NAMES", tmp_path)
    with veth.right.enter(), Links() as links:
        found = peer.find_peer(links.get(veth.right.ifname))
    assert found is not None
    assert (found.netns, found.link.ifname) == (veth.left.netns, veth.left.ifname)


def test_more_queues_than_a_stack_can_have(netns_pair: Pairs, bpf_object: Compile) -> None:
    with ExitStack() as causes:
        patient = Patient(netns_pair(queues=66), bpf_object, causes)
        wrong = line(patient.seen(), "queues")
        assert (wrong.state, wrong.found) == (State.FAIL, "veth1 has 66 RX queues")
        assert wrong.mend is not None
        patient.shell(wrong.mend)
        assert line(patient.seen(), "queues").found == "64 of 66"


def doctor(veth: Veth, *args: str, before: str = "", drop: str = "") -> tuple[int, dict[str, Any]]:
    """The command, below a shell that has done something, without some capabilities."""
    verb = f"{sys.executable} -m devmemtcp.agent.cli doctor -i veth1 --json {' '.join(args)}"
    shell = f"{before}\n{drop} {verb}"
    done = veth.right.run(["sh", "-c", shell], check=False, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def lines(report: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in report["checks"]}


WITHOUT_IPC_LOCK = "setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock"


def test_little_locked_memory_for_who_has_no_cap_ipc_lock(veth: Veth) -> None:
    limit = "ulimit -S -l 1024"
    code, report = doctor(veth, before=limit, drop=WITHOUT_IPC_LOCK)
    wrong = lines(report)["memlock"]
    assert (code, report["ok"], wrong["state"]) == (1, False, "fail")
    if wrong["mend"].startswith("sudo "):
        pytest.skip("the hard limit is too low, and root may not raise it here")
    mended = f"{limit}\n{wrong['mend']}"
    code, report = doctor(veth, before=mended, drop=WITHOUT_IPC_LOCK)
    assert (code, lines(report)["memlock"]["state"]) == (0, "ok")


def test_a_low_hard_limit_is_for_who_may_raise_it(veth: Veth) -> None:
    """The command is sudo's, but for that it works as it stands."""
    limit = "ulimit -l 1024"
    both = "-ipc_lock,-sys_resource"
    drop = f"setpriv --bounding-set={both} --inh-caps={both}"
    _, report = doctor(veth, before=limit, drop=drop)
    mend = lines(report)["memlock"]["mend"]
    assert mend.startswith("sudo prlimit --pid $$ --memlock=")
    if not may_raise_limits():
        pytest.skip("root has no CAP_SYS_RESOURCE here")
    mended = f"{limit}\n{mend.removeprefix('sudo ')}"
    code, report = doctor(veth, before=mended, drop=drop)
    assert (code, lines(report)["memlock"]["state"]) == (0, "ok")


def may_raise_limits() -> bool:
    (line,) = re.findall(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return bool(int(line, 16) >> 24 & 1)


def test_without_any_privilege_it_says_what_it_could_not_look_at(veth: Veth) -> None:
    drop = "setpriv --bounding-set=-all --inh-caps=-all"
    code, report = doctor(veth, drop=drop)
    found = lines(report)
    assert code == 1
    assert found["capabilities"]["state"] == "fail"
    assert "CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF, CAP_PERFMON" in found["capabilities"]["found"]
    assert "CAP_NET_RAW" in found["AF_XDP"]["found"]
    assert "CAP_BPF" in found["XDP program"]["found"]
    assert {found[name]["state"] for name in ("AF_XDP", "XDP program")} == {"note"}
    assert found["driver"]["found"] == "veth"
    assert [mode["usable"] for mode in report["modes"]] == [False] * len(report["modes"])


def test_what_an_agent_serves_needs_no_privilege_and_is_nobody_elses(veth: Veth) -> None:
    drop = "setpriv --bounding-set=-all --inh-caps=-all"
    with open_folder() as folder, running_agent(folder, veth.right) as agent:
        code, report = doctor(veth, "--agent-socket", str(agent.path), drop=drop)
    found = lines(report)
    assert (code, report["ok"]) == (0, True)
    assert (found["agent"]["state"], found["agent"]["found"]) == ("ok", "serves veth1")
    assert (found["capabilities"]["state"], found["XDP program on it"]["state"]) == ("note", "ok")
    places = {place["mode"]: place for place in report["places"]}
    assert places["agent"]["usable"]
    assert places["isolated"]["why_not"] == "the agent has the interface"


def test_an_agent_serves_an_interface_whichever_of_its_names_is_given(
    veth: Veth, monkeypatch: pytest.MonkeyPatch
) -> None:
    veth.right.run(["ip", "link", "property", "add", "dev", "veth1", "altname", "alt0"])
    monkeypatch.setattr(agents, "asked", lambda path: agents.Agent(("veth1",)))
    with veth.right.enter():
        report = examine("alt0", region_size=64 * MIB, try_zero_copy=False)
    assert report.interface == "veth1"
    assert [place.mode for place in report.places if place.usable] == ["agent"]


def settings(veth: Veth) -> list[bytes]:
    shown = ("ip -d link", "ethtool -k veth1", "ethtool -l veth1")
    return [veth.right.run(each.split(), capture_output=True).stdout for each in shown]


def test_a_healthy_veth_can_be_received_from_and_nothing_is_changed(veth: Veth) -> None:
    before = settings(veth)
    code, report = doctor(veth)
    assert settings(veth) == before
    assert (code, report["ok"]) == (0, True)
    assert [check for check in report["checks"] if check["state"] == "fail"] == []
    assert [mode["mode"] for mode in report["modes"] if mode["chosen"]] != []
    usable = {mode["mode"]: mode for mode in report["modes"] if mode["usable"]}
    assert "native" in usable
    assert all(mode["promises"] for mode in usable.values())
    places = {place["mode"]: place for place in report["places"]}
    assert places["isolated"]["usable"]
    assert "no agent answers" in places["agent"]["why_not"]


def test_an_interface_that_is_not_there_is_bad_usage(veth: Veth) -> None:
    verb = [sys.executable, "-m", "devmemtcp.agent.cli", "doctor", "-i", "nowhere"]
    done = veth.right.run(verb, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no interface 'nowhere'" in done.stderr


def test_without_an_interface_each_has_one_line(veth: Veth) -> None:
    verb = [sys.executable, "-m", "devmemtcp.agent.cli", "doctor"]
    done = veth.right.run(verb, check=False, capture_output=True, text=True)
    assert done.returncode == 0
    (mine,) = [text for text in done.stdout.splitlines() if " veth1: " in text]
    assert mine.startswith("ok   veth1: veth, 1 queues, MTU 1500")
