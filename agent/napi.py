# SPDX-License-Identifier: Apache-2.0
"""NAPI of a veth in native mode, in kernel threads on a core of one's choice.

A veth has no interrupt: whoever transmits schedules the peer's NAPI, and it runs there, after the
sender's own work and on the sender's core. Nothing like RPS comes before a native XDP program.
A thread of its own (Documentation/networking/napi.rst, "Threaded NAPI") can be put elsewhere.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack

from devmemtcp.agent.closing import Closing
from devmemtcp.agent.errors import ConfigError, Unsupported
from devmemtcp.netlink.constants import NapiThreaded
from devmemtcp.netlink.errors import NetlinkError
from devmemtcp.netlink.errors import Unsupported as NoFamily
from devmemtcp.netlink.netdev import Netdev
from devmemtcp.netlink.records import Napi

_TOO_OLD = "NAPI is put into threads of its own, one by one, since Linux 6.17"


class NapiThreads(Closing):
    """A context manager around the time in which NAPI is there.

    It is entered before the XDP program is attached, `move()` is called after it: what is still
    there once the program is gone (a veth with GRO keeps its NAPI) is as it was before.
    """

    def __init__(self, ifname: str) -> None:
        """`ifname` is in the calling thread's network namespace.

        Raises OSError, Unsupported before Linux 6.3.
        """
        self._ifname = ifname
        self._ifindex = socket.if_nametoindex(ifname)
        with ExitStack() as undo:
            try:
                self._netdev = undo.enter_context(Netdev())
            except NoFamily as error:
                raise Unsupported(_TOO_OLD) from error
            self._undo = undo.pop_all()

    def move(self, cpu: int) -> list[int]:
        """Have all instances poll in threads on `cpu`; returns the ids of the threads.

        Raises ConfigError where there is no NAPI or no such core, Unsupported before Linux 6.17,
        OSError.
        """
        found = self._netdev.napi_get(ifindex=self._ifindex)
        if not found:
            raise ConfigError(
                f"{self._ifname} has no NAPI to move to CPU {cpu}: a veth has it in native mode"
            )
        return [self._move(each, cpu) for each in found]

    def _move(self, napi: Napi, cpu: int) -> int:
        assert napi.id is not None
        if napi.threaded is None:
            raise Unsupported(_TOO_OLD)
        if napi.threaded == NapiThreaded.DISABLED:
            self._netdev.napi_set(napi.id, threaded=NapiThreaded.ENABLED)
            self._undo.callback(self._give_back, napi.id)
        pid = self._netdev.napi_get(napi.id).pid
        assert pid is not None
        try:
            os.sched_setaffinity(pid, {cpu})
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise ConfigError(f"there is no CPU {cpu} for NAPI of {self._ifname}") from error
        return pid

    def _give_back(self, napi_id: int) -> None:
        try:
            self._netdev.napi_set(napi_id, threaded=NapiThreaded.DISABLED)
        except NetlinkError as error:
            # EPERM: of an agent, which has given the right up. The veth outlives it with a thread.
            if error.errno not in (errno.ENOENT, errno.EPERM):
                raise

    def close(self) -> None:
        """Give back the threads that are still there."""
        self._undo.close()
