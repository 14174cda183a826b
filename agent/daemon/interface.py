# SPDX-License-Identifier: Apache-2.0
"""An interface that the agent serves: its options, its datapath, and what became of it."""

from __future__ import annotations

import errno
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from devmemtcp.agent._loop import lib
from devmemtcp.agent.daemon.config import InterfaceOptions
from devmemtcp.agent.datapath import Datapath
from devmemtcp.agent.datapath_config import PAGE, DatapathConfig, attach_mode, window
from devmemtcp.agent.netdev import NetDev, NetNs, addresses_of
from devmemtcp.agent.preflight import check_interface


class Interface:
    """One table of the configuration, come true. To be made in the agent's network namespace."""

    name: str
    ifindex: int
    options: InterfaceOptions
    config: DatapathConfig
    datapath: Datapath
    failed: int = 0
    """Errno that ended its stack; 0 while it runs."""

    def __init__(self, options: InterfaceOptions) -> None:
        """Set up all but the loop's thread. Raises ConfigError, Unsupported, XdpError."""
        self.options = options
        self.foreign: set[int] = set()
        """Queues that the emulated NIC knows to be somebody else's."""
        self.name = options.name  # as the rules have it, which may be an altname
        self._dev = NetDev.find(options.name)
        self.ifindex = self._dev.features.ifindex
        self.config = _plan(options, self._dev)
        check_interface(self._dev, self.config, force=options.force)
        self.datapath = Datapath(self.config, NetNs(None))

    def look(self) -> bool:
        """Whether its stack has ended since the last look."""
        if self.failed or self.datapath.running:
            return False
        self.failed = self.datapath.failure() or errno.ESHUTDOWN
        return True

    def retake(self) -> None:
        """Try to get the queues that another AF_XDP socket had."""
        if self.datapath.lost_queues and not self.failed:
            self.datapath.retake()

    def has_address(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether the interface has it, now."""
        return self._dev.has_address(address)

    def addresses(self) -> list[IPv4Address | IPv6Address]:
        """Those that it has now; none when it is gone."""
        return [] if self.failed else addresses_of(self.config.ifname)

    def counters(self) -> dict[str, dict[str, int]]:
        """All of `Datapath.stats()` in groups; the sockets' are called `socket.<queue>`.

        And `readability`, of `Datapath.probe()`: without a child, which seccomp would not let be.
        """
        raw: dict[str, Any] = self.datapath.stats()
        groups = {name: raw[name] for name in ("stack", "drops", "steer", "loop", "netmem")}
        groups["readability"] = self.datapath.probe(fork=False)
        for counters in raw["sockets"]:
            rest = {name: value for name, value in counters.items() if name != "queue"}
            groups[f"socket.{counters['queue']}"] = rest
        return groups


def _plan(options: InterfaceOptions, dev: NetDev) -> DatapathConfig:
    can = dev.features
    queues = can.rx_queues or 1
    host_buffers = options.host_memory // PAGE
    multi_buffer = can.multi_buffer is not False
    mode = attach_mode(options.mode, can.driver, multi_buffer=multi_buffer)
    return DatapathConfig(
        ifname=can.ifname,
        queues=queues,
        mtu=can.mtu,
        mode=mode,
        multi_buffer=multi_buffer and mode != "zerocopy",
        csum_trust=options.rx_csum == "trust",
        linear_bytes=options.linear_bytes,
        busy_poll=options.busy_poll,
        spin_us=options.spin_us,
        cpu=options.cpu,
        napi_cpu=options.napi_cpu,
        driver=can.driver,
        host_buffers=host_buffers,
        max_buffers=options.memory // PAGE + queues * host_buffers,
        max_areas=lib.STACK_MAX_AREAS,
        max_apps=lib.STACK_MAX_APPS,
        max_flows=options.max_connections,
        rcv_wnd_max=window(options.rcv_wnd, mode, can.driver, can.mtu),
        synack_retries=options.synack_retries,
        user_timeout=options.user_timeout,
        fin_timeout=options.fin_timeout,
    )
