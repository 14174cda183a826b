# SPDX-License-Identifier: Apache-2.0
"""`devmemtcp nic` on a veth pair: channels, offloads and MTU for real, and a kill at each step."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devmemtcp.agent.endpoint import Endpoint
from devmemtcp.agent.namespaces import netns_cookie
from devmemtcp.agent.nic.facts import Attachment
from devmemtcp.agent.nic.journal import RUN_DIRECTORY
from devmemtcp.agent.nic.planner import Wishes
from devmemtcp.agent.runtime import Runtime
from devmemtcp.agent.terminal import printable

from ..capability import auto_is_generic, since
from ..slowness import SLOWNESS
from .nic_snapshot import apply, killed_at, snapshot, undo
from .veth import Veth, VethEnd

# As of a driver that is not veth's: of its offloads some can be set here, and are.
LINEAR = Attachment("some", "generic", multi_buffer=False)
WISHES = Wishes(queues=(2,), listen=(Endpoint("", 5201),), mtu=1400)


@pytest.fixture
def end(netns_pair: Callable[..., Veth]) -> Iterator[VethEnd]:
    """One end, with one of four queues in use and GRO on, and the calling thread in there."""
    near = netns_pair(queues=4, mtu=2000).left
    with near.enter():
        near.run(["ethtool", "-L", near.ifname, "rx", "1"])
        near.run(["ethtool", "-K", near.ifname, "gro", "on"])
        yield near


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "nic"


def test_everything_is_set_and_put_back(end: VethEnd, run: Path) -> None:
    before = snapshot(end.ifname)
    assert apply(end.ifindex, run, LINEAR, WISHES) == 5
    after = snapshot(end.ifname)
    assert "RX:\t\t3\n" in after["ethtool -l"][1]
    (features,) = json.loads(after["ethtool --json -k"][1])
    for name in ("generic-receive-offload", "rx-vlan-offload", "rx-vlan-stag-hw-parse"):
        assert not features[name]["active"]
    (link,) = json.loads(after["ip -j -d link show dev"][1])
    assert link["mtu"] == 1400
    assert apply(end.ifindex, run, LINEAR, WISHES) == 0
    undo(end.ifindex, run)
    assert snapshot(end.ifname) == before
    assert not run.exists()


def test_killed_at_any_step_it_is_put_back(end: VethEnd, run: Path) -> None:
    """Apply is killed at each of its moments, and every undo after it at one of its own, too."""
    before = snapshot(end.ifname)
    moment, undo_moment = 0, 0
    while killed_at(moment, lambda p: apply(end.ifindex, run, LINEAR, WISHES, p)):
        if not killed_at(undo_moment, lambda p: undo(end.ifindex, run, p)):
            undo_moment = -1
        undo(end.ifindex, run)
        assert snapshot(end.ifname) == before, f"killed at moment {moment}"
        moment, undo_moment = moment + 1, undo_moment + 1
    assert moment == 15  # five steps: the old value noted, the new one announced, set
    undo(end.ifindex, run)
    assert snapshot(end.ifname) == before


def test_undo_is_killed_at_each_step(end: VethEnd, run: Path) -> None:
    before = snapshot(end.ifname)
    apply(end.ifindex, run, LINEAR, WISHES)
    for _ in range(6):  # five settings, and the journal; each begins where the last was killed
        assert run.exists()
        assert killed_at(0, lambda p: undo(end.ifindex, run, p))
    assert not run.exists()
    assert snapshot(end.ifname) == before


def test_a_step_that_fails_takes_the_rest_back(end: VethEnd, run: Path) -> None:
    before = snapshot(end.ifname)

    def fail(event: str) -> None:
        if event == "mtu announced":
            raise OSError(errno.EIO, "as a driver fails")

    with pytest.raises(OSError, match="as a driver fails; what had been changed is as it was"):
        apply(end.ifindex, run, LINEAR, WISHES, fail)
    assert snapshot(end.ifname) == before
    assert not run.exists()


# --- the command line ----------------------------------------------------------------------------


def nic(end: VethEnd, *args: str) -> tuple[int, dict[str, object]]:
    """Run `devmemtcp nic ... --json` in the namespace."""
    command = [sys.executable, "-m", "devmemtcp.agent.cli", "nic", *args, "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60 * SLOWNESS, check=False
    )
    document: dict[str, object] = json.loads(done.stdout)
    assert document["exit_code"] == done.returncode
    if done.returncode not in (0, 1):
        assert done.stderr.count("\n") == 1
    return done.returncode, document


# The checkout may be for root's eyes alone, so what nobody needs is imported by a run as root.
AS_NOBODY = """
import contextlib, io, os, sys
from devmemtcp.agent import cli, signals
from devmemtcp.agent.nic import journal, lookup, transaction
args = sys.argv[1:]
sys.argv[1:] = ["nic", "plan", "-i", args[args.index("-i") + 1], "--json"]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    cli.main()
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
sys.argv[1:] = args
cli.main()
"""


def nic_as_nobody(*args: str) -> tuple[int, dict[str, object]]:
    """Run `devmemtcp nic ... --json` without privilege."""
    command = [sys.executable, "-c", AS_NOBODY, "nic", *args, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    document: dict[str, object] = json.loads(done.stdout)
    return done.returncode, document


def mtu(end: VethEnd) -> int:
    return int(json.loads(snapshot(end.ifname)["ip -j -d link show dev"][1])[0]["mtu"])


def test_plan_apply_undo_of_one_that_is_renamed(end: VethEnd) -> None:
    before = snapshot(end.ifname)
    options = ["-i", end.ifname, "--queues", "1", "--listen", ":5201", "--mtu", "1400"]
    planned = nic(end, "plan", *options)[1]["steps"]
    assert isinstance(planned, list)
    assert [step["command"] for step in planned] == [
        "ethtool -L veth0 rx 2",
        "ip link set veth0 mtu 1400",
    ]
    assert snapshot(end.ifname) == before
    assert nic(end, "apply", *options)[1]["steps"] == planned
    end.run(["ip", "link", "set", end.ifname, "down"])
    end.run(["ip", "link", "set", end.ifname, "name", "lan0"])
    status, undone = nic(end, "undo", "-i", end.ifname)
    assert (status, undone["notes"]) == (0, ["veth0 is called lan0 by now"])
    end.run(["ip", "link", "set", "lan0", "name", end.ifname])
    assert [rows for rows in snapshot(end.ifname).items() if "ip " not in rows[0]] == [
        rows for rows in before.items() if "ip " not in rows[0]
    ]
    assert mtu(end) == 2000
    assert nic(end, "undo", "-i", end.ifname)[1]["notes"] == ["nothing was applied to veth0"]


@pytest.mark.parametrize("name", ["\xe9[x]", "a\x1b[1m"])
def test_a_name_that_no_terminal_should_see(end: VethEnd, name: str) -> None:
    """It is shown by what can be printed, and kept in the journal as it is."""
    end.run(["ip", "link", "set", end.ifname, "down"])
    end.run(["ip", "link", "set", end.ifname, "name", name])
    command = [sys.executable, "-m", "devmemtcp.agent.cli"]
    for verb, says in (
        (["doctor"], "ok   "),
        (["doctor", "-i", name], " is down"),
        (["nic", "apply", "-i", name, "--mtu", "1400"], "mtu: 2000 -> 1400"),
        (["nic", "undo", "-i", name], "mtu: 2000 again"),
        (["nic", "undo", "-i", name], "nothing to undo"),
    ):
        if verb[0] == "nic":
            end.run(["ip", "link", "set", name, "up"])
        done = subprocess.run([*command, *verb], capture_output=True, check=False, timeout=60)
        said = (done.stdout + done.stderr).decode()
        assert printable(name) in said
        assert says in said
        assert all(each.isprintable() for each in said.replace("\n", "")), said


def test_a_name_that_is_no_utf_8_is_refused_and_keeps_nobody_from_looking(end: VethEnd) -> None:
    end.run(["ip", "link", "set", end.ifname, "down"])
    end.run(["ip", "link", "set", end.ifname, "name", "a\udcff"])
    command = [sys.executable, "-m", "devmemtcp.agent.cli", "doctor"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0
    assert rb"'a\udcff' is no UTF-8" in done.stdout
    done = subprocess.run([*command, "-i", "a\udcff"], capture_output=True, check=False, timeout=60)
    assert done.returncode == 2
    assert rb"'a\udcff' is no UTF-8; give the interface another name" in done.stderr


def test_what_somebody_else_has_set_since(end: VethEnd) -> None:
    nic(end, "apply", "-i", end.ifname, "--mtu", "1400")
    end.set_link(mtu=1300)
    status, undone = nic(end, "undo", "-i", end.ifname)
    assert status == 1
    assert undone["left"] == [{"setting": "mtu", "is": "1300", "was": "2000"}]
    assert nic(end, "undo", "-i", end.ifname, "--force")[0] == 0
    assert mtu(end) == 2000


def test_who_is_not_root_is_told_to_be(end: VethEnd) -> None:
    nic(end, "apply", "-i", end.ifname, "--mtu", "1400")
    for verb in (["apply", "--mtu", "1300"], ["undo"], ["undo", "--forget"]):
        status, refused = nic_as_nobody(*verb, "-i", end.ifname)
        assert (status, refused["error"]) == (2, f"{RUN_DIRECTORY} is root's alone: run it as root")
    assert mtu(end) == 1400
    assert nic(end, "undo", "-i", end.ifname)[0] == 0
    assert mtu(end) == 2000


def test_a_plan_without_privilege_says_what_it_does_not_know(end: VethEnd) -> None:
    """Whether packets may have several buffers: where they may, root's plan leaves GRO on."""
    planned = nic_as_nobody("plan", "-i", end.ifname)[1]
    assert "could not be tried (AF_XDP sockets need CAP_NET_RAW" in str(planned["notes"])
    assert "could not be tried" not in str(nic(end, "plan", "-i", end.ifname)[1]["notes"])


def assert_refused(end: VethEnd, says: str, *args: str) -> None:
    """By both verbs, in these words, and nothing is changed."""
    before = snapshot(end.ifname)
    for verb in ("plan", "apply"):
        status, refused = nic(end, verb, "-i", end.ifname, *args)
        assert status == 2
        assert says in str(refused["error"])
    assert snapshot(end.ifname) == before


@since(6, 3, "NETDEV_A_DEV_XDP_FEATURES")
def test_zero_copy_mode_without_zero_copy_is_refused(end: VethEnd) -> None:
    end.set_link(mtu=9000)
    assert_refused(end, "veth, the driver of veth0, has no zero-copy", "--mode", "zerocopy")


@auto_is_generic  # with fewer queues than the peer sends by
def test_one_with_a_receiver_is_refused_unless_forced(end: VethEnd) -> None:
    before = snapshot(end.ifname)
    with Runtime(end.ifname, None):
        status, refused = nic(end, "apply", "-i", end.ifname, "--channels", "2")
        assert status == 2
        assert "whose receiver would be interrupted by channels rx" in str(refused["error"])
        notes = nic(end, "plan", "-i", end.ifname, "--channels", "2")[1]["notes"]
        assert "end that first, or apply with --force" in str(notes)
    assert snapshot(end.ifname) == before
    with Runtime(end.ifname, None):
        args = ["-i", end.ifname, "--channels", "2", "--force"]
        assert nic(end, "apply", *args)[1]["steps"]
    assert nic(end, "undo", "-i", end.ifname)[0] == 0
    assert snapshot(end.ifname) == before


def test_one_that_is_down_is_refused(end: VethEnd) -> None:
    end.run(["ip", "link", "set", end.ifname, "down"])
    assert_refused(end, "`ip link set veth0 up` first", "--mtu", "1400")
    assert nic(end, "undo", "-i", end.ifname)[1]["notes"] == ["nothing was applied to veth0"]


def test_the_default_route_and_one_that_is_gone(end: VethEnd) -> None:
    end.run(["ip", "route", "add", "default", "dev", end.ifname])
    before = snapshot(end.ifname)
    status, refused = nic(end, "apply", "-i", end.ifname, "--mtu", "1400")
    assert status == 2
    assert "the default route leaves by veth0" in str(refused["error"])
    assert snapshot(end.ifname) == before
    assert nic(end, "apply", "-i", end.ifname, "--mtu", "1400", "--force")[0] == 0
    end.run(["ip", "link", "del", end.ifname])
    status, undone = nic(end, "undo", "-i", end.ifname)
    assert status == 1
    assert "is not in this network namespace; put it back" in str(undone["error"])
    assert nic(end, "undo", "-i", end.ifname, "--forget")[0] == 0
    assert nic(end, "undo", "-i", end.ifname)[0] == 2


def test_one_that_is_in_another_namespace_keeps_its_journal(
    end: VethEnd, netns_pair: Callable[..., Veth]
) -> None:
    nic(end, "apply", "-i", end.ifname, "--mtu", "1400")
    end.run(["ip", "link", "set", end.ifname, "down"])
    cookie, far = netns_cookie(), netns_pair().left
    end.run(["ip", "link", "set", end.ifname, "netns", far.netns, "name", "away0"])
    assert nic(end, "undo", "-i", end.ifname)[0] == 1
    assert (RUN_DIRECTORY / f"{cookie}-{end.ifindex}.journal").exists()
    assert nic(end, "undo", "-i", end.ifname, "--forget")[0] == 0


def test_undo_by_an_altname_and_beside_the_junk_of_another(end: VethEnd) -> None:
    for altname in ("alt0", "longer-than-a-name-may-be"):
        end.run(["ip", "link", "property", "add", "dev", end.ifname, "altname", altname])
        assert nic(end, "apply", "-i", altname, "--mtu", "1400")[0] == 0
        assert nic(end, "undo", "-i", altname)[0] == 0
        assert mtu(end) == 2000
    junk = RUN_DIRECTORY / f"{netns_cookie()}-999999.journal"
    RUN_DIRECTORY.mkdir(mode=0o700, exist_ok=True)
    try:
        junk.write_text("junk\n")
        junk.chmod(0o600)
        status, undone = nic(end, "undo", "-i", end.ifname)
        assert status == 0
        assert "nothing was applied to veth0" in str(undone["notes"])
    finally:
        junk.unlink()
