# SPDX-License-Identifier: Apache-2.0
"""What the agent tells of the machine's interfaces."""

from __future__ import annotations

import socket

from devmemtcp.agent.daemon.backend import LiveBackend


def test_a_kernel_without_the_netdev_family_tells_no_features() -> None:
    """Linux 6.1 has none; the agent serves all the same."""
    devices = LiveBackend({}, None).devices()
    assert [device.ifname for device in devices] == [name for _, name in socket.if_nameindex()]
    assert {device.xdp_features for device in devices} == {0}
