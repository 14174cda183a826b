# SPDX-License-Identifier: Apache-2.0
"""The kernel's own bind-rx and the dma-buf of a region: as far as this NIC's driver goes.

Not over a veth: Linux 6.12 warns, in dma_buf_dynamic_attach(), when a device has no parent.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest

from devmemtcp.agent import Region, Unsupported
from devmemtcp.netlink.errors import NetlinkError
from devmemtcp.netlink.netdev import Netdev

from ..capability import since


@pytest.fixture
def region() -> Iterator[Region]:
    try:
        made = Region(4 << 20, memory="udmabuf")
    except Unsupported as error:
        pytest.skip(str(error))
    with made:
        yield made


def answer(end: Any, fd: int) -> NetlinkError | None:
    """None: it is bound, and unbound again."""
    with Netdev(netns=end.netns) as netdev:
        try:
            assert netdev.bind_rx(end.ifindex, fd, [0]) > 0
        except NetlinkError as error:
            return error
    return None


@since(6, 12, "bind-rx")
def test_the_kernel_takes_a_region_s_dma_buf_and_not_its_memfd(veth: Any, region: Region) -> None:
    memfd, dmabuf = answer(veth.right, region.fd), answer(veth.right, region.dmabuf_fd)
    assert memfd is not None
    if dmabuf is None:  # a NIC with device memory: it has received what AF_XDP can receive into
        assert memfd.errno == errno.EINVAL
        return
    if memfd.errno == errno.EINVAL and not memfd.extack:
        # The file is looked at before the driver is asked: 6.12, and NICs with queue operations.
        assert dmabuf.errno != errno.EINVAL or dmabuf.extack
    else:
        assert (memfd.errno, memfd.extack) == (dmabuf.errno, dmabuf.extack)
