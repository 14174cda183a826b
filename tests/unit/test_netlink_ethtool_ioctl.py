# SPDX-License-Identifier: Apache-2.0
"""Flow rules and the RSS table: the layouts are the kernel header's, what goes in comes back."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import shutil
import subprocess
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devmemtcp.netlink import ethtool_ioctl, flow_rules, rss_table
from devmemtcp.netlink.flow_rules import FlowRule, FlowRules, _FlowSpec, _RxNfc
from devmemtcp.netlink.rss_table import RssTable, _Rxfh, default_table

from .netlink.ethtool_driver import EthtoolDriver

FIELDS = ("cmd", "flow_type", "data", "rule_cnt", "rule_locs")
SPEC_FIELDS = tuple(field[0] for field in _FlowSpec._fields_)
NUMBERS = {
    "SIOCETHTOOL": ethtool_ioctl.SIOCETHTOOL,
    "ETHTOOL_GRXCLSRLCNT": flow_rules._GRXCLSRLCNT,
    "ETHTOOL_GRXCLSRULE": flow_rules._GRXCLSRULE,
    "ETHTOOL_GRXCLSRLALL": flow_rules._GRXCLSRLALL,
    "ETHTOOL_SRXCLSRLDEL": flow_rules._SRXCLSRLDEL,
    "ETHTOOL_SRXCLSRLINS": flow_rules._SRXCLSRLINS,
    "TCP_V4_FLOW": flow_rules._TCP_V4_FLOW,
    "TCP_V6_FLOW": flow_rules._TCP_V6_FLOW,
    "RX_CLS_LOC_SPECIAL": flow_rules._LOC_SPECIAL,
    "ETHTOOL_GRSSH": rss_table._GRSSH,
    "ETHTOOL_SRSSH": rss_table._SRSSH,
}


def asked_of_the_header(expressions: list[str], tmp_path: Path) -> list[int]:
    """The value of C expressions, one a line."""
    cc = shutil.which("cc")
    if cc is None:
        pytest.skip("needs a C compiler to ask the kernel's header")
    prints = "".join(f'printf("%lld\\n", (long long)({each}));' for each in expressions)
    headers = ("stddef.h", "stdio.h", "linux/ethtool.h", "linux/sockios.h")
    source = tmp_path / "layout.c"
    source.write_text(
        "".join(f"#include <{header}>\n" for header in headers)
        + f"int main(void) {{ {prints} return 0; }}\n"
    )
    subprocess.run([cc, source, "-o", tmp_path / "layout"], check=True)
    output = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True)
    return [int(line) for line in output.stdout.split()]


def test_the_layout_and_the_numbers_are_those_of_the_header(tmp_path: Path) -> None:
    ours = {"sizeof(struct ethtool_rxnfc)": ctypes.sizeof(_RxNfc), **NUMBERS}
    for name in FIELDS:
        at = flow_rules._RULE_LOCS if name == "rule_locs" else getattr(_RxNfc, name).offset
        ours[f"offsetof(struct ethtool_rxnfc, {name})"] = at
    for name in SPEC_FIELDS:
        at = getattr(_FlowSpec, name).offset
        ours[f"offsetof(struct ethtool_rx_flow_spec, {name})"] = at
    ours["offsetof(struct ethtool_rxnfc, fs)"] = _RxNfc.fs.offset
    ours["offsetof(struct ethtool_rxfh, rss_config)"] = ctypes.sizeof(_Rxfh)
    for name in ("rss_context", "indir_size", "key_size", "hfunc", "rsvd32"):
        ours[f"offsetof(struct ethtool_rxfh, {name})"] = getattr(_Rxfh, name).offset
    assert asked_of_the_header(list(ours), tmp_path) == list(ours.values())


def rules(version: Literal[4, 6]) -> st.SearchStrategy[FlowRule]:
    address = st.none() | st.ip_addresses(v=version)
    port = st.none() | st.integers(0, 65535)
    return st.builds(
        FlowRule, st.just(version), st.integers(0, 2**32), address, address, port, port
    )


@given(rules(4) | rules(6))
def test_a_rule_comes_back_as_it_went_in(rule: FlowRule) -> None:
    value, mask = rule._packed()
    spec = _FlowSpec(flow_type=1 if rule.version == 4 else 5, ring_cookie=rule.queue)
    ctypes.memmove(spec.h_u, value, len(value))
    ctypes.memmove(spec.m_u, mask, len(mask))
    assert FlowRule._unpacked(spec) == rule


def test_a_rule_as_ethtool_packs_it() -> None:
    """`ethtool -N IF flow-type tcp4 dst-ip 192.0.2.1 dst-port 5201`."""
    value, mask = FlowRule(4, 1, dst=IPv4Address("192.0.2.1"), dst_port=5201)._packed()
    assert value.hex() == "00000000c00002010000145100"
    assert mask.hex() == "00000000ffffffff0000ffff00"


def test_a_rule_of_another_kind_is_none() -> None:
    assert FlowRule._unpacked(_FlowSpec(flow_type=2)) is None  # UDP_V4_FLOW


def test_a_rule_that_minds_single_bits_is_none() -> None:
    """What stood for it would compare other packets."""
    value, mask = FlowRule(4, 1, dst=IPv4Address("192.0.2.0"))._packed()
    spec = _FlowSpec(flow_type=1, ring_cookie=1)
    ctypes.memmove(spec.h_u, value, len(value))
    ctypes.memmove(spec.m_u, mask, len(mask))
    assert FlowRule._unpacked(spec) is not None
    spec.m_u[7] = 0  # 192.0.2.0/24
    assert FlowRule._unpacked(spec) is None


@pytest.mark.parametrize(
    ("version", "address"), [(6, ip_address("192.0.2.1")), (4, IPv6Address("::1")), (5, None)]
)
def test_versions_do_not_mix(version: int, address: IPv4Address | IPv6Address | None) -> None:
    with pytest.raises(ValueError, match="IPv4 or IPv6"):
        FlowRule(version, 0, dst=address)


def test_a_name_that_is_none() -> None:
    with pytest.raises(ValueError, match="too long"):
        FlowRules("an-interface-with-16")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> EthtoolDriver:
    nic = EthtoolDriver()
    monkeypatch.setattr(fcntl, "ioctl", nic.ioctl)
    return nic


def test_rules_are_inserted_listed_and_deleted(driver: EthtoolDriver) -> None:
    first, second = FlowRule(4, 1, dst_port=5201), FlowRule(6, 2, dst=IPv6Address("2001:db8::1"))
    with FlowRules("eth0") as rules:
        assert rules.dump() == {}
        assert [rules.insert(first), rules.insert(second)] == [3, 2]  # as ethtool: from the end
        assert rules.dump() == {2: second, 3: first}
        rules.delete(3)
        assert rules.dump() == {2: second}
        with pytest.raises(FileNotFoundError, match="eth0: cannot delete flow rule 3"):
            rules.delete(3)


def test_a_driver_that_can_chooses_the_place(driver: EthtoolDriver) -> None:
    driver.chooses = True
    with FlowRules("eth0") as rules:
        assert rules.insert(FlowRule(4, 1, dst_port=5201)) == 0


def test_a_full_table_is_said(driver: EthtoolDriver) -> None:
    with FlowRules("eth0") as rules:
        for port in range(driver.places):
            rules.insert(FlowRule(4, 1, dst_port=port))
        with pytest.raises(OSError, match="all 4 places for flow rules are taken") as caught:
            rules.insert(FlowRule(4, 1, dst_port=80))
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("xfrm", [0, 1])
def test_the_rss_table_is_read_written_and_reset(driver: EthtoolDriver, xfrm: int) -> None:
    """Symmetric hashing (xfrm), the key and the function stay as they are."""
    driver.xfrm = xfrm
    with RssTable("eth0") as rss:
        assert rss.get() == default_table(8, 4) == (0, 1, 2, 3, 0, 1, 2, 3)
        rss.set([0, 0, 0, 0, 1, 1, 1, 1])
        assert rss.get() == (0, 0, 0, 0, 1, 1, 1, 1)
        assert driver.configured
        rss.reset()
        assert rss.get() == default_table(8, 4)
        assert not driver.configured


@pytest.mark.parametrize("table", [[0, 1], [0, 0, 0, 0, 0, 0, 0, 4]])
def test_a_table_that_the_device_cannot_have(driver: EthtoolDriver, table: list[int]) -> None:
    with RssTable("eth0") as rss, pytest.raises(OSError, match="cannot write the RSS table") as e:
        rss.set(table)
    assert e.value.errno == errno.EINVAL
    assert not driver.configured


def test_a_device_without_a_table(driver: EthtoolDriver) -> None:
    driver.table = []
    with RssTable("eth0") as rss, pytest.raises(OSError, match="has no RSS table") as caught:
        rss.get()
    assert caught.value.errno == errno.EOPNOTSUPP
