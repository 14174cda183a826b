# SPDX-License-Identifier: Apache-2.0
"""Whatever a client writes: the server does not raise, answers in whole messages, leaks nothing."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from devmemtcp.netlink.attribute import put_u32

from .netlink.bench import NIC, Bench, answers, bind_attrs, header
from .netlink.fake import FakePeer
from .netlink.strategies import request, small, u16

REQUESTS = request(
    st.one_of(st.sampled_from([16, 19, 20, 21, 22]), u16),
    st.one_of(small, st.integers(0, 255)),
    st.sampled_from([bind_attrs(NIC, 0), bind_attrs(NIC, 1, 2), header(), put_u32(1, NIC)]),
)
datagrams = st.one_of(
    st.binary(max_size=200),
    st.lists(REQUESTS, max_size=4).map(b"".join),
    st.tuples(REQUESTS, st.integers(0, 100)).map(lambda pair: pair[0][: pair[1]]),
)


def open_descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@settings(max_examples=400)
@given(st.lists(st.tuples(datagrams, st.integers(0, 3)), max_size=6), st.booleans())
def test_hostile_datagrams(sent: list[tuple[bytes, int]], admin: bool) -> None:
    bench = Bench()
    bench.ready()
    before = open_descriptors()
    peer = FakePeer(is_admin=admin)
    client = bench.connect(peer)
    for data, number in sent:
        fds = [os.memfd_create("x") for _ in range(number)]
        for datagram in bench.server.handle(data, client, fds):
            assert not datagram.fds
            assert len(datagram.data) % 4 == 0
            assert all(answer.portid == client.portid for answer in answers([datagram.data]))
        assert open_descriptors() == before
    if not admin:
        assert not bench.nic().providers
    bench.server.disconnect(client)
    assert not bench.nic().providers
    assert not bench.backend.pools
    bound = [call for call in bench.backend.calls if call[0] == "bind"]
    assert len(bound) * 2 == len(bench.backend.calls), "each bind was undone"
