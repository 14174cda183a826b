# SPDX-License-Identifier: Apache-2.0
"""One end of the measured connection: a process of its own, inside one end of the lab.

The benchmark's process (Worker) and this one (the functions that start with `_do`)
exchange JSON lines over the child's stdin and stdout: a request, then one answer or
more. A failure is an answer too: {"error": ..., "errno": ...}.

    receive   listen -> {"ready"} -> accept -> {"connected"}
              <- {"windows": [[start, end], ...]}, CLOCK_MONOTONIC in ns
              receive all the time, counting in the windows; reset the connection
              -> {"windows": [{"bytes", "seconds"}, ...], ...}
    churn     connect, send, close, connect ...; -> {} and, after <- {"stop"}, {} again
    send      connect -> {"connected", "congestion"} -> send until reset -> {"bytes", ...}
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from devmemtcp import xdp_prog
from devmemtcp.agent.bench import conditions
from devmemtcp.agent.bench._native import ffi, lib
from devmemtcp.agent.lab import Side
from devmemtcp.agent.options import DEFAULT_PERIOD
from devmemtcp.agent.pattern import one_period
from devmemtcp.agent.process import die_with_parent
from devmemtcp.agent.region import PAGE_SIZE, Region
from devmemtcp.agent.runtime import Runtime
from devmemtcp.agent.tcp_info import tcp_info
from devmemtcp.pyxdp import BpfObject, Mode, attach

Message = dict[str, Any]
Receive = Callable[[int], tuple[int, int]]
"""Receive until CLOCK_MONOTONIC is the argument, in ns; (bytes, fragments) of that time."""

ANSWER_SECONDS = 20.0
ACCEPT_SECONDS = 10.0
PORT = 5202
CONGESTION = "cubic"
"""Period of what `churn` sends."""
_SEND_BYTES = 1 << 20
_RECV_BYTES = 1 << 20
_BATCH = 1024


class Worker:
    """The benchmark's end: a context manager around the process in `side`."""

    def __init__(self, side: Side) -> None:
        # -P: what lies in the current directory is no module of ours.
        command = [sys.executable, "-P", "-m", __name__, "--parent", str(os.getpid())]
        with side.entered():
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin
        self._answers = self._process.stdout
        self._unread = b""
        self.pid = self._process.pid

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        """End it: at the end of its input when it is idle, at once when it is not."""
        self._requests.close()
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()

    def tell(self, **request: Any) -> None:
        """Send a request and do not wait."""
        self._requests.write(json.dumps(request).encode() + b"\n")
        self._requests.flush()

    def hear(self, timeout: float = ANSWER_SECONDS) -> Message:
        """Wait for an answer. Raises OSError for a failed request, a dead or a silent worker."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._unread:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._answers], [], [], left)[0]:
                raise TimeoutError(f"a benchmark process gave no answer for {timeout:.0f} s")
            data = os.read(self._answers.fileno(), 1 << 16)
            if not data:
                raise OSError(f"a benchmark process ended with {self._process.wait()}")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        answer: Message = json.loads(line)
        if "error" in answer:
            raise OSError(answer["errno"], answer["error"])
        return answer

    def ask(self, **request: Any) -> Message:
        """Send a request and wait for its answer."""
        self.tell(**request)
        return self.hear()


# ---- the process ----


def _say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def _hear() -> Message:
    line = sys.stdin.readline()
    if not line:
        raise SystemExit(1)
    message: Message = json.loads(line)
    return message


def _pin(cpu: int | None, usable: set[int]) -> None:
    os.sched_setaffinity(0, usable if cpu is None else {cpu})


class _End:
    """What a worker keeps between requests: the cores that it may use."""

    def __init__(self) -> None:
        self.usable = os.sched_getaffinity(0)

    def do_offloads(self, request: Message) -> None:
        conditions.set_offloads(request["ifname"], request["wanted"])
        _say(offloads=conditions.offloads(request["ifname"]))

    def do_rps(self, request: Message) -> None:
        conditions.set_rps(request["ifname"], request["cpu"])
        _say()

    def do_mode(self, request: Message) -> None:
        """How a runtime attaches when it is told `mode`."""
        with _runtime(request) as rt:
            _say(mode=rt.mode)

    def do_send(self, request: Message) -> None:
        _pin(request["cpu"], self.usable)
        with socket.socket() as sock:
            # Before it connects: a socket that BBR has once had is paced by the clock for ever.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION.encode())
            sock.settimeout(ACCEPT_SECONDS)
            sock.connect(tuple(request["address"]))
            sock.settimeout(None)
            name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            _say(connected=True, congestion=name.rstrip(b"\0").decode())
            data = bytes(_SEND_BYTES)
            sent = lib.stream_send(sock.fileno(), ffi.from_buffer(data), len(data))
            _check(sent, "send")
            info = tcp_info(sock)
            _say(bytes=sent, mss=info.snd_mss, retransmits=info.total_retrans)

    def do_churn(self, request: Message) -> None:
        # We close first: without this, all our ports are in TIME-WAIT after half a minute.
        Path("/proc/sys/net/ipv4/tcp_tw_reuse").write_text("1")
        stopped = threading.Event()
        data = memoryview(one_period(DEFAULT_PERIOD) * (_SEND_BYTES * 4 // DEFAULT_PERIOD))

        def one_after_another(number: int) -> None:
            choose = random.Random(number)
            while not stopped.is_set():
                with socket.create_connection(tuple(request["address"]), ACCEPT_SECONDS) as sock:
                    sock.settimeout(ANSWER_SECONDS)
                    sock.sendall(data[: choose.randrange(1, len(data))])
                    sock.shutdown(socket.SHUT_WR)
                    sock.recv(1)

        with ThreadPoolExecutor(request["connections"]) as pool:
            running = [pool.submit(one_after_another, n) for n in range(request["connections"])]
            _say()
            _hear()
            stopped.set()
            for each in running:
                each.result()
        _say()

    def do_receive_kernel(self, request: Message) -> None:
        with ExitStack() as undo:
            if request["xdp_pass"]:
                undo.enter_context(_xdp_pass(request["ifname"], request["mode"]))
            _pin(request["cpu"], self.usable)
            listener = undo.enter_context(
                socket.create_server(tuple(request["address"]), reuse_port=True)
            )
            listener.settimeout(ACCEPT_SECONDS)
            _say(ready=True)
            sock = undo.enter_context(listener.accept()[0])
            sock.settimeout(None)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            buffer = ffi.new("uint8_t[]", _RECV_BYTES)

            def receive(until: int) -> tuple[int, int]:
                return _check(lib.stream_recv(sock.fileno(), buffer, _RECV_BYTES, until), "recv"), 0

            measured = _measure(receive)
        _say(windows=measured)

    def do_receive_devmem(self, request: Message) -> None:
        with ExitStack() as undo:
            rt = undo.enter_context(_runtime(request))
            listener = undo.enter_context(rt.listen(tuple(request["address"])))
            _pin(request["cpu"], self.usable)
            _say(ready=True, mode=rt.mode, pid=rt.pid)
            conn = listener.accept(timeout=ACCEPT_SECONDS)
            undo.callback(conn.abort)
            assert rt.region is not None  # _runtime() gives it one
            view = undo.enter_context(rt.region.map()) if request["copy"] else None
            room = bytearray(_BATCH * PAGE_SIZE if view else 0)

            def receive(until: int) -> tuple[int, int]:
                total = frags = 0
                while time.monotonic_ns() < until:
                    batch = conn.recv_frags(_BATCH, timeout=ACCEPT_SECONDS)
                    if not batch:
                        raise EOFError("the stream ended")
                    total += batch.nbytes
                    frags += len(batch)
                    if view is not None:
                        batch.copy_to(room, view)
                    conn.dontneed(batch)
                return total, frags

            before = rt.stats()
            measured = _measure(receive)
            after = rt.stats()
        _say(
            windows=measured,
            loop={k: getattr(after.loop, k) - getattr(before.loop, k) for k in _LOOP_COUNTERS},
            drops={k: v for k, v in after.drops.items() if v},
            rx_dropped=sum(s.rx_dropped + s.rx_ring_full for s in after.sockets),
        )


_LOOP_COUNTERS = (
    "turns",
    "sleeps",
    "rx_packets",
    "rx_descs",
    "tx_frames",
    "tx_kicks",
    "tx_kick_retries",
    "wakeups_sent",
    "cpu_ns",
)


@contextmanager
def _runtime(request: Message) -> Iterator[Runtime]:
    """A runtime as the request describes it, in a region of its own."""
    with (
        Region(request["region_size"]) as region,
        Runtime(
            request["ifname"],
            region,
            mode=request["mode"],
            rx_csum=request["rx_csum"],
            isolate=True,
            rcv_wnd=request["rcv_wnd"],
            spin_us=request["spin_us"],
            busy_poll=request["busy_poll"],
            cpu=request["loop_cpu"],
            linger=0.0,
        ) as rt,
    ):
        yield rt


@contextmanager
def _xdp_pass(ifname: str, mode: str) -> Iterator[None]:
    """An XDP program that passes everything on, attached as ours is."""
    with BpfObject.open(str(xdp_prog.object_path("pass"))) as obj:
        obj.load()
        with attach(obj.programs["pass"], ifname, mode=Mode(mode)):
            yield


def _measure(receive: Receive) -> list[Message]:
    """Say that the connection is there, be told the windows, and receive through them."""
    _say(connected=True)
    windows = _hear()["windows"]
    measured = []
    for start, end in windows:
        receive(start)
        began = time.monotonic_ns()
        size, frags = receive(end)
        seconds = (time.monotonic_ns() - began) / 1e9
        measured.append({"bytes": size, "frags": frags, "seconds": seconds})
    return measured


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


def _serve(end: _End) -> None:
    while True:
        request = _hear()
        _pin(None, end.usable)  # the last one may have pinned us
        try:
            getattr(end, "do_" + request["do"])(request)
        except (OSError, ValueError, EOFError) as error:
            number = getattr(error, "errno", None) or 0
            _say(error=str(error), errno=number)


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
