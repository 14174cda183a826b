# SPDX-License-Identifier: Apache-2.0
"""What cffi makes of api.h: see there for what each call does and who owns what."""

from typing import Any, TypeAlias

CData: TypeAlias = Any

class _Lib:
    STACK_MAX_CHUNKS: int
    STACK_CHUNK: int
    STACK_CHUNK_DATA: int
    STACK_MAX_QUEUES: int
    LISTEN_CLOSE_FIRST: int
    STACK_NO_DEADLINE: int
    PRESSURE_WINDOW: int
    PRESSURE_DROP: int
    DROP_NONE: int
    DROP_RECORD: int
    DROP_ADDRESS: int
    DROP_MALFORMED: int
    DROP_NO_LISTENER: int
    DROP_NO_FLOW: int
    DROP_FLAGS: int
    DROP_BACKLOG: int
    DROP_NO_MEMORY: int
    DROP_OLD_SEQ: int
    DROP_OUT_OF_WINDOW: int
    DROP_OLD_ACK: int
    DROP_FUTURE_ACK: int
    DROP_PAWS: int
    DROP_NO_TIMESTAMP: int
    DROP_RST_OUT_OF_WINDOW: int
    DROP_CHALLENGE: int
    DROP_AFTER_FIN: int
    DROP_DUPLICATE: int
    DROP_REASONS: int
    TCP_CLOSED: int
    TCP_LISTEN: int
    TCP_SYN_RECEIVED: int
    TCP_ESTABLISHED: int
    TCP_FIN_WAIT_1: int
    TCP_FIN_WAIT_2: int
    TCP_CLOSE_WAIT: int
    TCP_CLOSING: int
    TCP_LAST_ACK: int
    TCP_TIME_WAIT: int
    TCP_STATES: int
    FRAG_HOST_PAGE: int
    FRAG_NET_IOV: int
    FRAG_FREE: int
    FRAG_FILL: int
    FRAG_RECEIVED: int
    FRAG_OOO: int
    FRAG_LENT: int
    FRAG_RETURNED: int
    FRAG_TX: int
    FRAG_STATES: int
    def stack_size(self, config: CData, /) -> int: ...
    def stack_channel_size(self, config: CData, /) -> int: ...
    def stack_init(self, mem: CData, config: CData, /) -> int: ...
    def stack_listen(self, s: CData, local: CData, flags: int, backlog: int, /) -> int: ...
    def stack_unlisten(self, s: CData, listener: int, /) -> int: ...
    def stack_set_mtu(self, s: CData, mtu: int, /) -> int: ...
    def stack_rx(self, s: CData, packet: CData, now: int, /) -> None: ...
    def stack_rx_end(self, s: CData, now: int, /) -> None: ...
    def stack_rx_discard(self, s: CData, packet: CData, /) -> None: ...
    def stack_refill(self, s: CData, queue: int, niovs: CData, max: int, /) -> int: ...
    def stack_tx(self, s: CData, queue: int, frames: CData, max: int, /) -> int: ...
    def stack_tx_done(self, s: CData, page: int, /) -> None: ...
    def stack_next_deadline(self, s: CData, /) -> int: ...
    def stack_timers(self, s: CData, now: int, /) -> None: ...
    def stack_requests(self, s: CData, now: int, /) -> int: ...
    def stack_events_pushed(self, s: CData, /) -> int: ...
    def stack_app_gone(self, s: CData, now: int, /) -> None: ...
    def stack_stats(self, s: CData, out: CData, /) -> None: ...
    def stack_flow(self, s: CData, from_: int, out: CData, /) -> int: ...
    def stack_frag(self, s: CData, n: int, out: CData, /) -> int: ...
    def stack_check(self, s: CData, /) -> int: ...

ffi: Any
lib: _Lib
