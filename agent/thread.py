# SPDX-License-Identifier: Apache-2.0
"""Threads, for which there may be no room."""

from __future__ import annotations

import threading
from collections.abc import Callable
from errno import EAGAIN

from devmemtcp.agent.errors import failed


def started(target: Callable[[], object], name: str) -> threading.Thread:
    """A daemon thread that runs. Raises OSError (EAGAIN) where there can be no more; pthreads(7).

    Python has a RuntimeError for that, and leaves an object behind that cannot be joined.
    """
    thread = threading.Thread(target=target, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise failed(-EAGAIN, f"cannot start the thread {name}") from error
    return thread
