# SPDX-License-Identifier: Apache-2.0
"""A well-behaved application of the agent, which must not notice that others are not.

    python -m tests.hostile.victim --socket PATH --ifname IF --port N --queues N

It binds memory of its own to all queues, says `ready`, takes one connection, and compares each
byte with the stream that `stream_at()` defines. At the end of the stream it prints how many bytes
that were and how long the longest wait for some was, in seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import cache
from random import Random

from devmemtcp.agent.region import Region
from devmemtcp.agent.session import Session

from ..slowness import SLOWNESS

VICTIM = 65533
PERIOD = 1 << 20
_READ = 1 << 18
_PATIENCE = 30.0 * SLOWNESS


@cache
def period() -> bytes:
    """What the stream consists of, again and again."""
    return Random(0).randbytes(PERIOD)


def stream_at(position: int, length: int) -> bytes:
    """These bytes of the stream; ``length`` is at most a period."""
    start = position % PERIOD
    return (period() + period())[start : start + length]


def serve(path: str, ifname: str, port: int, queues: int) -> tuple[int, float]:
    """Take one connection to its end. Returns (bytes, longest wait in seconds)."""
    buffer = bytearray(_READ)
    position, longest = 0, 0.0
    with (
        Session(path) as session,
        Region(8 << 20) as region,
        session.bind_rx(ifname, range(queues), region),
        session.stack(ifname).listen(("0.0.0.0", port)) as listener,
    ):
        print("ready", flush=True)
        with listener.accept(timeout=_PATIENCE) as connection:
            while True:
                since = time.monotonic()
                count = connection.gather_into(buffer, timeout=_PATIENCE)
                longest = max(longest, time.monotonic() - since)
                if not count:
                    return position, longest
                if buffer[:count] != stream_at(position, count):
                    sys.exit(f"bytes from {position} on are not those that were sent")
                position += count


def main() -> None:
    """Become another user, then serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--ifname", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--queues", type=int, required=True)
    options = parser.parse_args()
    os.setgroups([])
    os.setgid(VICTIM)
    os.setuid(VICTIM)
    count, longest = serve(options.socket, options.ifname, options.port, options.queues)
    print(f"{count} {longest:.3f}", flush=True)


if __name__ == "__main__":
    main()
