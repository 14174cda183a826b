# SPDX-License-Identifier: Apache-2.0
"""A receiver whose calls into the C library fail, one after the other.

    LD_PRELOAD=librefuse.so python -m tests.faults.calls.victim --ifname IF --address A --far NETNS

It runs in the network namespace of its interface. An attempt is made in a child of its own: open
a runtime, listen, take one connection of the kernel's TCP (from namespace NETNS), compare every
byte, close everything. A first attempt only records the calls. Every line on stdin is a request in
JSON, every answer a line on stdout:

    {"do": "record"} -> {"calls": [[name, detail, whose], ...], "end": ...}
    {"do": "one", "call": [name, detail, whose], "before": n, "errno": e} -> {"end": ...}
    {"do": "often", "name": ..., "every": k, "most": m, "errno": e, "size": bytes} -> {"end": ...}

`end` says how the attempt ended: see `End`.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import faulthandler
import gc
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from devmemtcp.agent import (
    ConfigError,
    Connection,
    FragBatch,
    Listener,
    Region,
    RegionView,
    Runtime,
    Session,
    Unsupported,
)
from devmemtcp.agent.daemon.agentd import Agent
from devmemtcp.agent.daemon.config import load_config
from devmemtcp.agent.daemon.confinement import Confinement
from devmemtcp.agent.daemon.notify import ServiceManager
from devmemtcp.agent.pattern import one_period

from ...slowness import SLOWNESS

PORT = 5201
PERIOD = 7
REGION = 1 << 20
SIZE = 100_000
PATIENCE = 10.0 * SLOWNESS
"""Seconds that an attempt waits for anything."""
END_SECONDS = 60 * SLOWNESS
"""Then an attempt is stuck, and says where."""
RETRIES = 10
TRIES = 2
_CLONE_NEWNET = 0x40000000


@dataclass
class End:
    """How an attempt ended."""

    error: str = ""
    """Class of the exception; empty: everything was received."""
    text: str = ""
    named: bool = False
    """It is of a class that callers are told of, and has a text."""
    refused: int = 0
    calls: list[tuple[str, int, int]] = field(default_factory=list)
    """That counted: name, what tells it from others of that name, whose it was."""
    received: int = 0
    wrong: int = 0
    left: list[str] = field(default_factory=list)
    """Descriptors, mappings and threads that were not there before."""
    said: list[str] = field(default_factory=list)
    """Warnings, and exceptions that nobody could be told of."""
    where: str = ""


class Shim:
    """refuse.c, which is in this process by LD_PRELOAD."""

    def __init__(self) -> None:
        lib = ctypes.CDLL(None)
        lib.refuse_stop.restype = ctypes.c_uint64
        lib.refuse_call.restype = ctypes.c_char_p
        self._lib = lib

    def arm(self, request: dict[str, Any]) -> None:
        match request["do"]:
            case "record":
                self._lib.refuse_record()
            case "one":
                name, *like = request["call"]
                self._name = name.encode()  # the shim keeps a pointer to it
                numbers = (ctypes.c_uint64(each) for each in (*like, request["before"]))
                self._lib.refuse_one(self._name, *numbers, request["errno"])
            case "often":
                self._name = request["name"].encode()
                every, most = (ctypes.c_uint64(request[key]) for key in ("every", "most"))
                self._lib.refuse_often(self._name, every, most, request["errno"])

    def stop(self) -> tuple[int, int]:
        """(calls that counted, refused ones)."""
        refused = ctypes.c_uint64()
        return self._lib.refuse_stop(ctypes.byref(refused)), refused.value

    def call(self, number: int) -> tuple[str, int, int]:
        detail, whose = ctypes.c_uint64(), ctypes.c_uint64()
        name = self._lib.refuse_call(
            ctypes.c_uint64(number), ctypes.byref(detail), ctypes.byref(whose)
        )
        return name.decode(), detail.value, whose.value


@dataclass(frozen=True)
class Receiver:
    """What is attempted."""

    ifname: str
    address: str
    far: str
    options: dict[str, Any]
    is_process = False
    """It is all of its process: what it leaves there goes with it."""

    @contextmanager
    def prepared(self, end: End, size: int) -> Iterator[Callable[[], None]]:
        """What is to be attempted: open, receive, close. It fills in what arrived.

        What it needs besides, whose calls do not fail, is there during the block.
        """
        with Sender(self, size) as sender:
            yield partial(self._receive, end, sender)

    def _receive(self, end: End, sender: Sender) -> None:
        with (
            Region(REGION) as region,
            region.map() as view,
            Runtime(self.ifname, region, linger=0.2, **self.options) as rt,
            rt.listen((self.address, PORT)) as listener,
        ):
            _take_one(listener, view, end, sender)


@dataclass
class _Life:
    """Of an agent, as its application sees it."""

    ready: threading.Event
    told_to_end: bool = False
    is_over: bool = False


@dataclass(frozen=True)
class Served(Receiver):
    """The same of an agent, which runs in this thread, and of an application, which does not.

    It is not confined: it could not look at itself afterwards.
    """

    is_process = True

    @contextmanager
    def prepared(self, end: End, size: int) -> Iterator[Callable[[], None]]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "agent.toml")
            file.write_text(
                f'[agent]\nsocket = "{folder}/agent.sock"\nlinger = 0.2\nlog_level = "error"\n'
                f'[[interface]]\nname = "{self.ifname}"\nmemory = "4M"\n'
                f"[[rule]]\nusers = [{os.getuid()}]\nadmin = true\n"
            )
            config = load_config(file)
            ready = threading.Event()
            ServiceManager.ready = lambda self, status: ready.set()  # type: ignore[method-assign]
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # before it listens, and afterwards
            life = _Life(ready)
            run = partial(self._apply, config.agent.socket, end, size, life)
            application = threading.Thread(target=run)
            application.start()

            def serve() -> None:
                try:
                    if code := Agent(config, None).run():
                        end.said.append(f"the agent ended with {code}")
                finally:
                    if ready.is_set() and not life.told_to_end:
                        end.said.append("it ended while it served")
                    life.is_over = True
                    ready.set()
                    application.join()

            yield serve

    def _apply(self, path: str, end: End, size: int, life: _Life) -> None:
        """As an application that is refused once tries again, then ends the agent."""
        refusals: list[str] = []
        life.ready.wait()
        while not life.is_over and len(refusals) < TRIES:
            end.received = end.wrong = 0
            try:
                with (
                    Sender(self, size) as sender,
                    Session(path) as session,
                    Region(REGION) as region,
                    region.map() as view,
                    session.bind_rx(self.ifname, [0], region),
                    session.stack(self.ifname).listen((self.address, PORT)) as listener,
                ):
                    _take_one(listener, view, end, sender)
                break
            except (ConfigError, OSError) as error:
                refusals.append(repr(error))
        else:
            if not life.is_over:
                end.said.append(f"an application was refused: {refusals}")
        life.told_to_end = True
        os.kill(os.getpid(), signal.SIGTERM)


def _take_one(listener: Listener, view: RegionView, end: End, sender: Sender) -> None:
    """One connection, to its end."""
    with sender.sending(), listener.accept(PATIENCE) as conn:
        phase = 0
        while batch := _received(conn):
            wrong, phase = batch.check_pattern(view, PERIOD, phase)
            end.wrong += wrong
            end.received += batch.nbytes
            conn.dontneed(batch)
        conn.send(b"all")


def _received(conn: Connection) -> FragBatch:
    """The next fragments. Where there is no memory for them now, there may be later."""
    for _ in range(RETRIES):
        try:
            return conn.recv_frags(timeout=PATIENCE)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
    return conn.recv_frags(timeout=PATIENCE)


class Sender:
    """The kernel's TCP in the other namespace, in a thread that is there from the start."""

    def __init__(self, receiver: Receiver, size: int) -> None:
        self._address, self._far, self._size = receiver.address, receiver.far, size
        self._go, self._given_up = threading.Event(), False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._given_up = not self._go.is_set()
        self._go.set()
        self._thread.join(PATIENCE)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """From now on; at the end of the block all has been sent, or cannot be."""
        self._go.set()
        yield
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        data = one_period(PERIOD) * (self._size // PERIOD + 1)
        self._go.wait()
        if self._given_up:
            return
        with Path("/run/netns", self._far).open() as netns:
            if ctypes.CDLL(None).setns(netns.fileno(), _CLONE_NEWNET):
                raise OSError("setns")
        try:
            with socket.create_connection((self._address, PORT), PATIENCE) as sock:
                sock.sendall(data[: self._size])
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(100):
                    pass
        except OSError:
            return  # the receiver has failed, and tells why


# ---- what an attempt leaves ----


def _open_files() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the listing's own
            continue
    return found


def _shared_mappings() -> set[str]:
    """Mappings of files that are not on a disk: memfds, rings of sockets; by address."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line for line in lines if "memfd" in line or "socket:" in line or "s " in line[:40]}


@dataclass(frozen=True)
class _Look:
    files: dict[str, str]
    mappings: set[str]
    threads: int

    @classmethod
    def now(cls) -> _Look:
        return cls(_open_files(), _shared_mappings(), threading.active_count())

    def since(self, before: _Look) -> list[str]:
        left = [f"fd {n}: {what}" for n, what in self.files.items() if n not in before.files]
        left += sorted(self.mappings - before.mappings)
        if self.threads > before.threads:
            left.append(f"threads: {[thread.name for thread in threading.enumerate()]}")
        return left


# ---- an attempt ----


def _attempt(shim: Shim, receiver: Receiver, request: dict[str, Any]) -> End:
    end = End()
    sys.unraisablehook = lambda told: end.said.append(f"unraisable: {told.exc_value!r}")
    threading.excepthook = lambda told: end.said.append(f"in a thread: {told.exc_value!r}")
    warnings.showwarning = lambda message, *rest: end.said.append(f"warning: {message}")
    warnings.simplefilter("always", ResourceWarning)
    before = _Look.now()
    with receiver.prepared(end, request.get("size", SIZE)) as attempt:
        shim.arm(request)
        try:
            attempt()
            seen, end.refused = shim.stop()
        except Exception as error:  # noqa: BLE001 - which one it is, is the result
            seen, end.refused = shim.stop()
            end.error, end.text = type(error).__name__, str(error)
            end.named = isinstance(error, (ConfigError, OSError, Unsupported)) and bool(str(error))
            end.where = "".join(traceback.format_exception(error)[-4:])
    if request["do"] == "record":
        end.calls = [shim.call(number) for number in range(seen)]
    gc.collect()
    if not receiver.is_process:
        end.left = _Look.now().since(before)
    return end


def _in_a_child(attempt: Callable[[], End]) -> dict[str, Any]:
    """The answer: the attempt's end, or how its process died."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        faulthandler.dump_traceback_later(END_SECONDS, exit=True)
        signal.alarm(int(END_SECONDS) + 5)  # if even that is stuck
        with os.fdopen(writer, "w") as out:
            json.dump(asdict(attempt()), out)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code or not text:
        return {"died": signal.Signals(-code).name if code < 0 else f"exit code {code}"}
    return {"end": json.loads(text)}


def main() -> None:
    """Answer requests until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ifname", required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--far", required=True)
    parser.add_argument("--options", type=json.loads, default={})
    given = parser.parse_args()
    options = dict(given.options)
    kind = Served if options.pop("agent", False) else Receiver
    receiver = kind(given.ifname, given.address, given.far, options)
    shim = Shim()
    if kind is Served:
        Confinement.enter = lambda self: None  # type: ignore[method-assign]
    with receiver.prepared(End(), SIZE) as attempt:
        attempt()  # what is imported late, or made once, is there from now on
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = _in_a_child(lambda: _attempt(shim, receiver, request))  # noqa: B023
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
