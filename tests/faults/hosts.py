# SPDX-License-Identifier: Apache-2.0
"""Where a stack can be: inside this process, isolated in one of its own, or in an agent.

And a stream to an application of any of them, which goes on while something happens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from devmemtcp.agent import Listener, Region, RegionView, Runtime, Session
from devmemtcp.agent.session import SessionStack

from ..net.veth import VethEnd
from .kills import ForkedAgent
from .nursery import Nursery
from .report import Row
from .sender import Sender
from .victims import PATIENCE, PERIOD

PORT = 5301
WHERE: tuple[Where, ...] = ("inside", "isolated", "agent")
Where = Literal["inside", "isolated", "agent"]
Mode = Literal["native", "generic"]


@dataclass(frozen=True)
class Host:
    """A stack that this process can receive by, into a region of its own."""

    stack: Runtime | SessionStack
    region: Region
    view: RegionView
    agent: ForkedAgent | None


@contextmanager
def host(
    where: Where, nursery: Nursery, near: VethEnd, mode: Mode = "generic", *, region: Region
) -> Iterator[Host]:
    """One, ended again. An agent may have ended by itself, if the block has seen to it."""
    with region.map() as view:
        if where != "agent":
            isolate = where == "isolated"
            with Runtime(
                near.ifname, region, mode=mode, isolate=isolate, netns=near.netns
            ) as runtime:
                yield Host(runtime, region, view, None)
            return
        with ForkedAgent.folder() as folder:
            agent = ForkedAgent(nursery, near, folder, interface=f'mode = "{mode}"')
            agent.start()
            try:
                with Session(agent.path) as session:
                    stack = session.stack(near.ifname)
                    with session.bind_rx(near.ifname, range(stack.queues), region):
                        yield Host(stack, region, view, agent)
                agent.end()
            finally:
                agent.kill()


class Stream:
    """A context manager: bytes of the pattern come, all the time, and each is compared."""

    received: int = 0
    wrong: int = 0
    error: BaseException | None = None
    """What the application was told at last, if that was not the end of the stream."""

    def __init__(
        self, at: Host, near: VethEnd, far: VethEnd, *, ipv6: bool = False, port: int = PORT
    ) -> None:
        self._host = at
        address = (near.ip6 if ipv6 else near.ip4), port
        self.listener: Listener = at.stack.listen(address)
        self.sender = Sender(far, address)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Stream:
        self._thread.start()
        self.sender.__enter__()
        self.progress()
        return self

    def __exit__(self, *exc: object) -> None:
        self.sender.__exit__(*exc)
        self._thread.join(PATIENCE)
        self.listener.close()

    def _run(self) -> None:
        phase = 0
        try:
            with self.listener.accept(PATIENCE) as conn:
                while batch := conn.recv_frags(timeout=PATIENCE):
                    wrong, phase = batch.check_pattern(self._host.view, PERIOD, phase)
                    self.wrong += wrong
                    self.received += batch.nbytes
                    conn.dontneed(batch)
        except Exception as error:  # noqa: BLE001 - whoever looks at the stream judges it
            self.error = error.with_traceback(None)  # whose frames keep the channel open

    def progress(self) -> float:
        """Wait until more has come; the seconds that took. Raises AssertionError."""
        before, began = self.received, time.monotonic()
        while self.received == before:
            waited = time.monotonic() - began
            assert self.error is None, f"the stream ended: {self.error!r}"
            assert waited < PATIENCE, f"nothing came for {PATIENCE} s"
            time.sleep(0.001)
        return time.monotonic() - began

    def end(self) -> None:
        """Wait until the application has taken all. Raises AssertionError."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), f"no end of the stream within {PATIENCE} s"

    def finish(self, row: Row) -> None:
        """The end of a stream that nothing has broken off: all of it is there, and right."""
        self.sender.finish()
        self.end()
        row.nbytes += self.received
        if self.error is not None or self.wrong or self.received != self.sender.sent:
            row.broken.append(
                f"{self.received} bytes of {self.sender.sent}, {self.wrong} of them wrong, "
                f"{self.error!r}"
            )
