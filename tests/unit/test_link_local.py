# SPDX-License-Identifier: Apache-2.0
"""Lines about lent NICs, with addresses and sysctls: read as if an enemy had written them."""

from __future__ import annotations

import pytest

from devmemtcp.agent.lent_nic import LentNic

LINE = "nic near eth1 1500 up 4097 1"
WORD = "fe80::1,fe80::2,128,512,77,4294967295,4"


@pytest.mark.parametrize("mode", ["-", "0", "3"])
@pytest.mark.parametrize(
    "words", ["", f" ipv4/conf/x=-1 ipv6/neigh/a_b=7 {WORD}", f" {WORD} fe80::9,fe80::9,64,0,0,0,0"]
)
def test_what_is_written_is_read(mode: str, words: str) -> None:
    line = f"{LINE[:-1]}{mode}{words}"
    nic = LentNic.parse(line)
    assert nic is not None
    assert nic.line() == line
    assert len(nic.sysctls) + len(nic.link_locals) == words.count(" ")


@pytest.mark.parametrize(
    "word",
    [
        "fe80::1",
        "",
        WORD.replace("fe80::1", "2001:db8::1"),
        WORD.replace("fe80::1", "::"),
        WORD.replace("fe80::1", "fe80:::1"),
        WORD.replace("fe80::1", "fe80::1%eth0"),
        WORD.replace("128", "129"),
        WORD.replace("512", "-1"),
        WORD.replace("512", "4294967296"),
        WORD.replace("77", "7" * 5000),
        WORD.replace("77", "\u0667"),
        "ipv6/conf/../lo/disable_ipv6=1",
        "ipv6/conf/mtu=1280",
        "ipv6/route/disable_ipv6=1",
        "ipv6/conf/disable_ipv6=1e3",
        "ipv6/conf/disable_ipv6=",
        WORD + ",0",
        WORD + "\0",
    ],
)
def test_what_no_run_writes_is_no_nic(word: str) -> None:
    assert LentNic.parse(f"{LINE} {WORD}") is not None
    assert LentNic.parse(f"{LINE} {word}") is None
