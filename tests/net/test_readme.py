# SPDX-License-Identifier: Apache-2.0
"""The README's examples work as they stand.

A fenced block is an example when `<!-- run: tests/net/test_readme.py -->` is the line above
it. It runs in the checkout's directory, where `eth1` has the address 192.0.2.1 and somebody
sends a MiB to port 5201.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..slowness import SLOWNESS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = re.compile(
    r"^<!-- run: tests/net/test_readme\.py -->\n```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL
)
INTERPRETER = {"python": [sys.executable, "-c"], "sh": ["bash", "-euc"]}
SENDER = """
import socket, time
while True:
    try:
        peer = socket.create_connection(("192.0.2.1", 5201), timeout=60)
        break
    except ConnectionRefusedError:
        time.sleep(0.01)
peer.sendall((b"\\1\\2\\3\\4\\5\\6\\n" * 149797)[: 1 << 20])
peer.shutdown(socket.SHUT_WR)
while peer.recv(4096):
    pass
"""


@pytest.mark.parametrize(("language", "text"), EXAMPLE.findall((ROOT / "README.md").read_text()))
def test_example(netns_pair: Callable[..., Any], language: str, text: str) -> None:
    pair = netns_pair()
    pair.left.run(["ip", "addr", "add", "192.0.2.2/24", "dev", pair.left.ifname])
    for command in (
        f"link set {pair.right.ifname} down",
        f"link set {pair.right.ifname} name eth1",
        "addr add 192.0.2.1/24 dev eth1",
        "link set eth1 up",
    ):
        pair.right.run(["ip", *command.split()])
    sender = pair.left.popen([sys.executable, "-c", SENDER])
    done = pair.right.run([*INTERPRETER[language], text], cwd=ROOT, check=False, text=True)
    assert done.returncode == 0
    assert sender.wait(60 * SLOWNESS) == 0
