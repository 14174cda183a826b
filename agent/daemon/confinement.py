# SPDX-License-Identifier: Apache-2.0
"""What the agent needs to set up, what of it is left afterwards, and letting go of the rest.

Measured on Linux 6.18 (docs/agent.md has the table): with the XDP program attached and its maps
open, a queue is restarted over other memory with CAP_NET_RAW alone (socket(AF_XDP)), once the
limit on locked memory is off. Map entries are changed by descriptor.
"""

from __future__ import annotations

import logging
import os
import pwd
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devmemtcp.agent._loop import ffi
from devmemtcp.agent._loop import lib as loop_lib
from devmemtcp.agent.errors import ConfigError, failed

CAP_NET_BIND_SERVICE = 10
CAP_NET_ADMIN = 12
CAP_NET_RAW = 13
CAP_IPC_LOCK = 14

_NAMES = {
    CAP_NET_BIND_SERVICE: "CAP_NET_BIND_SERVICE",
    CAP_NET_ADMIN: "CAP_NET_ADMIN",
    CAP_NET_RAW: "CAP_NET_RAW",
    CAP_IPC_LOCK: "CAP_IPC_LOCK",
}
_UNPRIVILEGED_PORTS = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")

log = logging.getLogger(__name__)


def effective_capabilities() -> int:
    """Of the calling thread, as a bit mask."""
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def unlimit_locked_memory() -> bool:
    """Take the limit on UMEM away. False: it cannot be, and CAP_IPC_LOCK has to stand in."""
    infinity = resource.RLIM_INFINITY
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (infinity, infinity))
    except (ValueError, PermissionError):  # no CAP_SYS_RESOURCE
        return resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == infinity
    return True


@dataclass(frozen=True)
class Confinement:
    """What is given up, and when: all of it, at the end of set-up, before any thread is started."""

    keep: int
    """Capabilities, as a bit mask."""
    uid: int | None
    """Become this user."""
    gid: int
    socket_directory: Path
    seccomp: bool

    @classmethod
    def plan(
        cls,
        *,
        lowest_port: int,
        busy_poll: bool,
        uid: int | None,
        socket_directory: Path,
        seccomp: bool,
    ) -> Confinement:
        """`lowest_port`: that somebody may listen on; `busy_poll`: of any interface.

        Raises ConfigError when the capability for one of them is missing, or libseccomp is.
        """
        keep = {CAP_NET_RAW}
        if lowest_port < int(_UNPRIVILEGED_PORTS.read_text()):
            keep.add(CAP_NET_BIND_SERVICE)
        if busy_poll:
            keep.add(CAP_NET_ADMIN)  # SO_PREFER_BUSY_POLL of each new socket
        if not unlimit_locked_memory():
            keep.add(CAP_IPC_LOCK)
        have = effective_capabilities()
        if missing := [_NAMES[cap] for cap in sorted(keep) if not have >> cap & 1]:
            raise ConfigError(
                f"the agent needs {', '.join(missing)}; run it as root, or by systemd with "
                "AmbientCapabilities= of the unit that comes with it"
            )
        _native()
        return cls(
            keep=sum(1 << cap for cap in keep),
            uid=uid,
            gid=_primary_group(uid) if uid is not None else -1,
            socket_directory=socket_directory,
            seccomp=seccomp,
        )

    def enter(self) -> None:
        """Give up the rest, for good. Raises OSError: then nothing must be served."""
        lib = _native()
        if self.uid is not None:
            _check(lib.confine_user(self.uid, self.gid), "cannot change the user")
        _check(lib.confine_capabilities(self.keep), "cannot give up capabilities")
        without = lib.confine_files(os.fsencode(self.socket_directory))
        if without:
            log.info("no Landlock (%s): files are kept by seccomp alone", os.strerror(-without))
        if self.seccomp:
            info = _netmem_info()
            _check(
                lib.confine_system_calls(info.code, info.code_size), "cannot filter system calls"
            )

    @property
    def kept(self) -> list[str]:
        """Names of the capabilities that stay."""
        return [name for cap, name in sorted(_NAMES.items()) if self.keep >> cap & 1]


def _primary_group(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid  # a number without a name, as in containers


def _netmem_info() -> Any:
    """Which code is written to when the first region is bound: the static key's, if any."""
    info = ffi.new("struct netmem_info *")
    loop_lib.netmem_info(info)
    return info


def _native() -> Any:
    try:
        from devmemtcp.agent.daemon._confine import lib
    except ImportError as error:
        raise ConfigError(
            f"libseccomp is missing ({error}); Debian has it in the package libseccomp2"
        ) from error
    return lib


def _check(result: int, what: str) -> None:
    if result < 0:
        raise failed(result, what)
