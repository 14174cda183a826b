# SPDX-License-Identifier: Apache-2.0
"""Sockets whose received bytes are in device memory, and the numbers that go with them.

    from devmemtcp.socket import MSG_SOCK_DEVMEM, DevmemSocket

`DevmemSocket` has the methods of `socket.socket`; `DevmemStream` is for asyncio.
"""

from socket import CMSG_LEN, CMSG_SPACE

from devmemtcp.agent.devmem_abi import (
    DONTNEED_FRAGS,
    DONTNEED_RANGES,
    ETOOSMALL,
    MSG_SOCK_DEVMEM,
    SCM_DEVMEM_DMABUF,
    SCM_DEVMEM_LINEAR,
    SO_DEVMEM_DMABUF,
    SO_DEVMEM_DONTNEED,
    SO_DEVMEM_LINEAR,
    DmabufCmsg,
    DmabufToken,
    Kind,
    Reason,
    pack_tokens,
)
from devmemtcp.agent.devmem_frags import ReceivedFrag
from devmemtcp.agent.devmem_socket import DevmemSocket
from devmemtcp.agent.devmem_stream import DevmemStream
from devmemtcp.agent.errors import NotInDeviceMemoryError
from devmemtcp.agent.provider import Stack, StackProvider

__all__ = [
    "CMSG_LEN",
    "CMSG_SPACE",
    "DONTNEED_FRAGS",
    "DONTNEED_RANGES",
    "ETOOSMALL",
    "MSG_SOCK_DEVMEM",
    "SCM_DEVMEM_DMABUF",
    "SCM_DEVMEM_LINEAR",
    "SO_DEVMEM_DMABUF",
    "SO_DEVMEM_DONTNEED",
    "SO_DEVMEM_LINEAR",
    "DevmemSocket",
    "DevmemStream",
    "DmabufCmsg",
    "DmabufToken",
    "Kind",
    "NotInDeviceMemoryError",
    "Reason",
    "ReceivedFrag",
    "Stack",
    "StackProvider",
    "pack_tokens",
]
