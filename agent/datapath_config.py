# SPDX-License-Identifier: Apache-2.0
"""What a datapath is to be: plain data, so that it can be sent to another process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, overload

from devmemtcp.agent._loop import ffi, lib
from devmemtcp.agent.header_path import HeaderPath
from devmemtcp.agent.tcp_timeouts import TcpTimeouts

XdpMode = Literal["auto", "native", "generic"]
"""How the XDP program is to be attached, in copy mode."""
AttachMode = Literal["native", "generic", "zerocopy"]
"""How packets are received. `zerocopy`: the program is native, and AF_XDP copies nothing."""

PAGE = 4096
TX_RING = 256
"""Descriptors; also of the completion ring."""
TX_PAGES = 2048
"""Host pages for ACKs, resets and replies."""
HOST_BUFFERS = 1024
"""Of a queue without a binding: a window of nearly 4 MiB."""
DATA_BLOCKS = 2048
"""Of an application, for bytes that are not in device memory: 8 MiB."""
MAX_LISTENERS = 256
_DELACK_NS = 40_000_000
ACK_SEGMENTS = 2
"""RFC 5681 4.2: at least every second full-sized segment is acknowledged."""
ACK_SEGMENTS_MAX = 255
RCV_WND = 4 << 20
_ETHERNET_MTU = 1500
_HALF_PAGE_MTU = 1458
"""With Ethernet's 14 bytes, 256 of headroom for XDP and 320 of skb_shared_info: 2048. Of a page of
4 KiB, skb_pp_cow_data() then makes two buffers for a veth, and one for anything longer."""
_VETH_WINDOW_PACKETS = 208
"""Of the 256 that a veth's ring holds in native mode (VETH_RING_SIZE); the rest is for others."""
_FILL_MIN, _ZERO_COPY_FILL_MIN = 512, 4096
"""Buffers a queue has at least, when there are enough: a burst of connections opening, which no
window has announced, while the loop's thread waits for a CPU. In zero-copy mode the ring of the
driver itself holds some 256 of them."""
_IGB_RX_RING_MIN, _IGB_RX_RING_MAX = 64, _ZERO_COPY_FILL_MIN // 2


def ring_size(count: int) -> int:
    """Descriptors of a ring that `count` buffers cannot overflow: a power of two."""
    return 1 << (count - 1).bit_length()


def umem_layout(mode: AttachMode | None) -> int:
    """`enum mosaic_layout` of all areas."""
    return int(lib.MOSAIC_CHUNKS if mode == "zerocopy" else lib.MOSAIC_PAIRS)


def umem_size(buffers: int, mode: AttachMode | None = None) -> int:
    """Bytes of the UMEM of an area, which count against RLIMIT_MEMLOCK."""
    return int(lib.mosaic_size(umem_layout(mode), buffers, TX_PAGES))


@overload
def attach_mode(
    wanted: XdpMode, driver: str | None, *, multi_buffer: bool = True
) -> Literal["native", "generic"] | None: ...


@overload
def attach_mode(
    wanted: XdpMode | Literal["zerocopy"],
    driver: str | None,
    *,
    multi_buffer: bool = True,
) -> AttachMode | None: ...


def attach_mode(
    wanted: XdpMode | Literal["zerocopy"],
    driver: str | None,
    *,
    multi_buffer: bool = True,
) -> AttachMode | None:
    """`DatapathConfig.mode` for what was asked for.

    A veth is taken in generic mode: native mode takes the peer's segmentation offload away. Where
    a packet has but one buffer that is what must be, for the peer's 64 KB would fit none. Zero-copy
    is never chosen unasked: it puts the headers of packets into device memory, too.
    """
    if wanted != "auto":
        return wanted
    if driver != "veth":
        return None
    return "generic" if multi_buffer else "native"


def window(wanted: int | None, mode: AttachMode | None, driver: str | None, mtu: int) -> int:
    """`DatapathConfig.rcv_wnd_max` for what was asked for; None: what suits the interface.

    A veth in native mode has a short ring in front of NAPI, and drops what finds it full. With a
    window that fits, one connection never overflows it, wherever NAPI runs.
    """
    if wanted is not None:
        return wanted
    if mode != "native" or driver != "veth":
        return RCV_WND
    return min(RCV_WND, _VETH_WINDOW_PACKETS * mtu)


@dataclass(frozen=True)
class ChannelGeometry:
    """Capacities of a channel, see stack/channel.h; what both ends must agree on."""

    nr_events: int
    nr_requests: int
    nr_blocks: int


@dataclass(frozen=True)
class DatapathConfig:
    """One interface, and the limits of what can be on it."""

    ifname: str
    queues: int
    mtu: int
    mode: AttachMode | None
    """None: native where the driver can, else generic."""
    multi_buffer: bool
    """Packets of several chunks: an xdp.frags program and XDP_USE_SG, Linux 6.6."""
    csum_trust: bool
    linear_bytes: int
    """Payload bytes of each packet that the split leaves with the headers."""
    busy_poll: bool
    spin_us: int
    cpu: int | None
    host_buffers: int
    """Of each queue while it has no binding."""
    max_buffers: int
    """Of all areas together: of bindings, of queues without one, and of those that drain."""
    max_areas: int
    max_apps: int
    max_flows: int
    rcv_wnd_max: int
    ack_segments: int = ACK_SEGMENTS
    """Full-sized segments to an ACK; a batch is acknowledged at most once."""
    napi_cpu: int | None = None
    """Of a veth in native mode: NAPI in a thread of its own, on this CPU."""
    driver: str | None = None
    header_path: HeaderPath | None = None
    """How headers get from the XDP program to the stack; None: as this kernel has room for."""
    synack_retries: int = TcpTimeouts.synack_retries
    user_timeout: float = TcpTimeouts.user_timeout
    fin_timeout: float = TcpTimeouts.fin_timeout
    time_wait: float = TcpTimeouts.time_wait

    def announced_mtu(self, mtu: int) -> int:
        """What the MSS in our SYNs is for, on the interface with that MTU.

        A veth in native mode copies each packet before the program runs. Where 3 % less payload
        in it halve the pages that takes, peers are asked for that.
        """
        if (self.mode, self.driver) == ("native", "veth") and mtu <= _ETHERNET_MTU:
            return min(mtu, _HALF_PAGE_MTU)
        return mtu

    def rx_ring(self, buffers: int) -> int:
        """Descriptors of the RX ring of a socket on an area of so many `buffers`.

        One for each buffer, so that it never overflows. Only igb's zero-copy must not run out of
        buffers, for then it hands some out twice (docs/zero-copy.md): there the RX ring is full
        before they are all in it, and what comes then is dropped, and its buffer used again.
        """
        if (self.mode, self.driver) == ("zerocopy", "igb"):
            # Half of what window_fill_target() keeps filled in, a quarter of a queue's share.
            half = min(max(buffers // self.queues // 8, _IGB_RX_RING_MIN), _IGB_RX_RING_MAX)
            return 1 << (half.bit_length() - 1)
        return ring_size(buffers)

    def stack_config(self) -> Any:
        """`struct stack_config`, all but memory and key."""
        fill_max = ring_size(self.max_buffers)
        fill_min = _ZERO_COPY_FILL_MIN if self.mode == "zerocopy" else _FILL_MIN
        return ffi.new(
            "struct stack_config *",
            {
                "max_niovs": self.max_buffers,
                "max_areas": self.max_areas,
                "max_apps": self.max_apps,
                "nr_pages": TX_PAGES,
                "nr_queues": self.queues,
                "max_flows": self.max_flows,
                "max_listeners": MAX_LISTENERS,
                "fill_min": min(fill_min, fill_max),
                "fill_max": fill_max,
                "mtu": self.mtu,
                "rcv_wnd_max": self.rcv_wnd_max,
                "delack_ns": _DELACK_NS,
                "ack_segments": self.ack_segments,
                "synack_retries": self.synack_retries,
                "user_timeout_ms": round(self.user_timeout * 1000),
                "fin_timeout_ms": round(self.fin_timeout * 1000),
                "time_wait_ms": round(self.time_wait * 1000),
            },
        )

    def geometry(self, nr_blocks: int = DATA_BLOCKS) -> ChannelGeometry:
        """Of a channel with room for every buffer and for what connections have to say."""
        entries = ring_size(self.max_buffers + 8 * self.max_flows)
        return ChannelGeometry(entries, entries, nr_blocks)

    def channel_size(self, geometry: ChannelGeometry) -> int:
        """Bytes of the memfd shared by stack and application."""
        app = {
            "nr_events": geometry.nr_events,
            "nr_requests": geometry.nr_requests,
            "nr_blocks": geometry.nr_blocks,
        }
        size = lib.stack_channel_size(
            self.stack_config(), ffi.new("struct stack_app_config *", app)
        )
        return int(size)
