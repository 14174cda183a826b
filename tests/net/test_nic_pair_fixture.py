# SPDX-License-Identifier: Apache-2.0
"""tests/hw without NICs: a veth pair in one namespace plays them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PYTEST = (
    sys.executable,
    "-m",
    "pytest",
    "--import-mode=importlib",
    "-p",
    "no:cacheprovider",
    "-rs",
)
TESTS = "test_closing_gives_outstanding or test_two_regions_on_different"


def states(end: Any) -> dict[str, tuple[int, bool]]:
    output = end.run(["ip", "-j", "link", "show"], capture_output=True).stdout
    return {
        link["ifname"]: (link["mtu"], "UP" in link["flags"])
        for link in json.loads(output)
        if link["ifname"].startswith("nic")
    }


def test_a_pair_is_taken_for_a_test_and_given_back(veth: Any) -> None:
    host = veth.left
    host.run(["ip", "link", "add", "nic0", "mtu", "1400", "type", "veth", "peer", "name", "nic1"])
    host.run(["ip", "link", "set", "nic1", "up"])
    before = states(host)
    done = host.run(
        [*PYTEST, "-p", "no:cacheprovider", "tests/hw", "-k", TESTS],
        cwd=ROOT,
        env=os.environ | {"NETIF": "nic0", "NETPEER": "nic1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout
    assert "nic1 cannot have 3 queues" in done.stdout
    assert states(host) == before == {"nic0": (1400, False), "nic1": (1500, True)}
