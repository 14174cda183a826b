# SPDX-License-Identifier: Apache-2.0
"""A storm of frames at a live stack, beside one honest transfer, and the books of it.

    python -m tests.storm.storm [--frames N] [--seed N] [--mode generic|native]    ./dev storm

generator.c sends random frames, mutated ones, and near misses of the transfer's own segments. The
transfer has to arrive whole and unchanged, and every frame has to be in exactly one counter, all
the way:

    asked for ─► taken by the kernel, or refused
    at egress: the storm's, and all others' (the honest sender, the kernel)  (tally.bpf.c)
      ─► received by the interface, or dropped by the veth
      ─► one verdict of the XDP program each, as have (generic mode) the few that the receiver's
         kernel sends to groups it is in itself, and gets back
           redirected ─► delivered by AF_XDP, or dropped there: no buffer, no room in the ring
                           ─► a segment that the stack accepted, or a reason why not
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pyroute2 import NetNS
from rich.console import Console
from rich.table import Table

from devmemtcp.agent import Region, Runtime
from devmemtcp.agent.region import RegionView
from devmemtcp.agent.socket import Listener
from devmemtcp.pyxdp import BpfObject

from ..arguments import Arguments, positive
from ..checked_stream import PATIENCE, Application, Stream
from ..net.clsact import EGRESS, INGRESS, clsact
from ..net.compile_bpf import compile_bpf
from ..net.veth import Veth, VethEnd, veth_pair
from ..sanitised import sanitised
from ..slowness import SLOWNESS

ROOT = Path(__file__).parents[2]
MARK = 0x5708  # TALLY_MARK
PORT = 5201
MTU = 5000
"""Frames of two chunks are among them."""
REGION = 64 << 20
PACE = 100 << 20
"""Bytes a second of the transfer: a neighbour of the storm, not a storm itself."""
_SO_MAX_PACING_RATE = 47
_TCP_TIMESTAMP = 24
_SETTLE_SECONDS = 30.0 * SLOWNESS
_STILL_SECONDS = 0.25
_STORM_SECONDS = 3600.0

# What nobody must be counted under here: programs, sockets and headers are all in order.
NOT_HERE = {"pass_no_socket", "drop_adjust_failed", "drop_redirect_failed", "csum_trusted"}
# What has no cause here: no record is forged, no buffer shared; tables have room for the flood.
NO_CAUSE = {"RECORD", "TRUNCATED"}


class Reading(NamedTuple):
    """All counters, at a moment when no frame is on its way."""

    storm: int
    others: int
    dropped_by_veth: int
    received: int
    looped: int
    """Of the receiver's own, to groups that it is in itself: its kernel gives them back to it."""
    verdicts: dict[str, int]
    no_buffer: int
    ring_full: int
    delivered: int
    segments: int
    accepted: int
    drops: dict[str, int]
    odd: int
    """Descriptors and packets that make no sense."""

    def since(self, before: Reading) -> Reading:
        """What has been added."""
        return Reading(*(_less(a, b) for a, b in zip(self, before, strict=True)))


def _less(a: Any, b: Any) -> Any:
    return {name: a[name] - b[name] for name in a} if isinstance(a, dict) else a - b


@dataclass
class Storm:
    """What was sent and what came of it."""

    kinds: dict[str, int] = field(default_factory=dict)
    """Taken by the kernel, by kind of the generator's."""
    remade: int = 0
    """Would have been legitimate."""
    asked: int = 0
    refused: int = 0
    seconds: float = 0.0
    """Of the storm."""
    bytes: int = 0
    """Of the transfer: received, and checked each."""
    books: Reading | None = None

    def balance(self) -> list[tuple[str, int, str, int]]:
        """What must be equal: left side, right side."""
        b = self.books
        assert b is not None
        sent = sum(self.kinds.values())
        dropped = sum(b.drops.values())
        return [
            ("asked for", self.asked, "taken + refused", sent + self.refused),
            ("taken + refused", sent + self.refused, "storm at egress", b.storm),
            (
                *("storm + others at egress", b.storm + b.others),
                *("received + dropped by the veth", b.received + b.dropped_by_veth),
            ),
            (
                *("received + looped back by the receiver", b.received + b.looped),
                *("XDP verdicts", sum(_verdicts(b.verdicts).values())),
            ),
            (
                *("redirected", b.verdicts["redirect"]),
                *("delivered + no buffer + ring full", b.delivered + b.no_buffer + b.ring_full),
            ),
            (
                *("redirected", b.verdicts["redirect"]),
                *("checksums verified + unfinished", _checksums(b.verdicts)),
            ),
            ("delivered", b.delivered, "segments", b.segments),
            ("segments", b.segments, "accepted + drops by reason", b.accepted + dropped),
        ]

    def broken(self) -> list[str]:
        """What is not as it must be."""
        assert self.books is not None
        lines = [
            f"{left} {a:,} is not {right} {b:,}" for left, a, right, b in self.balance() if a != b
        ]
        odd = {name: self.books.verdicts[name] for name in NOT_HERE if self.books.verdicts[name]}
        odd |= {name: self.books.drops[name] for name in NO_CAUSE if self.books.drops[name]}
        if odd or self.books.odd:
            lines.append(f"counters that must be 0: {odd}, {self.books.odd} odd descriptors")
        if not self.bytes:
            lines.append("nothing was transferred")
        return lines


def _verdicts(counters: dict[str, int]) -> dict[str, int]:
    """Those of the XDP program's counters of which each frame is in one; see steer.h."""
    return {
        name: count
        for name, count in counters.items()
        if name == "redirect" or name.startswith(("pass_", "drop_"))
    }


def _checksums(verdicts: dict[str, int]) -> int:
    return verdicts["csum_verified"] + verdicts["csum_partial"]


class _Instruments:
    """Where the counters are read."""

    def __init__(self, rt: Runtime, sender: NetNS, receiver: NetNS, veth: Veth, tally: Any) -> None:
        self._rt = rt
        self._sender = sender
        self._receiver = receiver
        self._veth = veth
        self._tally = tally

    def _once(self) -> Reading:
        tally = [int.from_bytes(value, sys.byteorder) for _, value in self._tally.items()]
        storm, whole, cut, looped = tally
        native = self._rt.mode == "native"
        stats = self._rt.stats()
        tx = _link(self._sender, self._veth.left)
        rx = _link(self._receiver, self._veth.right)
        return Reading(
            storm=storm,
            others=cut if native else whole,  # native: no offloads at the peer
            dropped_by_veth=tx["tx_dropped"],
            received=rx["rx_packets"],
            looped=0 if native else looped,  # native: the driver never sees these
            verdicts=stats.steer,
            no_buffer=sum(s.rx_dropped for s in stats.sockets),
            ring_full=sum(s.rx_ring_full for s in stats.sockets),
            delivered=stats.loop.rx_packets,
            segments=stats.stack["rx_segments"],
            accepted=stats.stack["rx_accepted"],
            drops=stats.drops,
            odd=stats.loop.rx_bad_descs
            + stats.loop.rx_oversize
            + sum(s.rx_invalid_descs + s.tx_invalid_descs for s in stats.sockets),
        )

    def read(self) -> Reading:
        """When they have not moved for a while: a busy machine may leave frames in a backlog."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        before, still = self._once(), 0
        while True:
            time.sleep(_STILL_SECONDS / 5)
            now = self._once()
            still = still + 1 if now == before else 0
            if still == 5:
                return now
            before = now
            assert time.monotonic() < deadline, "the counters never come to rest"


def _link(handle: NetNS, end: VethEnd) -> dict[str, int]:
    stats: dict[str, int] = handle.link("get", index=end.ifindex)[0].get_attr("IFLA_STATS64")
    return stats


@contextmanager
def _tallied(veth: Veth, program: Path) -> Iterator[Any]:
    """The counts of what leaves the sender's end, and of what never leaves the receiver's."""
    with (
        BpfObject.open(program).load() as obj,
        clsact(veth.left, {EGRESS: obj.programs["count"]}),
        clsact(veth.right, {INGRESS: obj.programs["looped"]}),
    ):
        yield obj.maps["tally"]


class Bounds:
    """`struct honest` of frame.h: two numbers of the transfer that others may rely on."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("honest", 0)
        os.ftruncate(self.fd, mmap.PAGESIZE)
        # One store each: struct.pack_into() would write zeros first, for others to see.
        self._words = memoryview(mmap.mmap(self.fd, mmap.PAGESIZE)).cast("I")
        self.isn = 0

    def __enter__(self) -> Bounds:
        return self

    def __exit__(self, *exc: object) -> None:
        self._words.release()
        os.close(self.fd)

    def received(self, position: int) -> None:
        """The receiver is there, or further."""
        self._words[0] = (self.isn + 1 + position) & 0xFFFFFFFF

    def sending(self, position: int) -> None:
        """The sender will not have sent more than that."""
        self._words[1] = (self.isn + 1 + position) & 0xFFFFFFFF


class Transfer:
    """The honest one: a kernel's TCP sends, an application checks, until it is told to end."""

    def __init__(self, veth: Veth, rt: Runtime, listener: Listener, view: RegionView) -> None:
        self._undo = ExitStack()
        self._stop = threading.Event()
        stream = Stream()
        with veth.left.enter():
            sock = self._undo.enter_context(
                socket.create_connection((veth.right.ip4, PORT), PATIENCE)
            )
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, PACE)
        conn = self._undo.enter_context(listener.accept(PATIENCE))
        (flow,) = (flow for flow in rt.flows() if flow.id == conn.id)
        self.port: int = sock.getsockname()[1]
        self.snd_nxt = flow.snd_nxt
        self.tsval: int = sock.getsockopt(socket.IPPROTO_TCP, _TCP_TIMESTAMP)
        self.bounds = self._undo.enter_context(Bounds())
        self.bounds.isn = flow.rcv_nxt - 1
        self.bounds.received(0)
        self.bounds.sending(0)
        self._application = Application(stream, conn, view)
        self._error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(stream.send, sock, self._stop, self._sending)),
            threading.Thread(target=self._run, args=(self._receive,)),
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, what: Any, *args: object) -> None:
        try:
            what(*args)
        except BaseException as error:  # noqa: BLE001 - end() raises it
            self._error = self._error or error
            self._stop.set()

    def _sending(self, position: int) -> None:
        self.bounds.sending(position)

    def _receive(self) -> None:
        while not self._stop.is_set():
            self._application.receive(64)
            self.bounds.received(self._application.bytes)
        self._application.receive()
        self._application.close()

    def end(self) -> int:
        """Returns how many bytes there were. Raises what went wrong on either side."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._undo.close()
        if self._error:
            raise self._error
        return self._application.bytes


def compile_generator(folder: Path) -> Path:
    """The generator's executable."""
    output = folder / "generator"
    flags = ["-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror"]
    sources = sorted(Path(__file__).parent.glob("*.c"))
    subprocess.run(["cc", *flags, *sources, "-o", output], check=True)
    return output


def _generate(
    program: Path, veth: Veth, transfer: Transfer, frames: int, seed: int, rate: int
) -> dict[str, Any]:
    left, right = veth.left, veth.right
    options: dict[str, object] = {
        "ifname": left.ifname,
        "frames": frames,
        "seed": seed,
        "rate": rate,
        "mark": MARK,
        "mtu": MTU,
        "mac_from": left.mac,
        "mac_to": right.mac,
        "ip_from": left.ip4,
        "ip_to": right.ip4,
        "ip6_from": left.ip6,
        "ip6_to": right.ip6,
        "port_from": transfer.port,
        "port_to": PORT,
        "snd_nxt": transfer.snd_nxt,
        "tsval": transfer.tsval,
        "honest": transfer.bounds.fd,
    }
    done = left.run(
        [str(program), *(f"{name}={value}" for name, value in options.items())],
        stdout=subprocess.PIPE,
        pass_fds=[transfer.bounds.fd],
        env={name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
        timeout=_STORM_SECONDS,
    )
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def run(*, frames: int, seed: int = 1, mode: str = "generic", rate: int = 0) -> Storm:
    """Let it loose, and count. `rate`: frames a second at most; 0: as many as go.

    Raises AssertionError when a byte of the transfer is wrong, OSError when it is cut off.
    """
    storm = Storm(asked=frames)
    with ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        program = compile_generator(folder)
        veth = undo.enter_context(veth_pair(mtu=MTU))
        sender, receiver = (undo.enter_context(NetNS(end.netns)) for end in (veth.left, veth.right))
        tally = undo.enter_context(_tallied(veth, compile_bpf(folder, "tally")))
        region = undo.enter_context(Region(REGION))
        view = undo.enter_context(region.map())
        rt = undo.enter_context(
            Runtime(
                veth.right.ifname,
                region,
                netns=veth.right.netns,
                mode="native" if mode == "native" else "generic",
                isolate=True,
            )
        )
        listener = undo.enter_context(rt.listen(("0.0.0.0", PORT)))
        undo.enter_context(rt.listen(("::", PORT)))
        instruments = _Instruments(rt, sender, receiver, veth, tally)
        before = instruments.read()
        transfer = Transfer(veth, rt, listener, view)
        try:
            said = _generate(program, veth, transfer, frames, seed, rate)
        finally:
            storm.bytes = transfer.end()
        storm.books = instruments.read().since(before)
        assert rt.check() == 0, "a buffer is not where the tracker has it"
    storm.kinds = {name: sent for name, (sent, _) in said["kinds"].items()}
    storm.remade = sum(remade for _, remade in said["kinds"].values())
    storm.refused, storm.seconds = said["refused"], said["seconds"]
    return storm


# ---- the command ----


def _print(storm: Storm) -> None:
    assert storm.books is not None
    console = Console(width=None if sys.stdout.isatty() else 110)
    kinds = Table("kind", "sent", title="frames by kind", title_justify="left")
    for name, count in storm.kinds.items():
        kinds.add_row(name, f"{count:,}")
    counters = Table("counter", "frames", title="where they are", title_justify="left")
    for name, count in _verdicts(storm.books.verdicts).items():
        if count:
            counters.add_row(f"XDP: {name}", f"{count:,}")
    for name in ("dropped_by_veth", "no_buffer", "ring_full", "accepted"):
        counters.add_row(name.replace("_", " "), f"{getattr(storm.books, name):,}")
    for name, count in storm.books.drops.items():
        if count:
            counters.add_row(f"stack: {name}", f"{count:,}")
    books = Table(title="the books", title_justify="left")
    for name in ("left", "frames", "right", "frames"):
        books.add_column(name, justify="right" if name == "frames" else "left")
    for left, a, right, b in storm.balance():
        books.add_row(left, f"{a:,}", right, f"{b:,}")
    for table in (kinds, counters, books):
        console.print(table)
    console.print(
        f"{storm.asked:,} frames in {storm.seconds:.1f} s beside a transfer of {storm.bytes:,} "
        f"bytes, each checked; {storm.remade:,} were made anew, since they were legitimate"
    )


def _as_sanitised(arguments: list[str]) -> int:
    """This program again, with sanitised extensions; their reports go to files."""
    with tempfile.TemporaryDirectory() as folder:
        build = sanitised(str(ROOT), f":log_path={folder}/report")
        environ = os.environ | build.environ | {"DEVMEMTCP_SANITISED": ""}
        command = [*build.python, "-m", "tests.storm.storm", *arguments]
        code = subprocess.run(command, env=environ, check=False).returncode
        reports = sorted(Path(folder).glob("report*"))
        for report in reports:
            print(report.read_text(), file=sys.stderr)
        print(f"{len(reports)} reports of the sanitizers")
        return 1 if reports else code


def main() -> int:
    """0, or 1 when a promise is broken."""
    parser = Arguments("storm", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=positive, default=10_000_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--rate", type=int, default=0, help="frames a second at most")
    parser.add_argument("--mode", choices=("generic", "native"), default="generic")
    options = parser.given()
    if os.environ.get("DEVMEMTCP_SANITISED"):
        return _as_sanitised(sys.argv[1:])
    storm = run(frames=options.frames, seed=options.seed, mode=options.mode, rate=options.rate)
    _print(storm)
    for line in storm.broken():
        print(line, file=sys.stderr)
    return 1 if storm.broken() else 0


if __name__ == "__main__":
    sys.exit(main())
