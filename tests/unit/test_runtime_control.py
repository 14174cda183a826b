# SPDX-License-Identifier: Apache-2.0
"""Messages between an application and the process of its stack."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from devmemtcp.agent import ConfigError, Unsupported, XdpError, control

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = control.pair()
    with one, other:
        yield one, other


def test_a_message_and_its_descriptors_arrive(pair: Pair) -> None:
    reader, writer = os.pipe()
    control.send(pair[0], 7, ["listen", "192.0.2.1", 5201], (reader, writer))
    number, message, fds = control.receive(pair[1])
    assert number == 7
    assert message == ["listen", "192.0.2.1", 5201]
    assert len(fds) == 2
    assert not os.get_inheritable(fds[0])
    os.write(fds[1], b"x")
    assert os.read(reader, 1) == b"x"
    for fd in (reader, writer, *fds):
        os.close(fd)


def test_a_message_larger_than_any_socket_buffer_arrives(pair: Pair) -> None:
    message = {"result": [[1, number, 2, 0, 1, number * 4096] for number in range(50_000)]}
    sender = threading.Thread(target=control.send, args=(pair[0], 1, message))
    sender.start()
    assert control.receive(pair[1]) == (1, message, [])
    sender.join()


def test_messages_do_not_run_together(pair: Pair) -> None:
    for number in range(3):
        control.send(pair[0], number, [number])
    assert [control.receive(pair[1])[:2] for _ in range(3)] == [(0, [0]), (1, [1]), (2, [2])]


def test_an_end_is_noticed(pair: Pair) -> None:
    pair[0].close()
    with pytest.raises(control.Gone):
        control.receive(pair[1])
    with pytest.raises(control.Gone):
        control.send(pair[1], 1, ["stats"])


def test_an_answer_that_was_cut_short_is_skipped(pair: Pair) -> None:
    """As when Ctrl-C has ended a call after some packets of its answer."""
    control.send(pair[0], 1, {"result": "x" * 150_000})
    pair[1].recv(1 << 20)  # the first of three packets
    control.send(pair[0], 2, {"result": 2})
    assert control.receive(pair[1]) == (2, {"result": 2}, [])


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("port 5201 is in use"),
        Unsupported("no AF_XDP here"),
        PermissionError(errno.EPERM, "Operation not permitted"),
        XdpError(errno.EINVAL, "cannot load it", "line 1: R1 is not a pointer"),
        XdpError(errno.EBUSY, "queue 0 of eth1 has an AF_XDP socket already"),
    ],
)
def test_an_exception_comes_out_as_it_went_in(pair: Pair, error: Exception) -> None:
    control.send(pair[0], 1, control.pack_error(error))
    with pytest.raises(type(error)) as caught:
        control.unpack(control.receive(pair[1])[1])
    assert str(caught.value) == str(error)
    assert getattr(caught.value, "errno", None) == getattr(error, "errno", None)


def test_any_other_exception_is_an_error_of_the_other_process(pair: Pair) -> None:
    control.send(pair[0], 1, control.pack_error(KeyError("nr_niovs")))
    with pytest.raises(RuntimeError, match=r"in the stack's process: KeyError\('nr_niovs'\)"):
        control.unpack(control.receive(pair[1])[1])
