# SPDX-License-Identifier: Apache-2.0
"""The addresses of one interface that are listened on, from reservation to release."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from devmemtcp import xdp_prog
from devmemtcp.agent._loop import lib
from devmemtcp.agent.netdev import NetNs, to_stack
from devmemtcp.agent.reservation import port_in_use, reserve
from devmemtcp.pyxdp import Map

PRESSURES = {"window": lib.PRESSURE_WINDOW, "drop": lib.PRESSURE_DROP}


@dataclass
class _Port:
    """A steered address: it outlives its listener until the last connection is gone."""

    reservation: socket.socket
    key: bytes
    app: int
    listener: int | None
    steered: bool = False


class Ports:
    """Who listens where. Not for several threads at once: the datapath's lock is its own."""

    def __init__(
        self,
        ifname: str,
        netns: NetNs,
        loop: Any,
        maps: Mapping[str, Map],
        value: bytes,
        deaf: int,
        busy_ports: Callable[[], set[int]],
    ) -> None:
        """`maps` are the program's, `value` is what stands in `listeners` for each address;
        `deaf` is the descriptor of a socket filter that lets nothing in.

        `busy_ports` gives the local ports of all connections there are.
        """
        self._ifname = ifname
        self._netns = netns
        self._loop = loop
        self._map = maps["listeners"]
        self._closed = maps["closed_ports"]
        self._value = value
        self._deaf = deaf
        self._busy_ports = busy_ports
        self._ports: dict[tuple[str, int], _Port] = {}
        for word, bits in xdp_prog.closed_ports(()):
            self._closed.set(word, bits)

    def listen(
        self, app: int, host: str, port: int, *, close_first: bool, backlog: int, pressure: str
    ) -> tuple[int, int]:
        """Reserve the port (0: any) and listen; returns (listener id, port).

        Raises ConfigError when the port is in use, OSError for what the stack refuses.
        """
        address = ip_address(host)
        self.sweep()
        reserved = self._ports.get((host, port))
        if reserved is None:
            with self._netns.entered():
                reservation, port = reserve(self._ifname, address, port, self._deaf)
            reserved = _Port(reservation, xdp_prog.listener_key(address, port), app, None)
        elif reserved.listener is not None:
            raise port_in_use(host, port)
        flags = lib.LISTEN_CLOSE_FIRST if close_first else 0
        local = to_stack(address, port)
        result = lib.loop_listen(self._loop, app, local, flags, backlog, PRESSURES[pressure])
        if result < 0:
            if not reserved.steered:
                reserved.reservation.close()
            raise OSError(-result, f"cannot listen on {host} port {port}")
        reserved.app, reserved.listener = app, result
        self._ports[host, port] = reserved
        return result, port

    def steer(self, listener: int) -> None:
        """Let the packets of a listener's address come."""
        for (_, number), port in self._ports.items():
            if port.listener == listener:
                self._steer(number, port)

    def _steer(self, number: int, port: _Port) -> None:
        before, port.steered = port.steered, True
        try:
            self._close_others(number)
            self._map.set(port.key, self._value)
        except OSError:
            port.steered = before
            self._close_others(number)
            raise

    def unlisten(self, listener: int) -> None:
        """Refuse new connections. The port stays ours until the last connection is gone."""
        for port in self._ports.values():
            if port.listener == listener:
                lib.loop_unlisten(self._loop, listener)
                port.listener = None
        self.sweep()

    def forget(self, app: int) -> None:
        """The application is gone, and with it its listeners."""
        for port in self._ports.values():
            if port.app == app:
                port.listener = None
        self.sweep()

    def sweep(self) -> None:
        """Give up ports that have neither a listener nor a connection."""
        retired = {at: port for at, port in self._ports.items() if port.listener is None}
        if not retired:
            return
        busy = self._busy_ports()
        with ExitStack() as undo:  # all of it, also if some of it fails
            for (host, number), port in retired.items():
                if number in busy:
                    continue
                del self._ports[host, number]
                undo.callback(port.reservation.close)
                if port.steered:
                    undo.callback(self._close_others, number)
                    undo.callback(self._map.delete, port.key)

    def _close_others(self, number: int) -> None:
        """Tell the program, of the ports in the same word as this one, which have no listener."""
        steered = {number for (_, number), port in self._ports.items() if port.steered}
        self._closed.set(*xdp_prog.closed_word(number, steered))

    def close(self) -> None:
        """Give all ports back; idempotent."""
        for port in self._ports.values():
            port.reservation.close()
        self._ports.clear()
