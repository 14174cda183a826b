# SPDX-License-Identifier: Apache-2.0
"""Which NIC is meant where one is to be undone: by what it is called, or was as it was set up."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.netdev import ifindex_of, no_interface
from devmemtcp.agent.nic.device import Identity
from devmemtcp.agent.nic.journal import Journal, journals
from devmemtcp.agent.nic.returned import refile_returned
from devmemtcp.netlink.link import Link


def ifindex_to_undo(
    interface: str, netns: int, links: Sequence[Link], notes: list[str], *, forget: bool
) -> int | None:
    """The index of the NIC that has a journal and this name or altname, or had it at the time.

    `links`: all of the namespace. None: there is nothing to undo, and `notes` get the reason.
    Raises ConfigError for a name that nobody has or had; OSError, ENODEV, for a NIC that is not in
    this namespace, unless `forget`: then its journal is dropped.
    """
    present = _present(interface)
    refile_returned(netns, links)
    known = list(journals(netns))
    if present in known:
        return present
    names = {link.ifindex: link.ifname for link in links}
    for ifindex in _once_called(interface, netns, known, notes):
        if ifindex not in names:
            _drop_of_one_gone(interface, Identity(netns, ifindex, None), forget)
            return None
        if present is None:
            return ifindex
        notes.append(f"the {interface} that was set up is called {names[ifindex]} by now")
    if present is None:
        raise ConfigError("; ".join([str(no_interface(interface)), *notes]))
    notes.append(f"nothing was applied to {interface}")
    return None


def _present(interface: str) -> int | None:
    """The index of what has the name or altname now."""
    try:
        return ifindex_of(interface)
    except ConfigError:
        return None


def _once_called(interface: str, netns: int, known: Sequence[int], notes: list[str]) -> list[int]:
    """Indices of those with a journal that says so; `notes` get why one cannot be read."""
    found = []
    for ifindex in known:
        try:
            with Journal(Identity(netns, ifindex, None), interface) as journal:
                if journal.ifname == interface:
                    found.append(ifindex)
        except ConfigError as error:
            # Another NIC's, maybe: its state says nothing about this one's.
            notes.append(str(error))
    return found


def _drop_of_one_gone(interface: str, identity: Identity, forget: bool) -> None:
    if not forget:
        raise OSError(
            errno.ENODEV,
            f"the {interface} that was set up is not in this network namespace; put it back, or "
            "drop the journal (--forget)",
        )
    with Journal(identity, interface) as journal:
        journal.drop()
