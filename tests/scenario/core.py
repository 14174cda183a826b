# SPDX-License-Identifier: Apache-2.0
"""Target `core`: the C core behind the virtual NIC, in virtual time. A bench for each case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from devmemtcp.stack._stack import lib

from ..unit.tcp import app as application
from ..unit.tcp import wire
from ..unit.tcp.bench import LOCAL4, LOCAL6, PEER4, PEER6, Bench, lib_state
from ..unit.tcp.wire import Address
from .end import End
from .frame import Packet
from .run import Diverged, Run
from .scenario import Case, Offer
from .target import Tolerance

_FIRST_PORT = 40_000
_CLOSED_PORT = 5001


class _Nic(Bench):
    """A bench whose frames go to the peers of a scenario."""

    def __init__(self, **options: int) -> None:
        self.ends: dict[int, End] = {}
        super().__init__(**options)  # type: ignore[arg-type]

    def _deliver(self, frame: bytes, queue: int) -> None:
        segment = wire.parse_frame(frame)
        assert segment.ip_len <= self.mtu, "larger than the MTU"
        self.ends[segment.dst.port].deliver(segment, self.now)


class _Application:
    """The virtual application's connection with one peer."""

    def __init__(self, bench: Bench, end: End) -> None:
        self._bench, self._end = bench, end
        self._skip = len(self._all())
        self._closed = False

    def _all(self) -> list[application.Conn]:
        end = self._end
        wanted = ((end.addr.ip, end.addr.port), (end.local.ip, end.local.port))
        app = self._bench.app
        return [c for c in (*app.past, *app.conns.values()) if (c.peer, c.local) == wanted]

    @property
    def _conn(self) -> application.Conn | None:
        conns = self._all()
        return conns[self._skip] if len(conns) > self._skip else None

    @property
    def accepted(self) -> bool:
        return self._conn is not None

    @property
    def data(self) -> bytes:
        return bytes(self._conn.data) if self._conn else b""

    @property
    def eof(self) -> bool:
        return self._conn is not None and self._conn.eof

    @property
    def reset(self) -> bool:
        return self._conn is not None and self._conn.reset is not None

    @property
    def state(self) -> str | None:
        for info in self._bench.flows():
            ours = bytes(info.peer.ip) == self._end.addr.mapped
            if ours and info.peer.port == self._end.addr.port:
                return lib_state(info.state).replace("_", "-")
        return "CLOSED"

    def _open(self) -> application.Conn:
        conn = self._conn
        assert conn is not None, "the application has no such connection"
        return conn

    def send(self, data: bytes) -> None:
        self._bench.app.send(self._open(), data)
        self._bench.turn()

    def shutdown(self) -> None:
        self._bench.app.shutdown(self._open())
        self._bench.turn()

    def close(self) -> None:
        self._bench.app.close(self._open())
        self._bench.turn()

    def abort(self) -> None:
        if not self._open().done and not self._open().closed:
            self._bench.app.abort(self._open())
            self._bench.turn()

    def pause(self) -> None:
        """The virtual application keeps what it has been given."""
        self._bench.app.hold = True

    def resume(self) -> None:
        app = self._bench.app
        app.hold = False
        if (conn := self._conn) and not conn.done and not conn.closed:
            if conn.held:
                app.give_back(conn)
            app.give_back_blocks(conn)
        self._bench.turn()


class Core:
    """One case's stack."""

    tolerance = Tolerance()

    def __init__(self, family: int, case: Case) -> None:
        wanted = {name: int(value, 0) for name, value in case.stack.items()}
        self.bench = _Nic(**{"flows": 256, **wanted})
        if family == 6:
            self.bench.listen(LOCAL6)
        self._local = LOCAL4 if family == 4 else LOCAL6
        self._peer = PEER4 if family == 4 else PEER6
        self._port = _FIRST_PORT

    def now(self) -> int:
        return self.bench.now

    def end(self, offer: Offer, case: Case) -> End:
        self._port += 1
        closed = case.given == "closed"
        local = replace(self._local, port=_CLOSED_PORT) if closed else self._local
        return self._attach(End(Address(self._peer, self._port), local, offer, self.bench.mtu))

    def again(self, end: End, offer: Offer) -> End:
        return self._attach(End(end.addr, end.local, offer, self.bench.mtu))

    def _attach(self, end: End) -> End:
        self.bench.ends[end.addr.port] = end
        return end

    def application(self, end: End) -> _Application:
        return _Application(self.bench, end)

    def transmit(self, end: End, packets: Sequence[Packet]) -> None:
        with self.bench.batch():
            for packet in packets:
                record = {"l3_off": packet.l3_off, "l4_off": packet.l4_off, "family": packet.family}
                taken = self.bench.nic(
                    packet.headers, packet.payload, trailer=packet.trailer, record=record
                )
                assert taken, "the fill ring is dry"

    def pass_time(self, until: int) -> None:
        """To the next timer, or until then."""
        deadline = int(lib.stack_next_deadline(self.bench.stack))
        self.bench.now = max(self.bench.now, min(deadline, until))
        self.bench.turn()


def run(case: Case, family: int) -> None:
    """One case from its handshake until every buffer is home. Raises Diverged."""
    core = Core(family, case)
    run = Run(case, core, whose="ours")
    stuck, before = 0, core.now()
    for until in run.steps():
        core.pass_time(until)
        stuck = stuck + 1 if core.now() == before else 0
        before = core.now()
        if stuck > 64:
            raise Diverged("a deadline in the past that no turn of the loop clears")
    try:
        core.bench.finish()
    except AssertionError as error:
        raise Diverged(f"{case.lines[-1].where}: when all is over: {error}") from error
