# SPDX-License-Identifier: Apache-2.0
"""The doctor's record, what it prints, and what it concludes without an interface to look at."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from devmemtcp.agent import holders, preflight, readability
from devmemtcp.agent.doctor import (
    devmem,
    driver,
    host,
    link,
    modes,
    offloads,
    process,
    queues,
    render,
)
from devmemtcp.agent.doctor.agents import Agent
from devmemtcp.agent.doctor.examine import summed_up
from devmemtcp.agent.doctor.floors import FLOORS
from devmemtcp.agent.doctor.look import looked, named
from devmemtcp.agent.doctor.matrix import COLUMNS, DRIVERS, Can, drivers_with, known
from devmemtcp.agent.doctor.peer import Peer
from devmemtcp.agent.doctor.program import Loaded, tried
from devmemtcp.agent.doctor.program import checks as program_checks
from devmemtcp.agent.doctor.record import Check, Report, State, Verdict, fail, note, ok, warn
from devmemtcp.agent.document import document
from devmemtcp.agent.errors import ConfigError, Unsupported
from devmemtcp.agent.netdev import NetDev
from devmemtcp.agent.preflight import buffer_refusals
from devmemtcp.agent.refusal import Refusal, raise_first
from devmemtcp.netlink.ethtool import Feature
from devmemtcp.netlink.link import Link
from devmemtcp.pyxdp import AttachedProgram, Features, Mode, XdpAct, XdpError

HEALTHY = Loaded(frags=True, linear=True, jited=True, path="metadata")


def nic(**changes: Any) -> Features:
    """A NIC that has everything but zero-copy."""
    features = Features(
        ifindex=7,
        ifname="eth7",
        mtu=1500,
        driver="igb",
        rx_queues=4,
        tx_queues=4,
        max_rx_queues=8,
        max_tx_queues=8,
        combined_queues=True,
        gro=True,
        programs=[],
        native_xdp=True,
        generic_xdp=True,
        xdp_features=XdpAct.BASIC,
        zc_max_segs=None,
        af_xdp=True,
        need_wakeup=True,
        unaligned_chunks=True,
        multi_buffer=True,
        zero_copy=None,
        busy_poll=True,
        reasons={"zero_copy": "not tried"},
    )
    return dataclasses.replace(features, **changes)


def facts(can: Features, *checks: Check, loaded: Loaded = HEALTHY) -> modes.Facts:
    multi_buffer = can.multi_buffer is not False
    return modes.Facts(can, (6, 18), loaded, multi_buffer, checks)


def by_mode(verdicts: list[Verdict]) -> dict[str, Verdict]:
    return {verdict.mode: verdict for verdict in verdicts}


# ---- the record ----


def test_a_machine_is_well_unless_a_line_fails() -> None:
    report = Report("6.18", None, [ok("a", "1", "2"), note("b", "1", "2"), warn("c", "1", "2")])
    assert report.ok
    report.checks.append(fail("d", "1", "2"))
    assert not report.ok


def test_an_interface_is_well_when_a_mode_can_be_used() -> None:
    unusable = Verdict("native", False, (), "for a reason")
    report = Report("6.18", "eth7", [], [unusable])
    assert not report.ok
    report.modes.append(Verdict("generic", True, ("a promise",)))
    assert report.ok


def test_the_document_has_checks_and_modes() -> None:
    report = Report("6.18", "eth7", [fail("link", "down", "nothing comes", "ip link set eth7 up")])
    found = json.loads(document(report, 1))
    assert (found["ok"], found["exit_code"]) == (False, 1)
    assert found["checks"] == [
        {
            "name": "link",
            "state": "fail",
            "found": "down",
            "means": "nothing comes",
            "mend": "ip link set eth7 up",
        }
    ]
    assert found["modes"] == []


def test_what_is_piped_gets_a_line_a_check(capsys: pytest.CaptureFixture[str]) -> None:
    long = "a reason " * 40
    report = Report(
        "6.18",
        "eth7",
        [warn("GRO", "on [yes]", long, "ethtool -K eth7 gro off"), ok("link", "up", "fine")],
        [Verdict("native", False, (), "no XDP"), Verdict("generic", True, ("all",), chosen=True)],
        [Verdict("inside", True, ("nothing",))],
    )
    render.show(report)
    assert capsys.readouterr().out.splitlines() == [
        f"warn GRO: on [yes]: {long}; `ethtool -K eth7 gro off`",
        "ok   link: up: fine",
        "mode  native: no: no XDP",
        "mode  generic (auto): all",
        "stack inside: nothing",
    ]


@pytest.mark.parametrize(
    "error",
    [
        Unsupported("no such thing"),
        PermissionError(errno.EPERM, "no such thing"),
        OSError(errno.EIO, "no such thing"),
        XdpError(errno.EIO, "no such thing", "a verifier\nhas much to say"),
        ConfigError("no such thing"),  # an interface that has gone since all were listed
    ],
)
def test_what_cannot_be_asked_is_a_note_with_the_reason(error: Exception) -> None:
    def ask() -> Iterator[Check]:
        yield ok("first", "1", "2")
        raise error

    first, last = looked("thing", ask)
    assert first.name == "first"
    assert (last.name, last.state) == ("thing", State.NOTE)
    assert last.found.startswith("no such thing")
    assert "\n" not in last.found


def test_a_bug_is_not_taken_for_a_kernel_that_does_not_tell() -> None:
    def ask() -> list[Check]:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        list(looked("thing", ask))


def test_names_are_listed_as_people_do() -> None:
    assert named(["a"]) == "a"
    assert named(["a", "b", "c"]) == "a, b and c"


# ---- refusals ----


def test_a_refusal_is_an_error_and_a_line() -> None:
    refusal = Refusal("link", "eth7 is down", "it receives nothing", "ip link set eth7 up")
    assert str(refusal.error()) == "eth7 is down: it receives nothing; `ip link set eth7 up`"
    assert isinstance(refusal.error(), ConfigError)
    with pytest.raises(Unsupported, match=r"too old: needs 6\.6"):
        raise_first([Refusal("MTU", "too old", "needs 6.6", kind=Unsupported), refusal])
    line = Check.of(refusal)
    assert (line.name, line.state, line.mend) == ("link", State.FAIL, "ip link set eth7 up")


# ---- what is known of drivers ----


@pytest.mark.parametrize(
    ("name", "what", "release", "answer"),
    [
        ("igb", Can.ZERO_COPY, (6, 12), False),
        ("igb", Can.ZERO_COPY, (6, 18), None),  # between two kernels that were looked at
        ("igb", Can.ZERO_COPY, (7, 3), True),
        ("igb", Can.ZERO_COPY, (8, 0), True),
        ("igb", Can.ZERO_COPY, (5, 10), False),  # older than one that has not
        ("igb", Can.NATIVE, (5, 10), None),  # older than one that has
        ("bnxt_en", Can.DEVMEM, (6, 12), False),
        ("bnxt_en", Can.DEVMEM, (6, 15), None),
        ("bnxt_en", Can.DEVMEM, (6, 18), True),
        ("vmxnet3", Can.NATIVE, (6, 1), False),
        ("vmxnet3", Can.NATIVE, (6, 12), True),
        ("ena", Can.NATIVE, (6, 1), True),
        ("ionic", Can.NATIVE, (6, 8), None),
        ("veth", Can.ZERO_COPY, (7, 3), False),
        ("e1000", Can.NATIVE, (7, 3), False),
        ("unheard_of", Can.NATIVE, (7, 3), None),
        (None, Can.NATIVE, (7, 3), None),
    ],
)
def test_what_a_driver_has_in_a_kernel(
    name: str | None, what: Can, release: tuple[int, int], answer: bool | None
) -> None:
    assert known(name, what, release) is answer


def test_a_row_has_an_entry_for_each_kernel() -> None:
    assert {len(row.columns) for row in DRIVERS.values()} == {len(COLUMNS)}


def test_four_drivers_have_devmem() -> None:
    assert set(drivers_with(Can.DEVMEM)) == {"bnxt_en", "fbnic", "gve", "mlx5_core"}


def test_a_driver_that_tells_is_believed_before_the_table() -> None:
    assert driver.native(nic(native_xdp=False), (7, 3)) is False
    assert driver.native(nic(native_xdp=None), (7, 3)) is True
    assert driver.zero_copy(nic(), (7, 3)) is False
    zero_copy = XdpAct.BASIC | XdpAct.XSK_ZEROCOPY
    assert driver.zero_copy(nic(xdp_features=zero_copy), (6, 1)) is True
    assert driver.zero_copy(nic(xdp_features=None), (7, 3)) is True


def test_zero_copy_that_was_not_tried_says_how_to() -> None:
    can = nic(xdp_features=XdpAct.BASIC | XdpAct.XSK_ZEROCOPY)
    (line,) = [check for check in driver.checks(can, (7, 3)) if check.name == "zero-copy"]
    assert line.mend == "devmemtcp doctor -i eth7 --try-zero-copy"


def test_what_the_driver_says_is_not_doubted_by_the_table() -> None:
    can = nic(xdp_features=XdpAct.BASIC | XdpAct.XSK_ZEROCOPY)  # 6.18: the table does not know
    (line, *_) = driver.checks(can, (6, 18))
    assert line.means.startswith("has native XDP and AF_XDP zero-copy; drops its link")
    unknown = nic(driver="ionic", native_xdp=None, xdp_features=XdpAct(0))
    assert next(driver.checks(unknown, (6, 8))).means.startswith("perhaps native XDP, which")
    none = nic(driver="e1000e", native_xdp=False)
    assert next(driver.checks(none, (6, 18))).means == "has neither native XDP nor zero-copy"


@pytest.fixture
def bare_virtio(monkeypatch: pytest.MonkeyPatch) -> Features:
    """One that says it has zero-copy, and is behind no IOMMU."""
    monkeypatch.setattr("devmemtcp.agent.zerocopy.is_bare_virtio", lambda _: True)
    return nic(driver="virtio_net", xdp_features=XdpAct.BASIC | XdpAct.XSK_ZEROCOPY)


def test_zero_copy_that_is_refused_is_not_said_to_be_there(bare_virtio: Features) -> None:
    (line,) = [each for each in driver.checks(bare_virtio, (7, 3)) if each.name == "zero-copy"]
    assert (line.state, line.mend) == (State.WARN, None)
    assert "no DMA address space of its own" in line.found


@pytest.mark.parametrize("default_route", [False, True])
def test_the_short_line_says_what_the_long_report_does(
    bare_virtio: Features, default_route: bool
) -> None:
    dev = NetDev(bare_virtio, up=True, loopback=False, default_route=default_route)
    line = summed_up(dev, (7, 3), "virtio_net")
    assert line.means.startswith("native XDP, no zero-copy; ")
    refused = "refused as it is: the default route leaves by eth7"
    assert (line.state is State.NOTE, refused in line.means) == (default_route, default_route)


def test_the_loopback_device_is_refused_once_and_named() -> None:
    can = nic(ifname="lo", driver=None, mtu=65536, reasons={"driver": "it does not tell"})
    dev = NetDev(can, up=False, loopback=True, default_route=False)
    (refusal,) = preflight.link_refusals(dev, can.mtu, force=False)
    assert (refusal.found, refusal.mend) == ("lo is the loopback device", None)
    (refusal, *_) = buffer_refusals(can, "zerocopy", 1500, multi_buffer=True)
    assert refusal.found == "the driver of lo has no zero-copy AF_XDP in this kernel"
    assert devmem.check(can, (7, 3), None).found == "nothing is known of the driver of lo"


# ---- the machine ----


def test_a_configuration_is_read() -> None:
    text = b"# CONFIG_UDMABUF is not set\nCONFIG_XDP_SOCKETS=y\nCONFIG_VETH=m\n"
    assert host.parse_config(text) == {"XDP_SOCKETS": "y", "VETH": "m"}


def test_a_kernel_without_jit_or_room_for_metadata_is_warned_of() -> None:
    old = Loaded(frags=False, linear=True, jited=False, path="slot", reason="no frags")
    states = {check.name: check.state for check in program_checks(old)}
    assert states == {
        "XDP program": State.OK,
        "XDP multi-buffer": State.WARN,
        "BPF JIT": State.WARN,
        "XDP metadata": State.WARN,
    }
    jit = next(check for check in program_checks(old) if check.name == "BPF JIT")
    assert jit.mend == "sysctl -w net.core.bpf_jit_enable=1"


LOG = """libbpf: prog 'steer_frags': -- BEGIN PROG LOAD LOG --
R1 unbounded memory access, make sure to bounds check any such access
processed 7 insns (limit 1000000)
-- END PROG LOAD LOG --
libbpf: failed to load object"""


@pytest.mark.parametrize(
    ("error", "state", "found"),
    [
        (XdpError(errno.EPERM, "needs CAP_BPF"), State.NOTE, "needs CAP_BPF"),
        (PermissionError(errno.EACCES, "no entry", "x.bpf.o"), State.NOTE, "no entry: x.bpf.o"),
        (XdpError(errno.EACCES, "cannot load it", LOG), State.FAIL, "R1 unbounded memory access"),
    ],
)
def test_why_a_program_was_not_loaded(
    monkeypatch: pytest.MonkeyPatch, error: OSError, state: State, found: str
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("devmemtcp.agent.doctor.program.BpfObject.open", refuse)
    loaded = tried()
    (line,) = program_checks(loaded)
    assert line.state is state
    assert found in line.found
    assert found in loaded.against_chunk


def test_a_program_that_may_not_be_loaded_is_another_thing_than_one_that_cannot() -> None:
    denied = Loaded(reason="needs CAP_BPF", denied=True)
    refused = Loaded(reason="the verifier says no")
    assert [check.state for check in program_checks(denied)] == [State.NOTE]
    assert [check.state for check in program_checks(refused)] == [State.FAIL]


def test_a_region_larger_than_the_machine_maps_has_its_command() -> None:
    found = {check.name: check for check in process.checks(1 << 40, 1024)}
    assert found["max_map_count"].state is State.FAIL
    assert (found["max_map_count"].mend or "").startswith("sysctl -w vm.max_map_count=")


def test_floors_are_in_order_and_each_has_its_line() -> None:
    releases = [floor.since for floor in FLOORS]
    assert releases == sorted(releases)
    assert len({floor.check for floor in FLOORS}) == len(FLOORS)


# ---- offloads ----


def active(*names: str) -> dict[str, Feature]:
    return {name: Feature(active=True, wanted=True, changeable=True) for name in names}


def test_lro_in_front_of_xdp_is_warned_of_with_its_command() -> None:
    lines = offloads.checks("eth7", active("rx-lro", "rx-gro-hw"), multi_buffer=True)
    found = {check.name: check for check in lines}
    assert found["merging in the NIC"].mend == "ethtool -K eth7 lro off rx-gro-hw off"
    assert found["GRO"].state is State.OK


@pytest.mark.parametrize(
    ("more", "found", "mend"),
    [
        ({}, "rx-gro-hw [fixed] on", None),
        (active("rx-lro"), "lro, rx-gro-hw [fixed] on", "ethtool -K eth7 lro off"),
    ],
)
def test_no_command_is_named_for_what_is_fixed(
    more: dict[str, Feature], found: str, mend: str | None
) -> None:
    fixed = {"rx-gro-hw": Feature(active=True, wanted=True, changeable=False)}
    lines = offloads.checks("eth7", fixed | more, multi_buffer=True)
    (line,) = [check for check in lines if check.name == "merging in the NIC"]
    assert (line.state, line.found, line.mend) == (State.WARN, found, mend)
    assert "`--mode auto` takes generic" in line.means


@pytest.mark.parametrize(("multi_buffer", "state"), [(True, State.OK), (False, State.WARN)])
def test_merged_packets_matter_where_one_buffer_is_all_there_is(
    multi_buffer: bool, state: State
) -> None:
    lines = offloads.checks("eth7", active("rx-gro"), multi_buffer=multi_buffer)
    found = {check.name: check for check in lines}
    assert (found["GRO"].state, bool(found["GRO"].mend)) == (state, not multi_buffer)
    names = active("tx-tcp-segmentation", "tx-checksum-ip-generic")
    peers = offloads.peer_checks("veth0", "ip netns exec far ", names, multi_buffer=multi_buffer)
    found = {check.name: check for check in peers}
    assert found["peer's TSO and GSO"].state is state
    if not multi_buffer:
        mend = "ip netns exec far ethtool -K veth0 tso off gso off"
        assert found["peer's TSO and GSO"].mend == mend


# ---- queues ----


@pytest.mark.parametrize(
    ("table", "steers", "up", "says"),
    [
        (
            (0,) * 128,
            False,
            True,
            "over queue 0: no TCP comes to queues 1, 2, 3: the driver has no",
        ),
        ((0, 1, 2) * 4, False, True, "over queues 0, 1, 2: no TCP comes to queue 3"),
        ((0, 1) * 8, True, True, "over queues 0, 1: flow rules can lead to queues 2, 3"),
        ((0, 1, 2, 3), True, True, "over queues 0, 1, 2, 3: `devmemtcp nic plan` keeps"),
        ((0,) * 128, True, False, "over queue 0: a driver may write another table when"),
    ],
)
def test_what_an_rss_table_means(table: tuple[int, ...], steers: bool, up: bool, says: str) -> None:
    dev = NetDev(nic(), up=up, loopback=False, default_route=False)
    line = queues.rss_check(dev, table, steers=steers)
    assert says in f"{line.found}: {line.means}"


# ---- the conclusion ----


def test_a_nic_that_has_xdp_is_taken_natively() -> None:
    verdicts = by_mode(modes.modes(facts(nic())))
    assert verdicts["native"].usable
    assert verdicts["native"].chosen
    assert verdicts["generic"].usable
    copied = [verdicts["native"], verdicts["generic"]]
    assert all("payload alone" in verdict.promises[0] for verdict in copied)


def test_a_nic_without_xdp_is_taken_generically() -> None:
    verdicts = by_mode(modes.modes(facts(nic(driver="e1000e", native_xdp=False))))
    assert verdicts["native"].why_not == "e1000e runs no XDP programs"
    assert verdicts["generic"].chosen
    assert verdicts["generic"].usable


def test_a_line_that_fails_is_in_the_way_of_every_mode_but_the_agents() -> None:
    checks = [fail("link", "down", "nothing comes"), warn("GRO", "on", "slower")]
    verdicts = modes.modes(facts(nic(), *checks))
    assert all(verdict.why_not.startswith("see above: link") for verdict in verdicts)
    places = by_mode(modes.places(Agent(serves=("eth7",)), "eth7", checks))
    assert not places["isolated"].usable
    assert places["agent"].usable


def test_an_interface_that_an_agent_has_is_not_for_others() -> None:
    places = by_mode(modes.places(Agent(serves=("eth7",)), "eth7", []))
    assert places["inside"].why_not == "the agent has the interface"
    assert by_mode(modes.places(Agent(reason="nobody answers"), "eth7", []))["isolated"].usable


def test_how_to_insist_is_said_once_for_all_who_are_told() -> None:
    """`--force` of a verb, `force=` of Runtime, `force =` of the agent's configuration."""
    way_out = NetDev(nic(), up=True, loopback=False, default_route=True)
    (refusal,) = preflight.link_refusals(way_out, 1500, force=False)
    assert str(refusal.error()).endswith(
        "choose another interface, or insist (--force; force=True)"
    )
    assert not list(preflight.link_refusals(way_out, 1500, force=True))


def refused_in_generic(can: Features) -> Refusal | None:
    return next(buffer_refusals(can, "generic", 1500, multi_buffer=False), None)


def test_packets_of_one_buffer_rule_generic_mode_out() -> None:
    old = Loaded(linear=True, jited=True, path="slot")
    verdicts = by_mode(modes.modes(facts(nic(multi_buffer=False, gro=True), loaded=old)))
    assert "Linux 6.6" in verdicts["generic"].why_not
    assert by_mode(modes.modes(facts(nic(multi_buffer=False, gro=False), loaded=old)))[
        "generic"
    ].usable
    assert "ethtool -K eth7 gro off" in str(refused_in_generic(nic(multi_buffer=False)))
    assert refused_in_generic(nic(multi_buffer=False, gro=False)) is None
    assert "only native" in str(refused_in_generic(nic(multi_buffer=False, driver="veth")))
    assert verdicts["native"].usable
    assert any("one buffer" in promise for promise in verdicts["native"].promises)


def test_zero_copy_is_for_a_driver_that_has_it_and_says_what_it_gives_up() -> None:
    verdicts = by_mode(modes.modes(facts(nic())))
    assert "no zero-copy" in verdicts["zerocopy"].why_not
    can = nic(xdp_features=XdpAct.BASIC | XdpAct.XSK_ZEROCOPY)
    verdict = by_mode(modes.modes(facts(can)))["zerocopy"]
    assert verdict.usable
    assert not verdict.chosen
    assert any("headers lie in device memory too" in promise for promise in verdict.promises)
    assert any("read and forge all frames" in promise for promise in verdict.promises)
    large = by_mode(modes.modes(facts(dataclasses.replace(can, mtu=9000))))["zerocopy"]
    assert "MTU" in large.why_not
    unloaded = dataclasses.replace(HEALTHY, against_chunk="cannot load it: no BTF")
    verdict = by_mode(modes.modes(facts(can, loaded=unloaded)))["zerocopy"]
    assert "its program: cannot load it: no BTF" in verdict.why_not


def test_a_process_may_call_itself_what_it_likes() -> None:
    """Unseen it must not be either: readability.holders() takes a ValueError for its end."""
    inside, outside = socket.socketpair()
    rename = "import ctypes,sys; ctypes.CDLL(None).prctl(15, b'x\\xff\\x1b[31m', 0, 0, 0)"
    command = [sys.executable, "-c", f"{rename}; print(flush=True); sys.stdin.read()"]
    with inside, outside:
        inode = os.fstat(inside.fileno()).st_ino
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[inside.fileno()]
        ) as hostile:
            assert hostile.stdout is not None
            hostile.stdout.readline()
            found = holders.holders_of_sockets([inode])
            also = readability.holders(inside.fileno()).holders
            hostile.communicate()
    commands = {process.pid: process.command for process in found}
    assert hostile.pid in {holder.pid for holder in also}
    assert commands[hostile.pid] == r"x\xff\x1b[31m"


def test_a_command_that_mends_quotes_names_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes `$(reboot);` for a name, and whoever rules a namespace gives its end one."""
    name, there = "$(reboot);", "a b"
    lame = dict.fromkeys(("rx-lro", "rx-gro", "tx-tcp-segmentation"), Feature(True, True, True))
    end = Link(7, name, 9000, 0, 0, None, False, False, False, "veth", 1, 1, None, master=3)
    peer = Peer(end, there)
    can = nic(ifname=name, mtu=9000, rx_queues=99)
    dev = NetDev(can, up=False, loopback=False, default_route=False)
    program = AttachedProgram(id=1, name="x", mode=Mode.GENERIC, link_id=None)
    monkeypatch.setattr(link, "addresses_of", lambda _: [])
    ours: list[Check | Refusal] = [
        *link.checks(dev, dataclasses.replace(end, up=True, mtu=1500), None),
        *offloads.checks(name, lame, multi_buffer=False),
        *preflight.link_refusals(dev, 1, force=True),
        *preflight.queue_refusals(can, 99),
        *preflight.program_refusals(name, [program]),
        *buffer_refusals(can, "generic", 9000, multi_buffer=False),
        *buffer_refusals(can, "zerocopy", 9000, multi_buffer=True),
    ]
    theirs: list[Check] = [
        *link.checks(dataclasses.replace(dev, up=True), dataclasses.replace(end, mtu=1500), peer),
        *offloads.peer_checks(name, peer.prefix, lame, multi_buffer=False),
    ]
    mends = [each.mend for each in [*ours, *theirs] if each.mend]
    assert len(mends) >= 14
    for mend in mends:
        assert name in shlex.split(mend), mend
    away = [shlex.split(each.mend) for each in theirs if each.mend and "netns" in each.mend]
    assert [words[:4] for words in away] == [["ip", "netns", "exec", there]] * 3
