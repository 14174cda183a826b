# SPDX-License-Identifier: Apache-2.0
"""Sizes, endpoints and patterns: how the words of a command line become values."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devmemtcp.agent.endpoint import Endpoint, overlap, parse_listen, split_endpoint
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.pattern import one_period
from devmemtcp.agent.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("100B", 100),
        ("4k", 4096),
        ("64M", 64 << 20),
        ("1G", 1 << 30),
        ("1GiB", 1 << 30),
        ("1gib", 1 << 30),
        ("1GB", 1000**3),
        ("2T", 2 << 40),
        (" 1M ", 1 << 20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "G", "-1", "1.5G", "1X", "1GG", "1 G", "0x10", "١٢", "1e9", "9" * 21, "9999999999T"],
)
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(ConfigError, match="--size"):
        parse_size(text, what="--size")


def test_minimum_size() -> None:
    assert parse_size("1M", minimum=1 << 20) == 1 << 20
    with pytest.raises(ConfigError, match="at least 1 MiB"):
        parse_size("1023K", minimum=1 << 20)


@given(st.integers(min_value=0, max_value=(1 << 63) - 1))
def test_bytes_are_read_as_written(size: int) -> None:
    assert parse_size(str(size)) == size


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 64 << 20, 3 << 30])
def test_formatted_sizes_are_read_back(size: int) -> None:
    assert parse_size(format_size(size).replace(" ", "")) == size


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("192.0.2.1:80", ("192.0.2.1", 80)),
        ("[2001:db8::1]:65535", ("2001:db8::1", 65535)),
        ("[::]:1", ("::", 1)),
        (":5201", ("", 5201)),
        ("example.org:443", ("example.org", 443)),
    ],
)
def test_endpoints(text: str, endpoint: tuple[str, int]) -> None:
    assert split_endpoint(text) == endpoint
    assert str(Endpoint(*endpoint)) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("192.0.2.1", "no port"),
        ("192.0.2.1:", "1 to 65535"),
        ("192.0.2.1:0", "1 to 65535"),
        ("192.0.2.1:65536", "1 to 65535"),
        ("192.0.2.1:-1", "1 to 65535"),
        ("192.0.2.1:http", "1 to 65535"),
        ("192.0.2.1:٨٠", "1 to 65535"),
        ("2001:db8::1:80", "brackets"),
        ("[2001:db8::zz]:80", "not an IPv6 address"),
        ("[192.0.2.1]:80", "not an IPv6 address"),
    ],
)
def test_what_is_not_an_endpoint(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        split_endpoint(text)


@pytest.mark.parametrize("text", ["localhost:80", "192.0.2.256:80", "192.0.2:80"])
def test_listening_takes_addresses_only(text: str) -> None:
    with pytest.raises(ConfigError, match="not an IP address"):
        parse_listen(text)


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("192.0.2.1:80", ":80", True),
        ("192.0.2.1:80", "0.0.0.0:80", True),
        (":80", "[::]:80", True),
        (":80", "[2001:db8::1]:80", True),
        ("[2001:db8::1]:80", "[2001:DB8:0::1]:80", True),
        ("192.0.2.1:80", "[::]:80", False),
        ("0.0.0.0:80", "[::]:80", False),
        ("192.0.2.1:80", "192.0.2.2:80", False),
        ("192.0.2.1:80", ":81", False),
    ],
)
def test_overlapping_addresses(one: str, other: str, common: bool) -> None:
    assert overlap(parse_listen(one), parse_listen(other)) is common
    assert overlap(parse_listen(other), parse_listen(one)) is common


@pytest.mark.parametrize("period", [2, 7, 13, 256])
def test_pattern_is_what_yes_sends(period: int) -> None:
    """`yes` ends each repetition of its argument with a newline."""
    expected = one_period(period)
    assert len(expected) == period
    with subprocess.Popen(["yes", expected[:-1]], stdout=subprocess.PIPE) as yes:
        assert yes.stdout is not None
        sent = yes.stdout.read(3 * period)
        yes.kill()
    assert sent == expected * 3


@pytest.mark.parametrize(("period", "same"), [(4, True), (10, True), (11, False), (12, True)])
def test_pattern_is_what_a_shell_makes_of_the_recipe(period: int, same: bool) -> None:
    octal = "".join(f"\\{byte:o}" for byte in range(1, period))
    script = f"yes \"$(printf '{octal}')\" | head -c {3 * period}"
    sent = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, check=True).stdout
    assert (sent == one_period(period) * 3) is same


@pytest.mark.parametrize("period", [-1, 0, 1, 257])
def test_what_is_not_a_period(period: int) -> None:
    with pytest.raises(ConfigError, match="2 to 256"):
        one_period(period)
