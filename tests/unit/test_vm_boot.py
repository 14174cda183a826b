# SPDX-License-Identifier: Apache-2.0
"""One guest, where a kernel and a QEMU are in the cache: what docs/vm.md promises of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ..slowness import SLOWNESS
from ..vm import kernels, machine, nics, qemu
from ..vm.command_line import environment
from ..vm.failure import Failure

SCRIPT = """
uname -r
echo "$NETIF $NETPEER"
echo guest >{here}/changed
echo guest >{here}/results/made
echo wrong >/dev/stderr
ip netns add peer
ip link set "$NETPEER" netns peer
ip netns exec peer ip addr add 192.0.2.2/24 dev "$NETPEER"
ip netns exec peer ip link set "$NETPEER" up
ip addr add 192.0.2.1/24 dev "$NETIF"
ip link set "$NETIF" up
busybox ping -q -c 1 -w 20 192.0.2.2 >/dev/null && echo reached
sleep 1000 &
exit 42
"""


Cached = tuple[kernels.Kernel, qemu.Qemu]


@pytest.fixture
def cached() -> Cached:
    kernel, emulator = kernels.cached("6.12"), qemu.available()
    if kernel is None or emulator is None or shutil.which("busybox") is None:
        pytest.skip("needs what the first ./dev vm downloads")
    return kernel, emulator


def test_a_guest_sees_the_hosts_files_and_changes_none(
    cached: Cached, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kernel, emulator = cached
    (tmp_path / "changed").write_text("host\n")
    (tmp_path / "results").mkdir()
    task = machine.Task(
        ["sh", "-c", SCRIPT.format(here=tmp_path)],
        tmp_path,
        environment(),
        timeout=100 * SLOWNESS,
        results=tmp_path / "results",
    )
    status = machine.run(machine.Machine(kernel, "virtio", memory=512), emulator, task)
    said, wrong = capfd.readouterr()
    assert (status, wrong) == (42, "wrong\n")
    assert said == f"{kernel.release}\neth0 eth1\nreached\n"
    assert (tmp_path / "changed").read_text() == "host\n"
    assert (tmp_path / "results/made").read_text() == "guest\n"


def test_a_guest_that_cannot_be_set_up_runs_nothing_and_says_why(
    cached: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nics, "driver", lambda _: "no_such_module")
    task = machine.Task(["true"], tmp_path, environment(), timeout=100 * SLOWNESS)
    with pytest.raises(Failure, match=r"guest\.sh: modprobe no_such_module: .*FATAL"):
        machine.run(machine.Machine(cached[0], memory=512), cached[1], task)
