# SPDX-License-Identifier: Apache-2.0
"""Journals of NICs that have come back with another index: their driver was loaded again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.nic.device import Identity
from devmemtcp.agent.nic.journal import RUN_DIRECTORY, Journal, journals
from devmemtcp.netlink.link import Link


def refile_returned(netns: int, links: Sequence[Link], directory: Path = RUN_DIRECTORY) -> None:
    """File each journal whose NIC has another index by now under that one.

    `links`: all of the namespace. The NIC is known by what neither its driver nor its user gives
    it, permanent address and place on its bus together, and only where no other has the same.
    """
    here = {link.ifindex: Identity.of(netns, link) for link in links}
    for ifindex in list(journals(netns, directory)):
        try:
            with Journal(Identity(netns, ifindex, None), str(ifindex), directory) as journal:
                if ifindex in here and journal.is_of(here[ifindex]):
                    continue
                again = [link.ifindex for link in links if journal.is_of(here[link.ifindex])]
                if None not in journal.hardware and len(again) == 1:
                    journal.refile(again[0])
        except ConfigError:
            continue  # at work on, or no journal: who wants this one is told when he opens it
