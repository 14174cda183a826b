# SPDX-License-Identifier: Apache-2.0
"""One end of the measured connections: a process of its own, inside one end of the lab.

The benchmark's process (Worker) and that one (worker_process.py) exchange JSON lines over the
child's stdin and stdout: a request, then one answer or more. A failure is an answer too:
{"error": ..., "errno": ..., "unsupported": ...}.

    receive   listen -> {"ready", "pid"} -> answer what is asked on one connection, until it
              ends -> accept the others -> {"connected"}
              <- {"window": [start, end]}, CLOCK_MONOTONIC in ns
              receive all the time, counting in the window
              <- {"read": true}, when nobody asks any more what the processes took
              reset the connections
              -> {"bytes", "seconds", ...}
    ask       connect -> send messages, one after the other -> {"latency", ...}
    send      connect -> {"connected", "congestion"} -> send until reset -> {"bytes", ...}
    copy      copy memory -> {"bytes", "seconds"}
    churn     connect, send at some rate, close, connect ...; -> {} and, after <- {"stop"},
              {"resets": how many connections were reset}
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from typing import Any

from devmemtcp.agent import header_path
from devmemtcp.agent.header_path import HeaderPath
from devmemtcp.agent.lab import Side
from devmemtcp.pyxdp import Unsupported
from devmemtcp.stack import form

Message = dict[str, Any]

ANSWER_SECONDS = 60.0
PORT = 5202


class Worker:
    """The benchmark's end: a context manager around the process in `side`."""

    def __init__(
        self, side: Side, check: str | None = None, headers: HeaderPath | None = None
    ) -> None:
        """`check`: the form of the check "page or net_iov?" that it uses, see stack/form.py;
        `headers`: how they reach its stack."""
        # -P: what lies in the current directory is no module of ours.
        command = [sys.executable, "-P", "-m", "devmemtcp.agent.bench.worker_process"]
        chosen = {form.VARIABLE: check} if check else {}
        if headers:
            chosen[header_path.VARIABLE] = headers
        with side.entered():
            self._process = subprocess.Popen(
                [*command, "--parent", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                env=os.environ | chosen,
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
        """Wait for an answer.

        Raises OSError for a failed request, a dead or a silent worker, and Unsupported when the
        request failed for that.
        """
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
        if "error" not in answer:
            return answer
        if answer["unsupported"]:
            raise Unsupported(answer["error"])
        raise OSError(answer["errno"], answer["error"])

    @property
    def answers_wait(self) -> bool:
        """Whether `hear()` need not wait, or not for long."""
        return bool(self._unread) or bool(select.select([self._answers], [], [], 0)[0])

    def ask(self, **request: Any) -> Message:
        """Send a request and wait for its answer."""
        self.tell(**request)
        return self.hear()
