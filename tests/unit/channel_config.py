# SPDX-License-Identifier: Apache-2.0
"""A datapath's configuration for who wants channels and no datapath."""

from __future__ import annotations

from devmemtcp.agent.datapath_config import DatapathConfig

CONFIG = DatapathConfig(
    ifname="eth1",
    queues=2,
    mtu=1500,
    mode=None,
    multi_buffer=True,
    csum_trust=False,
    linear_bytes=0,
    busy_poll=False,
    spin_us=0,
    cpu=None,
    host_buffers=64,
    max_buffers=1000,
    max_areas=8,
    max_apps=2,
    max_flows=100,
    rcv_wnd_max=1 << 20,
)
