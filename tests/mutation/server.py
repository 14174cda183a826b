# SPDX-License-Identifier: Apache-2.0
"""The tests in Python, collected once and run by a child of this process for each mutant.

    python -m tests.mutation.server        numbers in, one a line; a line out for each:
                                           "noticed TEST", "survived" or "timeout"

The extension with the mutants takes the place of the build's before anything imports it. A child
begins with the tests that have noticed most so far and ends with the first that fails.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import Phase, settings
from tests.mutation.schema import ROOT
from tests.mutation.world import EXTENSION, RESULTS

TESTS = (
    *("unit/test_tcp_closing.py", "unit/test_tcp_opening.py", "unit/test_tcp_ack.py"),
    *("unit/test_tcp_timers.py", "unit/test_tcp_states.py", "unit/test_tcp_kinds.py", "scenario"),
    *("unit/test_tcp_retransmit.py", "unit/test_tcp_timestamps.py", "unit/test_tcp_receive.py"),
    *("unit/test_tcp_blind.py", "unit/test_tcp_window.py", "unit/test_tcp_channel.py"),
    *("unit/test_tcp_syncookies.py", "unit/test_tcp_property.py"),
)
"""Below tests/, those that a segment's way through the core is in, the quickest first."""
CPU_SECONDS = 10
"""Of one test, which take a tenth of that at most."""
MODULE = "devmemtcp.stack._stack_plain"
_PR_SET_PDEATHSIG = 1


def _load_extension() -> ctypes.CDLL:
    spec = importlib.util.spec_from_file_location(MODULE, EXTENSION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[MODULE] = module
    return ctypes.CDLL(str(EXTENSION))


def _noticed_before() -> list[str]:
    """By which tests, in runs before this."""
    if not RESULTS.exists():
        return []
    return [str(who) for _, who in map(json.loads, RESULTS.read_text().splitlines()) if who]


class Server:
    """A pytest plugin that runs the tests as often as it is asked to."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._noticed = Counter[str](_noticed_before())

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Until there are no more numbers."""
        if session.testsfailed:
            raise session.Interrupted("the tests cannot be collected")
        print("ready", len(session.items), file=sys.__stdout__, flush=True)
        for line in sys.__stdin__ or ():
            print(self._judge(session.items, int(line)), file=sys.__stdout__, flush=True)
        return True

    def _judge(self, items: Sequence[pytest.Item], number: int) -> str:
        ordered = sorted(items, key=lambda item: -self._noticed[item.nodeid])
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            self._run(ordered, number, writer)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            begun = pipe.read().splitlines()
        _, status = os.waitpid(child, 0)
        if not status:
            return "survived"
        # The last test that was begun is the one that failed, or that a crash ended.
        self._noticed[begun[-1]] += 1
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGVTALRM:
            return "timeout"
        return f"noticed {begun[-1]}"

    def _run(self, items: Sequence[pytest.Item], number: int, writer: int) -> None:
        """In the child: never returns."""
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        self._library.mutant_set(number)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 2)
        code = 0
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
        for item in items:
            signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
            os.write(writer, f"{item.nodeid}\n".encode())
            reports = runtestprotocol(item, log=False, nextitem=None)
            if any(report.failed for report in reports):
                code = 1
                break
        os._exit(code)


def main() -> int:
    """Collect, and serve."""
    library = _load_extension()
    # Shrinking what has failed would take longer than all the rest.
    settings.register_profile(
        "mutants",
        parent=settings.get_profile("default"),
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
    )
    files = [str(ROOT / "tests" / name) for name in TESTS]
    arguments = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:timeout", "-o", "addopts="]
    arguments += ["-p", "no:faulthandler", "-p", "no:warnings"]
    arguments += ["--import-mode=importlib", "--hypothesis-profile=mutants"]
    arguments += ["-k", "not native and not generic and not kernel and not v6"]
    return pytest.main([*arguments, *files], plugins=[Server(library)])


if __name__ == "__main__":
    sys.exit(main())
