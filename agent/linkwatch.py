# SPDX-License-Identifier: Apache-2.0
"""What the interface is called on the link and in IP, and how large its packets are, kept true.

A program sees every frame that the driver delivers: on a veth, or with promiscuous mode, also
those to other hosts' Ethernet addresses; and an unspecified listening address stands for every
address *of ours*. The MSS that is announced to new peers follows the MTU. The kernel tells this
thread of each change (rtnetlink(7)); it then asks for everything again, so that no message has
to be understood and none can be missed.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import struct
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from devmemtcp import xdp_prog
from devmemtcp.agent import rtnetlink
from devmemtcp.agent.netdev import NetNs, addresses_of, ask
from devmemtcp.agent.thread import started
from devmemtcp.pyxdp import Map

_SIOCGIFHWADDR = 0x8927
_SIOCGIFMTU = 0x8921
_IFREQ_HWADDR = struct.Struct("16sH6s16x")
_IFREQ_MTU = struct.Struct("16si20x")
_AGAIN_MS = 1000
_NEWS = rtnetlink.RTMGRP_LINK | rtnetlink.RTMGRP_IPV4_IFADDR | rtnetlink.RTMGRP_IPV6_IFADDR

log = logging.getLogger(__name__)


class LinkWatch:
    """Keeps two maps and the stack's MTU like the interface, until closed."""

    def __init__(
        self,
        ifname: str,
        netns: NetNs,
        mac: Map,
        addresses: Map,
        set_mtu: Callable[[int], object],
    ) -> None:
        """Both maps are filled in when this returns; they follow from `start()` on.

        `set_mtu` is called with the MTU, now and when something has changed, by this thread
        and then by the watch's own. Raises OSError as the kernel does.
        """
        self._ifname = ifname
        self._netns = netns
        self._mac = mac
        self._addresses = addresses
        self._set_mtu = set_mtu
        with ExitStack() as undo, netns.entered():
            self._stop = os.eventfd(0, os.EFD_CLOEXEC)
            undo.callback(os.close, self._stop)
            self._events = undo.enter_context(rtnetlink.open_socket(_NEWS))
            self._refresh()
            self._undo = undo.pop_all()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch, in a thread of its own. What has changed since it was made is not missed."""
        self._thread = started(self._run, "devmemtcp-linkwatch")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.eventfd_write(self._stop, 1)
        if self._thread is not None:
            self._thread.join()
        self._undo.close()

    def _refresh(self) -> None:
        name = os.fsencode(self._ifname)
        answer = ask(self._ifname, _SIOCGIFHWADDR, _IFREQ_HWADDR.pack(name, 0, b""))
        mac = _IFREQ_HWADDR.unpack(answer)[2]
        answer = ask(self._ifname, _SIOCGIFMTU, _IFREQ_MTU.pack(name, 0))
        self._set_mtu(_IFREQ_MTU.unpack(answer)[1])
        self._mac.set(bytes(4), xdp_prog.mac_value(mac))
        there = {xdp_prog.address_key(address) for address in addresses_of(self._ifname)}
        before = set(self._addresses.keys())
        for key in there - before:
            self._addresses.set(key, bytes(4))
        for key in before - there:
            self._addresses.delete(key)

    def _run(self) -> None:
        patience: int | None = None
        with self._netns.entered():
            while self._wait(patience):
                patience = self._follow()

    def _follow(self) -> int | None:
        """Do as the interface; returns the milliseconds after which it is to be tried again."""
        try:
            self._refresh()
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None  # it has gone: nothing can arrive by it any more
            log.warning("what has changed of %s cannot be followed yet: %s", self._ifname, error)
            return _AGAIN_MS
        return None

    def _wait(self, patience: int | None) -> bool:
        """Until something has changed, or so many milliseconds; False when it is time to end."""
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        poll.register(self._events, select.POLLIN)
        if self._stop in dict(poll.poll(patience)):
            return False
        while True:
            try:
                self._events.recv(1 << 16)
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # more changes than the socket could hold
                    raise
