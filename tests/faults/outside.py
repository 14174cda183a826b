# SPDX-License-Identifier: Apache-2.0
"""Faults of what a stack hangs on: its link, its interface, its namespace, its region.

Each comes over a stream that is under way. What can be waited for must leave the stream exact;
what cannot must be told by an error with a name, leave nothing, and let the next one start.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from pyroute2 import netns

from devmemtcp.agent import ConfigError, Region

from ..net.veth import Veth, VethEnd, veth_pair
from .hosts import PORT, Host, Mode, Stream, Where, host
from .kills import Lives
from .leftovers import Leftovers
from .nursery import Nursery
from .report import Row
from .victims import PATIENCE, REGION_BYTES

MTUS = (1500, 9000, 1400, 3000, 65535, 1280)
"""No less: IPv6 would end on the interface."""
REMOVALS = ("here", "with its peer", "with the peer's namespace")
NEXT_PORT = PORT + 1
_DOWN_SECONDS = 0.3
_F_SEAL_FUTURE_WRITE = 0x10
_PUNCH = 0x2 | 0x1  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Stage:
    """Where a case is played."""

    where: Where
    nursery: Nursery
    chance: random.Random
    mode: Mode = "generic"
    ipv6: bool = False

    def host(self, near: VethEnd, region: Region) -> AbstractContextManager[Host]:
        """A stack with this region."""
        return host(self.where, self.nursery, near, self.mode, region=region)

    @contextmanager
    def stream(self, row: Row, veth: Veth) -> Iterator[tuple[Host, Stream]]:
        """A stream under way, on this pair."""
        with (
            _judged(row, veth.right),
            Region(REGION_BYTES) as region,
            self.host(veth.right, region) as at,
            Stream(at, veth.right, veth.left, ipv6=self.ipv6) as stream,
        ):
            yield at, stream

    def next_life(self, row: Row, veth: Veth) -> None:
        """The next one that starts receives all."""
        Lives(self.nursery, veth.right, veth.left, isolate=self.where != "inside").whole(row)


@contextmanager
def _judged(row: Row, *ends: VethEnd) -> Iterator[None]:
    """A fault is over when nothing is left of it; a promise that is broken is in the row."""
    leftovers = Leftovers(*ends)
    try:
        yield
    except AssertionError as broken:
        row.broken.append(str(broken))
    found, seconds = leftovers.settled()
    row.settle = max(row.settle, seconds)
    if found:
        row.broken.append(f"left behind: {'; '.join(found)}")


# ---- what passes ----


def link_flaps(row: Row, stage: Stage, veth: Veth, times: int) -> None:
    """The link goes down, at one end or the other, and up again."""
    with stage.stream(row, veth) as (_, stream):
        for _ in range(times):
            end = stage.chance.choice((veth.right, veth.left))
            end.set_link(state="down")
            time.sleep(stage.chance.uniform(0, _DOWN_SECONDS))
            end.set_link(state="up")
            if stage.ipv6:  # its addresses go with the link: whoever had set them does so again
                end.run(["ip", "addr", "replace", f"{end.ip6}/64", "dev", end.ifname, "nodad"])
            stream.progress()
            row.times += 1
        stream.finish(row)


def mtu_changes(row: Row, stage: Stage, veth: Veth, times: int) -> None:
    """Packets become larger and smaller, at one end or at both.

    Where ours has become smaller than what the peer was told, packets are lost until it is large
    again, as with any receiver: what arrives is right all the same. Each time another stream comes,
    by packets of the new size.
    """
    near, far = veth.right, veth.left
    with stage.stream(row, veth) as (at, stream):
        for number in range(times):
            mtu = stage.chance.choice(MTUS)
            for end in stage.chance.choice(((near,), (far,), (near, far), (far, near))):
                end.set_link(mtu=mtu)
                time.sleep(stage.chance.uniform(0, 0.05))
            row.times += 1
            near.set_link(mtu=max(MTUS))
            with Stream(at, near, far, ipv6=stage.ipv6, port=NEXT_PORT + number) as another:
                another.progress()
                another.finish(row)
        for end in (near, far):
            end.set_link(mtu=1500)
        stream.progress()
        stream.finish(row)


# ---- what ends a stack ----


def interface_removed(row: Row, stage: Stage, how: str) -> None:
    """The interface is deleted, or its peer is, or the peer's namespace, and it goes with them.

    `how`: one of REMOVALS.
    """
    with veth_pair() as veth:
        near, far = veth.right, veth.left
        with stage.stream(row, veth) as (at, stream):
            time.sleep(stage.chance.uniform(0, 0.05))
            if how == "with the peer's namespace":
                netns.remove(far.netns)
                stream.sender.give_up()  # its socket is the last that is in there
            else:
                end = near if how == "here" else far
                with end.netlink() as handle:
                    handle.link("del", index=end.ifindex)
            row.heard(_error_of(lambda: stream.listener.accept(PATIENCE)))
            assert not stream.wrong, f"{stream.wrong} bytes are wrong"
            row.nbytes += stream.received
            row.times += 1
            if at.agent:
                at.agent.await_end(1)  # it was the only one that it served
            else:
                row.heard(_error_of(lambda: at.stack.poll(PATIENCE)))


def namespace_destroyed(row: Row, stage: Stage) -> None:
    """The receiver's namespace loses its name: it lives as long as the stack, and no longer.

    It ends with the last socket that is in it; then so does the interface, and its peer.
    """
    with veth_pair() as veth:
        with stage.stream(row, veth) as (_, stream):
            netns.remove(veth.right.netns)
            stream.progress()
            stream.finish(row)
            row.times += 1
        began = time.monotonic()
        with veth.left.netlink() as handle:
            while handle.link_lookup(ifname=veth.left.ifname):
                if time.monotonic() - began > PATIENCE:
                    row.broken.append("something keeps the namespace, and with it the interface")
                    return
                time.sleep(0.01)
        row.settle = max(row.settle, time.monotonic() - began)


def _error_of(call: Callable[[], object]) -> OSError:
    try:
        call()
    except TimeoutError as error:
        raise AssertionError(f"nobody was told within {PATIENCE} s") from error
    except OSError as error:
        return error
    raise AssertionError("a call went well that could not")


# ---- the region ----


def region_refused(row: Row, stage: Stage, veth: Veth) -> None:
    """What its owner might do to the memory, and the kernel refuses: nothing happens."""
    with stage.stream(row, veth) as (at, stream):
        fd = at.region.fd
        for call, number in (
            (lambda: os.ftruncate(fd, 0), errno.EPERM),
            (lambda: os.ftruncate(fd, REGION_BYTES // 2), errno.EPERM),
            (lambda: os.ftruncate(fd, 2 * REGION_BYTES), errno.EPERM),
            (lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE), errno.EBUSY),
        ):
            error = _error_of(call)
            assert error.errno == number, error
            row.said[f"{os.strerror(number)}, to the owner"] += 1
            stream.progress()
            row.times += 1
        stream.finish(row)


def region_closed(row: Row, stage: Stage, veth: Veth) -> None:
    """Its owner seals it against writing mappings, and closes it: the stream goes on.

    It cannot be bound again then, and that is said beforehand.
    """
    with stage.stream(row, veth) as (at, stream):
        fcntl.fcntl(at.region.fd, fcntl.F_ADD_SEALS, _F_SEAL_FUTURE_WRITE)
        stream.progress()
        at.region.close()
        stream.progress()
        stream.finish(row)
        row.times += 2
    with _judged(row, veth.right), Region(REGION_BYTES) as region:
        fcntl.fcntl(region.fd, fcntl.F_ADD_SEALS, _F_SEAL_FUTURE_WRITE)
        row.heard(_refused(stage, veth.right, region))
        row.times += 1
    stage.next_life(row, veth)


def _refused(stage: Stage, near: VethEnd, region: Region) -> Exception:
    """How a region is refused that cannot be bound."""
    try:
        with stage.host(near, region):
            raise AssertionError("a region was bound that cannot be")
    except (ConfigError, OSError) as error:
        return error


def region_punched(row: Row, stage: Stage, veth: Veth) -> None:
    """Its owner gives the pages back under way: he reads zeros, and nobody else notices.

    No seal that can be set forbids it and lets the region be bound a second time.
    """
    with stage.stream(row, veth) as (at, stream):
        if _libc.fallocate(at.region.fd, _PUNCH, ctypes.c_long(0), ctypes.c_long(REGION_BYTES)):
            raise OSError(ctypes.get_errno(), "fallocate")
        stream.progress()
        stream.sender.finish()
        stream.end()
        assert stream.received == stream.sender.sent
        assert stream.error is None, stream.error
        assert stream.wrong, "a hole in the region was not seen by its owner"
        row.said["zeros, to the owner"] += 1
        row.times += 1
    stage.next_life(row, veth)
