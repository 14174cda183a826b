# SPDX-License-Identifier: Apache-2.0
"""Whatever is applied, killed, and begun anew: undo ends with the NIC as it was."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devmemtcp.agent.endpoint import Endpoint
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.nic.facts import Attachment, Facts
from devmemtcp.agent.nic.journal import Journal
from devmemtcp.agent.nic.plan import Plan
from devmemtcp.agent.nic.planner import Wishes, make_plan
from devmemtcp.agent.nic.transaction import Undone, apply, undo
from devmemtcp.netlink.ethtool import Channels
from devmemtcp.netlink.flow_rules import FlowRule
from devmemtcp.netlink.rss_table import default_table

from .nic.emulated import NTUPLE, EmulatedNic, Killed, State

NATIVE = Attachment("mlx5_core", "native", multi_buffer=False)
OFFLOADS = ("rx-lro", "rx-gro", "rx-gro-hw", "rx-vlan-hw-parse")
HTTP, ALL = Endpoint("192.0.2.1", 80), Endpoint("", 5201)


def planner(
    nic: EmulatedNic, wishes: Wishes, attachment: Attachment = NATIVE
) -> Callable[[], Plan]:
    return lambda: make_plan(Facts.of(nic, attachment), wishes)


def applied(nic: EmulatedNic, wishes: Wishes, run: Path, attachment: Attachment = NATIVE) -> None:
    with Journal(nic.identity, nic.ifname, run) as journal:
        apply(nic, planner(nic, wishes, attachment), journal, nic.moment)


def undone(nic: EmulatedNic, run: Path, *, force: bool = False) -> Undone:
    with Journal(nic.identity, nic.ifname, run) as journal:
        return undo(nic, journal, force=force, progress=nic.moment)


def steering_nic(state: State | None = None) -> EmulatedNic:
    wanted = {NTUPLE: False, **dict.fromkeys(OFFLOADS, True)}
    return EmulatedNic(state or State(mtu=9000, wanted=wanted))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "nic"


# --- any sequence --------------------------------------------------------------------------------


@st.composite
def nics(draw: st.DrawFn) -> EmulatedNic:
    grows = draw(st.booleans())
    channels = draw(st.integers(1, 4))
    size = 8 * channels if grows else 8
    default = default_table(size, channels)
    users = st.lists(st.integers(0, channels - 1), min_size=size, max_size=size).map(tuple)
    table = draw(st.sampled_from([default, None]) | users)
    names = st.sampled_from([*OFFLOADS, NTUPLE])
    wanted = draw(st.dictionaries(names, st.booleans()))
    others = draw(st.dictionaries(names, st.booleans()))
    fixed = {name: on for name, on in others.items() if name not in wanted}
    rules: dict[int, FlowRule] = {}
    if wanted.get(NTUPLE, fixed.get(NTUPLE)):
        ports = draw(st.dictionaries(st.integers(0, 15), st.sampled_from([80, 5201]), max_size=2))
        rules = {place: FlowRule(4, 0, dst_port=port) for place, port in ports.items()}
    state = State(
        channels,
        table,
        configured=table is not None and table != default,
        rx_ring=draw(st.sampled_from([256, 512])),
        mtu=draw(st.sampled_from([1500, 9000])),
        wanted=wanted,
        rules=rules,
    )
    follows = draw(st.booleans())
    return EmulatedNic(state, fixed=fixed, table_grows=grows, ring_follows=follows)


WISHES = st.builds(
    Wishes,
    queues=st.none() | st.sets(st.integers(0, 3), min_size=1).map(lambda q: tuple(sorted(q))),
    listen=st.lists(st.sampled_from([HTTP, ALL]), unique=True).map(tuple),
    rss=st.booleans(),
    channels=st.none() | st.integers(1, 4),
    rx_ring=st.sampled_from([None, 1024]),
    mtu=st.sampled_from([None, 1400, 3000]),
)
ATTACHMENTS = st.builds(
    Attachment,
    st.sampled_from(["mlx5_core", "veth"]),
    st.sampled_from(["native", "generic"]),
    multi_buffer=st.booleans(),
)
LIVES = st.none() | st.integers(0, 60)


@settings(max_examples=60)
@given(nic=nics(), turns=st.lists(st.tuples(st.booleans(), WISHES, ATTACHMENTS, LIVES), max_size=5))
def test_any_sequence_of_applies_undos_and_kills_ends_as_it_began(
    nic: EmulatedNic, turns: list[tuple[bool, Wishes, Attachment, int | None]]
) -> None:
    before = nic.snapshot()
    with TemporaryDirectory() as directory:
        run = Path(directory, "nic")
        for applies, wishes, attachment, life in turns:
            nic.moments_left = life
            try:
                if applies:
                    applied(nic, wishes, run, attachment)
                else:
                    undone(nic, run)
                    assert nic.snapshot() == before
            except (Killed, ConfigError):
                pass
            except OSError as error:
                # Of a table that a user has written, the driver takes no queue away.
                assert "channels combined" in str(error)  # noqa: PT017
                assert str(error).endswith("what had been changed is as it was before")  # noqa: PT017
        nic.moments_left = None
        assert undone(nic, run).left == []
        assert nic.snapshot() == before
        assert not run.exists()


@settings(max_examples=60)
@given(nic=nics(), wishes=WISHES, attachment=ATTACHMENTS, nth=st.integers(0, 8))
def test_a_write_that_fails_takes_all_of_them_back(
    nic: EmulatedNic, wishes: Wishes, attachment: Attachment, nth: int
) -> None:
    before = nic.snapshot()
    writes = iter(range(1000))
    nic.fail_writes = lambda what: next(writes) == nth
    with TemporaryDirectory() as directory:
        run = Path(directory, "nic")
        outcome: BaseException | None = None
        try:
            applied(nic, wishes, run, attachment)
        except (ConfigError, OSError) as error:
            outcome = error
        if outcome is None:
            assert planner(nic, wishes, attachment)().steps == ()
            return
        assert nic.snapshot() == before
        assert not run.exists()
        if isinstance(outcome, OSError):
            assert outcome.errno in (errno.EIO, errno.EINVAL)
            assert str(outcome).endswith("what had been changed is as it was before")


# --- one at a time -------------------------------------------------------------------------------

STEER = Wishes(queues=(2, 3), listen=(HTTP, ALL))


def test_all_that_is_planned_is_applied_and_put_back(run: Path) -> None:
    nic = steering_nic()
    before = nic.snapshot()
    applied(nic, STEER, run)
    state = nic.state
    assert (state.channels, state.table, state.mtu) == (4, (0, 1) * 4, 3498)
    assert state.wanted == {
        NTUPLE: True,
        "rx-lro": False,
        "rx-gro": True,  # native mode runs before it
        "rx-gro-hw": False,
        "rx-vlan-hw-parse": False,
    }
    assert sorted(str(rule.dst_port) for rule in state.rules.values()) == ["5201", "5201", "80"]
    assert planner(nic, STEER)().steps == ()
    assert undone(nic, run).left == []
    assert nic.snapshot() == before


USERS_TABLE = (0, 0, 0, 1, 0, 0, 0, 1)


@pytest.mark.parametrize(
    ("table", "follows", "stride"),
    [((0, 1) * 4, False, 1), ((0, 1) * 8, True, 3), (USERS_TABLE, True, 3)],
)
def test_killed_at_each_moment(
    table: tuple[int, ...], follows: bool, stride: int, run: Path
) -> None:
    """And then undo at each of its own, in turn. `follows`: what a driver changes beside."""
    undo_moment = 0
    for moment in range(0, 1000, stride):
        nic = steering_nic()
        nic.state.table, nic.table_grows, nic.ring_follows = table, len(table) > 8, follows
        nic.state.configured = table == USERS_TABLE
        before = nic.snapshot()
        finished = lives(nic, moment, partial(applied, nic, STEER, run))
        undo_moment += 1
        if lives(nic, undo_moment, partial(undone, nic, run)):
            undo_moment = 0
        assert undone(nic, run).left == [], moment
        assert nic.snapshot() == before, moment
        if finished:
            break
    assert moment > 100


def lives(nic: EmulatedNic, moments: int, work: Callable[[], object]) -> bool:
    """Whether it ends before its process does."""
    nic.moments_left = moments
    try:
        work()
    except Killed:
        return False
    finally:
        nic.moments_left = None
    return True


def test_each_old_value_is_on_disk_before_the_change(run: Path) -> None:
    """And the new one, so that a later undo knows it for ours."""
    nic = steering_nic()
    (path,) = [run / "7-3.journal"]
    seen: dict[str, str] = {}
    nic.fail_writes = lambda what: seen.setdefault(what, path.read_text()) is None
    applied(nic, STEER, run)
    for what, key in {
        "channels": "channels combined",
        "mtu": "mtu",
        "rx-lro": "feature rx-lro",
    }.items():
        assert seen[what].splitlines()[-1].startswith(f'{{"to": "{key}", ')
        assert f'{{"was": "{key}", ' in seen[what]
    assert '{"was": "rss", ' in seen["channels"]
    assert run.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_second_apply_keeps_the_first_old_value(run: Path) -> None:
    nic = steering_nic()
    before = nic.snapshot()
    applied(nic, STEER, run)
    applied(nic, Wishes(mtu=1400), run)
    applied(nic, Wishes(queues=(1,), rss=True), run)
    assert nic.state.mtu == 1400
    assert set(nic.state.table or ()) == {1}
    undone(nic, run)
    assert nic.snapshot() == before


def test_an_apply_that_fails_leaves_what_an_earlier_one_did(run: Path) -> None:
    nic = steering_nic()
    before = nic.snapshot()
    applied(nic, STEER, run)
    after = nic.snapshot()
    nic.fail_writes = lambda what: what == "mtu" and nic.state.mtu != 3498 - 98
    with pytest.raises(OSError, match="cannot set mtu to 1400"):
        applied(nic, Wishes(mtu=1400, rx_ring=1024), run)
    assert nic.snapshot() == after
    nic.fail_writes = lambda what: False
    undone(nic, run)
    assert nic.snapshot() == before


def test_what_cannot_be_taken_back_is_said_and_stays_in_the_journal(run: Path) -> None:
    nic = steering_nic()
    before = nic.snapshot()
    nic.fail_writes = lambda what: what == "mtu" or (what == "rx-lro" and "rx-lro" in nic.writes)
    with pytest.raises(OSError, match=r"cannot set mtu .*; and cannot put back feature rx-lro"):
        applied(nic, STEER, run)
    nic.fail_writes = lambda what: False
    undone(nic, run)
    assert nic.snapshot() == before


def test_a_driver_that_does_not_do_what_it_acknowledges(run: Path) -> None:
    nic = steering_nic()
    before = nic.snapshot()
    nic.set_mtu = lambda mtu: None  # type: ignore[method-assign]
    with pytest.raises(OSError, match="cannot set mtu to 3498: it is 9000 all the same"):
        applied(nic, STEER, run)
    assert nic.snapshot() == before


def test_interrupted_it_takes_back_what_it_did(run: Path) -> None:
    nic = steering_nic()
    before = nic.snapshot()

    def interrupt(event: str) -> None:
        if event == "feature rx-lro set":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Journal(nic.identity, "eth1", run) as journal:
        apply(nic, planner(nic, STEER), journal, interrupt)
    assert nic.snapshot() == before
    assert not run.exists()


def test_set_down_meanwhile_it_takes_back_what_it_did(run: Path) -> None:
    nic = steering_nic()
    before = nic.snapshot()

    def set_down(event: str) -> None:
        nic.up = event != "feature rx-lro set"

    with (
        pytest.raises(ConfigError, match="eth1 is down"),
        Journal(nic.identity, "eth1", run) as journal,
    ):
        apply(nic, planner(nic, STEER), journal, set_down)
    assert "rx-lro" in nic.writes
    assert nic.snapshot() == before
    assert not run.exists()


def test_what_somebody_else_has_changed_since_is_left_until_forced(run: Path) -> None:
    nic = steering_nic()
    before = nic.snapshot()
    applied(nic, STEER, run)
    nic.state.mtu = 2000
    left = undone(nic, run).left
    assert [(entry.setting.key, entry.was, now) for entry, now in left] == [("mtu", 9000, 2000)]
    assert nic.snapshot() == replace(before, mtu=2000)
    assert [now for _, now in undone(nic, run).left] == [2000]  # it is still known
    assert undone(nic, run, force=True).left == []
    assert nic.snapshot() == before
    assert not run.exists()


def test_what_was_put_back_by_hand_is_as_it_was(run: Path) -> None:
    nic = steering_nic()
    before = nic.snapshot()
    applied(nic, Wishes(mtu=1400), run)
    nic.state.mtu = 9000
    writes = len(nic.writes)
    undone(nic, run)
    assert "mtu" not in nic.writes[writes:]
    assert nic.snapshot() == before


def test_rules_of_others_are_never_touched(run: Path) -> None:
    nic = steering_nic(State(wanted={NTUPLE: True}, rules={5: FlowRule(4, 2, dst_port=5201)}))
    before = nic.snapshot()
    applied(nic, STEER, run)
    assert nic.state.rules[5] == FlowRule(4, 2, dst_port=5201)
    undone(nic, run)
    assert nic.snapshot() == before


def test_a_table_that_was_the_driver_s_own_default_counts_as_a_users_then(run: Path) -> None:
    """igb's: what nobody can read cannot be put back, but it is said."""
    nic = steering_nic()
    nic.state.table = (0,) * 4 + (1,) * 4
    before = nic.snapshot()
    applied(nic, Wishes(queues=(1,), rss=True), run)
    (trace,) = undone(nic, run).traces
    assert "counts as a user's" in trace
    assert "`ethtool -X eth1 default`" in trace
    assert replace(nic.snapshot(), configured=False) == before
    assert nic.state.configured


def test_two_at_a_time_are_refused(run: Path) -> None:
    nic = steering_nic()
    with (
        Journal(nic.identity, "eth1", run),
        pytest.raises(ConfigError, match="another `devmemtcp nic` is at work on eth1"),
    ):
        applied(nic, STEER, run)
    assert nic.writes == []


def test_what_cannot_be_read_keeps_nothing_else_from_coming_back(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nic = steering_nic()
    before = nic.snapshot()
    applied(nic, Wishes(queues=(2,), listen=(HTTP,), mtu=1500), run)

    def broken() -> Channels:
        raise OSError(errno.EIO, "the firmware is silent")

    with monkeypatch.context() as patch:
        patch.setattr(nic, "rings", broken)
        patch.setattr(nic, "channels", broken)
        with pytest.raises(OSError, match=r"channels combined \(the firmware is silent\)"):
            undone(nic, run)
    assert nic.state.mtu == before.mtu
    assert nic.state.wanted == before.wanted
    undone(nic, run)
    assert nic.snapshot() == before


def test_flow_rules_that_others_have_added_since_stay(run: Path) -> None:
    nic = steering_nic()
    before = nic.snapshot()
    applied(nic, Wishes(queues=(1,), listen=(HTTP,)), run)
    theirs = FlowRule(4, 0, dst_port=443)
    place = nic.insert_rule(theirs)
    assert [entry.setting.key for entry, _ in undone(nic, run).left] == [f"feature {NTUPLE}"]
    assert nic.state.rules == {place: theirs}
    nic.delete_rule(place)
    assert undone(nic, run).left == []
    assert nic.snapshot() == before
