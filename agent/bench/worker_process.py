# SPDX-License-Identifier: Apache-2.0
"""The process behind a Worker: what it can be asked to do. See worker.py for the messages."""

from __future__ import annotations

import argparse
import errno
import json
import math
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from devmemtcp.agent.bench import conditions
from devmemtcp.agent.bench._native import ffi, lib
from devmemtcp.agent.bench.latency import histogram, percentiles
from devmemtcp.agent.bench.worker import Message
from devmemtcp.agent.bench.worker_receive import Devmem, Kernel, Receiver, runtime
from devmemtcp.agent.options import DEFAULT_PERIOD
from devmemtcp.agent.pattern import one_period
from devmemtcp.agent.process import die_with_parent
from devmemtcp.agent.region import PAGE_SIZE
from devmemtcp.agent.tcp_info import tcp_info
from devmemtcp.pyxdp import Unsupported

CONNECT_SECONDS = 10.0
CONGESTION = "cubic"
_SEND_BYTES = 1 << 20
_MOST_CHURNED = 4 << 20
_CHURN_RATES = (1 << 18, 1 << 28)
"""Bytes a second."""
CHURN_SECONDS = 60.0
"""That a connection may take over a bad road."""
_SO_MAX_PACING_RATE = 47
_RESET = {errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN}
"""What a connection says that the other end has reset: the first call that finds it, and others."""
_HOT_BYTES = 64 << 10
"""What fits the cache closest to a core, and is what a sender's packet holds."""
_MOST_ASKED = 1 << 18
_NS = 1_000_000_000


def _say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def _hear() -> Message:
    line = sys.stdin.readline()
    if not line:
        raise SystemExit(1)
    message: Message = json.loads(line)
    return message


class _End:
    """What a worker keeps between requests: the cores that it may use."""

    def __init__(self) -> None:
        self.usable = os.sched_getaffinity(0)
        self._idle = ExitStack()

    def pin(self, cpu: int | None) -> None:
        """Keep the thread, and those that it starts, on a core; None: on any."""
        os.sched_setaffinity(0, self.usable if cpu is None else {cpu})

    def do_offloads(self, request: Message) -> None:
        conditions.set_offloads(request["ifname"], request["wanted"])
        _say(offloads=conditions.offloads(request["ifname"]))

    def do_rps(self, request: Message) -> None:
        conditions.set_rps(request["ifname"], request["cpu"])
        _say()

    def do_dropped(self, request: Message) -> None:
        """Packets that the interface has dropped since it is there."""
        counters = Path("/sys/class/net", request["ifname"], "statistics")
        _say(**{name: int((counters / name).read_text()) for name in ("rx_dropped", "tx_dropped")})

    def do_copy(self, request: Message) -> None:
        """Copy packets' worth out of hot memory into memory of `size` bytes."""
        self.pin(request["cpu"])
        source, target = bytearray(_HOT_BYTES), bytearray(max(request["size"], _HOT_BYTES))
        args = (
            *(ffi.from_buffer("uint8_t[]", target), len(target)),
            *(ffi.from_buffer("uint8_t[]", source), len(source)),
            PAGE_SIZE,
        )
        lib.stream_copy(*args, time.monotonic_ns() + int(request["seconds"] / 4 * _NS))
        began = time.monotonic_ns()
        size = lib.stream_copy(*args, began + int(request["seconds"] * _NS))
        _say(bytes=size, seconds=(time.monotonic_ns() - began) / _NS)

    # ---- sending ----

    def do_ask(self, request: Message) -> None:
        self.pin(request["cpu"])
        times = ffi.new("uint32_t[]", _MOST_ASKED)
        with _connected(request) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            until = time.monotonic_ns() + int(request["seconds"] * _NS)
            count = lib.stream_ask(sock.fileno(), request["size"], until, times, _MOST_ASKED)
        if count < 0:
            raise OSError(-count, f"request: {os.strerror(-count)}")
        us = [ns / 1000 for ns in times[0:count]]
        _say(latency=percentiles(us), histogram=histogram(us), asked=count)

    def do_send(self, request: Message) -> None:
        self.pin(request["cpu"])
        with ExitStack() as undo:
            socks = [undo.enter_context(_connected(request)) for _ in range(request["connections"])]
            name = socks[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            _say(connected=True, congestion=name.rstrip(b"\0").decode())
            pool = undo.enter_context(ThreadPoolExecutor(len(socks)))
            sent = sum(pool.map(_send_all, socks))
            info = [tcp_info(sock) for sock in socks]
        _say(
            bytes=sent,
            mss=info[0].snd_mss,
            retransmits=sum(each.total_retrans for each in info),
            acks=sum(each.segs_in for each in info),
        )

    def do_churn(self, request: Message) -> None:
        # We close first: without this, all our ports are in TIME-WAIT after half a minute.
        Path("/proc/sys/net/ipv4/tcp_tw_reuse").write_text("1")
        stopped = threading.Event()
        data = memoryview(one_period(DEFAULT_PERIOD) * (_MOST_CHURNED // DEFAULT_PERIOD))

        def one_after_another(number: int) -> int:
            choose, resets = random.Random(number), 0
            address = tuple(request["address"])
            while not stopped.is_set():
                with _churned(address, choose) as sock:
                    try:
                        sock.sendall(data[: int(_between(choose, 1, len(data)))])
                        sock.shutdown(socket.SHUT_WR)
                        sock.recv(1)
                    except OSError as error:
                        if error.errno not in _RESET:
                            raise
                        resets += 1
            return resets

        with ThreadPoolExecutor(request["connections"]) as pool:
            running = [pool.submit(one_after_another, n) for n in range(request["connections"])]
            _say()
            _hear()
            stopped.set()
            resets = sum(each.result() for each in running)
        _say(resets=resets)

    def do_open(self, request: Message) -> None:
        """Connections that are kept, and say nothing."""
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        for _ in range(request["connections"]):
            self._idle.enter_context(_connected(request))
        _say()

    def do_let_go(self, request: Message) -> None:
        """Of those."""
        self._idle.close()
        _say()

    # ---- receiving ----

    def do_mode(self, request: Message) -> None:
        """How a runtime attaches when it is told `mode`."""
        with runtime(request) as rt:
            _say(mode=rt.mode)

    def do_receive(self, request: Message) -> None:
        kind = Devmem if request["receiver"] == "devmem" else Kernel
        with kind(request) as receiver:
            self.pin(request["cpu"])
            _say(ready=True, pid=receiver.pid)
            if request["asked"]:
                receiver.answer()
            receiver.accept(request["connections"])
            measured = _measure(receiver)
        _say(**measured)


def _between(choose: random.Random, least: float, most: float) -> float:
    """As often from 1 to 10 as from 10 to 100."""
    return math.exp(choose.uniform(math.log(least), math.log(most)))


def _churned(address: tuple[str, int], choose: random.Random) -> socket.socket:
    """A connection that sends at a rate of chance."""
    sock = socket.create_connection(address, CONNECT_SECONDS)
    sock.settimeout(CHURN_SECONDS)
    rate = int(_between(choose, *_CHURN_RATES))
    sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, rate)
    # Of a reset that the road has lost nobody tells who has nothing more to send.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    return sock


@contextmanager
def _connected(request: Message) -> Iterator[socket.socket]:
    with socket.socket() as sock:
        # Before it connects: a socket that BBR has once had is paced by the clock for ever.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION.encode())
        sock.settimeout(CONNECT_SECONDS)
        sock.connect(tuple(request["address"]))
        sock.settimeout(None)
        yield sock


def _send_all(sock: socket.socket) -> int:
    data = bytes(_SEND_BYTES)
    sent = int(lib.stream_send(sock.fileno(), ffi.from_buffer(data), len(data)))
    if sent < 0:
        raise OSError(-sent, f"send: {os.strerror(-sent)}")
    return sent


def _measure(receiver: Receiver) -> Message:
    """Say that the connections are there, be told the window, and receive through it."""
    _say(connected=True)
    start, end = _hear()["window"]
    try:
        receiver.receive(start)
        before, began = receiver.counters(), time.monotonic_ns()
        receiver.receive(end)
        seconds = (time.monotonic_ns() - began) / _NS
        after = receiver.counters()
    finally:
        _hear()  # what the processes took has been read, which they have to be there for
    return {"seconds": seconds} | {name: after[name] - before[name] for name in after}


def _serve(end: _End) -> None:
    while True:
        request = _hear()
        end.pin(None)  # the last one may have pinned us
        try:
            getattr(end, "do_" + request["do"])(request)
        except (OSError, ValueError, EOFError, Unsupported) as error:
            number = getattr(error, "errno", None) or 0
            _say(error=str(error), errno=number, unsupported=isinstance(error, Unsupported))


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    die_with_parent(parser.parse_args().parent)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    conditions.mount_own_sysfs()
    _serve(_End())


if __name__ == "__main__":
    main()
