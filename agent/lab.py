# SPDX-License-Identifier: Apache-2.0
"""Two network namespaces joined by a veth pair: a receiver's host and a sender's, on one machine.

Or by two NICs of this machine that a wire connects; they are lent to the namespaces (lent_nic.py).

      near                               far
    +-----------------+               +-----------------+
    | veth0 192.0.2.1 |---------------| veth1 192.0.2.2 |
    +-----------------+               +-----------------+

The names are in the journal before the namespaces exist (see journal.py), and the
veth pair is born inside them, so the caller's own namespace never sees a device.
While a lab lives, `ip netns exec <name> ss -ti` and the like look inside.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pyroute2 import IPRoute, NetlinkError

from devmemtcp.agent import namespaces
from devmemtcp.agent.carrier import await_carrier
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.journal import RUN_DIRECTORY, Journal, sweep
from devmemtcp.agent.lent_nic import LentNic

MTU_MIN = 576  # RFC 1122 3.3.3: what every IPv4 host can take
MTU_MAX = 65535  # ETH_MAX_MTU, the most that veth allows

_IFA_F_NODAD = 0x02

log = logging.getLogger(__name__)


def check_mtu(mtu: int) -> None:
    """Raise ConfigError unless a veth can have that MTU."""
    if not MTU_MIN <= mtu <= MTU_MAX:
        raise ConfigError(f"MTU {mtu} is out of range; choose {MTU_MIN} to {MTU_MAX}")


@dataclass(frozen=True)
class Side:
    """One end of the lab. Addresses are in documentation ranges (RFC 5737, RFC 3849)."""

    netns: str
    ifname: str
    ip4: str
    ip6: str

    def entered(self) -> AbstractContextManager[None]:
        """Put the calling thread, and the processes that it starts meanwhile, into this end."""
        return namespaces.entered(self.netns)


class Lab:
    """A context manager: the namespaces exist inside the `with` block."""

    def __init__(
        self,
        *,
        mtu: int = 1500,
        nics: tuple[str, str] | None = None,
        directory: Path = RUN_DIRECTORY,
    ) -> None:
        """Remove what killed runs left behind, then build a lab with `mtu` bytes a packet.

        `nics`: the near and the far end, of the calling thread's namespace; None: a veth pair.
        Raises ConfigError for an MTU that they cannot have, for NICs that are in use or not
        connected, and without the right to make namespaces; OSError when the kernel refuses for
        another reason.
        """
        check_mtu(mtu)
        self.mtu = mtu
        self._undo = contextlib.ExitStack()
        try:
            for name in sweep(directory):
                log.warning("removed %s, left behind by a killed run", name)
            lent = [LentNic.of(*nic) for nic in zip(("near", "far"), nics or (), strict=False)]
            near, far = [nic.ifname for nic in lent] or ("veth0", "veth1")
            if near == far:
                raise ConfigError(f"-i and --peer are both {near}; it takes two NICs on one wire")
            journal = self._undo.enter_context(Journal(directory))
            self.near = Side(journal.make_netns("near"), near, "192.0.2.1", "2001:db8::1")
            self.far = Side(journal.make_netns("far"), far, "192.0.2.2", "2001:db8::2")
            for nic in lent:
                journal.lend(nic)
            if not lent:
                self._make_veth()
            self._configure()
        except PermissionError as error:
            self._undo.close()
            raise ConfigError(
                f"no permission to make network namespaces ({error.strerror}); run it as root"
            ) from error
        except BaseException:
            self._undo.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the lab. Processes that are still inside keep their namespace until they end."""
        self._undo.close()

    def _make_veth(self) -> None:
        peer = {"ifname": self.far.ifname, "net_ns_fd": self.far.netns, "mtu": self.mtu}
        with self.near.entered(), IPRoute() as netlink:
            try:
                netlink.link("add", ifname=self.near.ifname, kind="veth", peer=peer)
            except NetlinkError as error:
                raise OSError(error.code, f"cannot make a veth pair: {error}") from error

    def _configure(self) -> None:
        for side in (self.near, self.far):
            with side.entered(), IPRoute() as netlink:
                _configure(netlink, side, self.mtu)
        for side in (self.near, self.far):
            with side.entered():
                if not await_carrier(side.ifname):
                    raise ConfigError(
                        f"{side.ifname} has no carrier: connect {self.near.ifname} with "
                        f"{self.far.ifname}, the one that sends"
                    )


def _configure(netlink: IPRoute, side: Side, mtu: int) -> None:
    """MTU, addresses and links up, in the namespace that `netlink` was opened in."""
    netlink.link("set", index=socket.if_nametoindex("lo"), state="up")
    index = socket.if_nametoindex(side.ifname)
    try:
        netlink.link("set", index=index, mtu=mtu)
    except NetlinkError as error:
        raise ConfigError(f"{side.ifname} cannot have an MTU of {mtu} bytes") from error
    netlink.addr("add", index=index, address=side.ip4, prefixlen=24)
    if mtu >= 1280:  # RFC 8200 section 5: below that there is no IPv6
        netlink.addr("add", index=index, address=side.ip6, prefixlen=64, flags=_IFA_F_NODAD)
    netlink.link("set", index=index, state="up")
