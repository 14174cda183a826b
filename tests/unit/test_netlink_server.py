# SPDX-License-Identifier: Apache-2.0
"""The netlink server: messages of a datagram, ACKs, dumps, groups, clients, descriptors."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from devmemtcp.netlink.attribute import put, put_string, put_u32
from devmemtcp.netlink.constants import MsgFlag, MsgType
from devmemtcp.netlink.extack import Refused
from devmemtcp.netlink.family import Family, Op, Reply, Request
from devmemtcp.netlink.policy import U32, Policy
from devmemtcp.netlink.server import NLMSG_GOODSIZE, NetlinkServer

from .netlink.bench import ACK, DO, DUMP, LO, Bench, Refusal, answers, message, refusal
from .netlink.fake import FakePeer

ROW = put(9, b"x" * 76)  # with its headers, a message of 100 bytes


def rows(number: int, error: int = 0) -> Iterator[bytes]:
    for _ in range(number):
        yield ROW
    if error:
        raise Refused(error, "no more rows")


def echo(request: Request) -> bytes:
    return b"".join(put_u32(kind, attr.u32()) for kind, attr in request.attrs.items())


def fail(request: Request) -> None:
    raise OSError(errno.ENOMEM, "of the backend")


def with_fds(request: Request) -> Reply:
    return Reply(put_u32(1, len(request.fds)), tuple(os.dup(fd) for fd in request.fds))


POLICY = Policy({1: U32, 2: U32})


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.server.register(
        Family(
            name="test",
            version=3,
            groups=("first", "second"),
            ops={
                1: Op(do=echo, do_policy=POLICY),
                2: Op(do=fail),
                3: Op(dump=lambda _request: rows(3)),
                4: Op(dump=lambda _request: rows(100)),
                5: Op(dump=lambda _request: rows(3, errno.ENODEV)),
                6: Op(dump=lambda _request: rows(3), done_apart=True, multi=False),
                7: Op(do=with_fds),
                8: Op(do=echo, do_policy=POLICY, reply_cmd=80),
                9: Op(do=lambda _request: None),
                10: Op(dump=lambda _request: rows(100, errno.EIO)),
            },
        )
    )
    return bench


# --- messages and ACKs ---


def test_a_reply_carries_sequence_port_version_and_command(bench: Bench) -> None:
    (reply,) = bench.ask("test", 1, put_u32(1, 5))
    assert (reply.seq, reply.portid, reply.flags) == (1, bench.client.portid, 0)
    assert reply.type == bench.family("test").id
    assert reply.payload[:4] == bytes([1, 3, 0, 0])
    assert reply.attrs()[1].u32() == 5


def test_an_ack_comes_behind_the_reply_in_a_datagram_of_its_own(bench: Bench) -> None:
    data = message(bench.family("test").id, 1, put_u32(1, 5), flags=ACK, seq=9)
    first, second = bench.server.handle(data, bench.client)
    (ack,) = answers([second.data])
    assert next(answers([first.data])).cmd == 1
    assert (ack.type, ack.flags, ack.seq) == (MsgType.ERROR, MsgFlag.CAPPED, 9)
    assert ack.payload == bytes(4) + data[:16], "errno 0, and the request's header"


@pytest.mark.parametrize("flags", [DO, ACK])
def test_an_error_is_answered_whether_or_not_an_ack_was_asked_for(bench: Bench, flags: int) -> None:
    assert bench.refused("test", 2, flags=flags) == Refusal(errno.ENOMEM)


def test_a_command_without_an_answer_says_nothing_unless_asked(bench: Bench) -> None:
    assert bench.ask("test", 9) == []
    assert refusal(bench.ask("test", 9, flags=ACK)[0]) == Refusal(0)


def test_an_answer_may_have_a_command_of_its_own(bench: Bench) -> None:
    assert bench.ask("test", 8)[0].cmd == 80


def test_messages_of_one_datagram_are_answered_in_order(bench: Bench) -> None:
    test = bench.family("test").id
    data = b"".join(message(test, 1, put_u32(1, n), seq=n) for n in range(1, 6))
    got = list(answers([d.data for d in bench.server.handle(data, bench.client)]))
    assert [(a.seq, a.attrs()[1].u32()) for a in got] == [(n, n) for n in range(1, 6)]


def test_messages_begin_at_multiples_of_four(bench: Bench) -> None:
    test = bench.family("test").id
    odd = message(test, 1, put_u32(1, 5) + put(2, b"x")[:5], seq=1)
    data = odd + bytes(-len(odd) % 4) + message(test, 1, put_u32(1, 6), seq=2)
    got = list(answers([d.data for d in bench.server.handle(data, bench.client)]))
    assert refusal(got[0]).msg == "invalid attribute length"
    assert got[1].attrs()[1].u32() == 6


def test_an_error_does_not_stop_the_messages_behind_it(bench: Bench) -> None:
    test = bench.family("test").id
    data = message(test, 99, seq=1) + message(test, 1, put_u32(1, 5), seq=2)
    got = list(answers([d.data for d in bench.server.handle(data, bench.client)]))
    assert refusal(got[0]) == Refusal(errno.EOPNOTSUPP)
    assert got[1].attrs()[1].u32() == 5


@pytest.mark.parametrize("cut", [*range(16), 17, 23])
def test_a_message_that_is_longer_than_its_datagram_ends_it(bench: Bench, cut: int) -> None:
    test = bench.family("test").id
    data = message(test, 1, put_u32(1, 5), seq=1) + message(test, 1, put_u32(1, 6), seq=2)[:cut]
    assert len(bench.server.handle(data, bench.client)) == 1


def test_what_is_no_request_is_passed_over_but_acknowledged(bench: Bench) -> None:
    test = bench.family("test").id
    assert not bench.server.handle(message(test, 1, flags=0), bench.client)
    (ack,) = bench.server.handle(message(test, 1, flags=int(MsgFlag.ACK)), bench.client)
    assert refusal(next(answers([ack.data]))) == Refusal(0)


@pytest.mark.parametrize("kind", [MsgType.NOOP, MsgType.ERROR, MsgType.DONE, MsgType.OVERRUN, 15])
def test_control_messages_are_passed_over(bench: Bench, kind: int) -> None:
    assert not bench.server.handle(message(kind, 1), bench.client)
    assert len(bench.server.handle(message(kind, 1, flags=ACK), bench.client)) == 1


@pytest.mark.parametrize("kind", [17, 99, 0xFFFF])
def test_a_family_that_does_not_exist_is_enoent(bench: Bench, kind: int) -> None:
    (answer,) = bench.server.handle(message(kind, 1), bench.client)
    assert refusal(next(answers([answer.data]))) == Refusal(errno.ENOENT)


def test_a_message_without_a_genl_header_is_einval(bench: Bench) -> None:
    data = message(bench.family("test").id, 1)
    short = (16).to_bytes(4, "little") + data[4:16]
    (answer,) = bench.server.handle(short, bench.client)
    assert refusal(next(answers([answer.data]))) == Refusal(errno.EINVAL)


def test_reserved_bits_are_refused_with_the_kernels_words(bench: Bench) -> None:
    data = message(bench.family("test").id, 1, reserved=7)
    (answer,) = bench.server.handle(data, bench.client)
    assert refusal(next(answers([answer.data]))) == Refusal(
        errno.EINVAL, "genlmsghdr.reserved field is not 0"
    )
    for flag in (MsgFlag.MULTI, MsgFlag.ROOT, MsgFlag.MATCH, MsgFlag.ATOMIC, 0x40, 0x8000):
        assert bench.refused("test", 1, flags=DO | flag) == Refusal(
            errno.EINVAL, "ambiguous or reserved bits set in nlmsg_flags"
        )
    assert bench.ask("test", 9, flags=DO | MsgFlag.ECHO) == []


def test_do_and_dump_are_refused_where_there_is_none(bench: Bench) -> None:
    assert bench.refused("test", 1, flags=DUMP) == Refusal(errno.EOPNOTSUPP)
    assert bench.refused("test", 3) == Refusal(errno.EOPNOTSUPP)


# --- dumps ---


def test_a_dump_ends_in_the_datagram_that_has_room_for_it(bench: Bench) -> None:
    got = bench.server.handle(message(bench.family("test").id, 3, flags=DUMP), bench.client)
    assert len(got) == 1
    *parts, done = answers([got[0].data])
    assert [part.flags for part in parts] == [MsgFlag.MULTI] * 3
    assert (done.type, done.flags, done.payload) == (MsgType.DONE, MsgFlag.MULTI, bytes(4))


def test_a_dump_is_cut_between_messages(bench: Bench) -> None:
    got = bench.server.handle(message(bench.family("test").id, 4, flags=DUMP), bench.client)
    fits = NLMSG_GOODSIZE // 100
    assert [len(d.data) for d in got] == [fits * 100, fits * 100, (100 - 2 * fits) * 100 + 20]


def test_an_error_of_a_dump_comes_at_its_end(bench: Bench) -> None:
    *parts, done = bench.ask("test", 5, flags=DUMP)
    assert len(parts) == 3
    assert done.type == MsgType.DONE
    assert refusal(done) == Refusal(errno.ENODEV, "no more rows")


def test_a_dump_can_end_in_a_datagram_of_its_own(bench: Bench) -> None:
    got = bench.server.handle(message(bench.family("test").id, 6, flags=DUMP), bench.client)
    assert [len(d.data) for d in got] == [300, 20]
    assert next(answers([got[0].data])).flags == 0


def test_a_dump_is_not_acknowledged_besides(bench: Bench) -> None:
    assert [a.type for a in bench.ask("test", 3, flags=DUMP | MsgFlag.ACK)][3:] == [MsgType.DONE]


def test_a_second_dump_is_refused_while_the_first_waits_to_be_read(bench: Bench) -> None:
    test = bench.family("test").id
    data = message(test, 4, flags=DUMP, seq=1) + message(test, 3, flags=DUMP, seq=2)
    first, second, *rest = [d.data for d in bench.server.handle(data, bench.client)]
    assert refusal(next(answers([second]))) == Refusal(errno.EBUSY)
    assert [a.seq for a in answers([first, *rest])] == [1] * 101, "the rest comes behind"
    data = message(test, 3, flags=DUMP, seq=1) + message(test, 3, flags=DUMP, seq=2)
    *_, last = answers([d.data for d in bench.server.handle(data, bench.client)])
    assert (last.seq, last.type) == (2, MsgType.DONE)


def test_what_a_datagram_of_dumps_can_ask_for_is_bounded(bench: Bench) -> None:
    test = bench.family("test").id
    data = b"".join(message(test, 10, flags=DUMP, seq=n) for n in range(1000))
    got = [d.data for d in bench.server.handle(data, bench.client)]
    assert sum(map(len, got)) < 100 * 100 + 1000 * 40


# --- clients and groups ---


def test_the_first_connection_of_a_process_has_its_pid_for_an_address(bench: Bench) -> None:
    first = bench.server.connect(FakePeer(pid=99), print)
    second = bench.server.connect(FakePeer(pid=99), print)
    third = bench.server.connect(FakePeer(pid=99), print)
    assert first.portid == 99
    assert len({first.portid, second.portid, third.portid}) == 3
    bench.server.disconnect(first)
    assert bench.server.connect(FakePeer(pid=99), print).portid == 99


@pytest.mark.parametrize("pid", [0, -1])
def test_a_peer_of_another_pid_namespace_has_an_address_too(bench: Bench, pid: int) -> None:
    assert bench.server.connect(FakePeer(pid=pid), print).portid > 0


def test_members_of_a_group_are_notified_until_they_leave(bench: Bench) -> None:
    test = bench.family("test")
    other = bench.connect()
    group = put_u32(1, test.group_ids["second"])
    assert refusal(bench.ask("devmemtcp", 1, group, flags=ACK)[0]) == Refusal(0)
    bench.server.multicast(test, "second", 42, ROW)
    bench.server.multicast(test, "first", 43, ROW)
    (told,) = bench.inbox(bench.client)
    assert (told.type, told.seq, told.portid, told.cmd) == (test.id, 0, 0, 42)
    assert told.payload == bytes([42, 3, 0, 0]) + ROW
    bench.ask("devmemtcp", 2, group)
    bench.server.multicast(test, "second", 42, ROW)
    assert len(bench.inbox(bench.client)) == 1
    assert not bench.inbox(other)


def test_a_client_that_is_gone_is_not_notified(bench: Bench) -> None:
    test = bench.family("test")
    bench.server.join(bench.client, test.group_ids["first"])
    bench.server.disconnect(bench.client)
    bench.server.multicast(test, "first", 42, ROW)
    assert not bench.inbox(bench.client)


def test_joining_says_what_is_wrong(bench: Bench) -> None:
    assert bench.refused("devmemtcp", 1) == Refusal(errno.EINVAL, miss_type=1)
    assert bench.refused("devmemtcp", 1, put_u32(1, 9999)) == Refusal(errno.EINVAL)
    assert bench.refused("devmemtcp", 2, put_u32(1, 0)) == Refusal(errno.EINVAL)


def test_every_family_hears_of_a_client_that_goes(bench: Bench) -> None:
    gone: list[object] = []
    bench.server.register(Family(name="other", version=1, ops={}, disconnect=gone.append))
    bench.server.disconnect(bench.client)
    assert gone == [bench.client]


def test_group_and_family_ids_are_unique() -> None:
    server = NetlinkServer()
    for number in range(40):
        server.register(Family(name=f"f{number}", version=1, ops={}, groups=("a", "b")))
    groups = [group for f in server.families.values() for group in f.group_ids.values()]
    assert len(groups) == len(set(groups)) == 81
    assert [f.id for f in server.families.values()] == sorted(server.families)
    with pytest.raises(ValueError, match="registered already"):
        server.register(Family(name="f3", version=1, ops={}))


# --- descriptors ---


def test_descriptors_are_closed_whatever_becomes_of_the_message(bench: Bench) -> None:
    for data in (
        b"",
        b"garbage",
        message(bench.family("test").id, 1),
        message(bench.family("test").id, 2),
        message(99, 1),
        message(bench.family("netdev").id, 1, put_u32(1, LO)),
    ):
        fds = [os.memfd_create("x"), os.memfd_create("y")]
        bench.server.handle(data, bench.client, fds)
        assert bench.closed[-2:] == fds


def test_descriptors_are_closed_when_a_handler_has_a_bug(bench: Bench) -> None:
    def bug(_request: Request) -> bytes:
        raise ZeroDivisionError

    bench.server.register(Family(name="buggy", version=1, ops={1: Op(do=bug)}))
    before = os.listdir("/proc/self/fd")
    data = message(bench.family("test").id, 7) + message(bench.family("buggy").id, 1)
    with pytest.raises(ZeroDivisionError):
        bench.server.handle(data, bench.client, [os.memfd_create("x")])
    assert os.listdir("/proc/self/fd") == before, "neither the client's nor the reply's"


def test_a_reply_can_carry_descriptors(bench: Bench) -> None:
    sent = os.memfd_create("x")
    inode = os.fstat(sent).st_ino
    (datagram,) = bench.server.handle(message(bench.family("test").id, 7), bench.client, [sent])
    (fd,) = datagram.fds
    assert os.fstat(fd).st_ino == inode
    os.close(fd)


def test_strings_are_read_up_to_their_nul(bench: Bench) -> None:
    assert put_string(1, "abc")[4:] == b"abc\0"
    (datagram,) = bench.server.handle(message(16, 3, put(2, b"nlctrl\0xyz")), bench.client)
    assert b"nlctrl\0" in datagram.data
