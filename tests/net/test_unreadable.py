# SPDX-License-Identifier: Apache-2.0
"""Unreadable means unreadable: payload is nowhere in the memory of the stack's process.

The short form of ./dev unreadable, and what a debugger of the stack's own user gets to see.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
from typing import Any

import pytest

from devmemtcp.agent import Region, Runtime
from devmemtcp.agent._loop import lib
from devmemtcp.agent.datapath_config import TX_PAGES
from devmemtcp.agent.readability import holders

from .. import unreadable
from ..memory_image import Mapping, mappings
from .traffic import PATIENCE, PORT, dial

FRAGS = 2000
REGION = 4 << 20
MADV_GUARD_INSTALL = 102

pytestmark = pytest.mark.usefixtures("_clean_slate")  # skips without root


@pytest.mark.parametrize(
    "setting",
    [each for each in unreadable.SETTINGS if each.isolate],  # pytest has no memory to be searched
    ids=lambda setting: setting.name,
)
def test_payload_is_in_the_stack_s_process_only_where_it_is_said_to_be(
    setting: unreadable.Setting,
) -> None:
    """Canaries in every segment; settings that promise nothing show that they are found."""
    result = unreadable.look(setting, FRAGS, region_size=REGION, core="generic" in setting.name)
    assert result.broken() == []
    assert result.frags >= FRAGS
    assert result.memory.searched > REGION
    if result.core:
        assert result.core.searched > REGION
    elif result.no_core:
        pytest.skip(result.no_core)


def umem(pid: int) -> Mapping:
    """Where the UMEM was: a reservation of its size."""
    size = lib.mosaic_size(lib.MOSAIC_PAIRS, REGION // 4096, TX_PAGES)
    (found,) = (each for each in mappings(pid) if each.size == size)
    return found


def has_guard_pages() -> bool:
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    page = ctypes.c_void_p(libc.mmap(None, ctypes.c_size_t(4096), 0, 0x22, -1, ctypes.c_long(0)))
    return bool(libc.madvise(page, ctypes.c_size_t(4096), MADV_GUARD_INSTALL) == 0)


def test_a_process_of_the_stack_s_own_user_finds_nothing_at_device_pages(veth: Any) -> None:
    """The same user, with every capability: nothing is there, so nothing is refused by rights."""
    with (
        Region(REGION) as region,
        Runtime(veth.right.ifname, region, netns=veth.right.netns, isolate=True) as rt,
        rt.listen((veth.right.ip4, PORT)) as listener,
        dial(veth.left, listener.address) as peer,
        listener.accept(PATIENCE) as conn,
    ):
        peer.send(b"payload")
        batch = conn.recv_frags(timeout=PATIENCE)
        offset = next(iter(batch)).offset
        where = umem(rt.pid)
        assert where.rights == "---p"
        at = where.start + 2 * offset + 4096

        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(8)
        local = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 8)
        remote = (ctypes.c_void_p * 2)(at, 8)
        assert libc.process_vm_readv(rt.pid, local, 1, remote, 1, 0) == -1
        assert ctypes.get_errno() == errno.EFAULT

        with open(f"/proc/{rt.pid}/mem", "rb", buffering=0) as memory:
            memory.seek(at)
            if has_guard_pages():
                with pytest.raises(OSError, match="Input/output error"):
                    memory.read(8)
            else:
                assert memory.read(8) == bytes(8)
        conn.dontneed(batch)


def test_holders_of_a_region_are_found_wherever_they_are() -> None:
    """In a child made by fork(), which has all that this process has."""
    with Region(REGION) as region, region.map():
        ours, theirs = socket.socketpair()
        child = os.fork()
        if not child:
            theirs.recv(1)  # with descriptor and mapping inherited, until told
            os._exit(0)
        try:
            found = {holder.pid: holder for holder in holders(region.fd).holders}
            assert set(found) == {os.getpid(), child}
            assert found[child].descriptors >= 1
            assert found[child].mappings == 1
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            ours.close()
            theirs.close()
        assert [holder.pid for holder in holders(region.fd).holders] == [os.getpid()]
