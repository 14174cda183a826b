# SPDX-License-Identifier: Apache-2.0
"""The numbers and records of devmem TCP, against what include/uapi says of each architecture."""

from __future__ import annotations

import platform
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devmemtcp import socket as devmem
from devmemtcp.agent import devmem_abi
from devmemtcp.agent._loop import lib


@pytest.mark.parametrize(
    ("machine", "linear"),
    [
        *((machine, 78) for machine in ("x86_64", "aarch64", "riscv64", "s390x", "ppc64le")),
        *((machine, 78) for machine in ("alpha", "mips64", "i686", "armv7l", "loongarch64")),
        ("parisc", 0x404E),
        ("parisc64", 0x404E),
        ("sparc", 0x57),
        ("sparc64", 0x57),
    ],
)
def test_numbers_are_the_architectures(machine: str, linear: int) -> None:
    assert devmem_abi.numbers(machine) == (linear, linear + 1, linear + 2)


def test_the_module_has_this_machines() -> None:
    assert devmem_abi.numbers(platform.machine()) == (
        devmem.SCM_DEVMEM_LINEAR,
        devmem.SCM_DEVMEM_DMABUF,
        devmem.SO_DEVMEM_DONTNEED,
    )
    assert devmem.MSG_SOCK_DEVMEM == lib.APP_SOCK_DEVMEM == 0x2000000
    assert devmem.ETOOSMALL == lib.APP_ETOOSMALL == 525


def test_records_are_laid_out_as_the_kernels() -> None:
    cmsg = devmem.DmabufCmsg(0x1122334455667788, 0x99AABBCC, 7, 3, 0)
    assert cmsg.pack() == struct.pack("=QIIII", 0x1122334455667788, 0x99AABBCC, 7, 3, 0)
    assert len(cmsg.pack()) == devmem_abi.CMSG_SIZE == 24
    assert devmem.DmabufCmsg.unpack(cmsg.pack()) == cmsg
    assert devmem.DmabufToken(5, 9).pack() == struct.pack("=II", 5, 9)
    assert len(devmem.DmabufToken(5).pack()) == devmem_abi.TOKEN_SIZE == 8


@given(st.lists(st.integers(1, 5000), max_size=3000))
def test_packed_tokens_keep_both_limits_and_name_each_once(tokens: list[int]) -> None:
    named = []
    for call in devmem.pack_tokens(tokens):
        ranges = list(struct.iter_unpack("=II", call))
        assert 1 <= len(ranges) <= devmem.DONTNEED_RANGES
        assert sum(count for _, count in ranges) <= devmem.DONTNEED_FRAGS
        named += [start + i for start, count in ranges for i in range(count)]
    assert named == tokens


def test_neighbouring_tokens_are_one_range() -> None:
    assert devmem.pack_tokens([3, 4, 5, 9]) == [struct.pack("=IIII", 3, 3, 9, 1)]
    assert devmem.pack_tokens(range(1, 2049)) == [
        struct.pack("=II", 1, 1024),
        struct.pack("=II", 1025, 1024),
    ]
